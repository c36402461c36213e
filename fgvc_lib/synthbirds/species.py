"""The species: what a genus shares, and the one to three attributes in which its species differ."""

import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError


class Sizes(NamedTuple):
    """How much to draw."""

    genera: int
    species: int            # of a genus
    train: int              # images of a species
    test: int
    image_size: int = 224   # pixels, both ways


class Genus(NamedTuple):
    """What the species of a genus share, and the species themselves."""

    name: str
    shape: np.ndarray                            # see `shapes` in birds.toml, in body lengths
    colours: dict[str, np.ndarray]               # RGB of each area of the plumage
    species: list[tuple[str, dict[str, str]]]    # name, and the value of each attribute


class Species(NamedTuple):
    """One class of a set."""

    name: str
    genus: str
    genus_index: int
    index: int                                 # in the set, from 0
    folder: str                                # of its images
    attributes: tuple[tuple[str, str], ...]    # (attribute, value), each attribute once


TABLES = tomllib.loads(Path(__file__).with_name("birds.toml").read_text(encoding="utf-8"))
SIZES = {"smoke": Sizes(2, 2, 6, 4, 112), "quick": Sizes(4, 6, 15, 20), "full": Sizes(25, 8, 30, 30)}
WORLDS = ("benchmark", "pretrain")
PARTS = tuple(TABLES["parts"])
ATTRIBUTES = TABLES["attributes"]    # in which species differ: the parts that each touches, and its values
OUTLINES = {name: np.array([complex(*point) for point in points]) for name, points in TABLES["outlines"].items()}
MAX_SPECIES = 1 + sum(len(attribute["values"]) - 1 for attribute in ATTRIBUTES.values())


def known_sizes(sizes: str | Sizes) -> Sizes:
    """The sizes of that name in SIZES, or those given. Raises ConfigError for what is neither or cannot be drawn."""
    found = SIZES.get(sizes) if isinstance(sizes, str) else sizes
    if not isinstance(found, Sizes):
        raise ConfigError(f"unknown sizes {sizes!r}: choose one of {', '.join(SIZES)}")
    whole = all(isinstance(n, int) and n >= 1 for n in found)
    if not whole or found.species > MAX_SPECIES or not 64 <= found.image_size <= 1024:
        raise ConfigError(f"not whole numbers from 1, species to {MAX_SPECIES} and image_size from 64 to 1024: {found}")
    return found


def species_list(sizes: str | Sizes = "quick", world: str = "benchmark") -> list[Species]:
    """The species of a set in class order; the first of each genus is its base, the `Common_` one.

    Raises ConfigError for an unknown name and for sizes that cannot be drawn.
    """
    sizes, found = known_sizes(sizes), []
    if world not in WORLDS:
        raise ConfigError(f"unknown world {world!r}: use one of {', '.join(WORLDS)}")
    for genus_index in range(WORLDS.index(world), 2 * sizes.genera, 2):   # the worlds take turns
        genus = genus_of(genus_index)
        for name, look in genus.species[:sizes.species]:
            folder = f"{len(found) + 1:03d}.{name}"
            found.append(Species(name, genus.name, genus_index, len(found), folder, tuple(look.items())))
    return found


def diagnostic(a: Species, b: Species) -> tuple[str, ...]:
    """The attributes in which two siblings differ."""
    return tuple(name for (name, x), (_, y) in zip(a.attributes, b.attributes, strict=True) if x != y)


@cache
def genus_of(index: int) -> Genus:
    """Genus `index` of an endless sequence."""
    rng = np.random.default_rng([1758, index])
    shapes, syllables = TABLES["shapes"], TABLES["syllables"]
    ending = list(shapes)[index % len(shapes)]
    shape = np.array(shapes[ending]) / (100, 100, 100, 100, 100, 100, 1) * rng.uniform(0.92, 1.08, 7)
    colours = {area: _colour(rng, *start) for area, start in TABLES["plumage"].items()}
    colours["horn"] = np.array((58, 50, 46))
    colours["cheek"] = colours["head"] * rng.uniform(0.75, 1.2)
    name, rest = syllables[index % len(syllables)], index // (len(shapes) * len(syllables))
    while rest:                                               # longer names once all pairs are used up
        rest, digit = divmod(rest - 1, len(syllables))
        name = syllables[digit] + name.lower()
    return Genus(name + ending, shape, colours, _looks(rng, name + ending))


def _colour(rng, table, low, high):
    """One of the RGB colours of that table of birds.toml, varied; low, high: its lightness."""
    rgb = np.array(TABLES[table][rng.integers(len(TABLES[table]))]) + rng.uniform(-14, 14, 3)
    grey = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]
    return np.clip((0.8 * rgb + 0.2 * grey) * rng.uniform(low, high) / grey, 0, 235)


def _looks(rng, genus):
    """Name and {attribute: value} of all species of a genus: its base, and for each change of one attribute a species with
    that change, half of them with a second one."""
    base = {}
    for name, attribute in ATTRIBUTES.items():
        plain, pick = rng.random() < 0.6, rng.integers(len(attribute["values"]))
        base[name] = list(attribute["values"])[0 if plain else pick]
    changes = [(name, value) for name in base for value in ATTRIBUTES[name]["values"] if value != base[name]]
    changes = [changes[i] for i in rng.permutation(len(changes))]
    species = [(f"Common_{genus}", base)]
    for name, value in changes:
        look, (other, second) = base | {name: value}, changes[rng.integers(len(changes))]
        both = look | {other: second}
        apart = {sum(both[a] != sibling[a] for a in base) for _, sibling in species}
        if rng.random() < 0.5 and other != name and apart <= {1, 2, 3}:
            look = both
        species.append((f"{ATTRIBUTES[name]['values'][value]}_{genus}", look))
    return species

"""The species: what a genus shares, and the one or two marks in which its species differ."""

from collections import namedtuple
from functools import cache
from types import SimpleNamespace

import numpy as np

from ..errors import ConfigError

# How much to draw: species per genus, train and test images per species, image_size in pixels.
Sizes = namedtuple("Sizes", ("genera", "species", "train", "test", "image_size"), defaults=(224,))
SIZES = {"smoke": Sizes(2, 2, 6, 4, 112), "quick": Sizes(4, 6, 15, 20), "full": Sizes(25, 8, 30, 30)}
WORLDS = ("benchmark", "pretrain")
PARTS = ("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
         "right leg", "right wing", "tail", "throat")
# attribute: (parts it touches, {value: first name of a species that has it unlike its genus}); the plain value stands first
ATTRIBUTES = {
    "beak_shape": (("beak",), {"straight": "Straight_billed", "stout": "Thick_billed", "long": "Long_billed",
                               "curved": "Curve_billed"}),
    "beak_colour": (("beak",), {"dark": "Dark_billed", "yellow": "Yellow_billed", "red": "Red_billed"}),
    "crown": (("crown",), {"plain": "Plain_crowned", "cap": "Capped", "stripe": "Stripe_crowned", "crest": "Crested"}),
    "eye_ring": (("left eye", "right eye"), {"none": "Plain_eyed", "white": "Ring_eyed", "red": "Red_ringed",
                                             "yellow": "Yellow_ringed"}),
    "throat": (("throat",), {"plain": "Plain_throated", "dark": "Black_throated", "white": "White_throated",
                             "red": "Red_throated"}),
    "breast": (("breast",), {"plain": "Plain_breasted", "streaks": "Streaked", "spots": "Spotted", "band": "Banded"}),
    "wing_bars": (("left wing", "right wing"), {"0": "Plain_winged", "1": "Bar_winged", "2": "Two_barred"}),
    "tail": (("tail",), {"square": "Square_tailed", "long": "Long_tailed", "fork": "Fork_tailed", "tip": "Tip_tailed"}),
    "legs": (("left leg", "right leg"), {"dark": "Dark_legged", "red": "Red_legged", "yellow": "Yellow_legged"}),
}
MAX_SPECIES = 1 + sum(len(values) - 1 for _, values in ATTRIBUTES.values())
# A genus is named SYLLABLE + SHAPE; their numbers share no factor, so that all pairs come up.
# Shapes, in hundredths of the body: depth, neck, head radius, beak (of head radii), tail, leg; and posture in degrees.
SHAPES = {
    "lark": (50, 5, 19, 85, 42, 36, 20), "jay": (50, 5, 19.5, 115, 60, 36, 24), "finch": (57, 3, 21.5, 75, 42, 33, 30),
    "heron": (44, 42, 13.5, 210, 26, 78, 26), "plover": (53, 9, 18, 85, 32, 56, 10), "wren": (62, 2, 22.5, 95, 34, 38, 16),
    "thrush": (53, 7, 18.5, 95, 48, 42, 32), "dove": (55, 11, 15, 80, 52, 32, 14), "chat": (51, 3, 20.5, 75, 46, 40, 42),
    "rail": (52, 17, 15, 130, 24, 54, 12), "snipe": (50, 12, 16, 200, 28, 52, 8),
}
SYLLABLES = (
    "Fen", "Mire", "Ash", "Thorn", "Dusk", "Gorse", "Brook", "Heath", "Moss", "Frost", "Reed", "Copse", "Dale", "Fern",
    "Mead", "Crag", "Sedge", "Briar", "Holt", "Tarn", "Wold", "Marl", "Glen", "Loam", "Birch", "Down", "Shore", "Alder",
    "Rush", "Drift", "Hazel", "Stone", "Vale", "Weald", "Cairn", "Elm")
UPPER = ((124, 92, 60), (112, 114, 64), (88, 106, 130), (152, 88, 56), (120, 118, 114), (66, 104, 158), (80, 126, 74),
         (164, 132, 88), (116, 80, 104), (70, 118, 122))
LOWER = ((224, 206, 172), (214, 214, 208), (228, 200, 96), (212, 172, 122), (226, 160, 116), (180, 194, 208))
# One class: `index` counts from 0 in the set, `folder` has its images, `attributes` is a tuple of (attribute, value).
Species = namedtuple("Species", ("name", "genus", "genus_index", "index", "folder", "attributes"))


def species_list(sizes="quick", world="benchmark"):
    """The species of a set in class order; the first of each genus is its base, the `Common_` one.

    Raises ConfigError for an unknown name and for sizes that cannot be drawn.
    """
    sizes, found = SIZES.get(sizes, sizes), []
    if world not in WORLDS:
        raise ConfigError(f"unknown world {world!r}: use one of {', '.join(WORLDS)}")
    if not isinstance(sizes, Sizes):
        raise ConfigError(f"unknown sizes {sizes!r}: use one of {', '.join(SIZES)}, or a Sizes")
    whole = all(isinstance(n, int) and n >= 1 for n in sizes)
    if not whole or sizes.species > MAX_SPECIES or not 64 <= sizes.image_size <= 1024:
        raise ConfigError(f"not whole numbers from 1, species to {MAX_SPECIES} and image_size from 64 to 1024: {sizes}")
    for genus_index in range(WORLDS.index(world), 2 * sizes.genera, 2):   # the worlds take turns
        genus = _genus(genus_index)
        for name, look in genus.species[:sizes.species]:
            folder = f"{len(found) + 1:03d}.{name}"
            found.append(Species(name, genus.name, genus_index, len(found), folder, tuple(look.items())))
    return found


def diagnostic(a, b):
    """The attributes in which two siblings differ, as a tuple of names."""
    return tuple(name for (name, x), (_, y) in zip(a.attributes, b.attributes, strict=True) if x != y)


@cache
def _genus(index):
    """Genus `index` of an endless sequence: name, shape, colours, and (name, {attribute: value}) of its species."""
    rng = np.random.default_rng([1758, index])
    ending, title = list(SHAPES)[index % len(SHAPES)], SYLLABLES[index % len(SYLLABLES)]
    rest = index // (len(SHAPES) * len(SYLLABLES))
    while rest:                                               # longer names once all pairs are used up
        rest, digit = divmod(rest - 1, len(SYLLABLES))
        title = SYLLABLES[digit] + title.lower()
    title += ending

    def colour(table, low, high):                             # bounds on lightness let every mark stand off
        rgb = np.array(table[rng.integers(len(table))]) + rng.uniform(-14, 14, 3)
        grey = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]
        return np.clip((0.8 * rgb + 0.2 * grey) * rng.uniform(low, high) / grey, 0, 235)

    shape = np.array(SHAPES[ending]) / (100, 100, 100, 100, 100, 100, 1) * rng.uniform(0.92, 1.08, 7)
    colours = {"back": colour(UPPER, 85, 135), "head": colour(UPPER, 100, 150), "belly": colour(LOWER, 175, 215),
               "tail": colour(UPPER, 62, 105), "wing": colour(UPPER, 62, 100), "horn": np.array((58, 50, 46))}
    colours["cheek"] = colours["head"] * rng.uniform(0.75, 1.2)
    base = {}
    for name, (_, values) in ATTRIBUTES.items():
        plain, pick = rng.random() < 0.6, rng.integers(len(values))
        base[name] = list(values)[0 if plain else pick]
    changes = [(name, value) for name in base for value in ATTRIBUTES[name][1] if value != base[name]]
    changes = [changes[i] for i in rng.permutation(len(changes))]
    species = [(f"Common_{title}", base)]
    for name, value in changes:
        look, (other, second) = base | {name: value}, changes[rng.integers(len(changes))]
        both = look | {other: second}
        apart = {sum(both[a] != sibling[a] for a in base) for _, sibling in species}
        if rng.random() < 0.5 and other != name and apart <= {1, 2, 3}:
            look = both
        species.append((f"{ATTRIBUTES[name][1][value]}_{title}", look))
    return SimpleNamespace(name=title, shape=shape, colours=colours, species=species)

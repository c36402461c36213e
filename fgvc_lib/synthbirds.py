"""The built-in bird set: fine-grained by construction, drawn from nothing, in CUB-200-2011's file layout.

A genus shares silhouette and plumage; its species differ in one or two local attributes (`ATTRIBUTES`).
Pose, scale, place, light, background and twigs vary within each species and say nothing about it.

Shapes are complex numbers (x + iy, y down), so that a turn is a product. Coordinates are rounded to 1/16
pixel and pixels are blended in integers, so that an image is the same bytes on every machine.
"""

import csv
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from fgvc_lib.errors import ConfigError, DataError, StorageError

FORMAT = 1                     # raise it when the same seed draws other pixels
CHUNK = 50                     # images a worker draws in one go
POOL_FROM = 200                # smaller sets are done before a pool has started


@dataclass(frozen=True)
class Difficulty:
    """All that makes the set hard. Angles in degrees, either way; lengths relative to the image side."""

    contrast: float = 1.0          # 0..1: how far an attribute's colour stands off from the plumage around it
    mark_size: float = 1.0         # relative width of eye-ring, crown stripe, wing bars and breast marks
    fill: tuple = (0.62, 0.86)     # longer side of the bird, lowest and highest
    off_centre: float = 0.06       # how far the bird strays from the middle
    tilt: float = 14.0             # of the body
    head: float = 24.0             # raised or lowered
    turn: float = 0.26             # of the head towards the viewer: foreshortened by up to this share
    wing: float = 7.0              # raised or drooped
    tail: float = 14.0             # cocked or lowered
    plumage: float = 0.10          # brightness of each colour channel of the bird, either way
    light: float = 0.16            # exposure, gamma and colour of the light, either way
    shade: float = 0.30            # depth of leaf shadow over the picture, up to
    occlusion: float = 0.30        # share of birds partly behind a twig with leaves
    blur: float = 0.9              # out of focus: standard deviation in pixels of a 224 image, up to
    noise: int = 8                 # of the sensor, in grey levels
    quality: tuple = (80, 95)      # of the JPEG, lowest and highest


DIFFICULTY = Difficulty()


@dataclass(frozen=True)
class Sizes:
    """How much to draw: species per genus, train and test images per species, image_size in pixels."""

    genera: int
    species: int
    train: int
    test: int
    image_size: int = 224


SIZES = {"smoke": Sizes(2, 2, 6, 4, 112), "quick": Sizes(6, 4, 40, 20), "full": Sizes(25, 8, 30, 30)}
WORLDS = ("benchmark", "pretrain")
PARTS = ("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape",
         "right eye", "right leg", "right wing", "tail", "throat")

# attribute: (parts it touches, {value: first name of a species that has it unlike its genus})
ATTRIBUTES = {
    "beak_shape": (("beak",), {"straight": "Straight_billed", "stout": "Thick_billed", "long": "Long_billed",
                               "curved": "Curve_billed"}),
    "beak_colour": (("beak",), {"dark": "Dark_billed", "yellow": "Yellow_billed", "red": "Red_billed"}),
    "crown": (("crown",), {"plain": "Plain_crowned", "cap": "Capped", "stripe": "Stripe_crowned",
                           "crest": "Crested"}),
    "eye_ring": (("left eye", "right eye"), {"none": "Plain_eyed", "white": "Ring_eyed", "red": "Red_ringed",
                                             "yellow": "Yellow_ringed"}),
    "throat": (("throat",), {"plain": "Plain_throated", "dark": "Black_throated", "white": "White_throated",
                             "red": "Red_throated"}),
    "breast": (("breast",), {"plain": "Plain_breasted", "streaks": "Streaked", "spots": "Spotted",
                             "band": "Banded"}),
    "wing_bars": (("left wing", "right wing"), {"0": "Plain_winged", "1": "Bar_winged", "2": "Two_barred"}),
    "tail": (("tail",), {"square": "Square_tailed", "long": "Long_tailed", "fork": "Fork_tailed",
                         "tip": "Tip_tailed"}),
    "legs": (("left leg", "right leg"), {"dark": "Dark_legged", "red": "Red_legged",
                                              "yellow": "Yellow_legged"}),
}
MAX_SPECIES = 1 + sum(len(values) - 1 for _, values in ATTRIBUTES.values())

# A genus is named SYLLABLE + SHAPE; their numbers share no factor, so that all pairs come up.
# Shapes, in body lengths: depth, neck, head radius, beak (in head radii), tail, leg; and posture in degrees.
SHAPES = {
    "lark": (0.50, 0.05, 0.190, 0.85, 0.42, 0.36, 20), "jay": (0.50, 0.05, 0.195, 1.15, 0.60, 0.36, 24),
    "finch": (0.57, 0.03, 0.215, 0.75, 0.42, 0.33, 30), "heron": (0.44, 0.42, 0.135, 2.10, 0.26, 0.78, 26),
    "plover": (0.53, 0.09, 0.180, 0.85, 0.32, 0.56, 10), "wren": (0.62, 0.02, 0.225, 0.95, 0.34, 0.38, 16),
    "thrush": (0.53, 0.07, 0.185, 0.95, 0.48, 0.42, 32), "dove": (0.55, 0.11, 0.150, 0.80, 0.52, 0.32, 14),
    "chat": (0.51, 0.03, 0.205, 0.75, 0.46, 0.40, 42), "rail": (0.52, 0.17, 0.150, 1.30, 0.24, 0.54, 12),
    "snipe": (0.50, 0.12, 0.160, 2.00, 0.28, 0.52, 8),
}
SYLLABLES = (
    "Fen", "Mire", "Ash", "Thorn", "Dusk", "Gorse", "Brook", "Heath", "Moss", "Frost", "Reed", "Copse",
    "Dale", "Fern", "Mead", "Crag", "Sedge", "Briar", "Holt", "Tarn", "Wold", "Marl", "Glen", "Loam",
    "Birch", "Down", "Shore", "Alder", "Rush", "Drift", "Hazel", "Stone", "Vale", "Weald", "Cairn", "Elm")
UPPER = ((124, 92, 60), (112, 114, 64), (88, 106, 130), (152, 88, 56), (120, 118, 114), (66, 104, 158),
         (80, 126, 74), (164, 132, 88), (116, 80, 104), (70, 118, 122))
LOWER = ((224, 206, 172), (214, 214, 208), (228, 200, 96), (212, 172, 122), (226, 160, 116), (180, 194, 208))
INK = {"dark": (40, 36, 34), "white": (250, 248, 240), "red": (214, 44, 30), "yellow": (250, 196, 36)}
BEAKS = {"straight": (1.0, 0.24, 0.05), "stout": (0.85, 0.42, 0.12), "long": (1.65, 0.24, 0.05),
         "curved": (1.25, 0.26, 0.62)}   # length, depth, bend
SCENES = (   # sky, leaves, reeds, field, wood, dusk, water: top, bottom; colours, axes and number of blots
    ((150, 190, 228), (214, 226, 236), ((240, 244, 248), (226, 236, 246), (188, 212, 236)), (3.2, 1.0), 12),
    ((64, 92, 48), (96, 122, 62), ((58, 92, 40), (124, 156, 74), (168, 190, 104), (36, 58, 32)), (1, 1), 44),
    ((120, 142, 110), (78, 98, 66), ((92, 118, 62), (142, 150, 86), (58, 74, 46)), (0.35, 3.2), 40),
    ((178, 190, 182), (150, 146, 98), ((168, 160, 104), (128, 136, 78), (196, 186, 136)), (3.5, 0.5), 36),
    ((116, 108, 92), (84, 74, 58), ((142, 124, 92), (70, 60, 46), (168, 150, 118)), (1.2, 0.9), 40),
    ((214, 186, 160), (148, 150, 168), ((236, 206, 164), (190, 168, 160), (128, 132, 152)), (3.0, 0.8), 14),
    ((112, 148, 168), (136, 164, 172), ((150, 182, 192), (92, 128, 150), (186, 204, 206)), (4.5, 0.28), 48),
)
PERCHES = {   # colours, and the direction of the strokes on it
    "branch": (((126, 106, 82), (112, 96, 84), (140, 120, 92)), 0.1),
    "water": (((96, 122, 134), (92, 112, 136), (104, 122, 118)), 0.2 - 0.012j),
    "ground": (((118, 108, 72), (104, 118, 62), (150, 134, 104)), 0.08 - 0.18j),
    "rock": (((128, 126, 122), (118, 112, 102), (140, 138, 132)), 0.06 + 0.05j),
}


@dataclass(frozen=True)
class Species:
    """One class: `index` counts from 0 in the set, `attributes` is a tuple of (attribute, value)."""

    name: str
    genus: str
    genus_index: int
    index: int
    attributes: tuple


def species_list(sizes="quick", world="benchmark"):
    """The species of a set in class order; the first of each genus is its base, the `Common_` one.

    Raises ConfigError for an unknown name and for sizes that cannot be drawn.
    """
    sizes, world = _checked(sizes, world)
    found = []
    for genus_index in range(WORLDS.index(world), 2 * sizes.genera, 2):   # the worlds take turns
        genus = _genus(genus_index)
        for name, attributes in genus.species[:sizes.species]:
            found.append(Species(name, genus.name, genus_index, len(found), attributes))
    return found


def diagnostic(a, b):
    """The attributes in which two siblings differ, as a tuple of names."""
    return tuple(name for (name, x), (_, y) in zip(a.attributes, b.attributes, strict=True) if x != y)


def _checked(sizes, world):
    if world not in WORLDS:
        raise ConfigError(f"unknown world {world!r}: use one of {', '.join(WORLDS)}")
    found = SIZES.get(sizes) if isinstance(sizes, str) else sizes
    if not isinstance(found, Sizes):
        raise ConfigError(f"unknown sizes {sizes!r}: use one of {', '.join(SIZES)}, or a Sizes")
    if not all(isinstance(n, int) and n >= 1 for n in asdict(found).values()):
        raise ConfigError(f"sizes must be whole numbers of at least 1, not {found}")
    if found.species > MAX_SPECIES or not 64 <= found.image_size <= 1024:
        raise ConfigError(f"at most {MAX_SPECIES} species a genus, image_size from 64 to 1024, not {found}")
    return found, world


@cache
def _genus(index):
    """Genus `index` of an endless sequence: name, shape, colours, and (name, attributes) of its species."""
    rng = np.random.default_rng([1758, index])
    syllable, ending = SYLLABLES[index % len(SYLLABLES)], list(SHAPES)[index % len(SHAPES)]
    rest = index // (len(SHAPES) * len(SYLLABLES))
    while rest:                                               # longer names once all pairs are used up
        rest, digit = divmod(rest - 1, len(SYLLABLES))
        syllable = SYLLABLES[digit] + syllable.lower()

    def colour(table, low, high):                             # bounds on lightness let every mark stand off
        rgb = np.array(table[rng.integers(len(table))]) + rng.uniform(-14, 14, 3)
        grey = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]
        return np.clip((0.8 * rgb + 0.2 * grey) * rng.uniform(low, high) / grey, 0, 235)

    shape = np.array(SHAPES[ending]) * rng.uniform(0.92, 1.08, 7)
    colours = {"back": colour(UPPER, 85, 135), "head": colour(UPPER, 100, 150),
               "belly": colour(LOWER, 175, 215), "tail": colour(UPPER, 62, 105),
               "wing": colour(UPPER, 62, 100), "horn": np.array((58, 50, 46))}
    colours["cheek"] = colours["head"] * rng.uniform(0.75, 1.2)
    base = {}
    for name, (_, values) in ATTRIBUTES.items():              # mostly the plain value, which stands first
        plain, pick = rng.random() < 0.6, rng.integers(len(values))
        base[name] = list(values)[0 if plain else pick]
    changes = [(name, value) for name in base for value in ATTRIBUTES[name][1] if value != base[name]]
    changes = [changes[i] for i in rng.permutation(len(changes))]
    species = [(f"Common_{syllable}{ending}", base)]
    for name, value in changes:
        look, (other, second) = base | {name: value}, changes[rng.integers(len(changes))]
        both = look | {other: second}
        apart = [sum(both[a] != sibling[a] for a in base) for _, sibling in species]
        if rng.random() < 0.5 and other != name and min(apart) >= 1 and max(apart) <= 3:
            look = both
        species.append((f"{ATTRIBUTES[name][1][value]}_{syllable}{ending}", look))
    return SimpleNamespace(name=syllable + ending, shape=shape, colours=colours,
                           species=[(title, tuple(look.items())) for title, look in species])


# ---------------------------------------------------------------------------------------------- drawing

def _z(*points):
    """Points (x, y), or complex ones as they are, as one complex array."""
    return np.array([complex(*p) if isinstance(p, tuple) else p for p in points])


@cache
def _basis(n, closed):
    """Matrix (samples, n) of a uniform cubic B-spline, five samples a segment."""
    t = np.arange(5)[:, None] / 5
    bumps = np.hstack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    rows = np.zeros((n if closed else n - 3, 5, n))
    for segment, row in enumerate(rows):
        row[:, [(segment + k) % n for k in range(4)]] = bumps
    return rows.reshape(-1, n)


def _smooth(*points):
    """A closed smooth outline near the given points; a point given three times is a corner."""
    return _basis(len(points), True) @ _z(*points)


def _curve(*points):
    """An open smooth line from the first point to the last."""
    points = _z(*points[:1] * 2, *points, *points[-1:] * 2)
    return _basis(len(points), False) @ points


def _fixed(z):
    """OpenCV's coordinates in 1/16 pixel, (..., 2), which the last bit of a sine does not change."""
    z = np.asarray(z, complex)
    return np.rint(z[..., None].view(float) * 16).astype(np.int32)


def _fill(target, outline, colour):
    cv2.fillPoly(target, [_fixed(outline)], colour, cv2.LINE_AA, 4)


def _lines(target, lines, colour, width=1.0):
    """lines (number, points)."""
    cv2.polylines(target, list(_fixed(lines)), False, colour, max(1, round(width)), cv2.LINE_AA, 4)


def _dot(target, centre, axes, colour, angle=0.0):
    """A filled ellipse; axes is its half width + i times its half height."""
    axes = np.maximum(_fixed(axes), 8).tolist()
    cv2.ellipse(target, _fixed(centre).tolist(), axes, angle, 0, 360, colour, -1, cv2.LINE_AA, 4)


def _rgb(colour, gain=1.0):
    return [max(0, min(255, round(float(c * gain)))) for c in colour]


def _blend(under, over, alpha):
    """Lays over on under, (H, W, 3) integers of 0..255, as far as alpha (H, W) uint8 says; in place."""
    a = alpha[..., None].astype(np.uint16)
    a += a >> 7
    under[:] = (under * (256 - a) + over * a) >> 8


@cache
def _noise():
    """A tile (1024, 1024) int16 of soft noise in -64..64."""
    tile = np.random.default_rng(0).integers(0, 256, (1024, 1024), np.uint8)
    tile = cv2.GaussianBlur(tile, (5, 3), 0).astype(np.int16) - 128
    return tile * 64 // int(np.abs(tile).max())


def _grain(rng, size):
    y, x = rng.integers(0, 1025 - size, 2)
    return _noise()[y:y + size, x:x + size, None]


def _stretch(coarse, size):
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR_EXACT)


def _background(rng, size):
    """A picture (size, size, 3) uint8 of one of SCENES, out of focus."""
    top, bottom, colours, axes, count = SCENES[rng.integers(len(SCENES))]
    ramp = np.linspace(top, bottom, 4)[:, None] + rng.uniform(-16, 16, (4, 4, 3))
    half = size // 2                                          # half the pixels will do, as it is blurred
    image = _stretch(np.rint(ramp).clip(0, 255).astype(np.uint8), half)
    for layer, blur in enumerate((11, 5)):
        for x, y, r, tone, pick, turn in rng.random((count // 2, 6)).tolist():
            radius = half * (0.025 + 0.09 * r * r) * (1.4 - 0.5 * layer)
            colour = _rgb(colours[int(pick * len(colours))], 0.8 + 0.4 * tone)
            _dot(image, complex(x, y) * half, radius * complex(*axes), colour, (turn - 0.5) * 24)
        for a, b, bend, width, tone in rng.random((rng.integers(3), 5)):      # branches far behind
            line = _curve((-0.1, a), (0.5, (a + b + bend - 0.5) / 2), (1.1, b)) * half
            _lines(image, [line], _rgb((96, 80, 62), 0.6 + 0.7 * tone), half * (0.01 + 0.04 * width))
        image = cv2.GaussianBlur(image, (blur, blur), 0)
    return _stretch(image, size)


def _perch(image, rng, foot, unit):
    """Draws what the bird stands on, below the pixel `foot`; returns its slope and whether toes show."""
    size = len(image)
    kind = ("branch", "branch", "ground", "water", "rock")[rng.integers(5)]
    colours, step = PERCHES[kind]
    colour = np.array(colours[rng.integers(3)]) * rng.uniform(0.75, 1.2)
    slope, deep, rise = rng.uniform(-0.14, 0.14) * (kind == "branch"), 2 * size, 0.0
    wobble, thick, marks = rng.uniform(-1, 1, 17), rng.random(), rng.random((60, 3))
    x = np.linspace(-0.1, 1.1, 17) * size
    if kind == "branch":
        deep = unit * (0.06 + 0.16 * thick)
    elif kind == "rock":
        rise = -unit * (0.5 + thick) * np.abs((x - foot.real) / (unit * (0.6 + 0.6 * thick))) ** 3
    else:                                                     # the far shore
        rise = unit * (0.08 + 0.2 * thick)
    top = x + 1j * (foot.imag + slope * (x - foot.real) - rise + 0.015 * unit * wobble)
    edge = 0.65 if kind == "branch" else 0.87
    for part, gain in ((0.0, edge), (0.18, 1.1), (0.42, 0.95), (0.7, edge)):
        upper = _curve(*(top + 1j * part * min(deep, 0.5 * unit)))
        _fill(image, np.concatenate([upper, _curve(*(top + 1j * deep))[::-1]]), _rgb(colour, gain))
    if kind != "branch":                                      # shadow, or reflection
        shadow = np.zeros(image.shape[:2], np.uint8)
        _dot(shadow, foot + 0.03j * unit, unit * (0.4 + (0.12j if kind == "water" else 0.06j)), 90)
        _blend(image, np.array(_rgb(colour, 0.45), np.uint8), cv2.GaussianBlur(shadow, (11, 11), 0))
    at = marks[:, 0] * size
    down = (0.1 + 0.8 * marks[:, 1] ** 2) * min(deep, 1.2 * unit)
    spots = at + 1j * (np.interp(at, x, top.imag) + down)
    strokes = spots[:, None] + np.array([0, 0.5, 1]) * step * (1 + 1j * slope) * unit * (0.35 + marks[:, 2:])
    _lines(image, strokes[::2], _rgb(colour, 0.7))
    _lines(image, strokes[1::2], _rgb(colour, 1.2))
    return slope, kind != "water"


def _pose(rng, genus, size):
    """A bird in a random pose: frames body, head, wing, tail map to body lengths, `to` maps those on."""
    d, u, p = DIFFICULTY, rng.uniform, SimpleNamespace(points=[])   # points: pixels of all drawn, for the box
    depth, neck, p.radius, p.bill, tail, leg, posture = genus.shape
    p.facing = 1 if rng.random() < 0.5 else -1
    angles = u(-1, 1, 4) * (d.tilt, d.head, d.wing, d.tail) + (posture, 0, 0, 0)
    tilt, lift, droop, cock = np.exp(-1j * np.radians(angles))
    turn, stance, fill = 1 - u(0, d.turn), u(-0.04, 0.04, 2), u(*d.fill)
    centre = 0.5 + 0.5j + complex(*u(-1, 1, 2)) * d.off_centre
    gains, b = 1 + u(-d.plumage, d.plumage, 3), depth / 2

    # The bird faces right, the middle of its body is at 0.
    root, up = tilt * complex(0.30, -0.35 * b), np.exp(-1j * np.radians(52 + 0.3 * posture)) * lift**0.4
    skull, wrist, rump = root + up * (neck + 0.72 * p.radius), 0.34 - 0.36j * b, -0.46 - 0.1j * b
    p.body = lambda z: tilt * (np.real(z) + b * 1j * np.imag(z))
    p.head = lambda z: skull + p.radius * lift * (np.real(z) * turn + 1j * np.imag(z))
    p.wing = lambda z: tilt * (wrist + droop * (-0.95 * np.real(z) + 1.8j * b * np.imag(z)))
    p.tail = lambda z, long: tilt * (rump + cock * tail * (1j * np.imag(z) - long * np.real(z)))

    thin = min(1.0, neck / 0.3)                               # a short neck melts into the body
    middle, across = root + up * neck * 0.55, 0.62j * up * p.radius
    back = (p.head(-0.8 + 0.1j) + p.body(0.14 - 1j)) / 2 * (1 - thin) + thin * (middle - across)
    p.front = (p.head(0.45 + 0.95j) + p.body(0.5 + 0.1j)) / 2 * (1 - thin) + thin * (middle + across)
    p.nape = (p.head(-0.8 + 0.1j) + back) / 2 - 0.4 * p.radius
    p.outline = _smooth(
        *p.head(_z((0.98, 0.0), (0.92, -0.55), (0.45, -1.05), (-0.35, -1.12), (-0.95, -0.62))), back,
        *p.body(_z((0.14, -1.02), (-0.14, -0.98), (-0.42, -0.66), (-0.70, -0.22), (-0.70, 0.06),
                   (-0.42, 0.58), (-0.10, 1.12), (0.26, 1.05), (0.50, 0.30))), p.front,
        *p.head(_z((0.35, 1.0), (0.92, 0.62))))
    p.hip = p.body(-0.04 + 0.72j)
    p.feet = p.hip + stance + (-0.08, 0.06) + 1j * leg        # far, near

    # Size and place come from what all species of the genus share, so that they tell nothing.
    whole = np.concatenate([p.outline, p.feet, [p.tail(1, 1), p.head(1 + p.bill), p.head(-0.8 - 1.5j)]])
    low, high = complex(whole.real.min(), whole.imag.min()), complex(whole.real.max(), whole.imag.max())
    p.unit = fill * size / max((high - low).real, (high - low).imag)
    p.wide = d.mark_size * p.unit

    def to(z):
        z = (z - (low + high) / 2) * p.unit
        return centre * size + p.facing * np.real(z) + 1j * np.imag(z)

    def add(z):
        p.points.append(to(z))
        return p.points[-1]

    p.to, p.add = to, add
    p.shape = lambda frame, *points: to(_smooth(*frame(_z(*points))))
    p.line = lambda frame, *points: [to(_curve(*frame(_z(*points))))]
    c = genus.colours
    p.tint = lambda name, gain=1.0: _rgb(c[name] * gains, gain)
    p.mark = lambda ink, under: _rgb((c[under] + d.contrast * (INK[ink] - c[under])) * gains)
    return p


def _limbs(image, rng, p, look):
    """Draws perch, legs, tail and beak: all that body and wing then overlap."""
    slope, toes = _perch(image, rng, p.to(p.feet[1]), p.unit)
    for foot, start, gain in zip(p.feet, (-0.05, 0.03), (0.78, 1.0), strict=True):
        foot = foot + 1j * p.facing * slope * (foot - p.feet[1]).real
        colour = _rgb(p.mark(look["legs"], "horn"), gain)
        ankle = (p.hip + start + foot) / 2 - 0.05 + 0.02j
        _lines(image, [p.add(_z(p.hip + start, ankle, foot))], colour, p.unit * 0.024)
        for end in (0.11 + 0.02j, 0.08 + 0.045j, -0.075 + 0.03j) if toes else ():
            _lines(image, [p.add(_z(foot, foot + end))], colour, p.unit * 0.018)

    tail = partial(p.tail, long=1.55 if look["tail"] == "long" else 1.0)
    forked = (0, -0.15), (1.1, -0.28), (1.1, -0.2), (0.6, 0.0), (1.1, 0.22), (1.1, 0.28), (0, 0.15)
    square = (0, -0.15), (0.97, -0.20), (1.0, 0.0), (0.97, 0.20), (0, 0.15)
    _fill(image, p.add(tail(_z(*(forked if look["tail"] == "fork" else square)))), p.tint("tail"))
    if look["tail"] == "tip":
        _fill(image, p.to(tail(_z((0.74, -0.185), *square[1:4], (0.74, 0.185)))), p.mark("white", "tail"))
    y = np.array((-0.12, -0.04, 0.04, 0.12))[:, None]
    reach = 0.55 if look["tail"] == "fork" else 0.95
    _lines(image, p.to(tail(np.array([0.2, reach]) + 1j * y * (0.6, 1))), p.tint("tail", 0.7))

    length, thick, bend = BEAKS[look["beak_shape"]]
    t, down = np.linspace(0, 1, 9), p.head(1j) - p.head(0)
    p.spine = p.head(0.80 + 0.22 * t + p.bill * length * t + 1j * (0.12 + p.bill * bend * t**2))
    upper, lower = p.spine - down * thick * (1 - t**1.6), p.spine + down * thick * 0.8 * (1 - t**1.6)
    horn = p.mark(look["beak_colour"], "horn")
    _fill(image, p.add(np.concatenate([upper, lower[::-1]])), _rgb(horn, 0.8))
    _fill(image, p.to(np.concatenate([upper, p.spine[::-1]])), horn)
    _lines(image, [p.to(p.spine)], _rgb(horn, 0.5))


def _plumage(image, rng, p, look):
    """Draws body, wing and eye: flat colours on `paint`, cut out by `alpha`, then rounded by shading."""
    size, jitter, sun = len(image), rng.uniform(-1, 1, (4, 110)), rng.uniform(-1, 1)
    grain = _grain(rng, size)[..., 0]
    paint, alpha = np.empty_like(image), np.zeros((size, size), np.uint8)
    paint[:] = p.tint("back")
    _fill(alpha, p.add(p.outline), 255)
    below = _smooth(*p.body(_z((-0.8, 0.0), (-0.4, 0.2), (0.0, 0.1), (0.28, -0.1))), p.front - 0.1,
                    *p.head(_z((0.2, 0.8), (1.1, 1.0))), *p.body(_z((0.9, 0), (0.5, 1.8), (-0.6, 1.8))))
    _fill(paint, p.to(below), p.tint("belly"))
    hood = _z((-1.3, -0.9), (0, -1.6), (1.4, -1), (1.4, 0.9), (0.5, 1.25), (0, 1.15))
    _fill(paint, p.to(_smooth(p.nape, *p.head(hood))), p.tint("head"))
    cheek = p.shape(p.head, (-0.75, 0), (-0.3, -0.2), (0.3, 0.15), (0.1, 0.6), (-0.5, 0.55))
    _fill(paint, cheek, p.tint("cheek"))
    paint = cv2.GaussianBlur(paint, (2 * (size // 56) + 1,) * 2, 0)
    feathers = 0.43 * jitter[0] - 0.12 + 1j * jitter[1]
    feathers = p.to(p.body(feathers[:, None] + np.array([0, -0.022 + 0.04j, -0.05 + 0.04j])))
    _lines(paint, feathers[jitter[1] < 0.15], p.tint("back", 0.78))
    _lines(paint, feathers[jitter[1] >= 0.15], p.tint("belly", 0.88))

    if look["throat"] != "plain":
        bib = p.shape(p.head, (1.15, 0.28), (0.55, 0.34), (0.1, 0.62), (0.05, 1.25), (0.7, 1.5), (1.2, 0.9))
        _fill(paint, bib, p.mark(look["throat"], "head"))
    if look["crown"] == "cap":
        cap = p.shape(p.head, (1.1, -0.15), (0.5, -0.28), (-0.3, -0.28), (-1.2, -0.25), (-1.2, -1.4),
                      (0, -1.7), (1.2, -1.2))
        _fill(paint, cap, p.mark("dark", "head"))
    elif look["crown"] == "stripe":
        _lines(paint, p.line(p.head, (1.0, -0.35), (0.45, -0.62), (-0.2, -0.68), (-1.0, -0.35)),
               p.mark("white", "head"), 0.045 * p.wide)
    elif look["crown"] == "crest":
        crest = p.shape(p.head, (0.75, -0.55), (0.25, -1.2), (-0.7, -1.55), *[(-1.55, -1.85)] * 3,
                        (-1.15, -1.1), (-0.8, -0.5), (-0.1, -0.6))
        p.points.append(crest)
        _fill(alpha, crest, 255)
        _fill(paint, crest, p.tint("head", 0.66))
    column, row = np.divmod(np.arange(18), 3)
    spots = 0.25 + 0.056 * column + 0.02 * jitter[2, :18] + 1j * (0.22 + 0.3 * row + 0.1 * jitter[3, :18])
    if look["breast"] == "band":
        band = p.line(p.body, (0.44, 1.2), (0.46, 0.5), (0.34, -0.3))
        _lines(paint, band, p.mark("dark", "belly"), 0.07 * p.wide)
    elif look["breast"] == "streaks":
        streaks = p.to(p.body(spots[:, None] + np.array([0.02 - 0.08j, -0.03 + 0.08j])))
        _lines(paint, streaks, p.mark("dark", "belly"), 0.016 * p.wide)
    elif look["breast"] == "spots":
        for spot in p.to(p.body(spots)):
            _dot(paint, spot, 0.015 * p.wide * (1 + 1j), p.mark("dark", "belly"))

    vane = p.shape(p.wing, (0, 0), (0.10, -0.22), (0.40, -0.30), (0.75, -0.16), *[(1.0, 0.04)] * 3,
                   (0.72, 0.26), (0.42, 0.42), (0.14, 0.34))
    p.points.append(vane)
    _fill(alpha, vane, 255)
    _fill(paint, vane, p.tint("wing"))
    ends = _z((0.30, 0.36), (0.55, 0.34), (0.62, 0.315)), _z((0.05, -0.09), (0.05, -0.08), (0.055, -0.035))
    flight = np.concatenate([p.line(p.wing, *(ends[0] + k * ends[1])) for k in range(6)])
    _lines(paint, flight, p.tint("wing", 1.5), p.unit * 0.012)
    _lines(paint, flight + 0.012j * p.unit, p.tint("wing", 0.6), p.unit * 0.010)
    coverts = _z(*[(0.10 + 0.07 * i - 0.02 * (j % 2), 0.1 * j - 0.2) for i in range(4) for j in range(5)])
    coverts = p.to(p.wing(coverts[:, None] + np.array([0, 0.035 + 0.045j, 0.01 + 0.09j])))
    _lines(paint, coverts, p.tint("wing", 1.35))
    for k in range(int(look["wing_bars"])):
        bar = _z((0.42, -0.20), (0.43, 0.05), (0.38, 0.20), (0.31, 0.31)) - 0.13 * k
        _lines(paint, p.line(p.wing, *bar), p.mark("white", "wing"), 0.034 * p.wide)
    _lines(paint, [vane], p.tint("wing", 0.6))

    low, high = _extent(p.points, 14, size)
    box = np.s_[int(low[1]):int(high[1]), int(low[0]):int(high[0])]
    soft = cv2.GaussianBlur(alpha[box], (2 * int(p.unit * 0.1) + 1,) * 2, 0).astype(np.int16)
    down, side = max(1, round(p.unit * 0.05)), round(p.unit * 0.03 * sun)
    light = np.roll(soft, (down, side), (0, 1)) - np.roll(soft, (-down, -side), (0, 1))
    shade = 136 + (light * 3 >> 4) + (soft - 255 >> 3) + (grain[box] >> 2)
    lit = paint[box] * np.clip(shade, 30, 200).astype(np.uint16)[..., None] >> 7
    _blend(image[box], np.minimum(lit, 255), alpha[box])

    eye, iris, disc = p.to(p.head(0.36 - 0.14j)), p.radius * p.unit * 0.19, 1 + 1j
    if look["eye_ring"] != "none":
        _dot(image, eye, (iris + 0.022 * p.wide) * disc, p.mark(look["eye_ring"], "head"))
    _dot(image, eye, iris * disc, (62, 38, 24))
    _dot(image, eye, 0.72 * iris * disc, (14, 12, 12))
    _dot(image, eye + iris * (0.3 - 0.35j), 0.3 * iris * disc, (250, 250, 250))


def _extent(points, margin, size):
    """Corners (x, y) of the box round lists of points, within the image."""
    z = np.concatenate(points)
    return (np.clip((z.real.min() - margin, z.imag.min() - margin), 0, size),
            np.clip((z.real.max() + margin, z.imag.max() + margin), 0, size))


def _places(p, look):
    """{part: pixel} of the parts on the side of the viewer, and of the far leg, which stands clear."""
    near, far = ("right", "left") if p.facing == 1 else ("left", "right")
    far_leg, near_leg = (p.hip + 2 * p.feet) / 3 - 0.03
    body, head = p.body, p.head
    places = {"back": body(-0.1 - 0.85j), "belly": body(-0.05 + 0.85j), "breast": body(0.40 + 0.5j),
              "crown": head(-0.9j), "forehead": head(0.75 - 0.5j), "nape": head(-0.75 - 0.2j),
              "throat": head(0.55 + 0.75j), "beak": p.spine[5], f"{near} eye": head(0.36 - 0.14j),
              f"{near} wing": p.wing(0.4 + 0.1j), f"{near} leg": near_leg, f"{far} leg": far_leg,
              "tail": p.tail(0.6, 1.55 if look["tail"] == "long" else 1.0)}
    return {part: p.to(z) for part, z in places.items()}


def _twig(image, rng, start):
    """Sometimes draws a twig with leaves across the pixel `start`; returns what it covers, (H, W) uint8."""
    size = len(image)
    cover = np.zeros((size, size), np.uint8)
    (wanted, angle, tone, width), leaves = rng.random(4), rng.random((5, 4))
    if wanted >= DIFFICULTY.occlusion:
        return cover
    along = np.exp(1j * np.pi * angle)
    line = _curve(*(start + along * size * np.array([-1.5, -0.3, 0.06j, 0.4 - 0.02j, 1.5])))
    for target, colour in ((image, _rgb((96, 78, 58), 0.7 + 0.5 * tone)), (cover, 255)):
        _lines(target, [line], colour, size * (0.012 + 0.014 * width))
    blade = _z(*[(0, 0)] * 3, (0.3, -0.2), (0.65, -0.18), *[(1, 0)] * 3, (0.65, 0.18), (0.3, 0.2))
    for at, turn, length, shade in leaves:
        turned = (0.06 + 0.07 * length) * np.exp(3.6j * (turn - 0.5)) * blade
        leaf = start + along * size * (0.9 * at - 0.45 + turned)
        _fill(image, _smooth(*leaf), _rgb((88, 124, 56), 0.6 + 0.7 * shade))
        _lines(image, [leaf[[0, 6]]], _rgb((140, 166, 92), 0.6 + 0.7 * shade))
        _fill(cover, _smooth(*leaf), 255)
    return cover


def draw(species, rng, size=224):
    """One picture: image (size, size, 3) uint8 RGB, box (x, y, w, h) and {part: (x, y, visible)}, in pixels.

    Siblings drawn from equal generators differ only where their attributes do.
    """
    d, look = DIFFICULTY, dict(species.attributes)
    image = _background(rng, size)
    pose = _pose(rng, _genus(species.genus_index), size)
    _limbs(image, rng, pose, look)
    _plumage(image, rng, pose, look)
    cover = _twig(image, rng, pose.to(complex(*rng.uniform(-0.4, 0.4, 2))))

    shade = rng.integers(255 - int(256 * d.shade * rng.random()), 256, (5, 5), np.uint8)
    image = (image * _stretch(shade, size)[..., None].astype(np.uint16) >> 8).astype(np.uint8)
    gamma, exposure, *colour = 1 + d.light * rng.uniform(-1, 1, 5)
    curve = np.linspace(0, 1, 256)[:, None] ** gamma * 255 * exposure * np.array(colour) ** 0.6
    image = cv2.LUT(image, np.rint(curve).clip(0, 255).astype(np.uint8)[None])
    image = cv2.GaussianBlur(image, (5, 5), max(0.1, rng.random() * d.blur * size / 224))
    image = np.clip(image + (_grain(rng, size) * d.noise >> 6), 0, 255).astype(np.uint8)

    parts = dict.fromkeys(PARTS, (0.0, 0.0, 0))
    for part, z in _places(pose, look).items():
        x, y = round(float(z.real), 1), round(float(z.imag), 1)
        if 0 <= x < size and 0 <= y < size and cover[int(y), int(x)] < 128:
            parts[part] = (x, y, 1)
    low, high = _extent(pose.points, 1, size)
    return image, tuple(round(float(v), 1) for v in (*low, *(high - low))), parts


# ---------------------------------------------------------------------------------------------- the set

def _draw_chunk(folder, seed, world, size, tasks):
    """Draws and saves images; a task is (species, image index, file). Returns a (box, parts) for each."""
    threads, rows = cv2.getNumThreads(), []
    cv2.setNumThreads(1)                                      # there is one worker a core already
    for species, index, file in tasks:
        rng = np.random.default_rng([seed, world, species.index, index])
        image, *row = draw(species, rng, size)
        quality = int(rng.integers(*DIFFICULTY.quality, endpoint=True))
        Image.fromarray(image).save(folder / "images" / file, quality=quality)
        rows.append(row)
    cv2.setNumThreads(threads)
    return rows


def generate(root, sizes="quick", seed=0, world="benchmark", workers=None, progress=True):
    """Draws a set below `root` in CUB-200-2011's layout and returns root as a Path.

    sizes is a name in SIZES or a Sizes, world one of WORLDS. Image i of a species is the same bytes for any
    number of workers (None: one a core). A finished set of the same kind is left as it is.
    Raises ConfigError for options that do not exist, DataError if root holds something else, StorageError if
    it cannot be written.
    """
    root, (sizes, world) = Path(root).absolute(), _checked(sizes, world)
    if not isinstance(seed, int) or seed < 0 or (workers is not None and workers < 1):
        raise ConfigError(f"seed must be a whole number from 0, workers at least 1, not {seed} and {workers}")
    stamp = {"format": FORMAT, "world": world, "seed": seed, "sizes": asdict(sizes)}
    species = species_list(sizes, world)
    tasks = [(s, i, f"{_folder(s)}/{s.name}_{i + 1:04d}.jpg")
             for s in species for i in range(sizes.train + sizes.test)]
    draft = root.with_name(f".{root.name}.{os.getpid()}")
    try:
        if _finished(root, stamp):
            return root
        for s in species:
            (draft / "images" / _folder(s)).mkdir(parents=True)
        work = partial(_draw_chunk, draft, seed, WORLDS.index(world), sizes.image_size)
        rows = _all_rows(work, tasks, workers or os.cpu_count(), progress)
        _write_tables(draft, sizes, species, tasks, rows)
        (draft / "synthbirds.json").write_text(json.dumps(stamp, indent=1) + "\n")
        if not _finished(root, stamp):                        # someone else may have been faster
            if root.exists():
                root.rmdir()
            os.replace(draft, root)
    except OSError as error:
        raise StorageError(f"cannot write the bird set to {root} ({error.strerror or error}): "
                           "free some space or choose another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _folder(species):
    return f"{species.index + 1:03d}.{species.name}"


def _finished(root, stamp):
    """Whether the set is there; DataError if something else is."""
    try:
        if json.loads((root / "synthbirds.json").read_text()) == stamp:
            return True
    except (FileNotFoundError, NotADirectoryError, ValueError):
        pass
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} holds something other than this bird set: delete it or use another folder")
    return False


def _all_rows(work, tasks, workers, progress):
    chunks, rows = [tasks[i:i + CHUNK] for i in range(0, len(tasks), CHUNK)], []
    with tqdm(total=len(tasks), desc="Drawing birds", unit=" images", disable=not progress) as bar:
        def collect(results):
            for result in results:
                rows.extend(result)
                bar.update(len(result))

        if workers > 1 and len(tasks) >= POOL_FROM:
            try:                                        # spawn: a fork of a process with threads may hang
                with ProcessPoolExecutor(min(workers, len(chunks)), get_context("spawn")) as pool:
                    collect(pool.map(work, chunks))
            except BrokenProcessPool:                   # a script without a __main__ guard cannot spawn:
                pass                                    # the rest is drawn here
        collect(map(work, chunks[-(-len(rows) // CHUNK):]))
    return rows


def _write_tables(root, sizes, species, tasks, rows):
    """CUB's index files, and what sets each species apart from its siblings."""
    def lines(name, table):
        (root / name).write_text("".join(" ".join(map(str, row)) + "\n" for row in table))

    def table(name, *table):
        with open(root / name, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table)

    (root / "parts").mkdir()
    lines("images.txt", [(n, file) for n, (_, _, file) in enumerate(tasks, 1)])
    lines("image_class_labels.txt", [(n, s.index + 1) for n, (s, _, _) in enumerate(tasks, 1)])
    lines("train_test_split.txt", [(n, int(i < sizes.train)) for n, (_, i, _) in enumerate(tasks, 1)])
    lines("classes.txt", [(s.index + 1, _folder(s)) for s in species])
    lines("bounding_boxes.txt", [(n, *box) for n, (box, _) in enumerate(rows, 1)])
    lines("parts/parts.txt", enumerate(PARTS, 1))
    lines("parts/part_locs.txt", [(n, k, *place) for n, (_, parts) in enumerate(rows, 1)
                                  for k, place in enumerate(parts.values(), 1)])
    table("attributes.csv", ("class_id", "name", "genus", *ATTRIBUTES),
          *[(s.index + 1, s.name, s.genus, *dict(s.attributes).values()) for s in species])
    table("diagnostic_parts.csv", ("class_id", "sibling_id", "attribute", "part_id", "part_name"),
          *[(a.index + 1, b.index + 1, name, PARTS.index(part) + 1, part) for a in species for b in species
            if a != b and a.genus == b.genus for name in diagnostic(a, b) for part in ATTRIBUTES[name][0]])

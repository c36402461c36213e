"""What is around a bird: the background, what it stands on, and sometimes a twig before it."""

import cv2
import numpy as np

from .canvas import blend, dot, draw_lines, fill, resize, rgb, spline
from .species import OUTLINES, TABLES


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A picture (size, size, 3) uint8 of one of the scenes of birds.toml, out of focus."""
    scene = TABLES["scenes"][rng.integers(len(TABLES["scenes"]))]
    half, colours = size // 2, scene["blots"]                 # half the pixels will do, as it is blurred
    ramp = np.linspace(scene["top"], scene["bottom"], 4)[:, None] + rng.uniform(-16, 16, (4, 4, 3))
    image = resize(np.rint(ramp).clip(0, 255).astype(np.uint8), (half, half))
    for blur, scale in ((11, 1.4), (5, 0.9)):
        for x, y, r, tone, pick, turn in rng.random((scene["count"] // 2, 6)).tolist():
            radius = half * (0.025 + 0.09 * r * r) * scale
            colour = rgb(colours[int(pick * len(colours))], 0.8 + 0.4 * tone)
            dot(image, complex(x, y) * half, radius * complex(*scene["axes"]), colour, (turn - 0.5) * 24)
        for a, b, bend, width, tone in rng.random((rng.integers(3), 5)):      # branches far behind
            line = spline(np.array([-0.1, 0.5, 1.1]) + 1j * np.array([a, (a + b + bend - 0.5) / 2, b]), False) * half
            draw_lines(image, [line], rgb((96, 80, 62), 0.6 + 0.7 * tone), half * (0.01 + 0.04 * width))
        image = cv2.GaussianBlur(image, (blur, blur), 0)
    return resize(image, (size, size))


def draw_perch(image: np.ndarray, rng: np.random.Generator, foot: complex, unit: float) -> tuple[float, bool]:
    """Draw what the bird stands on, below the pixel `foot`; return its slope and whether toes show.

    unit: the length of the bird's body in pixels.
    """
    size, kind = len(image), ("branch", "branch", "ground", "water", "rock")[rng.integers(5)]
    perch, branch = TABLES["perches"][kind], kind == "branch"
    colour = np.array(perch["colours"][rng.integers(3)]) * rng.uniform(0.75, 1.2)
    slope = rng.uniform(-0.14, 0.14) * branch
    wobble, thick, marks = rng.uniform(-1, 1, 17), rng.random(), rng.random((60, 3))
    x = np.linspace(-0.1, 1.1, 17) * size
    rise = 0.0 if branch else unit * (0.08 + 0.2 * thick)     # the far shore
    if kind == "rock":
        rise = -unit * (0.5 + thick) * np.abs((x - foot.real) / (unit * (0.6 + 0.6 * thick))) ** 3
    top = x + 1j * (foot.imag + slope * (x - foot.real) - rise + 0.015 * unit * wobble)
    deep, edge = (unit * (0.06 + 0.16 * thick), 0.65) if branch else (2 * size, 0.87)
    lower = spline(top + 1j * deep, False)
    for share, gain in ((0.0, edge), (0.18, 1.1), (0.42, 0.95), (0.7, edge)):
        upper = spline(top + 1j * share * min(deep, 0.5 * unit), False)
        fill(image, np.concatenate([upper, lower[::-1]]), rgb(colour, gain))
    if not branch:                                            # shadow, or reflection
        shadow = np.zeros((size, size), np.uint8)
        dot(shadow, foot + 0.03j * unit, unit * (0.4 + (0.12j if kind == "water" else 0.06j)), 90)
        blend(image, np.array(rgb(colour, 0.45), np.uint8), cv2.GaussianBlur(shadow, (11, 11), 0))
    at, down = marks[:, 0] * size, (0.1 + 0.8 * marks[:, 1] ** 2) * min(deep, 1.2 * unit)
    spots = at + 1j * (np.interp(at, x, top.imag) + down)
    step = complex(*perch["stroke"]) * (1 + 1j * slope) * unit
    strokes = spots[:, None] + np.array([0, 0.5, 1]) * step * (0.35 + marks[:, 2:])
    draw_lines(image, strokes[::2], rgb(colour, 0.7))
    draw_lines(image, strokes[1::2], rgb(colour, 1.2))
    return slope, kind != "water"


def draw_twig(image: np.ndarray, rng: np.random.Generator, start: complex, share: float) -> np.ndarray:
    """In that share of pictures draw a twig with leaves across the pixel `start`; return what it covers, (H, W) uint8."""
    size, cover = len(image), np.zeros(image.shape[:2], np.uint8)
    (wanted, angle, tone, width), leaves = rng.random(4), rng.random((5, 4))
    if wanted >= share:
        return cover
    along = np.exp(1j * np.pi * angle)
    line = spline(start + along * size * np.array([-1.5, -0.3, 0.06j, 0.4 - 0.02j, 1.5]), False)
    for target, colour in ((image, rgb((96, 78, 58), 0.7 + 0.5 * tone)), (cover, 255)):
        draw_lines(target, [line], colour, size * (0.012 + 0.014 * width))
    for at, turn, length, shade in leaves:
        turned = (0.06 + 0.07 * length) * np.exp(3.6j * (turn - 0.5)) * OUTLINES["leaf"]
        leaf = start + along * size * (0.9 * at - 0.45 + turned)
        fill(image, spline(leaf), rgb((88, 124, 56), 0.6 + 0.7 * shade))
        draw_lines(image, [leaf[[0, 6]]], rgb((140, 166, 92), 0.6 + 0.7 * shade))
        fill(cover, spline(leaf), 255)
    return cover

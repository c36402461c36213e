"""Smooth shapes on a picture of integers. Points are complex numbers x + iy, in pixels once something is drawn."""

from collections.abc import Iterable, Sequence
from functools import cache, partial

import cv2
import numpy as np

Colour = Sequence[int] | int    # RGB, or a grey level
resize = partial(cv2.resize, interpolation=cv2.INTER_LINEAR_EXACT)


def spline(points: Sequence[complex], closed: bool = True) -> np.ndarray:
    """A smooth outline near the points, where one given three times is a corner; or an open line from first to last."""
    points = np.asarray(points) if closed else np.pad(points, 2, "edge")
    return _basis(len(points), closed) @ points


@cache
def _basis(n, closed):
    """Matrix (samples, n) of a uniform cubic B-spline, five samples a segment."""
    t = np.arange(5)[:, None] / 5
    bumps = np.hstack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    bumps = np.pad(bumps, ((0, 0), (0, n - 4)))
    return np.vstack([np.roll(bumps, segment, 1) for segment in range(n if closed else n - 3)])


def extent(lines: Iterable[np.ndarray]) -> np.ndarray:
    """The lowest and the highest (x, y) of arrays of points: (2, 2)."""
    z = np.concatenate(lines)
    return np.array([[z.real.min(), z.imag.min()], [z.real.max(), z.imag.max()]])


def _fixed(z):
    """OpenCV's coordinates in 1/16 pixel, (..., 2), which the last bit of a sine does not change."""
    return np.rint(np.asarray(z, complex)[..., None].view(float) * 16).astype(np.int32)


def fill(target: np.ndarray, outline: np.ndarray, colour: Colour) -> None:
    """Fill an outline (points) on `target`, (H, W, 3) or (H, W) uint8."""
    cv2.fillPoly(target, [_fixed(outline)], colour, cv2.LINE_AA, 4)


def draw_lines(target: np.ndarray, lines: np.ndarray | list, colour: Colour, width: float = 1.0) -> None:
    """Draw lines, each an array of points, `width` pixels wide."""
    cv2.polylines(target, list(_fixed(lines)), False, colour, max(1, round(width)), cv2.LINE_AA, 4)


def dot(target: np.ndarray, centre: complex, axes: complex, colour: Colour, angle: float = 0.0) -> None:
    """Draw a filled ellipse; axes: its half width + i times its half height, turned by `angle` degrees."""
    axes = np.maximum(_fixed(axes), 8).tolist()
    cv2.ellipse(target, _fixed(centre).tolist(), axes, angle, 0, 360, colour, -1, cv2.LINE_AA, 4)


def rgb(colour: Iterable[float], gain: float = 1.0) -> list[int]:
    """A colour, made `gain` times as bright, as whole numbers of 0..255."""
    return [max(0, min(255, round(float(c * gain)))) for c in colour]


def blend(under: np.ndarray, over: np.ndarray, alpha: np.ndarray) -> None:
    """Lay `over` on `under`, (H, W, 3) integers of 0..255, as far as alpha (H, W) uint8 says; in place."""
    a = alpha[..., None].astype(np.uint16) + (alpha[..., None] >> 7)
    under[:] = (under * (256 - a) + over * a) >> 8


def grain(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 1) int16 of soft noise in -64..64."""
    y, x = rng.integers(0, 1025 - size, 2)
    return _noise()[y:y + size, x:x + size]


@cache
def _noise():
    tile = np.random.default_rng(0).integers(0, 256, (1024, 1024), np.uint8)
    tile = cv2.GaussianBlur(tile, (5, 3), 0).astype(np.int16)[..., None] - 128
    return tile * 64 // int(np.abs(tile).max())

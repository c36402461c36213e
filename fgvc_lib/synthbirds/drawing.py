"""One picture of a bird."""

import cv2
import numpy as np

from .canvas import blend, dot, draw_lines, extent, fill, grain, resize, rgb, spline
from .pose import DIFFICULTY, Pose
from .scenery import background, draw_perch, draw_twig
from .species import OUTLINES, PARTS, Species


def draw(species: Species, rng: np.random.Generator, size: int = 224) -> tuple[np.ndarray, tuple, dict]:
    """One picture: image (size, size, 3) uint8 RGB, box (x, y, w, h) and {part: (x, y, visible)}, in pixels.

    Siblings drawn from equal generators differ only where their attributes do.
    """
    image = background(rng, size)
    pose = Pose(rng, species, size)
    _limbs(image, rng, pose)
    _plumage(image, rng, pose)
    cover = draw_twig(image, rng, pose.upright(complex(*rng.uniform(-0.4, 0.4, 2))), DIFFICULTY.occlusion)
    image = _photograph(image, rng)
    low, high = np.clip(extent(pose.drawn) + [[-1], [1]], 0, size)
    return image, tuple(round(float(v), 1) for v in (*low, *(high - low))), _parts(pose, cover)


def _photograph(image, rng):
    """The picture as a camera takes it: shadows, light, focus and noise."""
    size, d = len(image), DIFFICULTY
    shade = rng.integers(255 - int(256 * d.shade * rng.random()), 256, (5, 5), np.uint8)
    image = (image * resize(shade, (size, size))[..., None].astype(np.uint16) >> 8).astype(np.uint8)
    gamma, exposure, *colour = 1 + d.light * rng.uniform(-1, 1, 5)
    curve = np.linspace(0, 1, 256)[:, None] ** gamma * 255 * exposure * np.array(colour) ** 0.6
    image = cv2.LUT(image, np.rint(curve).clip(0, 255).astype(np.uint8)[None])
    image = cv2.GaussianBlur(image, (5, 5), max(0.1, rng.random() * d.blur * size / 224))
    return np.clip(image + (grain(rng, size) * d.noise >> 6), 0, 255).astype(np.uint8)


def _parts(p, cover):
    """{part: (x, y, visible)}, zeros for what is outside, turned away, or hidden where `cover` is."""
    near, far = ("right", "left")[::p.facing]                 # of what is turned away only the leg stands clear
    far_leg, near_leg = p.upright((p.hip + 2 * p.feet) / 3 - 0.03)
    places = {"back": p.body(-0.1 - 0.85j), "belly": p.body(-0.05 + 0.85j), "breast": p.body(0.40 + 0.5j),
              "crown": p.head(-0.9j), "forehead": p.head(0.75 - 0.5j), "nape": p.head(-0.75 - 0.2j),
              "throat": p.head(0.55 + 0.75j), "beak": p.beak[5], "tail": p.tail(0.6), f"{near} eye": p.eye,
              f"{near} wing": p.wing(0.4 + 0.1j), f"{near} leg": near_leg, f"{far} leg": far_leg}
    parts = dict.fromkeys(PARTS, (0.0, 0.0, 0))
    for part, place in places.items():
        x, y = round(float(place.real), 1), round(float(place.imag), 1)
        if 0 <= x < len(cover) and 0 <= y < len(cover) and cover[int(y), int(x)] < 128:
            parts[part] = (x, y, 1)
    return parts


def _limbs(image, rng, p):
    """Draw perch, legs, tail and beak: all that body and wing then overlap."""
    slope, toes = draw_perch(image, rng, p.upright(p.feet[1]), p.unit)
    for foot, start, gain in zip(p.feet, (-0.05, 0.03), (0.78, 1.0), strict=True):
        foot = foot + 1j * p.facing * slope * (foot - p.feet[1]).real
        colour = rgb(p.mark(p.look["legs"], "horn"), gain)
        leg = p.upright(np.array([p.hip + start, (p.hip + start + foot) / 2 - 0.05 + 0.02j, foot]))
        claws = [p.upright(foot + np.array([0, end])) for end in (0.11 + 0.02j, 0.08 + 0.045j, -0.075 + 0.03j) if toes]
        draw_lines(image, [leg], colour, p.unit * 0.024)
        draw_lines(image, claws, colour, p.unit * 0.018)
        p.drawn += [leg, *claws]

    kind = p.look["tail"]
    outline, reach = ("tail_fork", 0.55) if kind == "fork" else ("tail", 0.95)
    feathers = p.tail(OUTLINES[outline])
    fill(image, feathers, p.tint("tail"))
    if kind == "tip":
        fill(image, p.tail(OUTLINES["tail_tip"]), p.mark("white", "tail"))
    y = np.array((-0.12, -0.04, 0.04, 0.12))[:, None]
    draw_lines(image, p.tail(np.array([0.2, reach]) + 1j * y * (0.6, 1)), p.tint("tail", 0.7))

    horn = p.mark(p.look["beak_colour"], "horn")
    beak = np.concatenate([p.beak_above, p.beak_below[::-1]])
    fill(image, beak, rgb(horn, 0.8))
    fill(image, np.concatenate([p.beak_above, p.beak[::-1]]), horn)
    draw_lines(image, [p.beak], rgb(horn, 0.5))
    p.drawn += [feathers, beak]


def _plumage(image, rng, p):
    """Draw body, wing and eye: flat colours on `paint`, cut out by `alpha`, then rounded by shading."""
    jitter = rng.uniform(-1, 1, (4, 110))
    paint, alpha = np.full_like(image, p.tint("back")), np.zeros(image.shape[:2], np.uint8)
    for outline in p.silhouette.values():
        fill(alpha, outline, 255)
    _colour_body(paint, jitter, p)
    _mark_body(paint, jitter, p)
    _wing(paint, p)
    _round_off(image, rng, paint, alpha, p)
    _eye(image, p)


def _colour_body(paint, jitter, p):
    """The areas of the plumage, their edges soft, and the feathers on them."""
    flank, chest, below = p.body(OUTLINES["flank"]), p.head(OUTLINES["chest"]), p.body(OUTLINES["below"])
    fill(paint, spline([*flank, p.side, *chest, *below]), p.tint("belly"))
    fill(paint, spline([p.nape, *p.head(OUTLINES["hood"])]), p.tint("head"))
    fill(paint, spline(p.head(OUTLINES["cheek"])), p.tint("cheek"))
    cv2.GaussianBlur(paint, (2 * (len(paint) // 56) + 1,) * 2, 0, dst=paint)
    feathers = 0.43 * jitter[0] - 0.12 + 1j * jitter[1]
    feathers = p.body(feathers[:, None] + np.array([0, -0.022 + 0.04j, -0.05 + 0.04j]))
    draw_lines(paint, feathers[jitter[1] < 0.15], p.tint("back", 0.78))
    draw_lines(paint, feathers[jitter[1] >= 0.15], p.tint("belly", 0.88))


def _mark_body(paint, jitter, p):
    """What tells species apart on head and breast."""
    throat, crown, breast = (p.look[attribute] for attribute in ("throat", "crown", "breast"))
    if throat != "plain":
        fill(paint, spline(p.head(OUTLINES["bib"])), p.mark(throat, "head"))
    if crown == "cap":
        fill(paint, spline(p.head(OUTLINES["cap"])), p.mark("dark", "head"))
    elif crown == "stripe":
        draw_lines(paint, [spline(p.head(OUTLINES["stripe"]), closed=False)], p.mark("white", "head"), 0.045 * p.wide)
    elif crown == "crest":
        fill(paint, p.silhouette["crest"], p.tint("head", 0.66))
    column, row = np.divmod(np.arange(18), 3)
    spots = 0.25 + 0.056 * column + 0.02 * jitter[2, :18] + 1j * (0.22 + 0.3 * row + 0.1 * jitter[3, :18])
    dark = p.mark("dark", "belly")
    if breast == "band":
        draw_lines(paint, [spline(p.body(OUTLINES["band"]), closed=False)], dark, 0.07 * p.wide)
    elif breast == "streaks":
        draw_lines(paint, p.body(spots[:, None] + np.array([0.02 - 0.08j, -0.03 + 0.08j])), dark, 0.016 * p.wide)
    elif breast == "spots":
        for spot in p.body(spots):
            dot(paint, spot, 0.015 * p.wide * (1 + 1j), dark)


def _wing(paint, p):
    fill(paint, p.silhouette["wing"], p.tint("wing"))
    flight = [OUTLINES["flight"] + k * OUTLINES["flight_step"] for k in range(6)]
    flight = np.array([spline(p.wing(feather), closed=False) for feather in flight])
    draw_lines(paint, flight, p.tint("wing", 1.5), p.unit * 0.012)
    draw_lines(paint, flight + 0.012j * p.unit, p.tint("wing", 0.6), p.unit * 0.010)
    row, place = np.divmod(np.arange(20), 5)
    coverts = 0.10 + 0.07 * row - 0.02 * (place % 2) + 1j * (0.1 * place - 0.2)
    draw_lines(paint, p.wing(coverts[:, None] + np.array([0, 0.035 + 0.045j, 0.01 + 0.09j])), p.tint("wing", 1.35))
    for k in range(int(p.look["wing_bars"])):
        bar = spline(p.wing(OUTLINES["wing_bar"] - 0.13 * k), closed=False)
        draw_lines(paint, [bar], p.mark("white", "wing"), 0.034 * p.wide)
    draw_lines(paint, [p.silhouette["wing"]], p.tint("wing", 0.6))


def _round_off(image, rng, paint, alpha, p):
    """Lay the paint on the picture, brighter towards the light and darker at the edges."""
    sun, noise = rng.uniform(-1, 1), grain(rng, len(image))[..., 0]     # from left or right
    (left, top), (right, bottom) = np.clip(extent(p.drawn) + [[-14], [14]], 0, len(image)).astype(int)
    box = np.s_[top:bottom, left:right]
    soft = cv2.GaussianBlur(alpha[box], (2 * int(p.unit * 0.1) + 1,) * 2, 0).astype(np.int16)
    down, side = max(1, round(p.unit * 0.05)), round(p.unit * 0.03 * sun)
    light = np.roll(soft, (down, side), (0, 1)) - np.roll(soft, (-down, -side), (0, 1))
    shade = 136 + (light * 3 >> 4) + (soft - 255 >> 3) + (noise[box] >> 2)
    lit = paint[box] * np.clip(shade, 30, 200).astype(np.uint16)[..., None] >> 7
    blend(image[box], np.minimum(lit, 255), alpha[box])


def _eye(image, p):
    iris, disc = p.radius * 0.19, 1 + 1j
    if p.look["eye_ring"] != "none":
        dot(image, p.eye, (iris + 0.022 * p.wide) * disc, p.mark(p.look["eye_ring"], "head"))
    for shift, share, colour in ((0, 1, (62, 38, 24)), (0, 0.72, (14, 12, 12)), (0.3 - 0.35j, 0.3, (250, 250, 250))):
        dot(image, p.eye + iris * shift, share * iris * disc, colour)

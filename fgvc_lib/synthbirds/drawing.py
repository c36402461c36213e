"""One picture of a bird."""

from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace

import cv2
import numpy as np

from .species import PARTS, WORLDS, _genus

@dataclass(frozen=True)
class Difficulty:
    """All that makes the set hard. Angles in degrees, either way; lengths relative to the image side."""

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
# 0..1: how far an attribute's colour stands off from the plumage around it. The benchmark's species are harder to tell apart
# than those of pre-training, as birds are harder than the classes of ImageNet; data/README.md says how this was fixed.
CONTRAST = {"benchmark": 0.25, "pretrain": 1.0}
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
# ---------------------------------------------------------------------------------------------- drawing

_resize = partial(cv2.resize, interpolation=cv2.INTER_LINEAR_EXACT)


def _z(*points):
    """Points (x, y), or complex ones as they are, as one complex array."""
    return np.array([complex(*p) if isinstance(p, tuple) else p for p in points])


@cache
def _basis(n, closed):
    """Matrix (samples, n) of a uniform cubic B-spline, five samples a segment."""
    t = np.arange(5)[:, None] / 5
    bumps = np.hstack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    bumps = np.pad(bumps, ((0, 0), (0, n - 4)))
    return np.vstack([np.roll(bumps, segment, 1) for segment in range(n if closed else n - 3)])


def _spline(points, closed=True):
    """A smooth outline near the points, where one given three times is a corner; or an open line from first to last."""
    points = _z(*points) if closed else _z(*[points[0]] * 2, *points, *[points[-1]] * 2)
    return _basis(len(points), closed) @ points


def _fixed(z):
    """OpenCV's coordinates in 1/16 pixel, (..., 2), which the last bit of a sine does not change."""
    return np.rint(np.asarray(z, complex)[..., None].view(float) * 16).astype(np.int32)


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
    a = alpha[..., None].astype(np.uint16) + (alpha[..., None] >> 7)
    under[:] = (under * (256 - a) + over * a) >> 8


@cache
def _noise():
    """A tile (1024, 1024, 1) int16 of soft noise in -64..64."""
    tile = np.random.default_rng(0).integers(0, 256, (1024, 1024), np.uint8)
    tile = cv2.GaussianBlur(tile, (5, 3), 0).astype(np.int16)[..., None] - 128
    return tile * 64 // int(np.abs(tile).max())


def _grain(rng, size):
    y, x = rng.integers(0, 1025 - size, 2)
    return _noise()[y:y + size, x:x + size]


def _extent(lines):
    """The lowest and the highest (x, y) of lists of points, (2, 2)."""
    z = np.concatenate(lines)
    return np.array([[z.real.min(), z.imag.min()], [z.real.max(), z.imag.max()]])


def _background(rng, size):
    """A picture (size, size, 3) uint8 of one of SCENES, out of focus."""
    top, bottom, colours, axes, count = SCENES[rng.integers(len(SCENES))]
    half = size // 2                                          # half the pixels will do, as it is blurred
    ramp = np.linspace(top, bottom, 4)[:, None] + rng.uniform(-16, 16, (4, 4, 3))
    image = _resize(np.rint(ramp).clip(0, 255).astype(np.uint8), (half, half))
    for blur, scale in ((11, 1.4), (5, 0.9)):
        for x, y, r, tone, pick, turn in rng.random((count // 2, 6)).tolist():
            radius = half * (0.025 + 0.09 * r * r) * scale
            colour = _rgb(colours[int(pick * len(colours))], 0.8 + 0.4 * tone)
            _dot(image, complex(x, y) * half, radius * complex(*axes), colour, (turn - 0.5) * 24)
        for a, b, bend, width, tone in rng.random((rng.integers(3), 5)):      # branches far behind
            line = _spline([(-0.1, a), (0.5, (a + b + bend - 0.5) / 2), (1.1, b)], False) * half
            _lines(image, [line], _rgb((96, 80, 62), 0.6 + 0.7 * tone), half * (0.01 + 0.04 * width))
        image = cv2.GaussianBlur(image, (blur, blur), 0)
    return _resize(image, (size, size))


def _perch(image, rng, foot, unit):
    """Draws what the bird stands on, below the pixel `foot`; returns its slope and whether toes show."""
    size, kind = len(image), ("branch", "branch", "ground", "water", "rock")[rng.integers(5)]
    colours, step = PERCHES[kind]
    colour, branch = np.array(colours[rng.integers(3)]) * rng.uniform(0.75, 1.2), kind == "branch"
    slope = rng.uniform(-0.14, 0.14) * branch
    wobble, thick, marks = rng.uniform(-1, 1, 17), rng.random(), rng.random((60, 3))
    x = np.linspace(-0.1, 1.1, 17) * size
    rise = 0.0 if branch else unit * (0.08 + 0.2 * thick)     # the far shore
    if kind == "rock":
        rise = -unit * (0.5 + thick) * np.abs((x - foot.real) / (unit * (0.6 + 0.6 * thick))) ** 3
    top = x + 1j * (foot.imag + slope * (x - foot.real) - rise + 0.015 * unit * wobble)
    deep, edge = (unit * (0.06 + 0.16 * thick), 0.65) if branch else (2 * size, 0.87)
    lower = _spline(top + 1j * deep, False)
    for part, gain in ((0.0, edge), (0.18, 1.1), (0.42, 0.95), (0.7, edge)):
        upper = _spline(top + 1j * part * min(deep, 0.5 * unit), False)
        _fill(image, np.concatenate([upper, lower[::-1]]), _rgb(colour, gain))
    if not branch:                                            # shadow, or reflection
        shadow = np.zeros((size, size), np.uint8)
        _dot(shadow, foot + 0.03j * unit, unit * (0.4 + (0.12j if kind == "water" else 0.06j)), 90)
        _blend(image, np.array(_rgb(colour, 0.45), np.uint8), cv2.GaussianBlur(shadow, (11, 11), 0))
    at, down = marks[:, 0] * size, (0.1 + 0.8 * marks[:, 1] ** 2) * min(deep, 1.2 * unit)
    spots = at + 1j * (np.interp(at, x, top.imag) + down)
    strokes = spots[:, None] + np.array([0, 0.5, 1]) * step * (1 + 1j * slope) * unit * (0.35 + marks[:, 2:])
    _lines(image, strokes[::2], _rgb(colour, 0.7))
    _lines(image, strokes[1::2], _rgb(colour, 1.2))
    return slope, kind != "water"


def _pose(rng, species, size):
    """A bird in a random pose: frames body, head, wing, tail map to body lengths, `to` maps those on."""
    genus, d, u = _genus(species.genus_index), DIFFICULTY, rng.uniform
    p = SimpleNamespace(look=dict(species.attributes), points=[])   # points: pixels of all drawn, for the box
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
    long = 1.55 if p.look["tail"] == "long" else 1.0
    p.body = lambda z: tilt * (np.real(z) + b * 1j * np.imag(z))
    p.head = lambda z: skull + p.radius * lift * (np.real(z) * turn + 1j * np.imag(z))
    p.wing = lambda z: tilt * (wrist + droop * (-0.95 * np.real(z) + 1.8j * b * np.imag(z)))
    p.tail = lambda z, long=long: tilt * (rump + cock * tail * (1j * np.imag(z) - long * np.real(z)))

    thin = min(1.0, neck / 0.3)                               # a short neck melts into the body
    middle, across = root + up * neck * 0.55, 0.62j * up * p.radius
    back = (p.head(-0.8 + 0.1j) + p.body(0.14 - 1j)) / 2 * (1 - thin) + thin * (middle - across)
    p.front = (p.head(0.45 + 0.95j) + p.body(0.5 + 0.1j)) / 2 * (1 - thin) + thin * (middle + across)
    p.nape = (p.head(-0.8 + 0.1j) + back) / 2 - 0.4 * p.radius
    p.outline = _spline([
        *p.head(_z((0.98, 0.0), (0.92, -0.55), (0.45, -1.05), (-0.35, -1.12), (-0.95, -0.62))), back,
        *p.body(_z((0.14, -1.02), (-0.14, -0.98), (-0.42, -0.66), (-0.70, -0.22), (-0.70, 0.06), (-0.42, 0.58),
                   (-0.10, 1.12), (0.26, 1.05), (0.50, 0.30))), p.front, *p.head(_z((0.35, 1.0), (0.92, 0.62)))])
    p.hip, p.eye = p.body(-0.04 + 0.72j), p.head(0.36 - 0.14j)
    p.feet = p.hip + stance + (-0.08, 0.06) + 1j * leg        # far, near

    # Size and place come from what all species of the genus share, so that they tell nothing.
    low, high = _extent([p.outline, p.feet, [p.tail(1, 1), p.head(1 + p.bill), p.head(-0.8 - 1.5j)]])
    p.unit, middle = fill * size / max(high - low), complex(*(low + high) / 2)
    p.wide = d.mark_size * p.unit
    p.to = lambda z: centre * size + p.unit * (p.facing * np.real(z - middle) + 1j * np.imag(z - middle))
    p.shape = lambda frame, *points: p.to(_spline(frame(_z(*points))))
    p.line = lambda frame, *points: [p.to(_spline(frame(_z(*points)), False))]
    colours = genus.colours
    p.tint = lambda name, gain=1.0: _rgb(colours[name] * gains, gain)
    contrast = CONTRAST[WORLDS[species.genus_index % 2]]      # the worlds take turns
    p.mark = lambda ink, under: _rgb((colours[under] + contrast * (INK[ink] - colours[under])) * gains)
    return p


def _limbs(image, rng, p):
    """Draws perch, legs, tail and beak: all that body and wing then overlap."""
    slope, toes = _perch(image, rng, p.to(p.feet[1]), p.unit)
    for foot, start, gain in zip(p.feet, (-0.05, 0.03), (0.78, 1.0), strict=True):
        foot = foot + 1j * p.facing * slope * (foot - p.feet[1]).real
        colour = _rgb(p.mark(p.look["legs"], "horn"), gain)
        leg = p.to(_z(p.hip + start, (p.hip + start + foot) / 2 - 0.05 + 0.02j, foot))
        claws = [p.to(_z(foot, foot + end)) for end in (0.11 + 0.02j, 0.08 + 0.045j, -0.075 + 0.03j) if toes]
        _lines(image, [leg], colour, p.unit * 0.024)
        _lines(image, claws, colour, p.unit * 0.018)
        p.points += [leg, *claws]

    forked = (0, -0.15), (1.1, -0.28), (1.1, -0.2), (0.6, 0.0), (1.1, 0.22), (1.1, 0.28), (0, 0.15)
    square = (0, -0.15), (0.97, -0.20), (1.0, 0.0), (0.97, 0.20), (0, 0.15)
    tail, reach = (forked, 0.55) if p.look["tail"] == "fork" else (square, 0.95)
    feathers = p.to(p.tail(_z(*tail)))
    _fill(image, feathers, p.tint("tail"))
    if p.look["tail"] == "tip":
        _fill(image, p.to(p.tail(_z((0.74, -0.185), *square[1:4], (0.74, 0.185)))), p.mark("white", "tail"))
    y = np.array((-0.12, -0.04, 0.04, 0.12))[:, None]
    _lines(image, p.to(p.tail(np.array([0.2, reach]) + 1j * y * (0.6, 1))), p.tint("tail", 0.7))

    length, thick, bend = BEAKS[p.look["beak_shape"]]
    t, down = np.linspace(0, 1, 9), p.head(1j) - p.head(0)
    p.spine = p.head(0.80 + 0.22 * t + p.bill * length * t + 1j * (0.12 + p.bill * bend * t**2))
    upper, lower = p.spine - down * thick * (1 - t**1.6), p.spine + down * thick * 0.8 * (1 - t**1.6)
    horn = p.mark(p.look["beak_colour"], "horn")
    beak = p.to(np.concatenate([upper, lower[::-1]]))
    _fill(image, beak, _rgb(horn, 0.8))
    _fill(image, p.to(np.concatenate([upper, p.spine[::-1]])), horn)
    _lines(image, [p.to(p.spine)], _rgb(horn, 0.5))
    p.points += [feathers, beak]


def _plumage(image, rng, p):
    """Draws body, wing and eye: flat colours on `paint`, cut out by `alpha`, then rounded by shading."""
    size, jitter, sun = len(image), rng.uniform(-1, 1, (4, 110)), rng.uniform(-1, 1)
    grain = _grain(rng, size)[..., 0]
    paint, alpha = np.full_like(image, p.tint("back")), np.zeros((size, size), np.uint8)

    def add(outline, colour):
        p.points.append(outline)
        _fill(alpha, outline, 255)
        _fill(paint, outline, colour)

    add(p.to(p.outline), p.tint("back"))
    below = _spline([*p.body(_z((-0.8, 0.0), (-0.4, 0.2), (0.0, 0.1), (0.28, -0.1))), p.front - 0.1,
                    *p.head(_z((0.2, 0.8), (1.1, 1.0))), *p.body(_z((0.9, 0), (0.5, 1.8), (-0.6, 1.8)))])
    _fill(paint, p.to(below), p.tint("belly"))
    hood = p.head(_z((-1.3, -0.9), (0, -1.6), (1.4, -1), (1.4, 0.9), (0.5, 1.25), (0, 1.15)))
    _fill(paint, p.to(_spline([p.nape, *hood])), p.tint("head"))
    cheek = p.shape(p.head, (-0.75, 0), (-0.3, -0.2), (0.3, 0.15), (0.1, 0.6), (-0.5, 0.55))
    _fill(paint, cheek, p.tint("cheek"))
    paint = cv2.GaussianBlur(paint, (2 * (size // 56) + 1,) * 2, 0)
    feathers = 0.43 * jitter[0] - 0.12 + 1j * jitter[1]
    feathers = p.to(p.body(feathers[:, None] + np.array([0, -0.022 + 0.04j, -0.05 + 0.04j])))
    _lines(paint, feathers[jitter[1] < 0.15], p.tint("back", 0.78))
    _lines(paint, feathers[jitter[1] >= 0.15], p.tint("belly", 0.88))

    if p.look["throat"] != "plain":
        bib = p.shape(p.head, (1.15, 0.28), (0.55, 0.34), (0.1, 0.62), (0.05, 1.25), (0.7, 1.5), (1.2, 0.9))
        _fill(paint, bib, p.mark(p.look["throat"], "head"))
    if p.look["crown"] == "cap":
        cap = p.shape(p.head, (1.1, -0.15), (0.5, -0.28), (-0.3, -0.28), (-1.2, -0.25), (-1.2, -1.4), (0, -1.7), (1.2, -1.2))
        _fill(paint, cap, p.mark("dark", "head"))
    elif p.look["crown"] == "stripe":
        stripe = p.line(p.head, (1.0, -0.35), (0.45, -0.62), (-0.2, -0.68), (-1.0, -0.35))
        _lines(paint, stripe, p.mark("white", "head"), 0.045 * p.wide)
    elif p.look["crown"] == "crest":
        add(p.shape(p.head, (0.75, -0.55), (0.25, -1.2), (-0.7, -1.55), *[(-1.55, -1.85)] * 3, (-1.15, -1.1), (-0.8, -0.5),
                    (-0.1, -0.6)), p.tint("head", 0.66))
    column, row = np.divmod(np.arange(18), 3)
    spots = 0.25 + 0.056 * column + 0.02 * jitter[2, :18] + 1j * (0.22 + 0.3 * row + 0.1 * jitter[3, :18])
    dark = p.mark("dark", "belly")
    if p.look["breast"] == "band":
        _lines(paint, p.line(p.body, (0.44, 1.2), (0.46, 0.5), (0.34, -0.3)), dark, 0.07 * p.wide)
    elif p.look["breast"] == "streaks":
        _lines(paint, p.to(p.body(spots[:, None] + np.array([0.02 - 0.08j, -0.03 + 0.08j]))), dark, 0.016 * p.wide)
    elif p.look["breast"] == "spots":
        for spot in p.to(p.body(spots)):
            _dot(paint, spot, 0.015 * p.wide * (1 + 1j), dark)

    vane = p.shape(p.wing, (0, 0), (0.10, -0.22), (0.40, -0.30), (0.75, -0.16), *[(1.0, 0.04)] * 3, (0.72, 0.26),
                   (0.42, 0.42), (0.14, 0.34))
    add(vane, p.tint("wing"))
    ends = _z((0.30, 0.36), (0.55, 0.34), (0.62, 0.315)), _z((0.05, -0.09), (0.05, -0.08), (0.055, -0.035))
    flight = np.concatenate([p.line(p.wing, *(ends[0] + k * ends[1])) for k in range(6)])
    _lines(paint, flight, p.tint("wing", 1.5), p.unit * 0.012)
    _lines(paint, flight + 0.012j * p.unit, p.tint("wing", 0.6), p.unit * 0.010)
    coverts = _z(*[(0.10 + 0.07 * i - 0.02 * (j % 2), 0.1 * j - 0.2) for i in range(4) for j in range(5)])
    coverts = p.to(p.wing(coverts[:, None] + np.array([0, 0.035 + 0.045j, 0.01 + 0.09j])))
    _lines(paint, coverts, p.tint("wing", 1.35))
    for k in range(int(p.look["wing_bars"])):
        bar = _z((0.42, -0.20), (0.43, 0.05), (0.38, 0.20), (0.31, 0.31)) - 0.13 * k
        _lines(paint, p.line(p.wing, *bar), p.mark("white", "wing"), 0.034 * p.wide)
    _lines(paint, [vane], p.tint("wing", 0.6))

    (left, top), (right, bottom) = np.clip(_extent(p.points) + [[-14], [14]], 0, size).astype(int)
    box = np.s_[top:bottom, left:right]
    soft = cv2.GaussianBlur(alpha[box], (2 * int(p.unit * 0.1) + 1,) * 2, 0).astype(np.int16)
    down, side = max(1, round(p.unit * 0.05)), round(p.unit * 0.03 * sun)
    light = np.roll(soft, (down, side), (0, 1)) - np.roll(soft, (-down, -side), (0, 1))
    shade = 136 + (light * 3 >> 4) + (soft - 255 >> 3) + (grain[box] >> 2)
    lit = paint[box] * np.clip(shade, 30, 200).astype(np.uint16)[..., None] >> 7
    _blend(image[box], np.minimum(lit, 255), alpha[box])

    eye, iris, disc = p.to(p.eye), p.radius * p.unit * 0.19, 1 + 1j
    if p.look["eye_ring"] != "none":
        _dot(image, eye, (iris + 0.022 * p.wide) * disc, p.mark(p.look["eye_ring"], "head"))
    for shift, share, colour in ((0, 1, (62, 38, 24)), (0, 0.72, (14, 12, 12)), (0.3 - 0.35j, 0.3, (250, 250, 250))):
        _dot(image, eye + iris * shift, share * iris * disc, colour)


def _twig(image, rng, start):
    """Sometimes draws a twig with leaves across the pixel `start`; returns what it covers, (H, W) uint8."""
    size, cover = len(image), np.zeros(image.shape[:2], np.uint8)
    (wanted, angle, tone, width), leaves = rng.random(4), rng.random((5, 4))
    if wanted >= DIFFICULTY.occlusion:
        return cover
    along = np.exp(1j * np.pi * angle)
    line = _spline(start + along * size * np.array([-1.5, -0.3, 0.06j, 0.4 - 0.02j, 1.5]), False)
    for target, colour in ((image, _rgb((96, 78, 58), 0.7 + 0.5 * tone)), (cover, 255)):
        _lines(target, [line], colour, size * (0.012 + 0.014 * width))
    blade = _z(*[(0, 0)] * 3, (0.3, -0.2), (0.65, -0.18), *[(1, 0)] * 3, (0.65, 0.18), (0.3, 0.2))
    for at, turn, length, shade in leaves:
        turned = (0.06 + 0.07 * length) * np.exp(3.6j * (turn - 0.5)) * blade
        leaf = start + along * size * (0.9 * at - 0.45 + turned)
        _fill(image, _spline(leaf), _rgb((88, 124, 56), 0.6 + 0.7 * shade))
        _lines(image, [leaf[[0, 6]]], _rgb((140, 166, 92), 0.6 + 0.7 * shade))
        _fill(cover, _spline(leaf), 255)
    return cover


def draw(species, rng, size=224):
    """One picture: image (size, size, 3) uint8 RGB, box (x, y, w, h) and {part: (x, y, visible)}, in pixels.

    Siblings drawn from equal generators differ only where their attributes do.
    """
    image = _background(rng, size)
    d, p = DIFFICULTY, _pose(rng, species, size)
    _limbs(image, rng, p)
    _plumage(image, rng, p)
    cover = _twig(image, rng, p.to(complex(*rng.uniform(-0.4, 0.4, 2))))

    shade = rng.integers(255 - int(256 * d.shade * rng.random()), 256, (5, 5), np.uint8)
    image = (image * _resize(shade, (size, size))[..., None].astype(np.uint16) >> 8).astype(np.uint8)
    gamma, exposure, *colour = 1 + d.light * rng.uniform(-1, 1, 5)
    curve = np.linspace(0, 1, 256)[:, None] ** gamma * 255 * exposure * np.array(colour) ** 0.6
    image = cv2.LUT(image, np.rint(curve).clip(0, 255).astype(np.uint8)[None])
    image = cv2.GaussianBlur(image, (5, 5), max(0.1, rng.random() * d.blur * size / 224))
    image = np.clip(image + (_grain(rng, size) * d.noise >> 6), 0, 255).astype(np.uint8)

    near, far = ("right", "left")[::p.facing]                 # of what is turned away only the leg stands clear
    far_leg, near_leg = (p.hip + 2 * p.feet) / 3 - 0.03
    places = {"back": p.body(-0.1 - 0.85j), "belly": p.body(-0.05 + 0.85j), "breast": p.body(0.40 + 0.5j),
              "crown": p.head(-0.9j), "forehead": p.head(0.75 - 0.5j), "nape": p.head(-0.75 - 0.2j),
              "throat": p.head(0.55 + 0.75j), "beak": p.spine[5], "tail": p.tail(0.6), f"{near} eye": p.eye,
              f"{near} wing": p.wing(0.4 + 0.1j), f"{near} leg": near_leg, f"{far} leg": far_leg}
    parts = dict.fromkeys(PARTS, (0.0, 0.0, 0))
    for part, z in places.items():
        x, y = round(float(p.to(z).real), 1), round(float(p.to(z).imag), 1)
        if 0 <= x < size and 0 <= y < size and cover[int(y), int(x)] < 128:
            parts[part] = (x, y, 1)
    low, high = np.clip(_extent(p.points) + [[-1], [1]], 0, size)
    return image, tuple(round(float(v), 1) for v in (*low, *(high - low))), parts

"""Where each part of a bird lies in one picture, and which colours it has there."""

from types import SimpleNamespace

import numpy as np

from .canvas import extent, rgb, spline
from .species import OUTLINES, TABLES, WORLDS, Species, genus_of

DIFFICULTY = SimpleNamespace(**TABLES["difficulty"])


def _frame(origin, x, y):
    """A map from the coordinates of a part to those around it, where its origin and its unit vectors are as given."""
    return lambda z: origin + x * np.real(z) + y * np.imag(z)


class Pose:
    """A bird in a random pose. All coordinates are complex, x + iy, y downwards.

    `body`, `head`, `wing` and `tail` take a part's own coordinates to pixels. `upright` takes body lengths there, where the
    bird faces right and the middle of its body is at 0; `hip` and `feet` are given in these.
    """

    def __init__(self, rng: np.random.Generator, species: Species, size: int):
        genus, d, u = genus_of(species.genus_index), DIFFICULTY, rng.uniform
        self.look, self.colours = dict(species.attributes), genus.colours
        self.contrast = TABLES["contrast"][WORLDS[species.genus_index % 2]]     # the worlds take turns
        depth, neck, radius, bill, tail_length, leg, posture = genus.shape
        self.facing = 1 if rng.random() < 0.5 else -1
        angles = u(-1, 1, 4) * (d.tilt, d.head, d.wing, d.tail) + (posture, 0, 0, 0)
        tilt, lift, droop, cock = np.exp(-1j * np.radians(angles))
        turn, stance, share = 1 - u(0, d.turn), u(-0.04, 0.04, 2), u(*d.fill)
        centre = (0.5 + 0.5j + complex(*u(-1, 1, 2)) * d.off_centre) * size
        self.gains = 1 + u(-d.plumage, d.plumage, 3)

        upward = np.exp(-1j * np.radians(52 + 0.3 * posture)) * lift**0.4       # along the neck
        raised, folded, backward = lift * radius, tilt * droop, -tilt * cock * tail_length
        long = 1.55 if self.look["tail"] == "long" else 1.0
        body = _frame(0, tilt, 0.5j * depth * tilt)
        root, rump = body(0.30 - 0.35j), body(-0.46 - 0.1j)
        head = _frame(root + upward * (neck + 0.72 * radius), raised * turn, 1j * raised)
        wing = _frame(body(0.34 - 0.36j), -0.95 * folded, 0.9j * depth * folded)
        tail = _frame(rump, backward * long, -1j * backward)

        # Body and head have one outline; a short neck melts into the body.
        middle, across, thin = root + upward * neck * 0.55, 0.62j * upward * radius, min(1.0, neck / 0.3)
        back = (head(-0.8 + 0.1j) + body(0.14 - 1j)) / 2 * (1 - thin) + thin * (middle - across)
        front = (head(0.45 + 0.95j) + body(0.5 + 0.1j)) / 2 * (1 - thin) + thin * (middle + across)
        nape = (head(-0.8 + 0.1j) + back) / 2 - 0.4 * radius
        outline = [*head(OUTLINES["skull"]), back, *body(OUTLINES["trunk"]), front, *head(OUTLINES["chin"])]
        self.hip = body(-0.04 + 0.72j)
        self.feet = self.hip + stance + (-0.08, 0.06) + 1j * leg                # far, near

        # Size and place come from what all species of the genus share, so that they tell nothing.
        low, high = extent([spline(outline), self.feet, [rump + backward, head(1 + bill), head(-0.8 - 1.5j)]])
        self.unit = share * size / max(high - low)                              # a body length in pixels
        self.wide, self.radius = d.mark_size * self.unit, radius * self.unit    # of marks, of the head
        scaled = _frame(0, self.facing * self.unit, 1j * self.unit)
        self.upright = lambda z: centre + scaled(z - complex(*(low + high) / 2))
        self.body = lambda z: self.upright(body(z))
        self.head = lambda z: self.upright(head(z))
        self.wing = lambda z: self.upright(wing(z))
        self.tail = lambda z: self.upright(tail(z))

        self.silhouette = {"body": self.upright(spline(outline))}               # all that is rounded by shading
        if self.look["crown"] == "crest":
            self.silhouette["crest"] = spline(self.head(OUTLINES["crest"]))
        self.silhouette["wing"] = spline(self.wing(OUTLINES["vane"]))
        self.nape, self.side, self.eye = self.upright(nape), self.upright(front - 0.1), self.head(0.36 - 0.14j)
        length, thick, bend = TABLES["beaks"][self.look["beak_shape"]]
        t, down = np.linspace(0, 1, 9), self.head(1j) - self.head(0)
        self.beak = self.head(0.80 + 0.22 * t + bill * length * t + 1j * (0.12 + bill * bend * t**2))
        self.beak_above = self.beak - down * thick * (1 - t**1.6)
        self.beak_below = self.beak + down * thick * 0.8 * (1 - t**1.6)
        self.drawn = [*self.silhouette.values()]                                # all that counts for the box

    def tint(self, area, gain=1.0):
        """The colour of an area of the plumage."""
        return rgb(self.colours[area] * self.gains, gain)

    def mark(self, ink, under):
        """The colour of a mark in that ink, one of birds.toml, on an area of the plumage."""
        plumage = self.colours[under]
        return rgb((plumage + self.contrast * (TABLES["ink"][ink] - plumage)) * self.gains)

"""Where each part of a bird lies in one picture, and which colours it has there."""

from types import SimpleNamespace

import numpy as np

from .canvas import extent, rgb, spline
from .species import OUTLINES, TABLES, WORLDS, Species, genus_of

DIFFICULTY = SimpleNamespace(**TABLES["difficulty"])


class Pose:
    """A bird in a random pose.

    The frames `body`, `head`, `wing` and `tail` take a part's own coordinates to body lengths, where the bird faces right
    and the middle of its body is at 0; `to` takes those to pixels. All coordinates are complex, x + iy, y downwards.
    """

    def __init__(self, rng: np.random.Generator, species: Species, size: int):
        genus, d, u = genus_of(species.genus_index), DIFFICULTY, rng.uniform
        self.look, self.colours = dict(species.attributes), genus.colours
        self.contrast = TABLES["contrast"][WORLDS[species.genus_index % 2]]     # the worlds take turns
        depth, neck, self.radius, bill, self.tail_length, leg, posture = genus.shape
        self.facing = 1 if rng.random() < 0.5 else -1
        angles = u(-1, 1, 4) * (d.tilt, d.head, d.wing, d.tail) + (posture, 0, 0, 0)
        self.tilt, self.lift, self.droop, self.cock = np.exp(-1j * np.radians(angles))
        self.turn, stance, share = 1 - u(0, d.turn), u(-0.04, 0.04, 2), u(*d.fill)
        self.centre = (0.5 + 0.5j + complex(*u(-1, 1, 2)) * d.off_centre) * size
        self.gains, self.half_depth = 1 + u(-d.plumage, d.plumage, 3), depth / 2

        b = self.half_depth
        root, up = self.tilt * complex(0.30, -0.35 * b), np.exp(-1j * np.radians(52 + 0.3 * posture)) * self.lift**0.4
        self.skull, self.wrist, self.rump = root + up * (neck + 0.72 * self.radius), 0.34 - 0.36j * b, -0.46 - 0.1j * b
        self._outline(root + up * neck * 0.55, 0.62j * up * self.radius, min(1.0, neck / 0.3))
        self.hip, self.eye = self.body(-0.04 + 0.72j), self.head(0.36 - 0.14j)
        self.feet = self.hip + stance + (-0.08, 0.06) + 1j * leg      # far, near

        # Size and place come from what all species of the genus share, so that they tell nothing.
        low, high = extent([self.outline, self.feet, [self._tail(1, 1), self.head(1 + bill), self.head(-0.8 - 1.5j)]])
        self.unit, self.middle = share * size / max(high - low), complex(*(low + high) / 2)
        self.wide = d.mark_size * self.unit
        self._beak(bill)
        self.drawn = []                                               # pixels of all that is drawn, for the box

    def body(self, z):
        return self.tilt * (np.real(z) + self.half_depth * 1j * np.imag(z))

    def head(self, z):
        return self.skull + self.radius * self.lift * (np.real(z) * self.turn + 1j * np.imag(z))

    def wing(self, z):
        return self.tilt * (self.wrist + self.droop * (-0.95 * np.real(z) + 1.8j * self.half_depth * np.imag(z)))

    def tail(self, z):
        return self._tail(z, 1.55 if self.look["tail"] == "long" else 1.0)

    def _tail(self, z, long):
        return self.tilt * (self.rump + self.cock * self.tail_length * (1j * np.imag(z) - long * np.real(z)))

    def to(self, z):
        return self.centre + self.unit * (self.facing * np.real(z - self.middle) + 1j * np.imag(z - self.middle))

    def shape(self, frame, name):
        """One of OUTLINES, given in the coordinates of a frame, smooth and in pixels."""
        return self.to(spline(frame(OUTLINES[name])))

    def line(self, frame, points):
        """A smooth open line in pixels, as a list of one."""
        return [self.to(spline(frame(points), closed=False))]

    def tint(self, area, gain=1.0):
        """The colour of an area of the plumage."""
        return rgb(self.colours[area] * self.gains, gain)

    def mark(self, ink, under):
        """The colour of a mark in that ink, one of birds.toml, on an area of the plumage."""
        plumage = self.colours[under]
        return rgb((plumage + self.contrast * (TABLES["ink"][ink] - plumage)) * self.gains)

    def _outline(self, middle, across, thin):
        """Body and head in one outline; middle and across: of the neck; thin: 0..1, a short neck melts into the body."""
        back = (self.head(-0.8 + 0.1j) + self.body(0.14 - 1j)) / 2 * (1 - thin) + thin * (middle - across)
        self.front = (self.head(0.45 + 0.95j) + self.body(0.5 + 0.1j)) / 2 * (1 - thin) + thin * (middle + across)
        self.nape = (self.head(-0.8 + 0.1j) + back) / 2 - 0.4 * self.radius
        skull, trunk, chin = self.head(OUTLINES["skull"]), self.body(OUTLINES["trunk"]), self.head(OUTLINES["chin"])
        self.outline = spline([*skull, back, *trunk, self.front, *chin])

    def _beak(self, bill):
        """The beak's middle line, and its upper and lower edge; bill: length of the genus's beak in head radii."""
        length, thick, bend = TABLES["beaks"][self.look["beak_shape"]]
        t, down = np.linspace(0, 1, 9), self.head(1j) - self.head(0)
        self.beak = self.head(0.80 + 0.22 * t + bill * length * t + 1j * (0.12 + bill * bend * t**2))
        self.beak_above = self.beak - down * thick * (1 - t**1.6)
        self.beak_below = self.beak + down * thick * 0.8 * (1 - t**1.6)

"""The built-in birds: a fine-grained set that is drawn, so that what tells two species apart is known."""

from .drawing import draw
from .generation import generate
from .species import ATTRIBUTES, SIZES, Sizes, species_list

"""Pre-trained weights: files of many kinds, the names that arrays have in them, and how they get into a model."""

from .files import read_weights, save_google
from .loading import LoadReport, load_pretrained, resize_pos_embed

"""Pre-trained weights: known by name or as files of many kinds, the names of their arrays, and how they get into a model."""

from .files import read_weights, save_google
from .loading import LoadReport, load_pretrained, resize_pos_embed
from .sources import source_of, weights_checksum, weights_file

"""Fine-grained visual classification with part-selecting Vision Transformers."""

__version__ = "0.1.0"

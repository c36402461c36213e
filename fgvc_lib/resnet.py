"""The CNN baseline: torchvision's ResNet-18 with a classifier of our size."""

import torchvision
from torch import nn


def resnet18(num_classes: int) -> nn.Module:
    """ResNet-18 (He et al. 2016), randomly initialised: images (B, 3, H, W) -> logits (B, num_classes)."""
    return torchvision.models.resnet18(num_classes=num_classes)

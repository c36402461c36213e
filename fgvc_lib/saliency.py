"""Where a model looks: gradients with respect to its input."""

import contextlib
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from .errors import ConfigError

OBJECTIVES = ("loss", "logit")
METHODS = ("gradient", "SmoothGrad", "integrated gradients", "Grad-CAM")


def input_gradient(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None, objective: str = "loss"
) -> torch.Tensor:
    """The gradient that FGSM steps along (Goodfellow et al. 2015), its absolute value summed over the channels.

    images: (B, 3, H, W). labels: (B,); None: what the model predicts. objective: differentiate the cross-entropy
    ("loss") or the label's logit ("logit"). Returns (B, H, W), each image's map independent of the others in the
    batch. The model is put in evaluation mode and back; its weights take no gradient.
    Raises ConfigError, listing the known ones, for an unknown objective.
    """
    return _gradient(model, images, labels, objective).abs().sum(dim=1)


def fgsm(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epsilons: Iterable[float], normalisation: tuple
) -> list[torch.Tensor]:
    """Adversarial images by the fast gradient sign method (Goodfellow et al. 2015, section 4), for each epsilon
    (B, 3, H, W).

    images: (B, 3, H, W), normalised by `normalisation`, (mean, std) as `datasets.normalisation` gives them. epsilons: how
    far every pixel value moves up the loss, in grey levels of 0..255; values stay within 0..255.
    """
    mean, std = (images.new_tensor(values)[:, None, None] for values in normalisation)
    step = _gradient(model, images, labels, "loss").sign() / 255 / std
    return [(images + epsilon * step).clamp(-mean / std, (1 - mean) / std) for epsilon in epsilons]


def attribute(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, method: str = "gradient", samples: int = 8
) -> torch.Tensor:
    """What speaks for the logit of `labels`, by one of METHODS: maps (B, H, W), absolute values summed over the channels.

    SmoothGrad (Smilkov et al. 2017; noise of 0.15 of the image's range) and integrated gradients (Sundararajan et al. 2017;
    from the mean colour) take `samples` gradients; Grad-CAM (Selvaraju et al. 2017) weighs the maps that a CNN averages for
    its classifier. From captum, but for the gradient itself. Raises ConfigError, listing the methods that fit.
    """
    pools = [module for module in model.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    known = METHODS if pools else METHODS[:-1]
    if method not in known:
        raise ConfigError(f"unknown method {method!r} for this model: choose one of {', '.join(known)}")
    if method == "gradient":
        return input_gradient(model, images, labels, "logit")
    from captum import attr  # slow to import

    with _frozen(model), torch.random.fork_rng():
        images = images.detach().requires_grad_()
        if method == "Grad-CAM":
            options = {"attribute_to_layer_input": True, "relu_attributions": True}
            maps = attr.LayerGradCam(model, pools[-1]).attribute(images, labels, **options)
            return F.interpolate(maps.detach(), images.shape[-2:], mode="bilinear")[:, 0]
        if method == "SmoothGrad":
            smooth, maps = attr.NoiseTunnel(attr.Saliency(model)), []
            for image, label in zip(images.split(1), labels.split(1), strict=True):  # each with its own range and noise
                torch.manual_seed(0)
                noise = 0.15 * (image.max() - image.min()).item()
                options = {"nt_samples": samples, "stdevs": noise, "target": label, "abs": False}
                maps.append(smooth.attribute(image, **options))
            maps = torch.cat(maps)
        else:
            integrate = attr.IntegratedGradients(model)
            maps = integrate.attribute(images, target=labels, n_steps=samples, internal_batch_size=len(images))
    return maps.detach().abs().sum(dim=1)


@contextlib.contextmanager
def _frozen(model):
    """Evaluation mode, and no gradient for the weights: it would cost as much again."""
    training, weights = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval().requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        model.train(training)
        for parameter in weights:
            parameter.requires_grad_()


def _gradient(model, images, labels, objective):
    if objective not in OBJECTIVES:
        raise ConfigError(f"unknown objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    with _frozen(model):
        images = images.detach().requires_grad_()
        logits = model(images)
        labels = logits.argmax(-1) if labels is None else labels
        if objective == "loss":
            target = F.cross_entropy(logits, labels, reduction="sum")
        else:
            target = logits.gather(1, labels[:, None]).sum()
        return torch.autograd.grad(target, images)[0]

"""`evaluate` tests a model, in one process or in several together."""

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn
from torch.utils.data import DataLoader

from .datasets import workers_watched
from .vit import VisionTransformer


@workers_watched()
@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader, accelerator: Accelerator | None = None) -> pd.DataFrame:
    """Test a model in float32 on the device it is on.

    accelerator: of processes that test together, each with its share of every batch of a loader that it has prepared.
    Returns one row per image, in the loader's order and in every process: label, prediction, probability (of the
    prediction), parts (K patch indices, empty where the model selects none). The model's mode is restored.
    """
    training, device, columns = model.training, next(model.parameters()).device, []
    selects = isinstance(model, VisionTransformer) and model.cfg.fusion
    if accelerator:
        broadcast(list(model.buffers()))  # the first process's: batch normalisation has seen other images in each
    model.eval()
    for images, labels in loader:
        images, parts = images.to(device, non_blocking=True), []
        if selects:
            trunk = model.forward_trunk(images)
            parts = [model.select_parts(trunk)]
            logits = model.forward_head(model.forward_last(trunk.tokens, *parts))
        else:
            logits = model(images)
        probability, prediction = logits.softmax(-1).max(-1)
        seen = [labels, prediction, probability, *parts]
        columns.append(accelerator.gather_for_metrics(seen) if accelerator else seen)
    model.train(training)
    label, prediction, probability, *parts = (torch.cat(column).tolist() for column in zip(*columns, strict=True))
    parts = parts[0] if selects else [[] for _ in label]
    return pd.DataFrame({"label": label, "prediction": prediction, "probability": probability, "parts": parts})


def accuracy(predictions: pd.DataFrame) -> float:
    """The share of the rows of `evaluate` that are right."""
    return float((predictions["label"] == predictions["prediction"]).mean())

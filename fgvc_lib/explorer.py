"""Controls to look at a part-selecting model: image, layer, head and fusion."""

import ipywidgets as widgets
import numpy as np

from . import plots
from .config import Experiment
from .datasets import ImageSet, class_title, normalisation
from .part_selection import FUSIONS
from .vit import PRESETS, VisionTransformer

FUSED, ALL = "all, fused", "mean of heads"


def view(model: VisionTransformer, images: ImageSet, experiment: Experiment, index=0, layer=FUSED, head=ALL, fusion="mul"):
    """One look: a Figure of test image `index` with the patches that `fusion` selects, and one map.

    layer: FUSED or 1 .. L-1. head: ALL or 1 .. K.
    """
    image, label = images[index]
    seen = model.inspect(image[None], fusion)
    maps = seen.scores[0] if layer == FUSED else seen.cls_attention[layer - 1, 0]
    heat = (maps / maps.sum(-1, keepdim=True)).mean(0) if head == ALL else maps[head - 1]
    title = f"{'fused by ' + fusion if layer == FUSED else f'layer {layer}'}, {head if head == ALL else f'head {head}'}"
    figure = plots.look(
        plots.to_picture(image, normalisation(experiment)), heat.reshape(seen.grid).numpy(), seen.parts[0].numpy(),
        PRESETS[experiment.model].patch_size, experiment.stride, title,
    )  # fmt: skip
    predicted = images.classes[int(np.argmax(seen.logits[0]))]
    figure.suptitle(f"true: {class_title(images.classes[label])}   predicted: {class_title(predicted)}", fontsize=10)
    return figure


def controls(model: VisionTransformer, images: ImageSet, experiment: Experiment) -> widgets.Widget:
    """`view` with a control for each of its options."""
    output = widgets.Image(format="png", alt="The chosen image with its selected patches, and the chosen attention map")
    options = {
        "index": widgets.IntSlider(0, 0, len(images) - 1, description="image", continuous_update=False),
        "layer": widgets.Dropdown(options=[FUSED, *range(1, model.cfg.depth)], description="layer"),
        "head": widgets.Dropdown(options=[ALL, *range(1, model.cfg.heads + 1)], description="head"),
        "fusion": widgets.Dropdown(options=FUSIONS, value=model.cfg.fusion, description="fusion"),
    }

    def update(_=None):
        figure = view(model, images, experiment, **{name: widget.value for name, widget in options.items()})
        output.value = plots.png(figure)

    for widget in options.values():
        widget.observe(update, "value")
    update()
    upper, lower = [options["index"], options["fusion"]], [options["layer"], options["head"]]
    return widgets.VBox([widgets.HBox(upper), widgets.HBox(lower), output])

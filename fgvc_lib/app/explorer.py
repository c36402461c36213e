"""The explorer: pick a bird, change the fusion, and see at once which patches decide and why."""

import base64
import hashlib
import html
import io
from functools import lru_cache
from typing import NamedTuple

import ipywidgets as widgets
import numpy as np
import torch

from ..config import Experiment
from ..datasets.build import open_splits
from ..datasets.geometry import part_points, patch_boxes
from ..datasets.image_set import class_title
from ..datasets.photographs import read_photograph
from ..datasets.views import build_transform, normalisation
from ..errors import DataError
from ..experiments.localisation import selection_hits
from ..experiments.variants import report_variants
from ..part_selection import FUSIONS, select
from ..report.plots import to_picture
from ..runs import find_run
from ..saliency import input_gradient
from ..synthbirds.species import ATTRIBUTES
from ..training import load_model
from ..vit import PRESETS, VisionTransformer
from . import pictures
from .explain import best_first

MEAN, NONE = "mean of heads", "none"
CNN = "ResNet-18"
UPLOAD_LIMIT = 30_000_000  # bytes; a larger file still has to arrive for its sender to be told, see MESSAGE in the Makefile
STYLE = """<style>
.looks {display: flex; flex-wrap: wrap; gap: 1rem; line-height: 1.4} .looks section {flex: 1 1 20rem; min-width: 0}
.looks .pictures {display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .5rem}
.looks figure {margin: 0} .looks img {width: 100%; height: auto; display: block} .looks figcaption {font-size: .8rem}
.looks ol {display: flex; flex-wrap: wrap; gap: .5rem; list-style: none; padding: 0; margin: .5rem 0}
.looks li {width: 6.5rem; font-size: .8rem} .looks h3 {margin: .2rem 0}
</style>"""


class Scene(NamedTuple):
    """All that one model computes for one image, so that no control but those two needs a forward pass."""

    picture: np.ndarray  # (H, W, 3) in 0..1
    logits: dict[str | None, torch.Tensor]  # by fusion (C,); None: of a model without part selection
    scores: dict[str, torch.Tensor]  # by fusion (K, N); empty for a CNN
    attention: torch.Tensor | None  # (L-1, K, N)
    gradient: np.ndarray  # (H, W), of the likeliest class's logit


class Explorer:
    """The finished runs of the report's table and their test images. Raises DataError if no run is finished."""

    def __init__(self, base: Experiment):
        self.rows = {name: row for name, row in report_variants(base).items() if find_run(row).finished}
        if not self.rows:
            raise DataError("no run is finished yet: `make report` trains them")
        self.train, self.test = open_splits(base)
        self.names = [class_title(name) for name in self.test.classes]
        self.uploads = {}
        self.model, self.scene = lru_cache(None)(self._model), lru_cache(256)(self._scene)
        self.points, self.example = lru_cache(None)(self._points), lru_cache(None)(self._example)

    def _model(self, name):
        return load_model(find_run(self.rows[name]))

    def _points(self, name):
        return None if self.test.parts is None else part_points(self.test, self.rows[name])

    def _scene(self, name: str, key: int | str) -> Scene:
        """key: number of a test image, or of an upload."""
        model, row = self.model(name), self.rows[name]
        photo = self.uploads[key] if isinstance(key, str) else self.test.load(key)
        image = build_transform(row, train=False)(photo)
        picture, gradient = to_picture(image, normalisation(row)), input_gradient(model, image[None], objective="logit")
        if not isinstance(model, VisionTransformer):
            with torch.no_grad():
                return Scene(picture, {None: model(image[None])[0]}, {}, None, gradient[0].numpy())
        seen = {fusion: model.inspect(image[None], fusion) for fusion in FUSIONS}
        logits = {fusion: one.logits[0] for fusion, one in seen.items()}
        if not model.cfg.fusion:
            with torch.no_grad():
                logits = {None: model(image[None])[0]}
        scores = {fusion: one.scores[0] for fusion, one in seen.items()}
        return Scene(picture, logits, scores, seen["mul"].cls_attention[:, 0], gradient[0].numpy())

    def upload(self, content: bytes, name: str) -> tuple[str, list[str]]:
        """Take a photograph -> its key and remarks on it. Raises DataError for what is no image or too large."""
        if len(content) > UPLOAD_LIMIT:
            raise DataError(f"{name} has {len(content) / 1e6:.0f} MB: choose a file below {UPLOAD_LIMIT // 1_000_000} MB")
        photo, remarks = read_photograph(io.BytesIO(content), name)
        key = hashlib.sha256(content).hexdigest()
        self.uploads = {key: photo}  # only the last: a visitor may upload many
        return key, remarks

    def page(self, names, key, fusion="mul", layer=1, head=MEAN, top_k=1, strength=0.65) -> str:
        """HTML of one image as the models `names` see it, side by side."""
        columns = "".join(self._column(name, key, fusion, layer, head, top_k, strength) for name in names)
        return f'{STYLE}<div class="looks">{columns}</div>'

    def _column(self, name, key, fusion, layer, head, top_k, strength):
        scene = self.scene(name, key)
        likely = best_first(scene.logits[fusion if fusion in scene.logits else None].softmax(-1))
        predicted, truth = likely[0][0], None if isinstance(key, str) else self.test.labels[key]
        parts = select(scene.scores[fusion][None], top_k)[0].numpy() if scene.scores else None
        if parts is None:
            shown = [(pictures.photograph(scene.picture), "photograph", "The photograph as the model sees it")]
        else:
            shown = self._attention(name, scene, parts, fusion, layer, head, top_k, strength)
        maps = {name: scene.gradient} | ({CNN: self.scene(CNN, key).gradient} if CNN in self.rows else {})
        for who, values in maps.items():
            y, x = (place / side for place, side in zip(_peak(values), values.shape, strict=True))
            alt = f"Input gradient of {who}: strongest {x:.0%} from the left, {y:.0%} from the top"
            shown.append((pictures.heat(values), f"input gradient, {who}", alt))
        classes = "".join(
            f"<li>{self.example(place)}{html.escape(self.names[place])}<br>{share:.0%}</li>" for place, share in likely
        )
        return (
            f"<section><h3>{html.escape(name)}: {html.escape(self.names[predicted])}, {likely[0][1]:.0%} sure</h3>"
            f"<p>{html.escape(self._verdict(name, key, truth, predicted, parts))}</p>"
            f'<div class="pictures">{"".join(_figure(*one) for one in shown)}</div>'
            f'<ol aria-label="The likeliest classes">{classes}</ol></section>'
        )

    def _attention(self, name, scene, parts, fusion, layer, head, top_k, strength):
        """(picture, caption, text alternative) of the selected patches, the fused map and one layer's."""
        cfg = self.model(name).cfg
        geometry, columns = (cfg.patch_size, cfg.stride), cfg.grid[1]
        places = [f"head {i // top_k + 1} row {p // columns + 1} column {p % columns + 1}" for i, p in enumerate(parts)]
        caption = f"{'' if cfg.fusion else 'what it would select: '}patches by {fusion}, a number a head"
        marked = pictures.marked(scene.picture, parts, columns, *geometry, top_k)
        shown = [(marked, caption, f"Patches selected by {fusion}: {'; '.join(places)}")]
        layer, who = min(layer, cfg.depth - 1), MEAN if head == MEAN else f"head {min(head, cfg.heads)}"
        for what, values in ((f"fused by {fusion}", scene.scores[fusion]), (f"layer {layer}", scene.attention[layer - 1])):
            shares = values / values.sum(-1, keepdim=True)
            weights = shares.mean(0) if head == MEAN else shares[min(head, cfg.heads) - 1]
            weights = weights.unflatten(0, cfg.grid).numpy()
            row, column = _peak(weights)
            alt = f"Attention {what}, {who}: most at row {row + 1}, column {column + 1}"
            shown.append((pictures.overlay(scene.picture, weights, *geometry, strength), f"attention, {what}, {who}", alt))
        return shown

    def _verdict(self, name, key, truth, predicted, parts):
        """Right or wrong, what sets the two species apart, and whether the selected patches hit it."""
        if truth is None:
            return "Your photograph: the model knows no other species than those it was trained on."
        words = [f"True: {self.names[truth]}, so this is {'right' if truth == predicted else 'wrong'}."]
        looks = self.test.attributes
        if looks is None:
            return words[0]
        if truth == predicted:
            siblings = [i for i in range(len(looks)) if looks["genus"][i] == looks["genus"][truth] and i != truth]
            different = [name for name in ATTRIBUTES if any(looks[name][i] != looks[name][truth] for i in siblings)]
            words.append(f"Its siblings differ in {_and(different)}.")
        elif looks["genus"][truth] != looks["genus"][predicted]:
            return f"{words[0]} The two are of different genera: silhouette and plumage differ."
        else:
            different = [name for name in ATTRIBUTES if looks[name][truth] != looks[name][predicted]]
            pairs = [f"{_plain(name)}: {looks[name][truth]}, not {looks[name][predicted]}" for name in different]
            words.append(f"What sets them apart: {'; '.join(pairs)}.")
        if parts is None:
            return " ".join(words)
        cfg, points, hit = self.model(name).cfg, self.points(name)[key], {}
        patches = patch_boxes(range(cfg.grid[0] * cfg.grid[1]), cfg.grid[1], cfg.patch_size, cfg.stride)
        for attribute in different:
            places = points[[list(self.test.part_names).index(part) for part in ATTRIBUTES[attribute][0]]]
            hit[_plain(attribute)] = selection_hits(parts[None], patches, np.zeros((1, 4)), places[None])["part"][0]
        groups = {"hit": 1, "miss": 0}
        said = [
            f"{verb} {_and([k for k, v in hit.items() if v == value])}"
            for verb, value in groups.items()
            if value in hit.values()
        ]
        unseen = [name for name, value in hit.items() if np.isnan(value)]
        words.append(f"The selected patches {' and '.join(said)}." if said else "")
        words.append(f"Not visible here: {_and(unseen)}." if unseen else "")
        return " ".join(filter(None, words))

    def _example(self, place):
        """A training image of a class, as HTML."""
        photo = self.train.load(self.train.labels.index(place)).resize((104, 104))
        return _image(photo, f"Example of {self.names[place]}")


def _peak(values):
    return np.unravel_index(values.argmax(), values.shape)


def _plain(attribute):
    return attribute.replace("_", " ")


def _and(names):
    names = [_plain(name) for name in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nothing"


def _image(picture, alt):
    data = base64.b64encode(pictures.jpeg(picture)).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(alt)}">'


def _figure(picture, caption, alt):
    return f"<figure>{_image(picture, alt)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def explorer_widget(base: Experiment) -> widgets.Widget:
    """The explorer as a widget; all of it can be used by keyboard."""
    state = Explorer(base)
    names = list(state.rows)
    first = "PSM mul" if "PSM mul" in names else names[-1]
    shapes = [PRESETS[row.model] for row in state.rows.values() if row.model in PRESETS]
    depth, heads = max((shape.depth for shape in shapes), default=2), max((shape.heads for shape in shapes), default=1)

    def control(kind, description, *values, **options):
        style = {"description_width": "7.5rem"}
        return kind(*values, description=description, style=style, layout={"width": "22rem", "max_width": "100%"}, **options)

    species = control(widgets.Dropdown, "species", options=["all", *state.names])
    outcome = control(widgets.Dropdown, "first model is", options=["right or wrong", "right", "wrong"])
    image = control(widgets.IntSlider, "image", min=1, max=len(state.test), value=1, continuous_update=False)
    one = control(widgets.Dropdown, "model", options=names, value=first)
    two = control(widgets.Dropdown, "beside it", options=[NONE, *names], value=NONE)
    fusion = control(widgets.Dropdown, "fusion", options=FUSIONS, value="mul")
    layer = control(widgets.IntSlider, "layer", min=1, max=depth - 1, value=depth - 1)
    head = control(widgets.Dropdown, "head", options=[MEAN, *range(1, heads + 1)])
    top_k = control(widgets.IntSlider, "patches a head", min=1, max=4)
    strength = control(widgets.FloatSlider, "strength of maps", min=0, max=1, step=0.05, value=0.65)
    upload = widgets.FileUpload(accept="image/*", description="Your photograph", layout={"width": "22rem"})
    message, view = widgets.HTML(), widgets.HTML()
    chosen = {"images": list(range(len(state.test))), "upload": None}

    def say(text):
        message.value = f'<p role="alert">{html.escape(text)}</p>' if text else ""

    def show(_=None):
        models = [one.value] + [two.value] * (two.value != NONE)
        key = chosen["upload"] or (chosen["images"][image.value - 1] if chosen["images"] else None)
        if key is None:
            view.value = ""
            say("No test image is like that: choose another species, or right or wrong.")
            return
        view.value = state.page(models, key, fusion.value, layer.value, head.value, top_k.value, strength.value)

    def filter_images(_=None):
        chosen["upload"] = None
        run, labels = find_run(state.rows[one.value]), np.array(state.test.labels)
        keep = (labels == state.names.index(species.value)) if species.value != "all" else np.ones(len(labels), bool)
        if outcome.value != "right or wrong":
            keep &= run.correct.reindex(state.test.ids).to_numpy() == (outcome.value == "right")
        chosen["images"] = np.flatnonzero(keep).tolist()
        say("")
        with image.hold_trait_notifications():
            image.value, image.max = 1, max(1, len(chosen["images"]))
        show()

    def pick(_):
        chosen["upload"] = None
        say("")
        show()

    def other_model(_):
        show() if outcome.value == "right or wrong" else filter_images()

    def take(change):
        if not change["new"]:
            return
        file = change["new"][0]
        upload.value = ()  # so that the same file can be chosen again
        try:
            key, remarks = state.upload(bytes(file["content"]), file["name"])
            outcome.value = "right or wrong"  # nobody knows of an upload
            chosen["upload"] = key
            say("; ".join(remarks))
            show()
        except DataError as error:
            say(str(error))

    for widget in (two, fusion, layer, head, top_k, strength):
        widget.observe(show, "value")
    for widget in (species, outcome):
        widget.observe(filter_images, "value")
    one.observe(other_model, "value")
    image.observe(pick, "value")
    upload.observe(take, "value")
    show()
    boxes = [
        widgets.VBox(group)
        for group in ([species, outcome, image, upload], [one, two, fusion, top_k], [layer, head, strength])
    ]
    controls = widgets.HBox(boxes, layout={"flex_flow": "row wrap"})
    return widgets.VBox([controls, message, view])

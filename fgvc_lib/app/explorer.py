"""The explorer: pick a bird, change the fusion, and see at once which patches decide and why."""

import base64
import hashlib
import html
import io
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..config import Experiment
from ..datasets import class_title, normalisation, open_splits, part_points, patch_boxes, read_photograph, view
from ..errors import DataError
from ..experiments.localisation import selection_hits
from ..experiments.variants import report_variants
from ..part_selection import FUSIONS, select
from ..runs import find_run
from ..synthbirds.species import ATTRIBUTES
from ..training import load_model
from ..vit import PRESETS
from . import pictures
from .insight import Insight, attention_map, look_into

if TYPE_CHECKING:
    import ipywidgets

UPLOAD_LIMIT = 30_000_000  # bytes; a larger file still has to arrive for its sender to be told, see MESSAGE in the Makefile
STYLE = Path(__file__).with_name("explorer.css").read_text()


class Settings(NamedTuple):
    """What of a ViT is shown, and how."""

    fusion: str = "mul"  # one of FUSIONS
    layer: int = 1  # 1..L-1, or the last below that of a model with fewer layers
    head: int = 0  # 1..K, or the last of a model with fewer heads; 0: their mean
    top_k: int = 1  # patches a head
    strength: float = pictures.STRENGTH  # of maps over the photograph, 0..1


class Explorer:
    """The finished runs among the report's variants, and their test images. Raises DataError if no run is finished.

    A photograph is the number of a test image, or the key that `upload` gives.
    """

    def __init__(self, base: Experiment):
        self.train, self.test = open_splits(base)
        self.variants, self.runs = {}, {}
        for key, variant in report_variants(base).items():
            run = find_run(variant.experiment, fingerprint=self.test.fingerprint)
            if run.finished:
                self.variants[key], self.runs[key] = variant, run
        if not self.runs:
            raise DataError("no run is finished yet: `make report` trains them")
        self.cnns = [key for key, variant in self.variants.items() if variant.family == "cnn"]
        self.base, self.names, self.uploads = base, [class_title(name) for name in self.test.classes], {}
        self.model = lru_cache(None)(lambda key: load_model(self.runs[key]))
        self.insight, self.example = lru_cache(256)(self._insight), lru_cache(None)(self._example)

    @cached_property
    def points(self) -> np.ndarray | None:
        """Where the parts lie in the models' view of each test image, see `part_points`; None for data without parts."""
        return None if self.test.parts is None else part_points(self.test, self.base)

    def _insight(self, key: str, photo: int | str) -> Insight:
        """Kept, so that no control but the photograph and the model needs a forward pass."""
        experiment = self.variants[key].experiment
        image = view(self.uploads[photo] if isinstance(photo, str) else self.test.load(photo), experiment)
        return look_into(self.model(key), image[None], normalisation(experiment), FUSIONS)[0]

    def _example(self, label: int) -> str:
        """A training image of a class, as HTML."""
        photo = self.train.load(self.train.labels.index(label)).resize((104, 104))
        return _image(photo, f"Example of {self.names[label]}")

    def upload(self, content: bytes, name: str) -> tuple[str, list[str]]:
        """Take a photograph -> its key and remarks on it. Raises DataError for what is no image or too large."""
        if len(content) > UPLOAD_LIMIT:
            raise DataError(f"{name} has {len(content) / 1e6:.0f} MB: choose a file below {UPLOAD_LIMIT // 1_000_000} MB")
        photo, remarks = read_photograph(io.BytesIO(content), name)
        key = hashlib.sha256(content).hexdigest()
        self.uploads = {key: photo}  # only the last: a visitor may upload many
        return key, remarks

    def page(self, keys: list[str], photo: int | str, **settings) -> str:
        """HTML of one photograph as the variants `keys` see it, side by side; settings: see `Settings`."""
        sections = [self._section(key, photo, Settings(**settings)) for key in keys]
        return f'<style>{STYLE}</style><div class="looks">{"".join(sections)}</div>'

    def _section(self, key, photo, settings):
        insight, title = self.insight(key, photo), html.escape(self.variants[key].title)
        rule = None if None in insight.probabilities else settings.fusion  # None: the model selects nothing
        confidences, labels = insight.probabilities[rule].topk(min(5, len(self.names)))
        labels, parts = labels.tolist(), None
        shown = [(pictures.photograph(insight.picture), "photograph", "The photograph as the model sees it")]
        if insight.scores:
            parts = select(insight.scores[settings.fusion][None], settings.top_k)[0].numpy()
            shown = self._attention(key, insight, parts, settings)
        shown += self._gradients(key, photo)
        classes = "".join(
            f"<li>{self.example(label)}{html.escape(self.names[label])}<br>{confidence:.0%}</li>"
            for label, confidence in zip(labels, confidences.tolist(), strict=True)
        )
        return (
            # An alert is read out when it is inserted, which a plain live region need not be: each change inserts it anew.
            f'<section><div role="alert" aria-live="polite"><h3>{title}: {html.escape(self.names[labels[0]])}, '
            f"{confidences[0]:.0%} sure</h3><p>{html.escape(self.verdict(key, photo, labels[0], parts))}</p></div>"
            f'<div class="pictures">{"".join(_figure(*one) for one in shown)}</div>'
            f'<ol aria-label="The likeliest classes">{classes}</ol></section>'
        )

    def _attention(self, key, insight, parts, settings):
        """(picture, caption, text alternative) of the selected patches, the fused map and one layer's."""
        cfg = self.model(key).cfg
        fusion, top_k, columns = settings.fusion, settings.top_k, cfg.grid[1]
        places = [f"head {i // top_k + 1} row {p // columns + 1} column {p % columns + 1}" for i, p in enumerate(parts)]
        marked = pictures.marked(insight.picture, parts, columns, cfg.patch_size, cfg.stride, top_k)
        caption = f"{'' if cfg.fusion else 'what it would select: '}patches by {fusion}, a number a head"
        shown = [(marked, caption, f"Patches selected by {fusion}: {'; '.join(places)}")]
        layer, head = min(settings.layer, cfg.depth - 1), min(settings.head, cfg.heads)
        whose = f"head {head}" if head else "mean of heads"
        maps = {f"fused by {fusion}": insight.scores[fusion], f"layer {layer}": insight.attention[layer - 1]}
        for what, values in maps.items():
            weights = attention_map(values, cfg.grid, head - 1 if head else None)
            row, column = _peak(weights)
            overlay = pictures.overlay(insight.picture, weights, cfg.patch_size, cfg.stride, settings.strength)
            alt = f"Attention {what}, {whose}: most at row {row + 1}, column {column + 1}"
            shown.append((overlay, f"attention, {what}, {whose}", alt))
        return shown

    def _gradients(self, key, photo):
        """(picture, caption, text alternative) of the model's input gradient, and of the CNN's beside it."""
        for one in dict.fromkeys([key, *self.cnns]):
            values, title = self.insight(one, photo).gradient, self.variants[one].title
            y, x = (place / side for place, side in zip(_peak(values), values.shape, strict=True))
            alt = f"Input gradient of {title}: strongest {x:.0%} from the left, {y:.0%} from the top"
            yield pictures.heat(values), f"input gradient, {title}", alt

    def verdict(self, key: str, photo: int | str, predicted: int, parts: np.ndarray | None) -> str:
        """Right or wrong, what sets the two species apart, and whether the selected patches (K * top_k) hit it."""
        if isinstance(photo, str):
            return "Your photograph: the model knows no other species than those it was trained on."
        truth, looks = self.test.labels[photo], self.test.attributes
        verdict = f"True: {self.names[truth]}, so this is {'right' if truth == predicted else 'wrong'}."
        if looks is None:
            return verdict
        genus, own = looks["genus"], looks.loc[truth, [*ATTRIBUTES]]
        if genus[truth] != genus[predicted]:
            return f"{verdict} The two are of different genera: silhouette and plumage differ."
        rivals = looks.loc[(genus == genus[truth]) & (looks.index != truth) if truth == predicted else [predicted]]
        different = [name for name in ATTRIBUTES if (rivals[name] != own[name]).any()]
        if truth == predicted:
            verdict += f" Its siblings differ in {_and(different)}."
        else:
            pairs = [f"{_plain(name)}: {own[name]}, not {looks[name][predicted]}" for name in different]
            verdict += f" What sets them apart: {'; '.join(pairs)}."
        return verdict if parts is None or self.points is None else verdict + self._hits(key, photo, different, parts)

    def _hits(self, key, photo, attributes, parts):
        """Which of the attributes the selected patches hit, in words."""
        cfg, found = self.model(key).cfg, {"hit": [], "miss": [], "not visible": []}
        patches = patch_boxes(np.arange(cfg.grid[0] * cfg.grid[1]), cfg.grid[1], cfg.patch_size, cfg.stride)
        for attribute in attributes:
            places = self.points[photo, [self.test.part_names.index(part) for part in ATTRIBUTES[attribute]["parts"]]]
            hit = selection_hits(parts[None], patches, np.zeros((1, 4)), places[None])["part"][0]
            found[{1: "hit", 0: "miss"}.get(hit, "not visible")].append(attribute)
        said = [f"{verb} {_and(found[verb])}" for verb in ("hit", "miss") if found[verb]]
        words = f" The selected patches {' and '.join(said)}." if said else ""
        return words + (f" Not visible here: {_and(found['not visible'])}." if found["not visible"] else "")


def _peak(values):
    return np.unravel_index(values.argmax(), values.shape)


def _plain(attribute):
    return attribute.replace("_", " ")


def _and(attributes):
    *names, last = map(_plain, attributes or ["nothing"])
    return f"{', '.join(names)} and {last}" if names else last


def _image(picture, alt):
    data = base64.b64encode(pictures.jpeg(picture)).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(alt)}">'


def _figure(picture, caption, alt):
    return f"<figure>{_image(picture, alt)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def explorer_widget(base: Experiment) -> "ipywidgets.Widget":
    """The explorer as a widget; all of it can be used by keyboard."""
    import ipywidgets as widgets  # it imports IPython, which nothing else here needs

    state = Explorer(base)
    titles = {variant.title: key for key, variant in state.variants.items()}
    shapes = [PRESETS[one.experiment.model] for one in state.variants.values() if one.experiment.model in PRESETS]
    depth, heads = max((shape.depth for shape in shapes), default=2), max((shape.heads for shape in shapes), default=1)
    labels = np.array(state.test.labels)
    images, photo = np.arange(len(labels)), None  # those that are counted; which of them, or which upload, is shown

    def control(kind, description, *values, **options):
        style = {"description_width": "7.5rem"}
        return kind(*values, description=description, style=style, layout={"width": "22rem", "max_width": "100%"}, **options)

    species = control(widgets.Dropdown, "species", options=["all", *state.names])
    outcome = control(widgets.Dropdown, "first model is", options=["right or wrong", "right", "wrong"])
    image = control(widgets.BoundedIntText, "image", min=1, max=len(labels), value=1)  # a slider has no name when read out
    first = "psm_mul" if "psm_mul" in state.variants else list(state.variants)[-1]
    one = control(widgets.Dropdown, "model", options=titles, value=first)
    two = control(widgets.Dropdown, "beside it", options={"none": "", **titles}, value="")
    settings = {
        "fusion": control(widgets.Dropdown, "fusion", options=FUSIONS, value="mul"),
        "layer": control(widgets.BoundedIntText, "layer", min=1, max=depth - 1, value=depth - 1),
        "head": control(widgets.Dropdown, "head", options={"mean of heads": 0} | {str(n): n for n in range(1, heads + 1)}),
        "top_k": control(widgets.BoundedIntText, "patches a head", min=1, max=4, value=1),
        "strength": control(widgets.BoundedFloatText, "strength of maps", min=0, max=1, step=0.05, value=pictures.STRENGTH),
    }
    upload = widgets.FileUpload(accept="image/*", description="Your photograph", layout={"width": "22rem"})
    message, page = widgets.HTML(), widgets.HTML()

    def say(text):
        message.value = f'<p role="alert">{html.escape(text)}</p>' if text else ""

    def show(_=None):
        keys = [one.value, two.value] if two.value else [one.value]
        chosen = {name: widget.value for name, widget in settings.items()}
        try:
            page.value = "" if photo is None else state.page(keys, photo, **chosen)
        except DataError as error:  # an image that cannot be read any more
            page.value = ""
            say(str(error))

    def show_test_image(_=None):
        nonlocal photo
        photo = int(images[image.value - 1]) if len(images) else None
        say("" if len(images) else "No test image is like that: choose another species, or right or wrong.")
        show()

    def filter_images(_=None):
        nonlocal images
        keep = labels == state.names.index(species.value) if species.value != "all" else np.full(len(labels), True)
        if outcome.value != "right or wrong":
            correct = state.runs[one.value].correct.reindex(state.test.ids)
            keep &= correct.to_numpy() == (outcome.value == "right")
        images = np.flatnonzero(keep)
        with image.hold_trait_notifications():
            image.value, image.max, image.description = 1, max(1, len(images)), f"image, of {len(images)}"
        show_test_image()

    def change_model(_):
        show() if outcome.value == "right or wrong" else filter_images()

    def take(change):
        nonlocal photo
        if not change["new"]:
            return
        file = change["new"][0]
        upload.value = ()  # so that the same file can be chosen again
        try:
            key, remarks = state.upload(bytes(file["content"]), file["name"])
        except DataError as error:
            say(str(error))
            return
        outcome.value = "right or wrong"  # nobody knows of an upload
        photo = key
        say("; ".join(remarks))
        show()

    for widget in (two, *settings.values()):
        widget.observe(show, "value")
    for widget in (species, outcome):
        widget.observe(filter_images, "value")
    one.observe(change_model, "value")
    image.observe(show_test_image, "value")
    upload.observe(take, "value")
    filter_images()
    fusion, layer, head, top_k, strength = settings.values()
    groups = [species, outcome, image, upload], [one, two, fusion, top_k], [layer, head, strength]
    controls = widgets.HBox([widgets.VBox(group) for group in groups], layout={"flex_flow": "row wrap"})
    return widgets.VBox([controls, message, page])

import io
import re
import time

import numpy as np
import pytest
from PIL import Image

from fgvc_lib.app import explorer as module
from fgvc_lib.app.explorer import MEAN, Explorer, explorer_widget
from fgvc_lib.errors import DataError
from fgvc_lib.experiments.variants import report_variants
from fgvc_lib.training import fit

NAMES = ("ResNet-18", "ViT, overlap", "PSM mul")


@pytest.fixture
def base(tiny, birds):
    return tiny.replace(fusion=None, stride=16, data=str(birds), image_size=64, resize_size=72)


@pytest.fixture
def trained(base):
    for name in NAMES:
        fit(report_variants(base)[name], progress=False)
    return base


def photo(size=(60, 40), kind="PNG", mode="RGB"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def widgets_of(app):
    controls, message, view = app.children
    return {child.description: child for box in controls.children for child in box.children}, message, view


def test_without_a_finished_run(base):
    with pytest.raises(DataError, match="no run is finished yet: `make report`"):
        Explorer(base)


def test_a_page_has_everything_and_says_it_in_words(trained):
    state = Explorer(trained)
    assert list(state.rows) == list(NAMES)
    page = state.page(NAMES, 3)
    images = re.findall("<img [^>]*>", page)
    assert len(images) == 2 + 2 * 5 + 3 * min(5, len(state.names))  # the CNN's gradient beside each ViT's
    assert all(re.search('alt="[^"]{10,}"', image) for image in images)
    assert page.count("True: ") == 3 and "what it would select: patches by mul" in page
    assert "head 4 row" in page and page.count("<section>") == 3


def test_no_control_but_image_and_model_needs_a_forward_pass(trained, monkeypatch):
    state = Explorer(trained)
    state.page(["PSM mul", "ResNet-18"], 0)
    for name in ("inspect", "forward"):
        monkeypatch.setattr(module.VisionTransformer, name, lambda *_, **__: pytest.fail("a forward pass"))
    pages, started = set(), time.perf_counter()
    for fusion in module.FUSIONS:
        for layer, head, top_k, strength in ((1, MEAN, 1, 0.5), (7, 2, 3, 1.0)):
            pages.add(state.page(["PSM mul", "ResNet-18"], 0, fusion, layer, head, top_k, strength))
    print(f"{(time.perf_counter() - started) / len(pages):.3f} s a change")
    assert len(pages) == 2 * len(module.FUSIONS)


def test_what_sets_two_species_apart(trained):
    state = Explorer(trained)
    parts, index = np.array([0, 1, 2, 3]), 0
    truth, looks = state.test.labels[index], state.test.attributes
    sibling = next(i for i in range(len(looks)) if looks["genus"][i] == looks["genus"][truth] and i != truth)
    other = next(i for i in range(len(looks)) if looks["genus"][i] != looks["genus"][truth])
    assert "this is right. Its siblings differ in" in state._verdict("PSM mul", index, truth, truth, parts)
    wrong = state._verdict("PSM mul", index, truth, sibling, parts)
    assert (
        "What sets them apart" in wrong and ", not " in wrong and ("The selected patches" in wrong or "Not visible" in wrong)
    )
    assert "different genera" in state._verdict("PSM mul", index, truth, other, parts)


def test_controls(trained):
    app = explorer_widget(trained)
    controls, message, view = widgets_of(app)
    seen = {view.value}
    changes = [
        ("image", 2),
        ("fusion", "lastlayer"),
        ("layer", 1),
        ("head", 3),
        ("patches a head", 2),
        ("strength of maps", 0.2),
    ]
    for name, value in [*changes, ("beside it", "ResNet-18"), ("model", "ViT, overlap")]:
        controls[name].value = value
        seen.add(view.value)
    assert len(seen) == 1 + len(changes) + 2 and view.value.count("<section>") == 2
    controls["species"].value = controls["species"].options[1]
    assert controls["image"].max == 4 and f"True: {controls['species'].value}" in view.value
    for outcome in ("right", "wrong"):
        controls["first model is"].value = outcome
        assert f"this is {outcome}" in view.value or "No test image is like that" in message.value


def test_uploads(trained):
    app = explorer_widget(trained)
    controls, message, view = widgets_of(app)

    def upload(content, name="bird.png"):
        controls["Your photograph"].value = ({"name": name, "type": "", "size": len(content), "content": content,
                                              "last_modified": module.np.datetime64("now").item()},)  # fmt: skip

    before = view.value
    upload(photo())
    assert view.value != before and "Your photograph" in view.value and not message.value
    controls["fusion"].value = "add"
    assert "Your photograph" in view.value
    upload(photo(mode="L"))
    assert "greyscale" in message.value and "Your photograph" in view.value
    before = view.value
    for content, words in (
        (b"junk <b>", "&lt;i&gt;.png is not an image"),
        (b"0" * 30_000_001, "30 MB: choose a file below"),
    ):
        upload(content, "<i>.png")
        assert words in message.value and 'role="alert"' in message.value and view.value == before
    controls["image"].value = 2
    assert "True: " in view.value and not message.value

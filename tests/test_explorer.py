import io
import re
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_lib.app import Explorer, explorer_widget
from fgvc_lib.errors import DataError
from fgvc_lib.experiments.variants import report_variants
from fgvc_lib.part_selection import FUSIONS
from fgvc_lib.training import fit
from fgvc_lib.vit import Block, VisionTransformer

KEYS = ["resnet18", "vit_overlap", "psm_mul"]


@pytest.fixture
def base(tiny, birds):
    return tiny.replace(fusion=None, stride=16, data=str(birds), image_size=64, resize_size=72)


@pytest.fixture
def trained(base):
    for key in KEYS:
        fit(report_variants(base)[key].experiment, progress=False)
    return base


def photo(size=(60, 40), kind="PNG", mode="RGB"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def widgets_of(app):
    controls, message, view = app.children
    return {child.description.partition(",")[0]: child for box in controls.children for child in box.children}, message, view


def test_without_a_finished_run(base):
    with pytest.raises(DataError, match="no run is finished yet: `make report`"):
        Explorer(base)


def test_a_page_has_everything_and_says_it_in_words(trained):
    state = Explorer(trained)
    assert list(state.variants) == KEYS
    page = state.page(KEYS, 3)
    images = re.findall("<img [^>]*>", page)
    assert len(images) == 2 + 2 * 5 + 3 * min(5, len(state.names))  # the CNN's gradient beside each ViT's
    assert all(re.search('alt="[^"]{10,}"', image) for image in images)
    for title in ("ResNet-18", "ViT, overlap", "PSM mul"):
        assert f"<h3>{title}: " in page and f"input gradient, {title}" in page
    assert page.count("True: ") == 3 and "what it would select: patches by mul" in page
    assert "head 4 row" in page and page.count("<section>") == 3


def test_the_cnn_beside_the_vit_is_that_of_the_profile(base):
    pytest.importorskip("efficientnet_lite_pytorch")
    base = base.replace(profile="photos")
    for key in ("efficientnet_lite0", "vit"):
        fit(report_variants(base)[key].experiment, progress=False)
    page = Explorer(base).page(["vit"], 0)
    assert "input gradient, ViT" in page and "input gradient, EfficientNet-Lite0" in page


def test_all_rules_cost_one_forward_pass(trained, monkeypatch):
    state, calls, trunk, block = Explorer(trained), [], VisionTransformer.forward_trunk, Block.forward
    for key in KEYS[1:]:
        model = state.model(key)

        def counted_trunk(self, images, keep_all=False):
            calls.append(("trunk", keep_all))
            return trunk(self, images, keep_all)

        def counted_block(self, tokens, model=model):
            calls.append("first" if self is model.blocks[0] else "last" if self is model.blocks[-1] else "other")
            return block(self, tokens)

        with monkeypatch.context() as patch:
            patch.setattr(VisionTransformer, "forward_trunk", counted_trunk)
            patch.setattr(Block, "forward", counted_block)
            insight = state.insight(key, 1)
        assert calls.count(("trunk", True)) == 1 and calls.count(("trunk", False)) == 1  # the other is the gradient's
        assert calls.count("first") == 2 and calls.count("last") == 1 + len(insight.probabilities)
        calls.clear()
        images, own = state.test[1][0][None], model.cfg.fusion
        for rule in FUSIONS:
            seen = model.inspect(images, rule)
            torch.testing.assert_close(insight.scores[rule], seen.scores[0])
            torch.testing.assert_close(insight.probabilities[rule], seen.logits[0].softmax(-1))
        with torch.no_grad():
            torch.testing.assert_close(insight.probabilities[own], model(images)[0].softmax(-1))


def test_no_control_but_image_and_model_needs_a_forward_pass(trained, monkeypatch):
    state = Explorer(trained)
    state.page(["psm_mul", "resnet18"], 0)
    for name in ("inspect", "forward", "forward_trunk"):
        monkeypatch.setattr(VisionTransformer, name, lambda *_, **__: pytest.fail("a forward pass"))
    pages = set()
    for fusion in FUSIONS:
        for layer, head, top_k, strength in ((1, 0, 1, 0.5), (7, 2, 3, 1.0)):
            settings = {"fusion": fusion, "layer": layer, "head": head, "top_k": top_k, "strength": strength}
            pages.add(state.page(["psm_mul", "resnet18"], 0, **settings))
    assert len(pages) == 2 * len(FUSIONS)


def test_what_sets_two_species_apart(trained):
    state = Explorer(trained)
    parts, index = np.array([0, 1, 2, 3]), 0
    truth, looks = state.test.labels[index], state.test.attributes
    sibling = next(i for i in range(len(looks)) if looks["genus"][i] == looks["genus"][truth] and i != truth)
    other = next(i for i in range(len(looks)) if looks["genus"][i] != looks["genus"][truth])
    assert "this is right. Its siblings differ in" in state.verdict("psm_mul", index, truth, parts)
    wrong = state.verdict("psm_mul", index, sibling, parts)
    assert "What sets them apart" in wrong and ", not " in wrong
    assert "The selected patches" in wrong or "Not visible" in wrong
    assert "different genera" in state.verdict("psm_mul", index, other, parts)


def test_patches_that_hit_and_miss(trained):
    state = Explorer(trained)
    cfg, all_patches = state.model("psm_mul").cfg, np.arange(25)
    assert cfg.grid == (5, 5)
    state.points = np.full((len(state.test), 15, 2), 1.0)
    verdict = state.verdict("psm_mul", 0, state.test.labels[0], all_patches)
    assert "The selected patches hit " in verdict and "miss" not in verdict
    assert "The selected patches miss " in state.verdict("psm_mul", 0, state.test.labels[0], np.array([24]))
    state.points = np.full((len(state.test), 15, 2), np.nan)
    verdict = state.verdict("psm_mul", 0, state.test.labels[0], all_patches)
    assert "Not visible here: " in verdict and "selected patches" not in verdict


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
    for name, value in [*changes, ("beside it", "resnet18"), ("model", "vit_overlap")]:
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
                                              "last_modified": datetime.now()},)  # fmt: skip

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


def test_a_photograph_that_cannot_be_read_any_more(trained, monkeypatch):
    app = explorer_widget(trained)
    controls, message, view = widgets_of(app)

    def gone(*_, **__):
        raise DataError("it is gone")

    monkeypatch.setattr("fgvc_lib.datasets.image_set.read_photograph", gone)
    controls["image"].value = 2
    assert "it is gone" in message.value and not view.value

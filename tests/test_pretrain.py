import hashlib
from typing import get_args

import pytest
import torch
import tyro
from conftest import project_at

from fgvc_lib.errors import ConfigError
from fgvc_lib.experiments import pretrain as module
from fgvc_lib.experiments.pretrain import FOLDER, PRETRAIN_SIZES, PRETRAINING, SEED, pretrain_model
from fgvc_lib.synthbirds import SIZES, Sizes, species_list
from fgvc_lib.training import build_model
from fgvc_lib.weights import load_pretrained


def test_the_two_worlds_share_no_species():
    pretraining = {(s.genus, s.name) for s in species_list(PRETRAIN_SIZES, "pretrain")}
    benchmark = {(s.genus, s.name) for sizes in SIZES for s in species_list(sizes)}
    assert len(pretraining) == PRETRAIN_SIZES.genera * PRETRAIN_SIZES.species and not pretraining & benchmark
    assert not {genus for genus, _ in pretraining} & {genus for genus, _ in benchmark}


def test_both_models_see_the_same():
    vit, cnn = PRETRAINING["vit_micro16"], PRETRAINING["resnet18"]
    same = ("data", "image_size", "resize_size", "batch_size", "steps", "seed", "label_smoothing")
    assert all(getattr(vit, name) == getattr(cnn, name) for name in same)
    assert vit.data == FOLDER and SEED != 0


@pytest.mark.parametrize("name", sorted(PRETRAINING))
def test_what_is_written_starts_a_model(name, tmp_path, runs, monkeypatch):
    project_at(monkeypatch, tmp_path)
    monkeypatch.setattr(module, "PRETRAIN_SIZES", Sizes(1, 2, 4, 2, 64))
    sizes = {"image_size": 32, "resize_size": 36, "batch_size": 4, "steps": 2, "warmup_steps": 1, "checkpoint_every": 2}
    monkeypatch.setitem(module.PRETRAINING, name, PRETRAINING[name].replace(**sizes))
    path = pretrain_model(name)
    card = path.with_suffix(".md").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card and "of 4 held-out images" in card
    assert "1 genera of 2 species, 4 images of each" in card
    target = build_model(PRETRAINING[name].replace(image_size=48, resize_size=54, stride=12), 7)
    report = load_pretrained(target, path)
    assert report.fresh == (["head.weight", "head.bias"] if name == "vit_micro16" else ["fc.weight", "fc.bias"])
    trained = module.load_model(module.fit(module.PRETRAINING[name])).state_dict()
    state = target.state_dict()
    assert all(torch.equal(state[key].half(), trained[key].half()) for key in report.loaded)


def test_an_unknown_model_lists_the_known():
    with pytest.raises(ConfigError, match="'vit_b16'.*vit_micro16, resnet18"):
        pretrain_model("vit_b16")


def test_the_command_line_takes_the_models():
    call = {"f": pretrain_model, "config": (tyro.conf.PositionalRequiredArgs,)}
    with pytest.raises(SystemExit) as stop:
        tyro.cli(**call, args=["vit_b16"], console_outputs=False)
    assert stop.value.code == 2 and list(get_args(pretrain_model.__annotations__["model"])) == list(PRETRAINING)

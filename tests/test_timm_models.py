"""Any classifier of timm's by its name: built, its weights, its pixels, trained, looked into, and what is refused."""

import sys

import pytest
import safetensors.torch
import timm
import torch
from conftest import project_at

from fgvc_lib.cnn import classifier_parameters
from fgvc_lib.config import Experiment
from fgvc_lib.datasets import normalisation
from fgvc_lib.errors import ConfigError, WeightsError
from fgvc_lib.saliency import attribute, input_gradient
from fgvc_lib.training import build_model, build_optimizer, fit, load_model
from fgvc_lib.weights.sources import HALF, IMAGENET, source_of, weights_file

SMALL = Experiment(model="timm:test_resnet", image_size=64, resize_size=72)
SWIN = "timm:swin_tiny_patch4_window7_224"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder without weights."""
    (tmp_path / "notebooks").mkdir()
    project_at(monkeypatch, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "classifier", "maps"),
    [("timm:resnet50", "fc", True), ("timm:convnext_atto", "head.fc", True), (SWIN, "head.fc", False)],
)
def test_models_of_every_kind(model, classifier, maps):
    experiment = SMALL.replace(model=model, head_lr=1.0)
    net, images, labels = build_model(experiment, 5), torch.randn(2, 3, 64, 64), torch.tensor([0, 4])
    assert net.training and net(images).shape == (2, 5)
    names = {id(tensor): name for name, tensor in net.named_parameters()}
    assert {names[id(tensor)] for tensor in classifier_parameters(net)} == {f"{classifier}.weight", f"{classifier}.bias"}
    rest, head = build_optimizer(net, experiment).param_groups
    assert len(head["params"]) == 2 and head["lr"] == 1.0 and len(rest["params"]) == len(names) - 2
    gradient = input_gradient(net, images)
    assert gradient.shape == (2, 64, 64) and (gradient.amax((1, 2)) > 0).all()
    if maps:
        assert attribute(net, images, labels, "Grad-CAM").shape == (2, 64, 64)
    else:
        with pytest.raises(ConfigError, match="'Grad-CAM' for this model: choose one of gradient, SmoothGrad"):
            attribute(net, images, labels, "Grad-CAM")


def test_a_model_s_own_pixels_with_or_without_weights():
    for weights in ("", "imagenet"):
        assert normalisation(SMALL.replace(model="timm:resnet50", weights=weights)) == IMAGENET
        assert normalisation(SMALL.replace(model="timm:vit_tiny_patch16_224", weights=weights)) == HALF
    assert source_of(SMALL).path == "" and source_of(SMALL.replace(weights="imagenet")).path.endswith(
        "timm_test_resnet.safetensors"
    )


def test_a_model_is_trained_and_read_again(tiny):
    run = fit(tiny.replace(model="timm:test_resnet", fusion=None, image_size=64, resize_size=72), progress=False)
    net = load_model(run)
    assert len(run.predictions) == 6 and not net.training and net(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.fixture
def hub(monkeypatch):
    """timm's hub: the state dict of a model that it made itself, once for each name."""
    create, made = timm.models.create_model, {}

    def with_weights(name, pretrained, **options):
        if not pretrained or "pretrained_cfg_overlay" in options:
            return create(name, pretrained=pretrained, **options)
        made[name] = create(name, pretrained=False, **options)
        return made[name]

    monkeypatch.setattr(timm.models, "create_model", with_weights)
    return made


def test_imagenet_is_timm_s_weights_of_that_name(project, hub):
    experiment = SMALL.replace(weights="imagenet")
    model = build_model(experiment, 5)
    (theirs,) = hub.values()
    fresh = {id(tensor) for tensor in classifier_parameters(model)}
    same = [name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) not in fresh]
    assert len(same) == len(model.state_dict()) - 2
    assert all(torch.equal(model.state_dict()[name], theirs.state_dict()[name]) for name in same)
    build_model(experiment, 5)
    assert len(hub) == 1 and weights_file(experiment) == project / "data/weights/timm_test_resnet.safetensors"


def test_weights_are_fitted_to_the_image_size_as_timm_fits_them(project, hub):
    experiment = SMALL.replace(model="timm:test_vit", weights="imagenet")
    model = build_model(experiment, 5)
    (theirs,) = hub.values()
    assert model.pos_embed.shape == (1, 17, 64) != theirs.pos_embed.shape
    theirs.set_input_size((64, 64))
    torch.testing.assert_close(model.pos_embed, theirs.pos_embed)


def test_a_file_that_is_not_the_model_s(project):
    path = project / "data" / "weights" / "timm_test_resnet.safetensors"
    path.parent.mkdir(parents=True)
    experiment, state = SMALL.replace(weights="imagenet"), timm.create_model("test_resnet", num_classes=7).state_dict()
    safetensors.torch.save_file(state, path)
    build_model(experiment, 7)  # its classifier is left alone
    safetensors.torch.save_file({name: tensor for name, tensor in state.items() if name != "conv1.0.weight"}, path)
    with pytest.raises(WeightsError, match=r"resnet.safetensors has no array conv1.0.weight: put the state dict of timm's"):
        build_model(experiment, 7)
    safetensors.torch.save_file(state | {"conv1.0.weight": torch.rand(2, 3, 3, 3)}, path)
    with pytest.raises(WeightsError, match=r"resnet.safetensors does not fit timm's test_resnet \(.*: put its state dict"):
        build_model(experiment, 7)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        build_model(experiment, 7)


def test_no_network_says_which_file_to_put_where(project, monkeypatch):
    create = timm.models.create_model

    def offline(name, pretrained, **options):
        if pretrained:
            raise OSError("no route to the hub")
        return create(name, **options)

    monkeypatch.setattr(timm.models, "create_model", offline)
    with pytest.raises(WeightsError, match=r"\(no route to the hub\): put its state dict .*timm_test_resnet.safetensors"):
        build_model(SMALL.replace(weights="imagenet"), 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "timm:resnet5O"}, r"timm:resnet5O: .* \(did you mean resnet5.*list_pretrained"),
        ({"model": "timm:resnet50.a1_in2k"}, r"Invalid pretrained tag.*\(did you mean resnet50.a1_in1k"),
        ({"model": "resnet81"}, r"unknown model 'resnet81' \(did you mean resnet18\?\): .*or timm:NAME"),
        ({"weights": "dinov2"}, "timm:test_resnet has no weights 'dinov2': choose 'imagenet' .*--weights imagenet, or ''"),
        ({"model": "timm:test_resnet_", "weights": "a.npz"}, r"timm:test_resnet_: .*\(did you mean test_resnet"),
        ({"fusion": "mul"}, "timm:test_resnet has none of them, choose one, as in --model vit_s16"),
        ({"model": "timm:test_vit", "image_size": 8}, r"test_vit cannot take .* 8 pixels \(.*\): choose .*its own is 160"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(changes, words):
    with pytest.raises(ConfigError, match=words) as error:
        build_model(SMALL.replace(**changes), 5)
    assert "\n" not in str(error.value)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"need the package timm: pip install 'fgvc_lib\[timm\]'"):
        build_model(SMALL, 5)

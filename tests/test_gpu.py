"""What only a GPU can show. Skipped without one."""

import numpy as np
import pytest
import torch

from fgvc_lib import training
from fgvc_lib.cnn import resnet18
from fgvc_lib.config import PROFILES
from fgvc_lib.datasets import eval_loader, open_splits
from fgvc_lib.experiments import bench, localisation
from fgvc_lib.part_selection import FUSIONS
from fgvc_lib.training import evaluate, fit, load_model
from fgvc_lib.vit import VisionTransformer, ViTConfig

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

MODELS = {"vit": {"fusion": "mul", "stride": 12}, "cnn": {"model": "resnet18"}}


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Convolutions in float32, which a GPU otherwise rounds to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def smoke(birds, runs):
    return PROFILES["smoke"].replace(data=str(birds))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trained_there_in_bf16_says_the_same_on_the_cpu(smoke, name):
    run = fit(smoke.replace(precision="bf16", **MODELS[name]), progress=False)
    assert run.environment["device_type"] == "cuda" and np.isfinite(run.metrics["loss"]).all()
    model = load_model(run)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    here = evaluate(model, eval_loader(open_splits(smoke)[1], run.experiment))
    np.testing.assert_allclose(here["probability"], run.predictions["probability"], atol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_same_parts_and_logits(fusion):
    torch.manual_seed(0)
    config = ViTConfig(image_size=80, dim=64, depth=4, heads=4, mlp_dim=128, num_classes=5, fusion=fusion)
    model, images = VisionTransformer(config).double().eval(), torch.randn(3, 3, 80, 80, dtype=torch.double)
    here = model.inspect(images)
    there = model.cuda().inspect(images.cuda())
    assert torch.equal(there.parts.cpu(), here.parts)
    torch.testing.assert_close(there.logits.cpu(), here.logits)
    with torch.autocast("cuda", torch.bfloat16):
        model.float()(images.float().cuda()).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_same_logits_of_a_cnn():
    torch.manual_seed(0)
    model, images = resnet18(5).eval(), torch.randn(2, 3, 64, 64)
    here = model(images)
    torch.testing.assert_close(model.cuda()(images.cuda()).cpu(), here, atol=1e-4, rtol=1e-4)


def test_an_interrupted_run_resumes_to_the_same_result(smoke, tmp_path, monkeypatch):
    smoke = smoke.replace(dropout=0.2)
    whole = fit(smoke, progress=False, runs=tmp_path / "whole")
    save = training.save_checkpoint

    def stopping(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", stopping)
        with pytest.raises(KeyboardInterrupt):
            fit(smoke, progress=False)
    resumed = fit(smoke, progress=False)
    assert resumed.metrics["step"].tolist() == whole.metrics["step"].tolist()
    np.testing.assert_allclose(resumed.metrics["loss"], whole.metrics["loss"], rtol=1e-3)
    for name, weights in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weights, atol=1e-4, rtol=1e-3)


def test_where_a_model_looks_is_the_same(smoke, monkeypatch):
    run = fit(smoke.replace(**MODELS["vit"]), progress=False)
    there = localisation.localise(run)
    monkeypatch.setattr(localisation, "best_device", lambda: torch.device("cpu"))
    here = localisation.localise(run)
    assert there.columns.tolist() == here.columns.tolist()
    np.testing.assert_allclose(there["map_box"], here["map_box"], atol=1e-3)
    np.testing.assert_array_equal(there["selected_part"], here["selected_part"])


def test_batches_come_in_pinned_memory(smoke):
    images, labels = next(iter(eval_loader(open_splits(smoke)[1], smoke)))
    assert images.is_pinned() and labels.is_pinned()


@pytest.mark.parametrize("precision", bench.PRECISIONS)
def test_bench_measures_time_and_memory(precision):
    setting = bench.BenchSetting(model="vit_micro16", sizes=(112,), repeats=2, precision=precision)
    table = bench.measure(setting)
    assert not table["problem"].any() and (table[["train_s", "infer_s", "memory_mb"]] > 0).all(axis=None)
    assert bench.environment(bench.resolve(setting))["device"] == torch.cuda.get_device_name()

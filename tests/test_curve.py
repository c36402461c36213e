import numpy as np
import pandas as pd
import pytest
import torch

from fgvc_lib.errors import ConfigError
from fgvc_lib.experiments.ablation import made, read_records, write_records
from fgvc_lib.experiments.curve import ON_BIRD, curve, curves, last_layer_logits
from fgvc_lib.part_selection import FUSIONS, RANDOM
from fgvc_lib.training import fit
from fgvc_lib.vit import VisionTransformer, ViTConfig


@pytest.fixture
def annotated(birds, tiny):
    """An experiment of a second on annotated birds, its ViT without part selection."""
    return tiny.replace(data=str(birds), image_size=64, resize_size=72, fusion=None)


@pytest.mark.parametrize("layer_scale", [None, 0.5])
def test_the_last_layer_with_some_patches_is_the_models_own(layer_scale):
    torch.manual_seed(0)
    cfg = ViTConfig(48, 16, 8, 32, 3, 4, 64, 5, fusion=None, layer_scale=layer_scale)
    model = VisionTransformer(cfg).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.randn(2, 3, 48, 48)
    tokens = model.forward_trunk(images).tokens
    kept = torch.zeros(2, 3, 25, dtype=torch.bool)
    kept[:, 0] = True
    kept[0, 1, [3, 17]] = kept[1, 1, [0, 24]] = True  # and of the third choice, none
    logits = last_layer_logits(model, tokens, kept)
    some = model.forward_head(model.forward_last(tokens, torch.tensor([[3, 17], [0, 24]])))
    alone = model.forward_head(model.forward_last(tokens[:, :1]))
    torch.testing.assert_close(logits, torch.stack([model(images), some, alone], 1), atol=1e-5, rtol=1e-5)


def test_all_patches_are_the_plain_model_and_more_patches_keep_the_fewer(annotated):
    run = fit(annotated, progress=False)
    records = curve(run)
    assert list(records["rule"].cat.categories) == [*FUSIONS, RANDOM, ON_BIRD]
    assert sorted(records["k"].unique()) == [1, 2, 4, 8, 16, 25]
    assert len(records) == 9 * 6 * len(run.predictions)
    whole = records[(records["k"] == 25) & (records["rule"] != ON_BIRD)]
    assert (whole["patches"] == 25).all()
    for _, frame in whole.groupby("rule", observed=True):
        pd.testing.assert_series_equal(frame.set_index("id")["correct"], run.correct, check_names=False)
    counts = records.pivot(index=["rule", "id"], columns="k", values="patches")
    assert (counts.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    heads = 4
    assert (counts <= np.minimum(heads * counts.columns.to_numpy(), 25)).all(axis=None)
    assert (counts >= counts.columns.to_numpy()).drop(ON_BIRD).all(axis=None)  # one head alone chooses k different ones
    on_bird = counts.loc[ON_BIRD]
    assert on_bird.nunique(axis=0).iloc[-1] > 1 and (on_bird[25] < 25).any()  # as many as the bird covers
    pd.testing.assert_frame_equal(records, curve(run))


def test_the_model_that_selects_is_tested_by_other_rules_too(cub, tiny):
    plain, selecting = fit(tiny.replace(fusion=None), progress=False), fit(tiny, progress=False)
    one, other = curve(plain, [1]), curve(selecting, (4, 1))
    assert list(one["rule"].cat.categories) == [*FUSIONS, RANDOM]  # no boxes
    assert set(one["k"]) == {1} and set(other["k"]) == {1, 4}
    with pytest.raises(ConfigError, match="number of patches, 4"):
        curve(plain, [1, 5])


@pytest.mark.parametrize("changes", [{"model": "resnet18", "stride": 16, "fusion": None}, {"head": "flatten"}])
def test_models_that_need_all_their_patches(tiny, changes):
    with pytest.raises(ConfigError, match="cannot leave patches out"):
        curve(fit(tiny.replace(**changes), progress=False))


def test_seeds_share_a_file(tiny, tmp_path):
    runs = [fit(tiny.replace(seed=seed), progress=False) for seed in (0, 1)]
    records = curves(runs)
    assert records.groupby("seed").size().to_dict() == dict.fromkeys((0, 1), len(records) / 2)
    write_records(records, tmp_path / "curve.parquet")
    kept = read_records(tmp_path / "curve.parquet")
    pd.testing.assert_frame_equal(kept, records)
    assert [(one["seed"], one["run"]) for one in made(kept)] == [(run.experiment.seed, run.folder.name) for run in runs]
    for others in ([runs[0], runs[0]], [runs[0], fit(tiny.replace(fusion="add", seed=1), progress=False)], []):
        with pytest.raises(ConfigError, match="in their seed and in nothing else"):
            curves(others)

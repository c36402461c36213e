import dataclasses

import pytest

from fgvc_lib.config import CNN_SETTINGS, PROFILES
from fgvc_lib.experiments.variants import (
    REFERENCE,
    ablation_variants,
    known_variants,
    photo_variants,
    photos_variants,
    report_variants,
    title_of,
)

BASE = PROFILES["quick"]
CNN = {"model": "resnet18", "weights": "data/weights/resnet18_synth.safetensors"}
PSM = {"stride": 12, "fusion": "mul"}
LARGER, BATCH, LONGER = (
    {"image_size": 160, "resize_size": 182},
    {"batch_size": 32, "steps": 75, "warmup_steps": 7},
    {"steps": 1200, "warmup_steps": 120, "checkpoint_every": 600},
)
# Title, what differs from the profile, and what the variant is held against beside the REFERENCE.
REPORT = {
    "resnet18": ("ResNet-18", CNN, None),
    "vit": ("ViT", {}, None),
    "vit_overlap": ("ViT, overlap", {"stride": 12}, None),
    "psm_add": ("PSM add", PSM | {"fusion": "add"}, None),
    "psm_matmul": ("PSM matmul", PSM | {"fusion": "matmul"}, None),
    "psm_lastlayer": ("PSM lastlayer", PSM | {"fusion": "lastlayer"}, None),
    "psm_mul": ("PSM mul", PSM, "psm_random"),
    "psm_mul_contrastive": ("PSM mul, contrastive", PSM | {"contrastive": True}, "psm_mul"),
    "psm_mul_flatten": ("PSM mul, flatten", PSM | {"head": "flatten"}, "psm_mul"),
}
ABLATION = REPORT | {
    "efficientnet_lite0": ("EfficientNet-Lite0", {"model": "efficientnet_lite0", "weights": "imagenet"}, None),
    "psm_rollout": ("PSM rollout", PSM | {"fusion": "rollout"}, None),
    "psm_lowrank": ("PSM lowrank", PSM | {"fusion": "lowrank"}, None),
    "psm_maws": ("PSM maws", PSM | {"fusion": "maws"}, None),
    "psm_random": ("PSM random", PSM | {"fusion": "random"}, None),
    "psm_mul_last_layer_fresh": ("PSM mul, last layer fresh", PSM | {"init_last_block": True}, "psm_mul"),
    "psm_mul_top2": ("PSM mul, 2 patches a head", PSM | {"top_k": 2}, "psm_mul"),
    "vit_overlap_larger_image": ("ViT, overlap, larger image", {"stride": 12} | LARGER, None),
    "psm_mul_larger_image": ("PSM mul, larger image", PSM | LARGER, "vit_overlap_larger_image"),
    "vit_overlap_larger_batch": ("ViT, overlap, larger batch", {"stride": 12} | BATCH, None),
    "psm_mul_larger_batch": ("PSM mul, larger batch", PSM | BATCH, "vit_overlap_larger_batch"),
    "vit_overlap_longer": ("ViT, overlap, longer", {"stride": 12} | LONGER, None),
    "psm_mul_longer": ("PSM mul, longer", PSM | LONGER, "vit_overlap_longer"),
}
PHOTOS = ("resnet18", "vit_overlap", "psm_add", "psm_matmul", "psm_lastlayer", "psm_mul", "efficientnet_lite0")


def changes(experiment):
    fields = dataclasses.asdict(experiment)
    return {name: value for name, value in fields.items() if value != getattr(BASE, name)}


@pytest.mark.parametrize(("grid", "expected"), [(report_variants, REPORT), (ablation_variants, ABLATION)])
def test_each_variant_is_what_its_title_says(grid, expected):
    variants = grid(BASE)
    assert {key: (one.title, changes(one.experiment), one.against) for key, one in variants.items()} == expected
    assert list(variants) == list(expected) and all(key == one.key for key, one in variants.items())


def test_photographs_have_a_grid_of_their_own():
    variants = photo_variants(BASE)
    assert list(variants) == [*PHOTOS, *(f"{key}_scratch" for key in PHOTOS)]
    longer = {"steps": 1200, "warmup_steps": 60, "checkpoint_every": 1200}
    for key in PHOTOS:
        title, expected, _ = ABLATION[key]
        pretrained, scratch = variants[key], variants[f"{key}_scratch"]
        assert (pretrained.title, scratch.title) == (title, f"{title}, from scratch")
        assert changes(pretrained.experiment) == expected | longer
        assert changes(scratch.experiment) == expected | longer | {"weights": ""}
    assert {key: one.against for key, one in variants.items() if one.against} == {"psm_mul_scratch": "vit_overlap_scratch"}


@pytest.mark.parametrize("grid", [ablation_variants, photo_variants])
def test_no_two_variants_are_the_same(grid):
    variants = grid(BASE).values()
    for names in zip(*((one.experiment.hash(), one.title, one.title_zh, one.key) for one in variants), strict=True):
        assert len(set(names)) == len(variants)
    assert REFERENCE in grid(BASE) and all(one.against in {None, *grid(BASE)} for one in variants)


def test_chinese_titles():
    titles = {key: one.title_zh for key, one in known_variants().items()}
    assert titles["psm_mul"] == "PSM mul" and titles["psm_mul_top2"] == "PSM mul（每头 2 块）"
    assert titles["vit_overlap_larger_image"] == "ViT（重叠，图像更大）"
    assert titles["psm_mul_last_layer_fresh"] == "PSM mul（最后一层随机初始化）"
    assert titles["resnet18_scratch"] == "ResNet-18（从头训练）"
    assert not any("," in title for title in titles.values())


def test_families():
    families = {key: one.family for key, one in known_variants().items()}
    assert families["resnet18"] == families["efficientnet_lite0_scratch"] == "cnn"
    assert families["vit"] == families["vit_overlap_longer"] == "vit"
    assert [key for key, family in families.items() if family == "control"] == ["psm_random"]
    assert all(families[key] == "psm" for key in families if key.startswith("psm") and key != "psm_random")


def test_titles_by_key():
    assert title_of("psm_mul_longer") == "PSM mul, longer" and title_of("my own") == "my own"


def test_the_cnn_starts_from_the_weights_that_go_with_the_vit():
    full = report_variants(PROFILES["full"])
    assert full["resnet18"].experiment.weights == "data/weights/resnet18-f37072fd.pth"
    assert report_variants(PROFILES["smoke"])["resnet18"].experiment.weights == ""


def test_the_chapters_on_photographs_train_what_the_ablation_runs_with_its_first_seed():
    base = PROFILES["photos"]
    chapters, grid = report_variants(base), photos_variants(base)
    assert list(chapters) == ["efficientnet_lite0", *[*REPORT][1:]] == list(grid)[:9]
    assert chapters["efficientnet_lite0"].experiment.weights == "imagenet" and "resnet18" in grid
    seeds = {grid[key].experiment.replace(seed=0).hash() for key in chapters}
    assert seeds == {one.experiment.hash() for one in chapters.values()}


def test_the_grid_of_photographs_has_settings_for_cnns_and_for_vits():
    grid = photos_variants(PROFILES["photos"])
    assert len({one.experiment.hash() for one in grid.values()}) == len(grid) == 22
    for one in grid.values():
        rates = one.experiment.lr, one.experiment.head_lr
        wanted = PROFILES["photos"].replace(**(CNN_SETTINGS["photos"] if one.family == "cnn" else {}))
        assert rates == (wanted.lr, wanted.head_lr)
        assert one.experiment.epochs == PROFILES["photos"].epochs and not one.experiment.validation
    assert grid["vit_overlap"].experiment.stride == 10 and grid["psm_mul_top8"].experiment.top_k == 8
    assert {one.against for one in grid.values()} - {None} <= set(grid)
    assert (grid["psm_mul_top4"].title, grid["psm_mul_top4"].title_zh) == (
        "PSM mul, 4 patches a head",
        "PSM mul（每头 4 块）",
    )

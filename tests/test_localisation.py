import shutil

import numpy as np
import pandas as pd
import pytest

from fgvc_lib.datasets import open_splits, part_points
from fgvc_lib.datasets.geometry import box_mask, patch_boxes
from fgvc_lib.experiments.localisation import localise, map_hits, selection_hits
from fgvc_lib.training import fit


def test_maps_and_boxes_by_hand():
    maps = np.zeros((2, 4, 5))
    maps[0, 1, 3] = 3.0  # y 1, x 3
    maps[0, 3, 0] = 1.0
    boxes = np.array([[2.0, 0, 2, 2], [0, 0, 5, 4]])
    assert box_mask(boxes, (4, 5))[0].nonzero()[0].tolist() == [0, 0, 1, 1]
    nowhere = np.full((2, 1, 2), np.nan)
    hits = map_hits(maps, boxes, nowhere, nowhere)
    assert hits["peak"].tolist() == [True, True]
    assert map_hits(maps, boxes + [0, 2, 0, 0], nowhere, nowhere)["peak"].tolist() == [False, False]
    assert hits["box"].tolist() == [0.75, 0.0]  # an empty map has no energy anywhere


def test_patches_by_hand():
    boxes = patch_boxes(np.array([[0, 5]]), cols=4, patch_size=16, stride=12)
    assert boxes.tolist() == [[[0, 0, 16, 16], [12, 12, 16, 16]]]


def test_selections_by_hand():
    patches = patch_boxes(range(9), cols=3, patch_size=16, stride=16)  # side by side on 48 x 48
    boxes = np.array([[0.0, 0, 32, 32], [0, 0, 32, 32]])
    nowhere = [np.nan, np.nan]
    points = np.array([[[20.0, 4.0], nowhere], [nowhere, nowhere]])  # in patch 1; no part visible
    hits = selection_hits(np.array([[1, 1, 8], [0, 1, 4]]), patches, boxes, points)
    np.testing.assert_allclose(hits["bird"], [2 / 3, 1])
    np.testing.assert_allclose(hits["part"], [1, np.nan])
    np.testing.assert_allclose(hits["bird_chance"], [4 / 9, 4 / 9])
    np.testing.assert_allclose(hits["part_chance"], [2 / 9, np.nan])  # two different patches of nine
    np.testing.assert_allclose(hits["part_chance_on_bird"], [1 / 2, np.nan])  # two of the four whose centre is in the box
    assert selection_hits(np.array([[0, 2, 8], [0, 1, 4]]), patches, boxes, points)["part"][0] == 0


def test_share_of_the_parts_that_are_hit():
    patches = patch_boxes(range(9), cols=3, patch_size=16, stride=16)
    boxes = np.array([[0.0, 0, 16, 32], [0, 0, 16, 32], [40, 40, 4, 4]])  # patches 0 and 3; 0 and 3; none
    points = np.array([[[4.0, 4.0], [5, 5], [20, 4], [np.nan, np.nan]]] * 3)  # two in patch 0, one in 1, one not visible
    hits = selection_hits(np.array([[0, 0, 8], [3, 5, 7], [1, 1, 1]]), patches, boxes, points)
    np.testing.assert_allclose(hits["part"], [1, 0, 1])
    np.testing.assert_allclose(hits["part_recall"], [2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(hits["part_recall_chance"], [2 / 9, 3 / 9, 1 / 9])  # 2, 3 and 1 different patches of 9
    np.testing.assert_allclose(hits["part_chance_on_bird"], [1, 1, 0])  # all on the bird are drawn, where there are any
    np.testing.assert_allclose(hits["part_recall_chance_on_bird"], [2 / 3, 2 / 3, 0])


def test_chance_is_what_random_patches_get():
    rng = np.random.default_rng(0)
    patches = patch_boxes(range(36), cols=6, patch_size=16, stride=12)
    boxes = np.tile([10.0, 12, 30, 40], (4_000, 1))
    points = np.tile([[30.0, 33.0], [14.0, 50.0]], (4_000, 1, 1))
    parts = np.stack([rng.permutation(36)[:4] for _ in range(4_000)])
    hits = selection_hits(parts, patches, boxes, points).mean()
    assert hits["bird"] == pytest.approx(hits["bird_chance"], abs=0.02)
    assert hits["part"] == pytest.approx(hits["part_chance"], abs=0.03) and 0.2 < hits["part"] < 0.9
    assert hits["part_recall"] == pytest.approx(hits["part_recall_chance"], abs=0.02)
    corner = patches[:, :2] + 8
    on_bird = np.flatnonzero(((corner >= boxes[0, :2]) & (corner < boxes[0, :2] + boxes[0, 2:])).all(1))
    parts = np.stack([rng.permutation(on_bird)[:4] for _ in range(4_000)])
    hits = selection_hits(parts, patches, boxes, points).mean()
    assert hits["part"] == pytest.approx(hits["part_chance_on_bird"], abs=0.03) and hits["bird"] == 1
    assert hits["part_recall"] == pytest.approx(hits["part_recall_chance_on_bird"], abs=0.02)


def test_map_hits_by_hand():
    maps = np.zeros((2, 32, 32))
    maps[0, 4, 4], maps[0, 20, 20], maps[0, 31, 31] = (
        3,
        1,
        4,
    )  # around a discriminative part, around another, beside the bird
    boxes = np.array([[0.0, 0, 24, 24], [0, 0, 16, 32]])
    points = np.array([[[4.0, 4.0], [20.0, 20.0]], [[np.nan, np.nan]] * 2])
    discriminative = points.copy()
    discriminative[0, 1] = np.nan
    maps[0, 12, 2] = 1  # on the bird, around no part
    hits = map_hits(maps, boxes, points, discriminative)
    assert hits["peak"].tolist() == [False, True]
    np.testing.assert_allclose(hits["box"], [5 / 9, 0])
    np.testing.assert_allclose(hits["part"], [4 / 5, np.nan])
    np.testing.assert_allclose(hits["discriminative"], [3 / 4, np.nan])
    np.testing.assert_allclose(hits["part_chance"], [2 * 12 * 12 / 24**2, np.nan])  # of each square, what the box holds
    np.testing.assert_allclose(hits["discriminative_chance"], [0.5, np.nan])
    np.testing.assert_allclose(hits["box_chance"], [(24 / 32) ** 2, 0.5])
    even = map_hits(np.ones((2, 32, 32)), boxes, points, discriminative)
    np.testing.assert_allclose(
        even[["part", "discriminative"]].loc[0], even[["part_chance", "discriminative_chance"]].loc[0]
    )


def test_where_a_run_looks_on_annotated_birds(birds, runs, tiny):
    run = fit(tiny.replace(data=str(birds), image_size=64, resize_size=72), progress=False)
    hits = localise(run)
    assert len(hits) == len(run.predictions) and hits.columns.str.match("map_|selected_").all()
    rates = hits.drop(columns=["map_peak"]).mean()
    assert ((rates >= 0) & (rates <= 1)).all() and hits["map_box"].gt(0).all()
    other = localise(run, "integrated gradients")
    assert not other["map_box"].equals(hits["map_box"]) and other["selected_bird"].equals(hits["selected_bird"])
    assert localise(fit(tiny, progress=False)).empty  # no boxes, no columns
    control = fit(run.experiment.replace(fusion="random"), progress=False)
    pd.testing.assert_frame_equal(localise(control), localise(control))  # the same patches whenever it is looked at


@pytest.mark.parametrize("crop", [False, True])
def test_where_a_run_looks_on_data_in_the_official_layout(official, tiny, crop):
    """CUB-200-2011 annotates parts and does not say which set a class apart: all that are visible are to be hit."""
    experiment = tiny.replace(data=str(official), image_size=64, resize_size=72, crop_to_box=crop)
    run = fit(experiment, progress=False)
    hits, (_, test) = localise(run), open_splits(experiment)
    assert hits["map_discriminative"].isna().all() and hits["map_part"].notna().all()
    assert hits["map_box_chance"].eq(1).all() == crop  # all that is left is the box
    points, cols = part_points(test, experiment), (64 - 16) // 12 + 1
    for row, (own, parts) in enumerate(zip(points, run.predictions["parts"], strict=True)):
        held = [any(0 <= x - p % cols * 12 < 16 and 0 <= y - p // cols * 12 < 16 for p in parts) for x, y in own]
        assert hits.loc[row, "selected_part"] == any(held)
        assert hits.loc[row, "selected_part_recall"] == pytest.approx(sum(held) / (~np.isnan(own).any(1)).sum())
    chances = hits.filter(like="chance").drop(columns="map_discriminative_chance")
    assert ((chances >= 0) & (chances <= 1)).all(axis=None)


def test_where_a_run_looks_leaves_out_what_could_not_be_decoded(birds, runs, tiny, tmp_path):
    folder = shutil.copytree(birds, tmp_path / "birds")
    experiment = tiny.replace(data=str(folder), image_size=64, resize_size=72, skip_broken=True)
    broken = open_splits(experiment)[1].paths[2]
    broken.write_bytes(broken.read_bytes()[:300])
    run = fit(experiment, progress=False)
    assert len(localise(run)) == len(run.predictions) == len(open_splits(experiment)[1]) == 15
    shutil.rmtree(folder / "parts")
    whole = fit(experiment.replace(seed=1), progress=False)
    assert (
        localise(whole)[["map_part", "map_discriminative"]].isna().all(axis=None) and localise(whole)["map_box"].gt(0).all()
    )

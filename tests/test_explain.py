import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import project_at
from PIL import Image

from fgvc_lib import cli
from fgvc_lib.app import explain as module
from fgvc_lib.app import explain_photographs, find_photos, named_run
from fgvc_lib.app.insight import attention_map, look_into
from fgvc_lib.app.pictures import SIZE, marked, overlay
from fgvc_lib.config import PROFILES
from fgvc_lib.datasets import eval_loader, normalisation, open_splits, photographs
from fgvc_lib.datasets.photographs import read_photograph
from fgvc_lib.errors import ConfigError, DataError
from fgvc_lib.experiments.variants import report_variants
from fgvc_lib.training import fit, load_model
from fgvc_lib.vit import VisionTransformer, ViTConfig


def picture(path, size=(50, 40), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def test_photographs_of_every_kind(tmp_path, monkeypatch):
    assert read_photograph(picture(tmp_path / "a.jpg"))[1] == []
    for name, mode, words in (("l.png", "L", "greyscale"), ("a.png", "RGBA", "transparent"), ("p.gif", "P", None)):
        image, remarks = read_photograph(picture(tmp_path / name, mode=mode))
        assert image.mode == "RGB" and image.size == (50, 40) and (words is None or words in remarks[0])
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "m.gif", save_all=True, append_images=frames[1:])
    image, remarks = read_photograph(tmp_path / "m.gif")
    assert "2 frames: the first" in remarks[0] and image.getpixel((4, 4))[0] > 200
    clear = Image.new("RGBA", (9, 9), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert read_photograph(tmp_path / "clear.png")[0].getpixel((4, 4)) == (255, 255, 255)
    upright = picture(tmp_path / "turned.jpg", exif=exif(6))
    assert read_photograph(upright)[0].size == (40, 50)
    monkeypatch.setattr(photographs, "MOST_PIXELS", 1_000_000)
    with pytest.raises(DataError, match="big.png has 2000 x 1000 pixels: scale it down to 1 million"):
        read_photograph(picture(tmp_path / "big.png", (2000, 1000)), "big.png")
    (tmp_path / "junk.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="junk.jpg is not an image"):
        read_photograph(tmp_path / "junk.jpg", "junk.jpg")


def test_a_model_of_cropped_birds_asks_for_cropped_photographs(tmp_path, tiny):
    for experiment, said in ((tiny, False), (tiny.replace(crop_to_box=True), True)):
        row, seen = module._read(picture(tmp_path / "a.jpg"), tmp_path / "out.jpg", experiment)
        assert ("crop this one, too" in row["remarks"]) == said and seen.shape == (3, 32, 32)


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def test_files_folders_and_patterns(tmp_path):
    for name in ("x/a.jpg", "x/deep/b.png", "y/a.jpg", "y/note.txt"):
        picture(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("")
    found = find_photos([tmp_path / "x", str(tmp_path / "y" / "*.jpg")])
    assert sorted(map(str, found.values())) == ["x/a.jpg", "x/deep/b.png", "y/a.jpg"]
    assert list(find_photos([tmp_path / "x" / "a.jpg"]).values()) == [module.Path("a.jpg")]
    with pytest.raises(DataError, match="no photograph at .*nothing"):
        find_photos([tmp_path / "nothing*.jpg"])


def test_pictures_have_the_names_of_their_photographs_and_are_written_over_none(tmp_path):
    files = [picture(tmp_path / "in" / name) for name in ("a.jpg", "a.png", "A.webp", "a-2.jpg", "deep/a.png")]
    places = module._places(find_photos([tmp_path / "in"]), tmp_path / "out")
    assert len({str(place).casefold() for place in places.values()}) == 5
    assert places[files[3]] == tmp_path / "out" / "a-2.jpg" and places[files[4]] == tmp_path / "out" / "deep" / "a.jpg"
    with pytest.raises(ConfigError, match="would be written over photographs, as .*a.jpg: name another folder"):
        module._places({files[0]: module.Path("a.jpg")}, tmp_path / "in")


def test_photographs_in_folders_with_all_that_lies_there(tmp_path, capsys):
    for name in ("a.jpg", ".hidden/b.jpg", "@eaDir/c.jpg", "d.jpg/e.jpg", "out/f.jpg"):
        picture(tmp_path / name)
    (tmp_path / "no_suffix").write_bytes((tmp_path / "a.jpg").read_bytes())
    (tmp_path / "notes.txt").touch()
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "x.jpg").symlink_to("x.jpg")
    found = find_photos([tmp_path], tmp_path / "out")
    assert sorted(path.name for path in found) == ["a.jpg", "e.jpg", "no_suffix", "x.jpg"]
    assert capsys.readouterr().out == "Not read: 1 .txt\n"
    assert [path.name for path in find_photos([tmp_path / "out"], tmp_path / "out")] == ["f.jpg"]
    with pytest.raises(DataError, match=r"no photograph at .*, but files that are not read: 1 .cr2: name files"):
        (tmp_path / "raw").mkdir()
        (tmp_path / "raw" / "a.cr2").write_bytes(b"II*\0")
        find_photos([tmp_path / "raw"])


def test_photographs_of_any_name(tiny, tmp_path):
    names = [b"\xff.png", b"quo'te\n$x$.png", b"y" * 245 + b".png"]
    for name in names:
        picture(tmp_path / "in" / os.fsdecode(name))
    (tmp_path / "in" / os.fsdecode(b"\xfe.png")).touch()
    table = explain_photographs(find_photos([tmp_path / "in"]), fit(tiny, progress=False), tmp_path / "out")
    assert (table["problem"] == "").sum() == 3 and table["problem"].str.contains(r"\\xfe.png is not an image").sum() == 1
    assert len([*(tmp_path / "out").glob("*.jpg")]) == 3 and len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 4


@pytest.mark.parametrize("changes", [{}, {"fusion": None}, {"fusion": None, "model": "resnet18"}])
def test_each_kind_of_model_explains(tiny, tmp_path, changes):
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "junk.png").write_bytes(b"junk")
    run = fit(tiny.replace(batch_size=2, **changes), progress=False)
    table = explain_photographs(find_photos([tmp_path / "in"]), run, tmp_path / "out")
    assert [name[-5:] for name in table["photo"]] == ["a.png", "b.png", "c.png", "k.png"]
    assert table["problem"].str.contains("not an image").tolist() == [False] * 3 + [True]
    good = table.iloc[:3]
    assert good["prediction"].str.startswith("Class").all() and good["confidence"].between(0, 1).all()
    assert (good["parts"].str.len() == (0 if changes else 4)).all()
    saved = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert saved.columns.tolist() == ["photo", "prediction", "confidence", "parts", "picture", "remarks", "problem"]
    assert [json.loads(parts) for parts in saved["parts"]] == table["parts"].tolist()
    for path in good["picture"]:
        count = 2 if changes else 3  # the parts are marked on the photograph itself
        assert count * SIZE < Image.open(path).width < (count + 1) * SIZE


def test_an_interruption_keeps_what_was_done(tiny, tmp_path, monkeypatch):
    run, done = fit(tiny.replace(batch_size=2), progress=False), []
    photos = tmp_path / "photos"
    for name in "abcd":
        picture(photos / f"{name}.png")

    def look(model, images, mean_and_std):
        done.append(len(images))
        if len(done) == 2:
            raise KeyboardInterrupt
        return look_into(model, images, mean_and_std)

    monkeypatch.setattr(module, "look_into", look)
    with pytest.raises(KeyboardInterrupt):
        explain_photographs(find_photos([photos]), run, photos / "out")
    kept = pd.read_csv(photos / "out" / "predictions.csv")
    assert kept["photo"].tolist() == [str(photos / "a.png"), str(photos / "b.png")]
    assert len(find_photos([photos], photos / "out")) == 4  # not the two pictures made


def test_the_command(tiny, tmp_path, monkeypatch, capsys):
    variants = report_variants(tiny.replace(fusion=None))
    monkeypatch.setattr(module, "active_experiment", lambda: tiny.replace(fusion=None))
    fit(variants["psm_mul"].experiment, progress=False)
    photo = picture(tmp_path / "bird.jpg", mode="L")
    monkeypatch.setattr(cli.sys, "argv", ["fgvc_lib", "explain", str(photo), "--out", str(tmp_path / "o"), "--json"])
    cli.main()
    text = capsys.readouterr().out
    assert "1 of 1 photographs explained" in text and "greyscale" in text
    assert json.loads((tmp_path / "o" / "predictions.json").read_text())[0]["prediction"].startswith("Class")
    assert (tmp_path / "o" / "predictions.csv").is_file() and (tmp_path / "o" / "bird.jpg").is_file()
    photo.write_bytes(b"junk")
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    said = capsys.readouterr()
    assert "1 of 1 photographs could not be read" in said.err and f"{photo} is not an image that can be read" in said.out


@pytest.mark.parametrize("columns", [80, 100])
def test_a_line_for_each_photograph_fits_into_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    table = pd.DataFrame({"photo": [f"a{'b' * 300}c.jpg"] * 3 + ["d.jpg"], "prediction": "Eider", "confidence": 0.874})
    table["remarks"] = ["", "transparent: laid on white", "", ""]
    table["problem"] = ["", "", f"{table['photo'][0]} is not an image", ""]
    *long, broken, short = map(module._line, table.itertuples())
    for line, end in zip(long, ("c.jpg: Eider, 87%", "c.jpg: Eider, 87%; transparent: laid on white"), strict=True):
        assert len(line) == columns and line.startswith("ab") and line.endswith(end)
    assert broken == table["problem"][2] and short == "d.jpg: Eider, 87%"


def test_a_run_by_its_name(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "active_experiment", lambda: tiny.replace(fusion=None))
    with pytest.raises(ConfigError, match="no run 'PSM best'.*PSM mul"):
        named_run("PSM best")
    with pytest.raises(DataError, match="no model 'ViT' has been trained .*: `make report` trains it"):
        named_run("ViT")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty' is not finished"):
        named_run(str(tmp_path / "empty"))
    run = fit(tiny, progress=False)  # as the variant psm_mul is
    names = (None, "psm_mul", "PSM mul", run.folder.name, str(run.folder))
    assert {named_run(name).folder for name in names} == {run.folder}
    monkeypatch.setattr(module, "find_run", lambda experiment: pytest.fail("this reads the data, or draws it"))
    with pytest.raises(DataError, match="no model 'ViT' has been trained"):
        named_run("ViT")
    monkeypatch.setattr(module, "active_experiment", lambda: PROFILES["photos"].replace(data="nowhere"))
    with pytest.raises(DataError, match="no data folder nowhere, by which PROFILE=photos .*: say DATA=folder .* --run"):
        named_run()
    assert named_run(run.folder.name).folder == run.folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.jpg",), "no photograph at nothing.jpg"),
        (("bird.jpg", "--run", "PSM best"), "no run 'PSM best'"),
        (("bird.jpg", "--run", "PSM mul"), "no model 'PSM mul' has been trained in profile quick"),
    ],
)
def test_no_birds_are_drawn_for_a_photograph_or_a_run_that_is_not_there(arguments, words, tmp_path, monkeypatch, capsys):
    project_at(monkeypatch, tmp_path)
    for name in ("PROFILE", "DATA", "DATASET", "RUNS"):
        monkeypatch.setenv(name, "")
    picture(tmp_path / "bird.jpg")
    monkeypatch.setattr(cli.sys, "argv", ["fgvc_lib", "explain", *arguments])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert words in capsys.readouterr().err and [path.name for path in tmp_path.rglob("*")] == ["bird.jpg"]


def test_marks_and_maps_lie_where_the_patches_lie():
    picture = np.zeros((48, 48, 3))
    weights = np.zeros((3, 3))
    weights[0, 2] = 1.0
    pixels = np.asarray(overlay(picture, weights, 16, 16, strength=1.0)).sum(-1)
    bright = pixels > 300
    third = SIZE // 3
    assert bright[5, -5] and bright[third - 5, 2 * third + 5] and not bright[third + 5].any() and not bright[5, third]
    np.testing.assert_array_equal(np.asarray(overlay(picture, weights, 16, 16, strength=0.0)), 0)
    framed = np.asarray(marked(picture, np.array([5]), 3, 16, 16)).sum(-1) > 0
    assert framed[2 * third - 1, -2] and framed[third + 1, 2 * third + 2]
    assert framed[third + third // 2, 5 * third // 2]  # the centre
    framed[third - 1 : 2 * third + 1, 2 * third - 1 :] = False
    assert framed.any() and not framed[: third - 40].any()  # the number is outside the patch, and near


def test_the_parts_are_the_models_own(tiny):
    run = fit(tiny.replace(top_k=2), progress=False)
    model = load_model(run)
    images, _ = next(iter(eval_loader(open_splits(tiny)[1], tiny)))
    seen = model.inspect(images)
    for place, insight in enumerate(look_into(model, images, normalisation(tiny))):
        parts = module.select(insight.scores["mul"][None], 2)[0]
        torch.testing.assert_close(parts, seen.parts[place])
        torch.testing.assert_close(insight.probabilities["mul"], seen.logits[place].softmax(-1))


def test_maps_of_deep_models_hold_no_nan():
    torch.manual_seed(0)
    cfg = ViTConfig(image_size=48, patch_size=8, stride=4, dim=32, depth=32, heads=2, mlp_dim=32, num_classes=3)
    model = VisionTransformer(cfg).eval()
    for name, weight in model.named_parameters():
        if "qkv.weight" in name:
            weight.data *= 40  # sharp attention: a plain product of its rows is zero in float32
    [insight] = look_into(model, torch.randn(1, 3, 48, 48), ((0.5,) * 3, (0.5,) * 3), ("mul", "matmul"))
    for scores in (*insight.scores.values(), *insight.attention, torch.zeros(2, 121)):
        for head in (None, 0, 1):
            assert np.isfinite(attention_map(scores, cfg.grid, head)).all()


def test_many_heads_on_one_patch():
    marked(np.zeros((224, 224, 3)), np.zeros(16, dtype=int), 18, 16, 12)


def test_a_truncated_animation_is_no_traceback(tmp_path):
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (60, 60, 3), dtype=np.uint8)) for i in range(2)]
    frames[0].save(tmp_path / "m.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "m.gif").read_bytes()
    for length in range(20, len(content), 400):
        (tmp_path / "cut.gif").write_bytes(content[:length])
        with contextlib.suppress(DataError):  # read as far as it goes, or said; nothing else
            read_photograph(tmp_path / "cut.gif", "cut.gif")


def test_it_needs_no_notebook_and_draws_no_figure():
    code = """
import sys
from fgvc_lib.app import Explorer, explain_photographs
print({"seaborn", "IPython", "ipywidgets", "fgvc_lib.report"} & sys.modules.keys())
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_no_photograph_named():
    with pytest.raises(ConfigError, match="name at least one photograph"):
        find_photos([])

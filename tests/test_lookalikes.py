import numpy as np
from PIL import Image

from fgvc_lib.datasets.cub import CUB200
from fgvc_lib.datasets.lookalikes import clearest_image, special_looks, telling_parts


def test_telling_parts_are_those_of_the_class_that_are_seen(birds):
    test = CUB200(birds, "test")
    for index, label in enumerate(test.labels):
        counts = test.diagnostic[label] & (test.parts[index, :, 2] > 0)
        shown = telling_parts(test, index)
        assert set(shown) == {name.split()[-1] for name, wanted in zip(test.part_names, counts, strict=True) if wanted}
        places = test.parts[index][counts][:, :2].tolist()
        assert all(place.tolist() in places for place in shown.values())


def test_the_clearest_image_shows_most_parts_and_of_those_the_most_contrast(birds, monkeypatch):
    test = CUB200(birds, "test")
    label = test.labels[0]
    same = np.flatnonzero(np.array(test.labels) == label)
    test.parts[same, :, 2] = 0
    test.parts[same[1:3], :, 2] = 1  # two images show all
    test.parts[same, :, :2] = 20
    flat, pattern = np.full((40, 40), 99, np.uint8), np.indices((40, 40)).sum(0).astype(np.uint8) % 2 * 255
    pictures = {same[1]: flat, same[2]: pattern}
    monkeypatch.setattr(test, "load", lambda index: Image.fromarray(pictures.get(index, pattern)))
    assert clearest_image(test, label) == same[2]
    pictures[same[1]], pictures[same[2]] = pattern, flat
    assert clearest_image(test, label) == same[1]
    test.diagnostic = None
    assert clearest_image(test, label) == same[-1]


def test_special_looks_are_what_most_siblings_lack(birds):
    test = CUB200(birds, "test")
    siblings = [0, 1]
    table = test.attributes.loc[[0, 0, 0]].reset_index(drop=True)
    table.loc[2, ["tail", "beak_colour"]] = "fork", "red"
    test.attributes = table
    assert special_looks(test, 2, [0, 1, 2]) == "beak colour: red, tail: fork"
    assert special_looks(test, 0, siblings) == "nothing special"
    test.attributes = None
    assert special_looks(test, 0, siblings) == ""

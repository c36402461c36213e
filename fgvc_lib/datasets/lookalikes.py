"""What sets a class apart from those that look like it, as far as the data says: where it is seen, and in words."""

from collections.abc import Sequence

import numpy as np

from .image_set import ImageSet


def telling_parts(images: ImageSet, index: int) -> dict[str, np.ndarray]:
    """Where an image shows the parts that tell its class from a sibling: x y in its pixels, by their names' last word."""
    parts = zip(images.part_names, images.parts[index], images.diagnostic[images.labels[index]], strict=True)
    return {name.split()[-1]: place[:2] for name, place, differs in parts if differs and place[2] > 0}


def clearest_image(images: ImageSet, label: int) -> int:
    """The image of a class that shows most of these parts, and of those the one with the largest contrast: the least
    standard deviation of grey levels around a part. The class's last image where the data does not name such parts."""
    found = np.flatnonzero(np.asarray(images.labels) == label).tolist()
    return found[-1] if images.diagnostic is None else max(found, key=lambda index: _contrast(images, index))


def special_looks(images: ImageSet, label: int, siblings: Sequence[int]) -> str:
    """In which attributes a class differs from most of its siblings, itself among them, in words; "" where the data does not
    say how classes look."""
    if images.attributes is None:
        return ""
    looks = images.attributes.iloc[siblings].drop(columns=["class_id", "name"], errors="ignore")
    usual, own = looks.mode().iloc[0], images.attributes.iloc[label]
    words = [f"{name.replace('_', ' ')}: {own[name]}" for name in looks if own[name] != usual[name]]
    return ", ".join(words) or "nothing special"


def _contrast(images, index):
    grey, deviations = np.asarray(images.load(index).convert("L")), []
    half = len(grey) // 10
    for x, y in telling_parts(images, index).values():
        left, top = max(0, int(x) - half), max(0, int(y) - half)
        deviations.append(grey[top : int(y) + half, left : int(x) + half].std())
    return len(deviations), min(deviations, default=0)

"""The sets that torchvision reads."""

import hashlib
from pathlib import Path

from ..errors import DataError
from .image_set import ImageSet


def from_torchvision(kind, paths, labels, train, **options):
    """A builder for a set that torchvision downloads, checks and splits; it keeps its file list in private fields."""

    def build(root, split="train", transform=None):
        try:
            sources = {name: kind(root, split=name, **options) for name in (train, "test")}
            sizes = "".join(
                f"{path.name} {label} {path.stat().st_size}\n"
                for source in sources.values()
                for path, label in zip(map(Path, paths(source)), labels(source), strict=True)
            )
        except (RuntimeError, OSError) as error:
            raise DataError(f"{kind.__name__} in {root} cannot be read ({error}): see torchvision's page on it") from error
        source = sources[train if split == "train" else "test"]
        names = getattr(source, "classes", None) or [str(c) for c in sorted(set(labels(source)))]
        digest = hashlib.sha256(sizes.encode()).hexdigest()
        return ImageSet(map(Path, paths(source)), labels(source), names, transform, fingerprint=digest)

    return build

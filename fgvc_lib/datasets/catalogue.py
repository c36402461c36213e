"""The data sets of the field that are known by name, as their authors published them."""

from typing import NamedTuple

from ..errors import ConfigError, nearest

NON_COMMERCIAL = "non-commercial research and education only"
SEE_SOURCE = "see the source"
WHERE = "`python -m fgvc_lib data list` says which files belong where"


class Published(NamedTuple):
    """A data set in its official split: what its authors say of it, and where its files belong."""

    title: str
    classes: int
    train: int  # images for training, and
    test: int  # for testing
    size: str  # of what is fetched
    terms: str
    source: str  # its page
    folder: str  # below the project's root, what `build_dataset` is given as its root
    layout: str  # what must lie in that folder
    advice: str = ""  # how to get it, where `data download` cannot


# By the names of `build.DATASETS`.
CATALOGUE = {
    "cub200": Published(
        "CUB-200-2011", 200, 5_994, 5_794, "1.1 GB", NON_COMMERCIAL,
        "https://www.vision.caltech.edu/datasets/cub_200_2011/", "data/CUB_200_2011",
        "images/, images.txt, image_class_labels.txt, classes.txt, train_test_split.txt; bounding_boxes.txt and parts/ "
        "if known",
    ),
    "dogs": Published(
        "Stanford Dogs", 120, 12_000, 8_580, "0.8 GB", SEE_SOURCE,
        "http://vision.stanford.edu/aditya86/ImageNetDogs/", "data/stanford_dogs",
        "Images/BREED/*.jpg, and train_list.mat and test_list.mat, there or in lists/",
        "Fetch images.tar and lists.tar from its page, no account is needed,",
    ),
    "cars": Published(
        "Stanford Cars", 196, 8_144, 8_041, "1.9 GB", SEE_SOURCE,
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html", "data",
        "stanford_cars/ with cars_train/, cars_test/, cars_test_annos_withlabels.mat, and devkit/ with "
        "cars_train_annos.mat and cars_meta.mat",
        "Its own page does not offer the files any more: take a copy of them from where you trust it,",
    ),
    "nabirds": Published(
        "NABirds", 555, 23_929, 24_633, "about 9 GB", "to be agreed to at the source", "https://dl.allaboutbirds.org/nabirds",
        "data/nabirds",
        "images/, images.txt, image_class_labels.txt, classes.txt, train_test_split.txt; bounding_boxes.txt and parts/ "
        "if known",
        "Agree to its terms on its page, fetch nabirds.tar.gz,",
    ),
    "inat2017": Published(
        "iNaturalist 2017", 5_089, 579_184, 95_986, "186 GB", SEE_SOURCE,
        "https://github.com/visipedia/inat_comp/tree/master/2017", "data/inat2017",
        "train_val_images/, train2017.json and val2017.json (its test images have no public labels: val is for testing)",
        "Fetch the training and validation images and their annotations, which its page links to, no account is needed,",
    ),
    "inat2021": Published(
        "iNaturalist 2021", 10_000, 2_686_843, 100_000, "232 GB", SEE_SOURCE,
        "https://github.com/visipedia/inat_comp/tree/master/2021", "data/inat2021",
        "train/, val/, train.json and val.json (its test images have no public labels: val is for testing)",
        "Fetch the training and validation images and their annotations, which its page links to, no account is needed,",
    ),
    "aircraft": Published(
        "FGVC-Aircraft", 100, 6_667, 3_333, "2.8 GB", "non-commercial research only",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/", "data",
        "fgvc-aircraft-2013b/data/ with images/, variants.txt, images_variant_trainval.txt and images_variant_test.txt",
    ),
    "flowers": Published(
        "Oxford Flowers 102", 102, 1_020, 6_149, "0.35 GB", SEE_SOURCE,
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", "data",
        "flowers-102/ with jpg/, imagelabels.mat and setid.mat (its 1,020 validation images are not used)",
    ),
    "pets": Published(
        "Oxford-IIIT Pets", 37, 3_680, 3_669, "0.8 GB", "CC BY-SA 4.0",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/", "data",
        "oxford-iiit-pet/ with images/, and annotations/ with trainval.txt and test.txt",
    ),
}  # fmt: skip


def published(name: str) -> tuple[str, Published]:
    """A set of the catalogue with its whole name; `name` may be the start of it, if no other starts so.

    Raises ConfigError, with the names that start so, or with the nearest and all names where none does.
    """
    found = [known for known in CATALOGUE if name and known.startswith(name)]
    if len(found) > 1:
        raise ConfigError(f"{name!r} is the start of several data sets: say which of {', '.join(found)}")
    if not found:
        raise ConfigError(f"unknown data set {name!r}{nearest(name, CATALOGUE)}: choose one of {', '.join(CATALOGUE)}")
    return found[0], CATALOGUE[found[0]]


def list_datasets() -> str:
    """The data sets known by name: classes, images, size, terms, source, and which files belong where."""
    return "\n\n".join(
        f"{name}: {one.title}, {one.classes:,} classes, {one.train:,} training and {one.test:,} test images, {one.size}\n"
        f"  terms: {one.terms}\n  source: {one.source}\n  in {one.folder}/: {one.layout}"
        for name, one in CATALOGUE.items()
    )

"""The variants: each row of each table as an object that says what it is and what it is held against."""

from dataclasses import dataclass, replace
from functools import cache

from ..config import CNN_SETTINGS, PROFILES, Experiment
from ..vit import PRESETS

REFERENCE = "vit_overlap"  # the ViT without part selection, which all others are compared with
FOUR = ("psm_add", "psm_matmul", "psm_lastlayer", "psm_mul")  # the course report's fusions

# The ResNet-18's weights that go with the ViT's: from the same pre-training, or at least from the same kind of data.
CNN_WEIGHTS = {
    "data/weights/vit_micro16.npz": "data/weights/resnet18_synth.safetensors",
    "data/weights/ViT-B_16.npz": "data/weights/resnet18-f37072fd.pth",
    "dinov2": "data/weights/resnet18_synth.safetensors",
}

# What a variant changes, in the words of its title, in English and in Chinese.
CHANGES = {
    "overlap": ("overlap", "重叠"),
    "contrastive": ("contrastive", "对比损失"),
    "flatten": ("flatten", "flatten"),
    "last_layer_fresh": ("last layer fresh", "最后一层随机初始化"),
    "top2": ("2 patches a head", "每头 2 块"),
    "top4": ("4 patches a head", "每头 4 块"),
    "top8": ("8 patches a head", "每头 8 块"),
    "larger_image": ("larger image", "图像更大"),
    "larger_batch": ("larger batch", "批量更大"),
    "longer": ("longer", "训练更久"),
    "scratch": ("from scratch", "从头训练"),
}


@dataclass(frozen=True)
class Variant:
    """One experiment of a grid under the names that records, tables and figures know it by."""

    key: str  # in records and in code
    model: str  # how its titles start, in all languages
    family: str  # "cnn", "vit", "psm", or "control": a control that is no proposal
    experiment: Experiment
    changes: tuple[str, ...] = ()  # keys of CHANGES
    against: str | None = None  # key of the variant that it is held against beside the REFERENCE

    @property
    def title(self) -> str:
        return ", ".join([self.model, *(CHANGES[change][0] for change in self.changes)])

    @property
    def title_zh(self) -> str:
        return self.model + (f"（{'，'.join(CHANGES[change][1] for change in self.changes)}）" if self.changes else "")

    def changed(self, change: str, against: str | None = None, **fields) -> "Variant":
        """This variant with some fields of its experiment changed, which is called `change`, one of CHANGES."""
        experiment, changes = self.experiment.replace(**fields), (*self.changes, change)
        return replace(self, key=f"{self.key}_{change}", experiment=experiment, changes=changes, against=against)


def report_variants(base: Experiment) -> dict[str, Variant]:
    """The nine variants that the notebooks train, by key, the CNN first, all under the settings of `base`."""
    cnn, _ = _cnns(base)
    vit = Variant("vit", "ViT", "vit", base)
    overlap = vit.changed("overlap", stride=PRESETS[base.model].patch_size * 3 // 4)  # TransFG's 12 for 16, and 10 for 14
    add, matmul, lastlayer, mul = (_select(overlap, rule) for rule in ("add", "matmul", "lastlayer", "mul"))
    mul = replace(mul, against="psm_random")
    contrastive = mul.changed("contrastive", mul.key, contrastive=True)
    flatten = mul.changed("flatten", mul.key, head="flatten")
    return _by_key(cnn, vit, overlap, add, matmul, lastlayer, mul, contrastive, flatten)


def ablation_variants(base: Experiment) -> dict[str, Variant]:
    """The whole grid by key: the report's own variants, and what it leaves open, each one change away from another."""
    found = report_variants(base)
    overlap, mul = found[REFERENCE], found["psm_mul"]
    more = [
        *_cnns(base),
        *(_select(overlap, rule) for rule in ("rollout", "lowrank", "maws")),
        replace(_select(overlap, "random"), family="control"),
        mul.changed("last_layer_fresh", mul.key, init_last_block=True),
        mul.changed("top2", mul.key, top_k=2),
    ]
    size = base.image_size + 48
    resize = base.resize_size * size // base.image_size // 2 * 2  # so that the view stays the same
    steps, warmup, every = base.steps, base.warmup_steps, base.checkpoint_every
    sweeps = {
        "larger_image": {"image_size": size, "resize_size": resize},
        # as many images seen, in fewer steps
        "larger_batch": {"batch_size": 4 * base.batch_size, "steps": max(1, steps // 4), "warmup_steps": warmup // 4},
        "longer": {"steps": 4 * steps, "warmup_steps": 4 * warmup, "checkpoint_every": 4 * every},
    }
    for change, fields in sweeps.items():
        plain = overlap.changed(change, **fields)
        more += [plain, mul.changed(change, plain.key, **fields)]
    return found | _by_key(*more)


def photos_variants(base: Experiment) -> dict[str, Variant]:
    """The grid of profile `photos` by key: that of the ablation without longer training, and with more patches a head."""
    found = {key: one for key, one in ablation_variants(base).items() if "longer" not in one.changes}
    mul = found["psm_mul"]
    return found | _by_key(*(mul.changed(f"top{k}", mul.key, top_k=k) for k in (4, 8)))


def photo_variants(base: Experiment) -> dict[str, Variant]:
    """The grid for real photographs by key: the CNN, the ViT, the four fusions, and EfficientNet-Lite0, which does have
    ImageNet behind it, each from its pre-trained weights and from scratch."""
    longer = base.replace(steps=4 * base.steps, warmup_steps=2 * base.warmup_steps, checkpoint_every=4 * base.steps)
    grid = ablation_variants(longer)
    pretrained = [replace(grid[key], against=None) for key in ("resnet18", REFERENCE, *FOUR, "efficientnet_lite0")]
    scratch = _by_key(*(one.changed("scratch", weights="") for one in pretrained))
    scratch["psm_mul_scratch"] = replace(scratch["psm_mul_scratch"], against=f"{REFERENCE}_scratch")
    return _by_key(*pretrained) | scratch


@cache
def known_variants() -> dict[str, Variant]:
    """The variants of both grids by key, for their titles and families, which are the same whatever they are trained on."""
    return photo_variants(PROFILES["quick"]) | photos_variants(PROFILES["quick"]) | ablation_variants(PROFILES["quick"])


def title_of(key: str) -> str:
    """The variant's title; a key that no grid has is shown as it is."""
    known = known_variants()
    return known[key].title if key in known else key


def _cnns(base):
    """The two CNNs, first the one that is to be held against the ViT: in profile `photos` that has seen photographs, too."""
    shared = base.replace(**CNN_SETTINGS.get(base.profile, {}))
    resnet = shared.replace(model="resnet18", weights=CNN_WEIGHTS.get(base.weights, ""))
    lite = shared.replace(model="efficientnet_lite0", weights="imagenet")
    pair = Variant("resnet18", "ResNet-18", "cnn", resnet), Variant("efficientnet_lite0", "EfficientNet-Lite0", "cnn", lite)
    return pair[::-1] if base.profile == "photos" else pair


def _select(vit, rule):
    return Variant(f"psm_{rule}", f"PSM {rule}", "psm", vit.experiment.replace(fusion=rule))


def _by_key(*variants):
    return {variant.key: variant for variant in variants}

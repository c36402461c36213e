"""The claims of the course report: what each asserts, what was measured, and the verdict, by one rule for all."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from ..config import project_path
from ..errors import DataError
from ..experiments.ablation import made, read_records
from ..experiments.curve import heights
from ..experiments.statistics import holm, interval, p_value, paired, values_of
from ..experiments.variants import FOUR, REFERENCE

# Two words of the course report that need a number. "Very little": less than 2 points; in TransFG's paper 1.4 lie between
# its model and the ViT that it starts from (91.7 and 90.3%). "Far better": more than 10 points, half of the gap between the
# course report's two models.
LITTLE, FAR = 0.02, 0.10
CNN = "efficientnet_lite0"  # the one that has seen ImageNet


@dataclass(frozen=True)
class Comparison:
    """One thing that a claim asserts: that a value lies above a bound, or below it.

    The value is how much more accurate variant `one` is than variant `other`; without `other`, its accuracy, or by how much
    another column of its records exceeds its chance. Of column "curve": by how much one rule's curve lies above another's.
    """

    one: str
    other: str | None = None
    below: bool = False
    bound: float = 0.0
    column: str = "correct"
    style: str = "difference"  # its format in templates/words.en.toml

    def values(self, records: pd.DataFrame, curve: pd.DataFrame | None) -> pd.DataFrame:
        """Seeds by test images."""
        if self.column == "curve":
            height = heights(curve)[1]
            return height[self.one] - height[self.other]
        if self.other:
            return paired(records, self.one, self.other)
        values = values_of(records, self.one, self.column)
        return values if self.column == "correct" else values - values_of(records, self.one, f"{self.column}_chance")


# What each claim asserts; all of it must hold.
CLAIMS = {
    "cnn_below_70": [Comparison(CNN, below=True, bound=0.70, style="accuracy")],
    "cnn_is_coarse": [
        Comparison("resnet18", column="map_box", style="box"),
        Comparison("resnet18", column="map_discriminative", below=True, style="parts"),
    ],
    "vit_is_better": [Comparison(REFERENCE, CNN)],
    "vit_is_far_better": [Comparison(REFERENCE, CNN, bound=FAR, style="far")],
    "overlap_helps": [Comparison(REFERENCE, "vit")],
    "selection_gains_little": [
        Comparison("psm_mul", REFERENCE),
        Comparison("psm_mul", REFERENCE, below=True, bound=LITTLE, style="limit"),
    ],
    "mul_is_best": [Comparison("psm_mul", other) for other in FOUR if other != "psm_mul"],
    "mul_chooses_best": [Comparison("mul", rule, column="curve", style="curve") for rule in ("add", "matmul", "lastlayer")],
    "contrastive_hurts": [Comparison("psm_mul_contrastive", "psm_mul", below=True)],
    "selection_is_faster": [Comparison("psm_mul", below=True, bound=1.0, style="bench")],
    "reaches_89_90": [],
    "larger_images_gain": [Comparison("psm_mul_larger_image", "psm_mul")],
    "larger_batches_gain": [Comparison("psm_mul_larger_batch", "psm_mul")],
}
# Why a level cannot test a claim: a key of the words.
ANYWHERE = {"selection_is_faster": "time_apart", "reaches_89_90": "other_test"}
PHOTOGRAPHS = ANYWHERE | {"cnn_is_coarse": "parts_unknown"}
BIRDS = ANYWHERE | {"cnn_below_70": "by_design", "vit_is_better": "small", "vit_is_far_better": "small"}


@dataclass(frozen=True)
class Measured:
    """What a comparison found: a mean with its 95% interval, and its p-value, corrected by Holm's method."""

    asked: Comparison
    mean: float
    low: float
    high: float
    p: float = np.nan  # where the interval alone decides

    @property
    def side(self) -> int:
        """1: clearly as the claim has it, -1: clearly the other way round, 0: not clear."""
        bound = self.asked.bound
        if self.low <= bound <= self.high or self.p >= 0.05 or np.isnan(self.mean):
            return 0
        return 1 if (self.mean < bound) == self.asked.below else -1


@dataclass(frozen=True)
class Finding:
    """What one level of evidence says of a claim."""

    measured: list[Measured]
    verdict: str
    why: str | None = None  # it is not tested


@dataclass(frozen=True)
class Evidence:
    """What the verdicts rest on."""

    photographs: dict[str, pd.DataFrame]  # records of profile `photos`, by the name of their set
    birds: pd.DataFrame  # records of profile `quick` on the built-in birds
    bench: dict  # what `bench --json` wrote, in the course report's own setting
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)  # records of `curve`, by the set's name; "": the birds
    cost: dict | None = None  # what `bench --json` wrote for several image sizes; shown, but no verdict rests on it
    gpu: list[dict] = field(default_factory=list)  # the same from a GPU, in one precision each


def read_evidence() -> Evidence:
    """The evidence in data/. Raises DataError for a file that is missing, but for photographs, or that cannot be read."""
    results, step, cost = map(project_path, ("data/results", "data/bench/step.json", "data/bench/cpu.json"))
    bench = _read_bench(step, "--sizes 224 --batch-size 8 ")
    files = sorted(results.glob("photos-*.parquet"))
    photographs = {file.stem.removeprefix("photos-"): read_records(file) for file in files}
    paths = {name: results / f"curve-photos-{name}.parquet" for name in photographs} | {"": results / "curve-quick.parquet"}
    curves = {name: read_records(path, "curve RUN") for name, path in paths.items() if path.is_file()}
    more = _read_bench(cost) if cost.is_file() else None
    gpu = [_read_bench(path) for path in sorted(cost.parent.glob("gpu-*.json"))]
    return Evidence(photographs, read_records(results / "quick.parquet"), bench, curves, more, gpu)


def _read_bench(path, options=""):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        again = f"python -m fgvc_lib bench {options}--json {path}"
        raise DataError(f"there is no measurement of time at {path} ({error}): `{again}` makes it") from error


def verdict(measured: list[Measured]) -> str:
    """The rule of every verdict: "confirmed" if all that the claim asserts is clear, "contradicted" if the opposite of
    something that it asserts is, else "cannot_tell".

    A value is clearly on one side of its bound if its 95% interval leaves the bound out and its p-value, corrected for
    all comparisons of that level by Holm's method, is below 0.05.
    """
    sides = {one.side for one in measured}
    if -1 in sides:
        return "contradicted"
    return "confirmed" if sides == {1} else "cannot_tell"


def claims(evidence: Evidence) -> pd.DataFrame:
    """One row per claim of the course report.

    Columns: photographs, birds and bench, what each level found: a dictionary of `Finding` by (set's name, number of
    classes), the same for the built-in birds, and by (machine,); verdict; level, the first of these three that tests the
    claim, on which the verdict rests, or "". Where sets of photographs differ in their verdicts, it is cannot_tell.
    """
    photographs = {
        _place(name, records): _photographs(records, evidence.curves.get(name))
        for name, records in evidence.photographs.items()
    }
    birds = {_place("", evidence.birds): _findings(evidence.birds, evidence.curves.get(""), BIRDS)}
    bench = {(evidence.bench["environment"]["device"],): _time(evidence.bench, evidence.gpu)}
    rows = {}
    for claim in CLAIMS:
        levels = {
            level: {place: findings[claim] for place, findings in places.items() if claim in findings}
            for level, places in {"photographs": photographs, "birds": birds, "bench": bench}.items()
        }
        verdicts = {level: {one.verdict for one in found.values()} - {"not_tested"} for level, found in levels.items()}
        level = next((level for level, found in verdicts.items() if found), "")
        found = verdicts.get(level, {"not_tested"})
        rows[claim] = levels | {"verdict": found.pop() if len(found) == 1 else "cannot_tell", "level": level}
    return pd.DataFrame.from_dict(rows, orient="index")


def _place(name, records):
    return name, made(records)[0]["environment"]["classes"]


def _findings(records, curve, untested):
    """What some records say of each claim; untested: why they cannot test a claim."""
    there, values, why = set(records["variant"].unique()), {}, dict(untested)
    for claim, asserted in CLAIMS.items():
        if any(one.column == "curve" for one in asserted):
            if curve is None:
                why.setdefault(claim, "no_curve")
        elif not {variant for one in asserted for variant in (one.one, one.other or one.one)} <= there:
            why.setdefault(claim, "rows_missing")
        if claim not in why:
            values |= {(claim, one): one.values(records, curve) for one in asserted}
    p = holm(pd.Series([p_value(some, one.bound) for (_, one), some in values.items()], dtype=float))
    measured = {claim: [] for claim in CLAIMS}
    for ((claim, one), some), corrected in zip(values.items(), p, strict=True):
        measured[claim].append(Measured(one, *interval(some), corrected))
    return {
        claim: Finding([], "not_tested", why[claim]) if claim in why else Finding(found, verdict(found))
        for claim, found in measured.items()
    }


def _photographs(records, curve):
    """The findings of a set of photographs, with the accuracy of its best model, which tests nothing."""
    best = max(records["variant"].unique(), key=lambda key: values_of(records, key).to_numpy().mean())
    shown = Measured(Comparison(best, style="best"), *interval(values_of(records, best)))
    found = _findings(records, curve, PHOTOGRAPHS)
    return found | {"reaches_89_90": replace(found["reaches_89_90"], measured=[shown])}


def _time(bench, gpu):
    """The finding on time, which the course report's own setting decides; the same on a GPU in bf16 is shown beside it."""
    (asked,) = CLAIMS["selection_is_faster"]
    own = [row for row in bench["rows"] if f"psm_{row['row']}" == asked.one][-1]
    rows = [row for record in gpu if record["setting"]["precision"] == "bf16" for row in record["rows"]]
    beside = [row for row in rows if (row["row"], row["size"]) == (own["row"], own["size"])]
    measured, *shown = (
        Measured(one, row["train_ratio"], row["train_low"], row["train_high"])
        for one, row in [(asked, own), *((replace(asked, style="gpu"), row) for row in beside)]
    )
    return {"selection_is_faster": Finding([measured, *shown], verdict([measured]))}

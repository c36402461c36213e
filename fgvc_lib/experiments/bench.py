"""What part selection costs: time and memory beside the ViT without it and the one that keeps every map, in one run."""

import dataclasses
import math
import multiprocessing
import platform
import random
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Literal

import numpy as np
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from tqdm import tqdm, trange

from ..config import PROFILES, Experiment
from ..datasets import eval_loader, open_splits
from ..errors import ConfigError
from ..machine.device import best_device
from ..part_selection import FUSIONS, fuse_dense
from ..vit import PRESETS, VisionTransformer


@dataclasses.dataclass(frozen=True)
class BenchSetting:
    """What is measured, for every size and every one of ROWS. The defaults are those of the report."""

    model: str = "vit_b16"  # one of vit.PRESETS
    sizes: tuple[int, ...] = (224, 320, 448)  # pixels, height and width
    stride: int = 12  # pixels
    batch_size: int = 0  # images; 0: 16 on a GPU, 1 on the CPU
    repeats: int = 12  # rounds that count, after one that does not
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["no", "bf16", "fp16"] = "no"  # float32, or autocast to half precision


NONE = "no PSM"  # what the others are compared with
MORE, MORE_PATCHES = "mul, 8 patches a head", 8
EVERY_MAP = ("mul, every map kept", "matmul, every map kept")  # the second is what TransFG's code computes
ROWS = (NONE, *FUSIONS, MORE, *EVERY_MAP)
EVERY_MAP_REPEATS = 3  # they take half of a round, and their ratios need no more
PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(setting: BenchSetting) -> BenchSetting:
    """The setting with its device and batch size decided. Raises ConfigError for anything in it that cannot be measured."""
    for name, known in (("model", PRESETS), ("device", ("auto", "cpu", "cuda")), ("precision", PRECISIONS)):
        if getattr(setting, name) not in known:
            raise ConfigError(f"unknown {name} {getattr(setting, name)!r}: choose one of {', '.join(known)}")
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' is not available: choose cpu, or auto")
    if not setting.sizes or setting.repeats < 1 or setting.batch_size < 0:
        raise ConfigError("bench needs at least one size, repeats of 1 or more and a batch_size of 0 (automatic) or more")
    for size in setting.sizes:
        # raises now, not after the sizes before it
        PRESETS[setting.model].replace(image_size=size, stride=setting.stride, top_k=MORE_PATCHES)
    device = best_device().type if setting.device == "auto" else setting.device
    return dataclasses.replace(setting, device=device, batch_size=setting.batch_size or (16 if device == "cuda" else 1))


def dense_forward(model: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """images (B, 3, H, W) -> the model's logits (B, C) by the textbook, the way TransFG's code works.

    Every layer's (N+1) x (N+1) attention map is made and kept, and `fuse_dense` applied to all of them. Dropout 0 only.
    """
    x, cfg, maps, raw = model.embed(images), model.cfg, [], None
    for place, block in enumerate(model.blocks):
        if place == cfg.depth - 1:
            parts = fuse_dense(maps, cfg.fusion, cfg.rank, raw).topk(cfg.top_k).indices.flatten(1)
            x = torch.cat([x[:, :1], x[torch.arange(len(x))[:, None], 1 + parts]], dim=1)
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, cfg.heads, -1)).permute(2, 0, 3, 1, 4)
        raw = q @ k.mT / (cfg.dim / cfg.heads) ** 0.5
        maps.append(raw.softmax(dim=-1))
        x = x + block.ls1(block.attn.proj((maps[-1] @ v).transpose(1, 2).flatten(2)))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.forward_head(model.norm(x))


def measure(setting: BenchSetting) -> pd.DataFrame:
    """Measure a setting: one row per size and entry of ROWS; those in EVERY_MAP take part in EVERY_MAP_REPEATS rounds only.

    Columns: size (pixels), patches (N), row, problem ("" or why there are no numbers); train_s and infer_s (median seconds
    per step), train_ratio and infer_ratio (of these to those of NONE in the same rounds), train_low and train_high (95%
    interval of train_ratio, see `ratio_interval`), images_s (trained per second), memory_mb (peak of a training step, beyond
    weights, gradients and optimiser state). CPU memory is a fresh process's; a row that does not fit is not timed.
    Starts processes: call it below `if __name__ == "__main__"`. Raises ConfigError for what cannot be measured.
    """
    setting = resolve(setting)
    return pd.concat([_measure_size(setting, size) for size in setting.sizes], ignore_index=True)


def image_seconds(experiment: Experiment) -> tuple[float, float]:
    """Seconds an image to train and to test an experiment's ViT on this machine, from one try each."""
    size, found, device = experiment.image_size, [], best_device().type
    batch = experiment.batch_size if device == "cuda" else min(4, experiment.batch_size)  # enough for a CPU
    setting = BenchSetting(experiment.model, (size,), experiment.stride, batch, device=device)
    for precision in (experiment.precision, "no"):  # tests are always float32
        work = _Work(dataclasses.replace(setting, precision=precision), size)
        work.seconds(NONE)  # what is done once is not timed
        found.append(work.seconds(NONE))
    return found[0][0] / batch, found[1][1] / batch


def _measure_size(setting, size):
    memory = {row: _memory(setting, size, row) for row in tqdm(ROWS, f"memory at {size} pixels", unit="row")}
    work = _Work(setting, size)
    times = _times(work, setting.repeats, [row for row in ROWS if not np.isnan(memory[row])])
    lines = []
    for row in ROWS:
        line = {"size": size, "patches": work.model.cfg.grid[0] ** 2, "row": row}
        line["problem"] = "" if row in times else "out of memory"
        if row in times and NONE in times:
            found = times[row]
            plain = times[NONE][: len(found)]  # the same rounds
            train, infer = np.median(found, axis=0)
            train_ratio, infer_ratio = np.median(found, axis=0) / np.median(plain, axis=0)
            low, high = ratio_interval(found[:, 0], plain[:, 0])
            line |= {"train_s": train, "train_ratio": train_ratio, "train_low": low, "train_high": high}
            line |= {"infer_s": infer, "infer_ratio": infer_ratio, "images_s": setting.batch_size / train}
            line |= {"memory_mb": memory[row] / 1e6}
        lines.append(line)
    return pd.DataFrame(lines)


def _times(work, repeats, rows):
    """Seconds (R, 2) of training and inference in the R rounds that count, by row; without the rows that do not fit."""
    times = {row: [] for row in rows}
    for turn in trange(repeats + 1, desc=f"time at {work.model.cfg.image_size} pixels", unit="round"):
        order = [row for row in times if row not in EVERY_MAP or turn <= EVERY_MAP_REPEATS]
        random.Random(turn).shuffle(order)  # what a row leaves in the caches and the heap favours no other
        for row in order:
            try:
                times[row].append(work.seconds(row))
            except torch.OutOfMemoryError:
                del times[row]
    return {row: np.array(seconds[1:]) for row, seconds in times.items()}


def ratio_interval(times: np.ndarray, plain: np.ndarray) -> tuple[float, float]:
    """The 95% interval (low, high) of the ratio of two medians, times and plain (R,) of the same R rounds.

    The rounds are drawn anew with replacement, as pairs: what slows the machine down for a while slows both.
    """
    rounds = np.random.default_rng(0).integers(len(times), size=(4_000, len(times)))
    ratios = np.median(times[rounds], axis=1) / np.median(plain[rounds], axis=1)
    return tuple(np.quantile(ratios, (0.025, 0.975)))


class _Work:
    """One model whose part selection changes from row to row; its weights, inputs and optimiser stay."""

    def __init__(self, setting, size):
        torch.manual_seed(0)
        self.device, self.dtype = torch.device(setting.device), PRECISIONS[setting.precision]
        cfg = PRESETS[setting.model].replace(image_size=size, stride=setting.stride, fusion=None)
        self.model = VisionTransformer(cfg).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.9, fused=True)
        self.images = torch.randn(setting.batch_size, 3, size, size, device=self.device)
        self.labels = torch.arange(setting.batch_size, device=self.device)

    def forward(self, row):
        fusion = None if row == NONE else row.partition(",")[0]
        self.model.cfg = self.model.cfg.replace(fusion=fusion, top_k=MORE_PATCHES if row == MORE else 1)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return dense_forward(self.model, self.images) if row in EVERY_MAP else self.model(self.images)

    def train_step(self, row):
        F.cross_entropy(self.forward(row).float(), self.labels).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def seconds(self, row):
        """(training, inference)"""
        start = self.clock()
        self.train_step(row)
        trained = self.clock()
        with torch.no_grad():
            self.forward(row)
        return trained - start, self.clock() - trained

    def clock(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _peak(setting, size, row):
    """Bytes of a training step beyond weights, gradients and optimiser state."""
    work = _Work(setting, size)
    for parameter in work.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    work.optimizer.step()
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work.train_step(row)
        return torch.cuda.max_memory_allocated() - before
    import resource  # not on Windows

    before = psutil.Process().memory_info().rss
    work.train_step(row)
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before


def _memory(setting, size, row):
    """Bytes of a training step, nan where it does not fit: in this process on a GPU, in a fresh one on the CPU."""
    try:
        if setting.device == "cuda":
            return _peak(setting, size, row)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(_peak, setting, size, row).result()
    except RuntimeError as error:
        if isinstance(error, (torch.OutOfMemoryError, BrokenProcessPool)) or "allocate memory" in str(error):
            return np.nan
        raise


def environment(setting: BenchSetting) -> dict[str, str | float]:
    """Where it was measured, and the floor: the share of the layers that see all tokens whatever the selection costs."""
    gpu, depth = setting.device == "cuda", PRESETS[setting.model].depth
    return {
        "device": torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": f"torch {torch.__version__}", "date": time.strftime("%Y-%m-%d"), "floor": (depth - 1) / depth,
    }  # fmt: skip


def growth(table: pd.DataFrame) -> pd.Series:
    """The exponent a of train_s ~ patches ** a between the smallest and the largest size, by row."""
    wide = table.pivot(index="patches", columns="row", values="train_s").loc[:, table["row"].unique()]
    return np.log(wide.iloc[-1] / wide.iloc[0]) / np.log(wide.index[-1] / wide.index[0])


def loading(experiment: Experiment = PROFILES["quick"], images: int = 256) -> dict[str, float]:
    """Images per second, on one thread, as test-time views: decoded anew with PIL, and from the cache of decoded images."""
    train, _ = open_splits(experiment)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = {}
    try:
        for name in ("PIL", "cache"):
            loader = eval_loader(train, experiment.replace(cache=name == "cache", workers=0))
            next(iter(loader))  # what is done once, such as filling the cache, is not timed
            start = time.perf_counter()
            seen = sum(len(batch) for batch, _ in islice(loader, math.ceil(images / loader.batch_size)))
            rates[name] = seen / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return rates

"""What an experiment is, and the three profiles that fix its size."""

import contextlib
import dataclasses
import multiprocessing
import platform
import random
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from tqdm import tqdm

from ..config import PROFILES, Experiment
from ..datasets.build import open_splits
from ..datasets.views import Views
from ..errors import ConfigError
from ..part_selection import FUSIONS, fuse_dense
from ..vit import PRESETS, VisionTransformer


@dataclass(frozen=True)
class BenchSetting:
    """What `bench` measures for every size and row. The defaults are those of the report."""

    model: str = "vit_b16"  # one of vit.PRESETS
    sizes: tuple[int, ...] = (224, 320, 448)  # pixels, height and width
    stride: int = 12  # pixels
    batch_size: int = 0  # images; 0: 16 on a GPU, 1 on the CPU
    repeats: int = 12  # rounds that count, after one that does not
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["no", "bf16", "fp16"] = "no"


DENSE = ("dense mul", "dense matmul")  # the second is what TransFG's code computes
ROWS = ("plain", *FUSIONS, *DENSE)
DENSE_REPEATS = 3  # they take half of a round, and their ratios need no more
PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(setting: BenchSetting) -> BenchSetting:
    """The setting with its device and batch size decided. Raises ConfigError for anything in it that cannot be measured."""
    gpu = torch.cuda.is_available()
    device = ("cuda" if gpu else "cpu") if setting.device == "auto" else setting.device
    if device == "cuda" and not gpu:
        raise ConfigError("device 'cuda' is not available: choose cpu, or auto")
    choices = (("device", device, ("auto", "cpu", "cuda")), ("precision", setting.precision, PRECISIONS))
    for name, value, known in (("model", setting.model, PRESETS), *choices):
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}: choose one of {', '.join(known)}")
    if not setting.sizes or setting.repeats < 1 or setting.batch_size < 0:
        raise ConfigError("bench needs at least one size, repeats of 1 or more and a batch_size of 0 (automatic) or more")
    for size in setting.sizes:
        PRESETS[setting.model].replace(image_size=size, stride=setting.stride)  # raises now, not after the sizes before it
    return dataclasses.replace(setting, device=device, batch_size=setting.batch_size or (16 if device == "cuda" else 1))


def dense_forward(model: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """The model's logits (B, C) by the textbook: every layer's (N+1) x (N+1) attention map is made and kept, and
    `fuse_dense` applied to all of them; the way TransFG's code works. Head `cls` or `flatten`, dropout 0."""
    x, cfg, maps, raw = model.embed(images), model.cfg, [], None
    for place, block in enumerate(model.blocks):
        if place == cfg.depth - 1:
            parts = fuse_dense(maps, cfg.fusion, cfg.rank, raw).topk(cfg.top_k).indices.flatten(1)
            x = torch.cat([x[:, :1], x[torch.arange(len(x))[:, None], 1 + parts]], dim=1)
        qkv = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, cfg.heads, -1)).permute(2, 0, 3, 1, 4)
        raw = qkv[0] @ qkv[1].mT / (cfg.dim / cfg.heads) ** 0.5
        maps.append(raw.softmax(dim=-1))
        x = x + block.attn.proj((maps[-1] @ qkv[2]).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    x = model.norm(x)
    return model.head(x.flatten(1) if cfg.head == "flatten" else x[:, 0])


def measure(setting: BenchSetting) -> pd.DataFrame:
    """Measure every size and row of a setting, in turn: a row a (size, row).

    Columns: size (pixels), patches (N), row, problem ("" or why there are no numbers); train_s and infer_s (seconds a step,
    medians), train_ratio and infer_ratio (of these to the plain ViT's in the same rounds), train_low and train_high (95 %
    interval of train_ratio, bootstrapped over the rounds), images_s (trained a second), memory_mb (peak of a training step,
    beyond weights, gradients and optimiser state). CPU memory is a fresh process's; a row that does not fit is not timed.
    The rows in DENSE take part in DENSE_REPEATS rounds only. Starts processes: call it below `if __name__ == "__main__"`.
    Raises ConfigError for a setting that cannot be measured.
    """
    setting = resolve(setting)
    steps = len(ROWS) * (setting.repeats + 2) - len(DENSE) * max(0, setting.repeats - DENSE_REPEATS)
    with tqdm(total=len(setting.sizes) * steps, desc=f"bench {setting.model}", unit="step") as bar:
        return pd.concat([_bench_size(setting, size, bar) for size in setting.sizes], ignore_index=True)


def _bench_size(setting, size, bar):
    problems, memory, times = {}, {}, {row: [] for row in ROWS}
    for row in ROWS:
        memory[row], problems[row] = _memory(setting, size, row)
        bar.update()
    rows = [row for row in ROWS if not problems[row]]
    work = _Work(setting, size)
    for turn in range(setting.repeats + 1):
        if turn == DENSE_REPEATS + 1:
            rows = [row for row in rows if row not in DENSE]
        random.Random(turn).shuffle(rows)  # what a row leaves in the caches and the heap favours no other
        for row in list(rows):
            try:
                seconds = [work.seconds(work.train_step, row), work.seconds(work.infer, row)]
                times[row] += [seconds] if turn else []
            except torch.OutOfMemoryError:
                problems[row], rows = "out of memory", [other for other in rows if other != row]
            bar.update()
    lines = []
    for row in ROWS:
        line = {"size": size, "patches": work.model.cfg.grid[0] ** 2, "row": row, "problem": problems[row]}
        if not problems[row] and not problems["plain"]:
            found = np.array(times[row])
            plain = np.array(times["plain"])[: len(found)]  # the same rounds
            (train, infer), base = np.median(found, 0), np.median(plain, 0)
            low, high = (1.0, 1.0) if row == "plain" else _interval(found[:, 0], plain[:, 0])
            line |= {"train_s": train, "train_ratio": train / base[0], "train_low": low, "train_high": high}
            line |= {"infer_s": infer, "infer_ratio": infer / base[1], "images_s": setting.batch_size / train}
            line |= {"memory_mb": memory[row] / 1e6}
        lines.append(line)
    return pd.DataFrame(lines)


def _interval(times, plain, draws=4_000):
    """The 95 % interval of the ratio of two medians, the rounds drawn anew with replacement."""
    rng = np.random.default_rng(0)
    medians = [np.median(rng.choice(values, (draws, len(values))), axis=1) for values in (times, plain)]
    return np.quantile(medians[0] / medians[1], (0.025, 0.975))


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
        fusion = None if row == "plain" else row.removeprefix("dense ")
        self.model.cfg = self.model.cfg.replace(fusion=fusion)
        with torch.autocast(self.device.type, self.dtype) if self.dtype else contextlib.nullcontext():
            return dense_forward(self.model, self.images) if row in DENSE else self.model(self.images)

    def train_step(self, row, keep_gradients=False):
        F.cross_entropy(self.forward(row).float(), self.labels).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not keep_gradients)

    @torch.no_grad()
    def infer(self, row):
        self.forward(row)

    def seconds(self, step, row):
        self._wait()
        start = time.perf_counter()
        step(row)
        self._wait()
        return time.perf_counter() - start

    def peak(self, row):
        """Bytes of a training step beyond weights, gradients and optimiser state."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.train_step(row, keep_gradients=True)
            return torch.cuda.max_memory_allocated() - before
        before = psutil.Process().memory_info().rss
        self.train_step(row, keep_gradients=True)
        return _peak_rss() - before

    def _wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _peak_rss():
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _peak_of(setting, size, row):
    return _Work(setting, size).peak(row)


def _memory(setting, size, row):
    """(bytes, problem) of a training step: in this process on a GPU, in a fresh one on the CPU."""
    try:
        if setting.device == "cuda":
            return _peak_of(setting, size, row), ""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(_peak_of, setting, size, row).result(), ""
    except (torch.OutOfMemoryError, BrokenProcessPool):
        return np.nan, "out of memory"
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        return np.nan, "out of memory"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """`bench`'s table as text; ratios are to the plain ViT of the same size."""
    text = pd.DataFrame({
        "pixels": table["size"], "patches": table["patches"], "model": table["row"],
        "training step": table["train_ratio"].map("{:.2f}".format),
        "95 % interval": table["train_low"].map("{:.2f} – ".format) + table["train_high"].map("{:.2f}".format),
        "inference": table["infer_ratio"].map("{:.2f}".format), "memory, MB": table["memory_mb"].map("{:,.0f}".format),
        "images/s": table["images_s"].map("{:.2f}".format),
    })  # fmt: skip
    failed = table["problem"] != ""
    text.loc[failed, "training step"] = table.loc[failed, "problem"]
    text.loc[failed, ["95 % interval", "inference", "memory, MB", "images/s"]] = "–"
    return text.set_index(["pixels", "patches", "model"])


def environment(setting: BenchSetting) -> dict[str, str | int | float]:
    """Where it was measured, and the floor: the share of the layers that see all tokens whatever the selection costs."""
    gpu, depth = setting.device == "cuda", PRESETS[setting.model].depth
    return {
        "device": torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": f"torch {torch.__version__}", "date": time.strftime("%Y-%m-%d"), "floor": (depth - 1) / depth,
    }  # fmt: skip


def growth(table: pd.DataFrame, column: str = "train_s") -> pd.Series:
    """The exponent a of column ~ patches ** a between the smallest and the largest size, a value a row."""
    wide = table.pivot(index="patches", columns="row", values=column).loc[:, table["row"].unique()]
    return np.log(wide.iloc[-1] / wide.iloc[0]) / np.log(wide.index[-1] / wide.index[0])


def loading(experiment: Experiment = PROFILES["quick"], images: int = 256) -> dict[str, float]:
    """Images a second, on one thread, that the PIL pipeline and the cache deliver as test-time views."""
    train, _ = open_splits(experiment)
    views, count, threads = Views(train, experiment), min(images, len(train)), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rates = {}
        for name, load in (("PIL", lambda items: [train[i] for i in items]), ("cache", views.__getitems__)):
            load(list(range(8)))
            start = time.perf_counter()
            for first in range(0, count, 8):
                load(list(range(first, min(first + 8, count))))
            rates[name] = count / (time.perf_counter() - start)
        return rates
    finally:
        torch.set_num_threads(threads)

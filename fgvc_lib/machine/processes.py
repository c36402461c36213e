"""The processes that train a model together, as `accelerate launch` starts them, or this one alone; and how they fail."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, DataLoaderConfiguration, InitProcessGroupKwargs
from accelerate.utils import DistributedType, GradientAccumulationPlugin, parse_flag_from_env

from ..config import Experiment
from ..errors import ConfigError, TrainingError

# What torchrun and Accelerate tell each process of a group, all of it; and what MPI's launchers call the size of theirs.
RENDEZVOUS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
ONE = ("", "0", "1")
INSTEAD = "start them with `accelerate launch --multi_gpu --num_processes N`, which takes the CPU where there is no GPU"
PATIENCE = timedelta(days=1)  # for the first process, which fetches weights and decodes images while the others wait


def join(experiment: Experiment) -> Accelerator:
    """The group that this process was started in, by `accelerate launch` or torchrun; without one, this process alone.

    Its loaders give each process an equal share of every batch, and `experiment.accumulate` of their batches make a step.
    It computes in float32: autocast is the training step's own, so that no test runs in another precision.
    Raises TrainingError for a launcher that Accelerate's is not, and ConfigError for an engine that shards the model, for
    more processes than GPUs, and for a batch that cannot be shared.
    """
    known = {name: os.environ[name] for name in (*RENDEZVOUS, *MPI) if name in os.environ}
    several = set(RENDEZVOUS) <= set(known) and known["WORLD_SIZE"] not in ONE  # a few of them are no launch
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    if not several and any(known.get(name, "") not in ONE for name in MPI):
        raise TrainingError(f"a launcher of MPI has started several processes: {INSTEAD}")
    launched = on_cpu or "ACCELERATE_MIXED_PRECISION" in os.environ
    if not several and launched and {"MASTER_ADDR", "MASTER_PORT"} <= set(known):  # which it sets for several processes only
        raise TrainingError(f"`accelerate launch` was asked for several processes and started one: {INSTEAD}")
    shares = experiment.accumulate * (int(known["WORLD_SIZE"]) if several else 1)
    if experiment.batch_size % shares:
        count = shares // experiment.accumulate
        raise ConfigError(
            f"batch_size {experiment.batch_size} cannot be shared equally by {count} process{'es' * (count > 1)} "
            f"with accumulate {experiment.accumulate}: make batch_size a multiple of {shares}"
        )
    if experiment.contrastive and shares > 1:
        raise ConfigError("the contrastive loss is of all pairs of a batch: set accumulate to 1, and start one process")
    options = {
        "mixed_precision": "no",
        "dataloader_config": DataLoaderConfiguration(split_batches=True),
        "gradient_accumulation_plugin": GradientAccumulationPlugin(num_steps=experiment.accumulate),
        "kwargs_handlers": [InitProcessGroupKwargs(timeout=PATIENCE)],
    }
    if several:
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if 0 < gpus < here and not on_cpu:
            raise ConfigError(
                f"{here} processes are started on a machine with {gpus} GPUs: start no more than that, or set "
                "ACCELERATE_USE_CPU=true to train on its CPU"
            )
        accelerator = Accelerator(cpu=on_cpu or not gpus, **options)
        if accelerator.distributed_type not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise ConfigError(f"training on {accelerator.distributed_type.value} is not supported: choose multi_gpu or cpu")
        return accelerator
    for name in known:  # what a launcher has left behind
        del os.environ[name]
    try:
        return Accelerator(**options)
    finally:
        os.environ.update(known)


@contextmanager
def failures_named(experiment: Experiment) -> Iterator[None]:
    """One TrainingError where memory does not hold what is computed, and where another process of the group has ended."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error)
        if "DataLoader" in reason:  # of a process that loads images
            raise
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in reason or "allocate memory" in reason:
            raise TrainingError(
                f"there is not enough memory for {experiment.title} with batch_size {experiment.batch_size}, accumulate "
                f"{experiment.accumulate} and checkpointing {experiment.checkpointing}: set accumulate to "
                f"{2 * experiment.accumulate}, or checkpointing to True, or lower batch_size"
            ) from error
        if isinstance(error, torch.distributed.DistBackendError) or "gloo/transport" in reason:
            raise TrainingError(
                "another process of this training has ended: see what it said; the same command goes on from the last "
                "checkpoint"
            ) from error
        raise

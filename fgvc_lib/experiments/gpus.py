"""Training from a notebook on all GPUs of its machine."""

import torch
from accelerate import PartialState, notebook_launcher
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ..config import Experiment
from ..datasets import open_splits
from ..errors import TrainingError
from ..machine.options import say_once
from ..runs import find_run
from ..training import fit


def fit_on_all_gpus(*experiments: Experiment) -> None:
    """Train experiments one after the other, each on all GPUs of this machine; with fewer than two, leave it to `fit`.

    `fit` then finds their runs finished. As many processes start as share every batch equally. Accelerate's
    notebook_launcher makes them as copies of the notebook's own process: this has to come before anything there uses a GPU,
    `fit` included, else a line says why only one GPU is used.
    Raises TrainingError with what one of the processes failed with. The same call goes on from the last checkpoint.
    """
    counts = range(torch.cuda.device_count(), 1, -1)
    processes = next((count for count in counts if all(_can_share(one, count) for one in experiments)), 1)
    if processes == 1 or all(find_run(one, None, open_splits(one)[0].fingerprint).finished for one in experiments):
        return
    if torch.cuda.is_initialized() or PartialState._shared_state:
        say_once(f"This notebook has used a GPU already and trains on that one: restart its kernel to train on {processes}.")
        return
    try:
        notebook_launcher(_fit_each, experiments, processes)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        reason = failure.message["message"] if isinstance(failure.message, dict) else failure.message
        raise TrainingError(f"process {rank} of {processes} has failed: {reason}") from None


def _can_share(experiment, count):
    return experiment.batch_size % (count * experiment.accumulate) == 0 and not experiment.contrastive


def _fit_each(*experiments):
    torch.set_num_threads(1)  # a copied process has lost the other threads, and would wait for them for ever
    for experiment in experiments:
        fit(experiment)

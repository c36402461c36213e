"""Which images a training sees, step by step, and the seeds of all that it draws at random."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ..config import Experiment


class Draws(Sampler):
    """Pairs (image, seed of its view): one permutation of the training set after the other, from any step on.

    Neither the worker nor what came before has a part in it, so an interrupted run goes on as if nothing had happened.
    """

    def __init__(self, size: int, experiment: Experiment, first_step: int):
        self.size, self.seed, self.batch = size, experiment.seed, experiment.batch_size
        self.range = range(first_step * self.batch, experiment.steps * self.batch)

    def __len__(self):
        return len(self.range)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = None
        for draw in self.range:
            if draw // self.size != epoch:
                epoch = draw // self.size
                order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
            yield int(order[draw % self.size]), seed_of(self.seed, 2, draw)


def seed_of(*numbers: int) -> int:
    """A seed that depends on up to four numbers, of which those left out count as 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])

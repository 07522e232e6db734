"""Our side of `plan.py`."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from plan_work import BUCKETS, BUDGET, QUADRATIC, Sizes, serve

from anemone.data.plan import PlanConfig, plan


def epochs(item: str, seconds: npt.NDArray[np.float32]) -> Callable[[int], Iterator[Sizes]]:
    """A plan an epoch; every micro-batch is looked at."""
    quadratic = QUADRATIC if item == "attention" else None
    config = PlanConfig(max_batch_seconds=BUDGET, num_buckets=BUCKETS, quadratic_duration=quadratic)

    def batches(epoch: int) -> Iterator[Sizes]:
        for rows in plan(seconds, config, seed=0, epoch=epoch):
            yield len(rows), float(seconds[rows].max())

    return batches


if __name__ == "__main__":
    serve(epochs)

"""The peer's side of `plan.py`: Lhotse's DynamicBucketingSampler over cuts that are made as it asks for them."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from lhotse import MonoCut
from lhotse.dataset import DynamicBucketingSampler
from plan_work import BUCKETS, BUDGET, QUADRATIC, Sizes, serve


class Cuts:
    """Cuts of given durations, without reading or parsing anything."""

    def __init__(self, seconds: npt.NDArray[np.float32]) -> None:
        self.seconds = seconds

    def __iter__(self) -> Iterator[MonoCut]:
        for number, duration in enumerate(self.seconds):
            yield MonoCut(id=str(number), start=0, duration=float(duration), channel=0)


def epochs(item: str, seconds: npt.NDArray[np.float32]) -> Callable[[int], Iterator[Sizes]]:
    """One sampler for all epochs, with its usual buffers."""
    quadratic = QUADRATIC if item == "attention" else None
    settings = {"max_duration": BUDGET, "quadratic_duration": quadratic, "num_buckets": BUCKETS, "shuffle": True}
    sampler = DynamicBucketingSampler(Cuts(seconds), **settings, world_size=1, rank=0)

    def batches(epoch: int) -> Iterator[Sizes]:
        sampler.set_epoch(epoch)
        for cuts in sampler:
            yield len(cuts), max(cut.duration for cut in cuts)

    return batches


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve(epochs)

"""A rank's share of micro-batches in a layout: its part of each, as many as the others have, through all stages.

Ranks that hold shards of one network must go through it equally often, with batches of their own or without: one that
has run out lends itself another batch, whose weight is 0.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from anemone.data import MicroBatch
from anemone.data.token_rows import TokenBatch
from anemone.tasks.task import States, Task
from anemone.training import ranks
from anemone.training.precision import Precision

if TYPE_CHECKING:
    from anemone.parallel.apply import Parallel

Read = Callable[[Any, int], Tensor]
"""From what comes out of the network, and the number of its micro-batch, to what is to become small."""


class Share:
    """What one rank does of a step or of an evaluation.

    Args:
        parallel: the network, laid out.
        task: whose network it is.
        precision: that forwards run under.
        device: of this rank.
    """

    def __init__(self, parallel: "Parallel", task: Task, precision: Precision, device: torch.device) -> None:
        self.parallel, self.task, self.mesh, self.device = parallel, task, parallel.mesh, device
        self.spare: MicroBatch | None = None
        """A batch without fault, to take part in a step with where there is no other."""
        self.most = 0
        """Micro-batches of this rank in the largest step so far, where a schedule drives them."""
        self.counts = parallel.is_last and self.mesh.rank("cp") == 0
        """Whether this rank counts rows; those along cp and pp see the same ones."""
        self.peers = ranks.groups(self.mesh, "loss", "pp")
        """Ranks over which losses and states of metrics add up."""
        self._read: Read = _unread
        self.pipeline = parallel.schedule(lambda *read: self._read(*read)) if self.staged else None
        for stage in parallel.stages if self.staged else ():
            stage.forward = _under(precision, device, stage.forward)

    @property
    def staged(self) -> bool:
        """Whether the network is cut into stages."""
        return self.mesh.size("pp") > 1

    @property
    def whole(self) -> bool:
        """Whether this rank can go through the network without the others."""
        return all(self.mesh.size(axis) == 1 for axis in ("fsdp", "tp", "pp"))

    def of_step(self, micro_batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """This rank's parts of what it has of a step, `filled` up; a schedule takes as many as ever."""
        parts = self.filled(micro_batches, self.spare, least=self.most)
        self.most = max(self.most, len(parts)) if self.staged else 0
        return parts

    def filled(
        self, micro_batches: Sequence[MicroBatch], spare: MicroBatch | None, *, least: int = 0
    ) -> list[MicroBatch]:
        """This rank's parts of micro-batches, filled up to as many as any rank has; none if no rank has any.

        Args:
            micro_batches: of this rank.
            spare: what to fill up with where there are none; if None, that of another rank.
            least: how many there must be.
        """
        spare = micro_batches[0] if micro_batches else spare
        number, lacking = ranks.largest([len(micro_batches), int(spare is None)], self.device)
        if not number:
            return []
        if lacking:
            spare = ranks.lend(spare, self.device)
        assert spare is not None
        whole = [*micro_batches, *[spare] * (max(number, least) - len(micro_batches))]
        return [self.part(batch) for batch in whole]

    def part(self, batch: MicroBatch) -> MicroBatch:
        """This rank's part of each sequence, on the device."""
        batch = batch.to(self.device)
        if self.mesh.size("cp") == 1:
            return batch
        from anemone.parallel.context import shard_sequence

        assert isinstance(batch, TokenBatch)
        return batch.shard(lambda tensor: shard_sequence(tensor, self.mesh, self.mesh.config))

    def through_stages(self, parts: Sequence[MicroBatch], read: Read, *, training: bool) -> None:
        """Takes micro-batches through the pipeline: forward and, in training, backward from what ``read`` returns."""
        assert self.pipeline is not None
        self._read = read
        inputs = [self.task.inputs(part) for part in parts]
        if training:
            self.pipeline.step(inputs)
        else:
            self.pipeline.evaluate(inputs)

    def measured(self, batches: Iterable[MicroBatch]) -> Iterator[tuple[States, int]]:
        """Yields the states of micro-batches and how many rows they are of; every rank must ask to the end."""
        chunks = _alike(batches, self.task, at_once=self.mesh.size("pp"))
        spare: MicroBatch | None = None
        while parts := self.filled(chunk := next(chunks, []), spare):
            found: list[States] = []
            spare = chunk[0] if chunk else spare

            def read(output: Any, i: int, parts: list[MicroBatch] = parts, found: list[States] = found) -> Tensor:
                found.append(self.task.measured(output, parts[i]))
                return torch.zeros((), device=self.device)

            if self.staged:
                self.through_stages(parts, read, training=False)
            else:
                found += [self.task.evaluate(part) for part in parts]
            for batch, states in zip(chunk, found, strict=False):
                yield states, len(batch.rows) * self.counts

    def release(self) -> None:
        """Lets go of weights that were gathered, so that the next forward gathers what they have become."""
        for stage in self.parallel.stages:
            for module in stage.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()


def _alike(batches: Iterable[MicroBatch], task: Task, *, at_once: int) -> Iterator[list[MicroBatch]]:
    """Yields runs of micro-batches of one form."""

    def form(batch: MicroBatch) -> list[torch.Size]:
        return [tensor.shape for tensor in task.inputs(batch) if tensor is not None]

    if at_once == 1:
        yield from ([batch] for batch in batches)
        return
    for _, alike in groupby(batches, form):
        while chunk := list(islice(alike, at_once)):
            yield chunk


def _under(precision: Precision, device: torch.device, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Tensor, **inputs: Tensor) -> Any:
        with precision.autocast(device):
            return forward(*args, **inputs)

    return run


def _unread(output: Any, number: int) -> Tensor:
    raise AssertionError("a stage ran outside of a step")

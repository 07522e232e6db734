"""One optimizer step, in plain PyTorch: forward, backward, sum over ranks, clip, step, average.

A step takes the micro-batches that this rank has of one global step and moves the weights once, by the gradient of
sum of losses / global count, so that accumulation and ranks change nothing but speed. Randomness is a pure function of
(seed, step, number of the micro-batch): a forward draws the same dropout and masks on any rank and after any
interruption. A whole training loop, without Lightning:

    engine = Engine(task, optim.build(task), schedule.build(total_steps), clip_norm=1.0)
    for micro_batches in loader:
        print(engine.step(micro_batches).loss)

Over a network that is laid out by `anemone.parallel` (``parallel``) the same loop takes the same steps.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from anemone.data import MicroBatch
from anemone.errors import TrainingError
from anemone.losses import LossSum
from anemone.nn.moe import Balance, set_balance_scale
from anemone.parallel.gradients import local
from anemone.tasks.task import Task, inference
from anemone.training import ranks
from anemone.training.averages import AveragedWeights, RunningStatistics
from anemone.training.precision import Scaler
from anemone.training.precision import precision as find_precision
from anemone.training.schedules import Schedule
from anemone.training.share import Share

if TYPE_CHECKING:
    from anemone.parallel.apply import Parallel

log = logging.getLogger("anemone.training")

Skipped = Literal["", "empty", "overflow", "loss", "gradient"]

SHOWN = 8
"""Utterances named in one message."""


class StepResult(NamedTuple):
    """What a step did."""

    loss: float
    """Sum of losses / global count."""

    total: float
    """Sum of the losses of all ranks."""

    count: float  # type: ignore[assignment]  # a tuple has a method of that name
    """What it was summed over, utterances or tokens as the task says."""

    grad_norm: float
    """Of the gradient of ``loss``, before clipping."""

    factor: float
    """The schedule's factor of the optimizer's rate."""

    skipped: Skipped = ""
    """Why the weights did not move: no utterance to learn from, float16 overflow, a loss or gradient not finite."""


class Engine:
    """Takes optimizer steps, and holds all that a step changes.

    Args:
        task: what to train, on its device.
        optimizer: over its parameters; each group has ``base_lr``, which the schedule's factor multiplies.
        schedule: factor of the rate at a step.
        parallel: the task's network, laid out over a mesh; None: each process has the whole network.
        precision: a name out of `anemone.training.precision.PRECISIONS`.
        clip_norm: a longer gradient is scaled down to this norm.
        ema_decay: of the averaged weights that evaluation and archives use; 0 keeps none.
        seed: of all randomness in forwards.
        max_nonfinite: so many steps in a row without a finite loss and gradient are too many.
        name_row: says where a row of the data comes from: manifest, line and path.
        take: calls the optimizer's ``step``, for a shell that wants to know of it.

    Raises:
        ConfigError: the device does not have the precision.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Optimizer,
        schedule: Schedule,
        *,
        parallel: "Parallel | None" = None,
        precision: str = "32",
        clip_norm: float | None = None,
        ema_decay: float = 0.0,
        seed: int = 0,
        max_nonfinite: int = 10,
        name_row: Callable[[int], str] = "row {}".format,
        take: Callable[[], object] | None = None,
    ) -> None:
        self.task, self.optimizer, self.schedule = task, optimizer, schedule
        self.clip_norm, self.seed = clip_norm, seed
        self.max_nonfinite, self.name_row = max_nonfinite, name_row
        self.take = take or optimizer.step
        self.named = {name: p for name, p in task.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.device = self.parameters[0].device
        self.precision = find_precision(precision, self.device)
        self.precision.prepare(self.device)
        self.scaler = Scaler(enabled=self.precision.scaled)
        self.parallel, mesh = parallel, parallel.mesh if parallel else None
        self.share = Share(parallel, task, self.precision, self.device) if parallel else None
        self.data_rank, self.data_world = ranks.place(mesh)
        self.balances = nn.ModuleList(m for m in task.modules() if isinstance(m, Balance))
        self.readers = ranks.groups(mesh, "loss")
        """Ranks that read different data, or parts of it."""
        self.peers = self.share.peers if self.share else ranks.ALL
        """Ranks over which losses add up."""
        self.steps = 0
        """Steps so far, skipped ones too: the number of the next one."""
        self.nonfinite = 0
        """Steps in a row, up to now, without a finite loss and gradient."""
        self.unit = 0.0
        """What sums of losses are divided by before going backward, where all ranks must agree on it; 0: not yet."""
        if parallel is None:
            ranks.copy_from_first([*task.parameters(), *task.buffers()])
        self.statistics = RunningStatistics(task)
        self.average = AveragedWeights(task, ema_decay) if ema_decay else None

    def step(self, micro_batches: Sequence[MicroBatch]) -> StepResult:
        """Takes one optimizer step, or skips it where the loss or its gradient is not finite.

        Args:
            micro_batches: this rank's share of the global step; may be empty where other ranks have some.

        Raises:
            TrainingError: too many steps in a row had no finite loss and gradient; names the utterances.
        """
        factor = self.schedule(self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        for p in self.parameters:
            p.grad = None
        self.statistics.begin()
        losses, alone = self._learn(micro_batches)
        total, count, norm = self._combine(losses, alone)
        result = StepResult(total / max(count, 1.0), total, count, norm, factor, self._fault(total, count, norm))
        if result.skipped:
            self.statistics.undo()
        else:
            if not alone:
                self.statistics.end(len(micro_batches), self.readers)
            self._move(norm)
            if self.share and micro_batches:
                self.share.spare = micro_batches[0]
        self.scaler.update(result.skipped == "overflow")
        if result.skipped in ("loss", "gradient"):
            self._complain(result, micro_batches, losses)
        self.steps += 1
        return result

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Evaluation mode, without gradients, under the precision and with the averaged weights."""
        with self.average.applied() if self.average else nullcontext(), self._inference():
            yield

    @contextmanager
    def _inference(self) -> Iterator[None]:
        quiet = inference(self.task, laid_out=self.share is not None)
        with quiet, self.precision.autocast(self.device):
            try:
                yield
            finally:
                if self.share:
                    self.share.release()

    def settle(self) -> None:
        """Puts the averaged weights into the task for good, where there are some."""
        if self.average:
            self.average.settle()

    def state_dict(self) -> dict[str, Any]:
        """All that a step changes, beside the weights and buffers of the task: live tensors, by parameter."""
        memory = self.optimizer.state
        return {
            "steps": self.steps,
            "nonfinite": self.nonfinite,
            "unit": self.unit,
            "optimizer": {name: dict(memory[p]) for name, p in self.named.items() if memory.get(p)},
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else {},
        }

    def allocate(self) -> None:
        """Gives the optimizer its memory, for a saved one to be read into: a step at rate 0 along no gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        self.optimizer.step()
        for p in self.parameters:
            p.grad = None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state, by copies of its tensors where they are not the engine's own.

        Call it after the task has its weights.
        """
        self.steps, self.nonfinite = state["steps"], state["nonfinite"]
        for name, p in self.named.items():
            own = self.optimizer.state.pop(p, {})
            if saved := state["optimizer"].get(name):
                self.optimizer.state[p] = {
                    key: value if own.get(key) is value else value.detach().clone() for key, value in saved.items()
                }
        self.unit = state["unit"]
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])

    # --- the parts of a step ------------------------------------------------------------------------------------------

    def _learn(self, micro_batches: Sequence[MicroBatch]) -> tuple[list[LossSum], bool]:
        """Goes forward and backward; returns the losses, and whether there is nothing to add to these gradients."""
        alone = self.share is None and ranks.world() == 1 and len(micro_batches) == 1
        if self.share is None:
            losses: list[LossSum] = []
            for batch in micro_batches:
                losses.append(self._backward(batch.to(self.device), losses))
                if not alone:
                    self.statistics.collect()
            return losses, alone
        parts = self.share.of_step(micro_batches)
        if not parts:
            return [], False
        self._agree_on_unit(micro_batches)
        if self.share.staged:
            return self._learn_in_stages(parts, len(micro_batches)), False
        return self._learn_together(parts, len(micro_batches)), False

    def _backward(self, batch: MicroBatch, before: list[LossSum], weight: float = 1.0) -> LossSum:
        """Adds the gradient of sum of losses / unit; alone, the unit is the count of the first micro-batch here."""
        self._seed(len(before))
        if self.share:  # layers of experts that lie on several ranks read it in the forward, others in the backward
            set_balance_scale(self.balances, self.scaler.factor / self.unit * weight)
        with self.precision.autocast(self.device):
            total, count = self.task.loss(batch)
        unit = self._unit(before or [LossSum(total, count)])
        set_balance_scale(self.balances, self.scaler.factor / unit * weight)
        self.scaler.scale(total * weight / unit if weight != 1 else total / unit).backward()  # type: ignore[no-untyped-call]
        return LossSum(total.detach(), count.detach())

    def _learn_together(self, parts: Sequence[MicroBatch], real: int) -> list[LossSum]:
        """Goes through the network as often as all others, where shards of it lie on other ranks."""
        assert self.parallel
        losses: list[LossSum] = []
        for i, part in enumerate(parts):
            self.parallel.begin(i + 1 == len(parts))
            losses.append(self._backward(part, losses, weight=float(i < real)))
            if i < real:
                self.statistics.collect()
            else:
                self.statistics.undo()
        self.parallel.reduce()
        return losses[:real]

    def _learn_in_stages(self, parts: Sequence[MicroBatch], real: int) -> list[LossSum]:
        """Sends the micro-batches through a pipeline; only its last stage sees losses."""
        assert self.share and self.parallel
        losses: list[LossSum] = []

        def read(output: Any, number: int) -> Tensor:
            with self.precision.autocast(self.device):
                total, count = self.task.lost(output, parts[number])
            if number < real:
                losses.append(LossSum(total.detach(), count.detach()))
            return self.scaler.scale(total * float(number < real) / self.unit)

        self._seed(0)
        set_balance_scale(self.balances, self.scaler.factor / self.unit)
        self.share.through_stages(parts, read, training=True)
        self.parallel.reduce()
        return losses

    def _seed(self, number: int) -> None:
        """Makes a forward draw the same whichever rank it runs on."""
        seed_forward(mix(self.seed, self.steps, number * self.data_world + self.data_rank), self.device)

    def _unit(self, losses: Sequence[LossSum]) -> Tensor | float:
        """What sums are divided by before going backward, so that float16 gradients are of an ordinary size."""
        if self.share:
            return self.unit
        return losses[0][1].detach().clamp(min=1) if losses else 1.0

    def _agree_on_unit(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Takes, once in a run, about the size of a micro-batch as the unit: a power of two, which rounds nothing."""
        if not self.unit:
            own = round(math.log2(max(micro_batches[0].size, 1.0))) if micro_batches else 0
            self.unit = 2.0 ** ranks.largest([own], self.device)[0]

    def _combine(self, losses: list[LossSum], alone: bool) -> tuple[float, float, float]:
        """Makes each gradient that of sum / global count, over all ranks; returns sum, count and gradient norm."""
        sums = torch.zeros(2, device=self.device)
        for pair in losses:
            sums += torch.stack([value.to(sums.dtype) for value in pair])
        ranks.sum_together([sums], self.peers)
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [local(p.grad) for p in self.parameters if p.grad is not None]
        if not alone:
            torch._foreach_mul_(gradients, self._unit(losses) / sums[1].clamp(min=1))
        if not alone and self.parallel is None:
            ranks.sum_together(gradients)
        self.scaler.unscale(gradients)
        norm = self.parallel.grad_norm() if self.parallel else get_total_norm(gradients)
        total, count, length = torch.cat([sums, norm.view(1)]).tolist()
        return total, count, length

    def _fault(self, total: float, count: float, norm: float) -> Skipped:
        """Why the weights must not move; all ranks see the same numbers and decide alike."""
        if count == 0:
            return "empty"
        if not math.isfinite(total):
            return "loss"
        if math.isfinite(norm):
            return ""
        return "overflow" if self.scaler.enabled and self.scaler.factor >= 1 else "gradient"

    def _move(self, norm: float) -> None:
        """Clips, steps, averages. The scaler decides nothing here: `_fault` has looked at every gradient."""
        if self.clip_norm is not None and norm > self.clip_norm:
            gradients = [local(p.grad) for p in self.parameters if p.grad is not None]
            torch._foreach_mul_(gradients, self.clip_norm / norm)
        self.take()
        if self.average:
            self.average.update()
        self.nonfinite = 0

    def _complain(self, result: StepResult, micro_batches: Sequence[MicroBatch], losses: list[LossSum]) -> None:
        """Names the utterances of a step without a finite loss or gradient; stops the run if such steps go on."""
        pairs = zip(micro_batches, losses, strict=False)
        here = [row for batch, loss in pairs for row in self._suspects(batch, loss, result)]
        rows = list(dict.fromkeys(ranks.gather_numbers(here, self.device)))
        names = ", ".join(self.name_row(row) for row in rows[:SHOWN])
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        value = result.loss if result.skipped == "loss" else result.grad_norm
        what = f"The {result.skipped} of step {self.steps} is {value}, so it is skipped. Utterances: {names}{more}."
        self.nonfinite += 1
        if self.nonfinite < self.max_nonfinite:
            log.warning(what)
            return
        raise TrainingError(
            f"{what} It is number {self.nonfinite} in a row and `trainer.max_nonfinite` allows no more: the run stops. "
            "If it is always the same utterances, take them out of the manifest; else lower `optim.lr`, warm up for "
            "longer, or set `trainer.clip_norm`."
        )

    def _suspects(self, batch: MicroBatch, loss: LossSum, result: StepResult) -> list[int]:
        """Rows of a micro-batch that have no finite loss even alone; all its rows where none is bad alone."""
        rows: list[int] = batch.rows.tolist()
        if result.skipped == "loss" and bool(torch.isfinite(loss[0])):
            return []
        if self.share and not self.share.whole:  # looking at one alone would need all ranks
            return rows
        guilty = []
        with self._inference():
            for i, row in enumerate(rows):
                total, _ = self.task.loss(batch.item(i).to(self.device))
                guilty += [] if bool(torch.isfinite(total)) else [row]
        return guilty or rows


def mix(*numbers: int) -> int:
    """A seed that differs wherever one of the numbers does, and looks random (the finalizer of SplitMix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state


def seed_forward(seed: int, device: torch.device) -> None:
    """Seeds the generators that a forward on the device draws from; `torch.manual_seed` takes 100 times as long."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)

"""Averages over steps and over ranks: running statistics that no number of ranks can change, and averaged weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anemone.parallel.gradients import local
from anemone.training import ranks


def statistics(module: nn.Module) -> dict[str, Tensor]:
    """Running statistics: the floating-point buffers that are part of a module's state, by name."""
    kept = module.state_dict(keep_vars=True)
    return {name: b for name, b in module.named_buffers() if name in kept and b.is_floating_point()}


class RunningStatistics:
    """Makes the running statistics of a step the mean over its micro-batches, wherever those ran.

    Batch normalisation moves its statistics at each forward. Here each micro-batch of a step starts from the same
    ones, and their mean is what the next step sees: r + mean(r_i - r). One process and many agree, and a step that is
    not taken leaves no trace.
    """

    def __init__(self, module: nn.Module) -> None:
        self.now = list(statistics(module).values())
        self.before = [b.clone() for b in self.now]
        self.change = [torch.zeros_like(b) for b in self.now]

    def begin(self) -> None:
        """Remembers the statistics that the step starts from."""
        if self.now:
            torch._foreach_copy_(self.before, self.now)
            torch._foreach_zero_(self.change)

    def collect(self) -> None:
        """Takes the change that a micro-batch made, and undoes it."""
        if self.now:
            torch._foreach_add_(self.change, self.now)
            torch._foreach_sub_(self.change, self.before)
            self.undo()

    def undo(self) -> None:
        """Goes back to where the step began."""
        if self.now:
            torch._foreach_copy_(self.now, self.before)

    def end(self, num_micro_batches: int, over: Sequence[ranks.Group] = ranks.ALL) -> None:
        """Applies the mean of the collected changes of all ranks.

        Args:
            num_micro_batches: whose changes were collected here.
            over: groups of ranks that read different data.
        """
        if self.now:
            number = self.now[0].new_tensor(float(num_micro_batches))
            ranks.sum_together([*self.change, number], over)
            torch._foreach_div_(self.change, float(number))
            torch._foreach_add_(self.now, self.change)


class AveragedWeights:
    """Exponential moving average of weights that move and running statistics (arXiv:1806.05594, section 3).

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the start is forgotten soon. Where weights are
    sharded, so are averages.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        moving = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.live = moving | statistics(module)
        self.mean = {name: tensor.detach().clone() for name, tensor in self.live.items()}

    def update(self) -> None:
        """Moves the averages towards the weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(_parts(self.mean), _parts(self.live), 1 - decay)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The averages, and how many updates made them."""
        return {"updates": self.updates, "mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state; from an empty one, starts at the weights as they are now."""
        self.updates = state.get("updates", 0)
        mean = state.get("mean") or self.live
        for name, tensor in self.mean.items():
            tensor.copy_(mean[name].detach())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the averages into the module, and the weights back on leaving."""
        live, mean = _parts(self.live), _parts(self.mean)
        saved = [tensor.clone() for tensor in live]
        torch._foreach_copy_(live, mean)
        try:
            yield
        finally:
            torch._foreach_copy_(live, saved)

    def settle(self) -> None:
        """Puts the averages into the module for good."""
        torch._foreach_copy_(_parts(self.live), _parts(self.mean))


def _parts(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """What this rank holds of each."""
    return [local(tensor) for tensor in tensors.values()]

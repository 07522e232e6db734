"""What every task has: a network, what goes into it and what is lost and counted, for training, archives and verbs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from anemone.config import Tree, encode, must
from anemone.errors import ConfigError
from anemone.losses import LossSum

if TYPE_CHECKING:
    from anemone.tasks import Parts
    from anemone.tasks.adapting import AdaptersConfig, Base

Batch = Any
"""A micro-batch of the task's kind of data, see `anemone.data.MicroBatch`."""

States = dict[str, Tensor]


class Task(nn.Module):
    """A network with all it takes to train, measure and use it; what `anemone.load` returns.

    A subclass says what the network is given (`inputs`), what is lost (`lost`), what is counted (`measured`,
    `summarize`), and adds its verb. Training knows tasks by these words alone, and no task knows about ranks: where a
    network is cut into stages, ``inputs`` go into the first and ``lost`` takes what comes out of the last.

    Args:
        parts: the configs, kept for `config_tree`.
        network: what is trained.
    """

    verb: ClassVar[str]
    """The method that answers, and the word of the command line for it."""

    monitor: ClassVar[tuple[str, Literal["max", "min"]]]
    """The entry of `summarize` that says which of two models is better, and which way."""

    def __init__(self, parts: "Parts", network: nn.Module) -> None:
        super().__init__()
        self.parts = parts
        self.network = network
        self.adapters: dict[str, AdaptersConfig] = {}
        """Settings of the adapters that hang on the network, by name; see `anemone.tasks.adapting`."""
        self.base: Base | None = None
        """The model that an archive of this one needs, as it holds only what differs; None where it holds all."""
        self.still: list[nn.Module] = []
        """Modules that stay in evaluation mode, as their statistics are not to move."""

    @property
    def lazy(self) -> bool:
        """Whether the network can be built without memory and filled by `draw` afterwards; see its config."""
        lazy: bool = self.parts.task.lazy
        return lazy

    def train(self, mode: bool = True) -> Self:
        """Puts all modules in training or evaluation mode, but for those that are ``still``."""
        super().train(mode)
        for module in self.still:
            module.eval()
        return self

    # --- what training asks -------------------------------------------------------------------------------------------

    @property
    def encode(self) -> Callable[[str], list[int]]:
        """What gives the target of one row of data as indices; it raises DataError for one that the task does not know.

        It goes to the processes that read data, so it holds no network.
        """
        raise NotImplementedError

    def inputs(self, batch: Batch) -> tuple[Tensor | None, ...]:
        """Returns what the network is given."""
        raise NotImplementedError

    def lost(self, output: Any, batch: Batch) -> LossSum:
        """Computes the summed loss of what came out of the network, and what to divide it by."""
        raise NotImplementedError

    def measured(self, output: Any, batch: Batch) -> States:
        """Counts what `summarize` needs; states of batches and ranks are added entry by entry."""
        raise NotImplementedError

    def output(self, batch: Batch) -> Any:
        """Runs the network over a batch."""
        return self.network(*self.inputs(batch))

    def loss(self, batch: Batch) -> LossSum:
        """Computes the summed loss of a batch and what to divide it by."""
        return self.lost(self.output(batch), batch)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> States:
        """Counts what `summarize` needs, from a batch. The caller puts the task in evaluation mode."""
        return self.measured(self.output(batch), batch)

    def zero_states(self) -> States:
        """Returns the states of no batch at all, for a rank that gets none."""
        raise NotImplementedError

    def summarize(self, states: Mapping[str, Tensor]) -> dict[str, float]:
        """Computes metrics by name from added states."""
        raise NotImplementedError

    def draw(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Draws the initial value of a parameter of the network, where the task is `lazy`.

        Args:
            name: of the parameter in the network.
            shape: of the whole parameter.
            generator: what it is drawn from; the value is on its device.
        """
        raise NotImplementedError

    # --- what measuring asks ------------------------------------------------------------------------------------------

    def evaluation_data(
        self, *, batch_size: int, channel: int | None = None, num_workers: int = 0, skip_bad: bool = True
    ) -> Any:
        """Returns how data are read to measure the task on them; see `anemone.training.experiment.evaluate`.

        Raises:
            ConfigError: a setting that means nothing for the task's data.
        """
        raise NotImplementedError

    # --- what an archive asks -----------------------------------------------------------------------------------------

    def config_tree(self) -> Tree:
        """Returns the plain tree this task was built from; `anemone.tasks.rebuild` reads it back."""
        tree: Tree = encode(self.parts)
        return tree | ({"adapters": encode([*self.adapters.values()])} if self.adapters else {})

    def files(self) -> dict[str, bytes]:
        """Returns what the task needs beside its config and weights, by name: files of a tokenizer."""
        return {}


@contextmanager
def inference(module: nn.Module, *, laid_out: bool = False) -> Iterator[None]:
    """Within the block: evaluation mode and no gradients. Afterwards every submodule is in the mode it was in.

    Args:
        module: any.
        laid_out: whether it lies on several processes: weights that are gathered here are of use to training later, as
            tensors of PyTorch's inference mode are not.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad() if laid_out else torch.inference_mode():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def refuse_strangers(parts: Any, domain: Literal["speech", "text"]) -> None:
    """Checks that ``parts.model`` and ``parts.features`` are of the task's domain.

    Raises:
        ConfigError: a model of another domain; features are missing, or there are some where text is read.
    """
    where = type(parts.model).__module__.split(".")
    ours = where[:2] == ["anemone", "models"]
    must(not ours or where[2] == domain, "model", f"a model of {domain}, as the task wants one", value=parts.model)
    if domain == "speech" and parts.features is None:
        raise ConfigError("`features` must be set: the task hears speech.", path="features")
    must(domain == "speech" or parts.features is None, "features", "null, as text has none", value=parts.features)

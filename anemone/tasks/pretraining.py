"""Self-supervised pre-training of an encoder by BEST-RQ: guess the codes of hidden speech (arXiv:2202.01855)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from anemone.config import must
from anemone.data.batch import Batch
from anemone.features.quantiser import MaskedCodes
from anemone.losses import LossSum
from anemone.losses.cross_entropy import CrossEntropyConfig
from anemone.nn.code_head import CodeHead
from anemone.tasks.speech import SpeechTask
from anemone.types import Chain

if TYPE_CHECKING:
    from anemone.data.manifest import Index
    from anemone.tasks import Parts


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """Spans of the features are hidden; the encoder guesses the codes of a random quantiser for them."""

    data: ClassVar[str] = "speech"
    """The kind of data it learns from."""

    lazy: ClassVar[bool] = False
    """Whether the network can be built without memory, see `anemone.tasks.task.Task`."""

    target: Literal["text", "label"] = "text"
    """A column that manifests have; what stands there is not looked at."""

    num_codebooks: int = 1
    """Projections with codes of their own, each guessed."""

    num_codes: int = 8192
    """Codes in each."""

    d_code: int = 16
    """Width of a code."""

    p_start: float = 0.08
    """Probability that a span starts at a frame of the encoder; the paper has 0.01 at each frame of 10 ms."""

    span_ms: float = 400.0
    """Length of a span."""

    noise: float = 0.1
    """Standard deviation of the noise that stands in a span."""

    def __post_init__(self) -> None:
        must(1 <= self.num_codebooks <= 64, "num_codebooks", "in 1..64", value=self.num_codebooks)
        must(2 <= self.num_codes <= 65_536, "num_codes", "in 2..65536", value=self.num_codes)
        must(1 <= self.d_code <= 4096, "d_code", "in 1..4096", value=self.d_code)
        must(0 < self.p_start < 1, "p_start", "above 0 and below 1", value=self.p_start)
        must(0 < self.span_ms <= 10_000, "span_ms", "above 0 and at most 10000", value=self.span_ms)
        must(0 <= self.noise <= 100, "noise", "in 0..100", value=self.noise)

    def complete(self, index: "Index") -> Self:
        """Returns the config as it is: the data add nothing to it."""
        return self

    def build(self, parts: "Parts", files: Mapping[str, bytes]) -> "PretrainingTask":
        """Builds the task.

        Args:
            parts: the configs of the whole; cross entropy stands in for a loss that was left out.
            files: not read; there is no tokenizer.

        Raises:
            ConfigError: a loss or decoding of another task.
        """
        loss = parts.loss or CrossEntropyConfig()
        must(isinstance(loss, CrossEntropyConfig), "loss", "of the kind cross_entropy", value=loss)
        must(parts.decoding is None, "decoding", "left out, as there is nothing to decode", value=parts.decoding)
        return PretrainingTask(replace(parts, loss=loss))


def _nothing(text: str) -> list[int]:
    return []


class PretrainingTask(SpeechTask):
    """Trains an encoder on speech without texts; its weights are ``encoder.*``, for ``run.init: {encoder: path}``."""

    target: ClassVar[Literal["label", "text"]] = PretrainingConfig.target
    verb: ClassVar[str] = "evaluate"
    monitor: ClassVar[tuple[str, Literal["max", "min"]]] = ("accuracy", "max")

    def __init__(self, parts: "Parts") -> None:
        config: PretrainingConfig = parts.task
        head = partial(CodeHead, num_codebooks=config.num_codebooks, num_codes=config.num_codes)
        super().__init__(parts, partial(CodeHead, num_codebooks=1, num_codes=1))  # until the encoder tells its stride
        features, encoder = self.network.features, self.network.encoder
        assert isinstance(features, nn.Module) and isinstance(encoder, nn.Module)
        width = int(parts.features.build().num_features)
        stride = getattr(encoder, "stride", 0)
        rule = f"of a kind that has a stride, unlike {type(encoder).__name__}"
        must(isinstance(stride, int) and stride > 0, "model", rule, value=parts.model)
        masked = MaskedCodes(
            width,
            stride,
            num_codebooks=config.num_codebooks,
            num_codes=config.num_codes,
            d_code=config.d_code,
            p_start=config.p_start,
            span=max(1, round(config.span_ms / 1000 * self.rate / self.hop / stride)),
            noise=config.noise,
        )
        self.network = Chain(features=features, quantiser=masked, encoder=encoder, head=head(int(encoder.d_model)))  # type: ignore[arg-type]
        self._criterion: Callable[..., LossSum] = parts.loss.build()

    @property
    def encode(self) -> Callable[[str], list[int]]:
        """What gives no targets, whatever the text."""
        return _nothing

    def lost(self, output: tuple[Tensor, Tensor, Tensor], batch: Batch) -> LossSum:
        """Computes the summed cross entropy of the codes of hidden frames, and their number."""
        scores, _, codes = output
        return self._criterion(scores, codes.clamp(min=0), keep_mask=codes >= 0)

    def measured(self, output: tuple[Tensor, Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Counts hidden frames and those whose codes are guessed, and sums the loss."""
        scores, _, codes = output
        total, count = self.lost(output, batch)
        right = (scores.argmax(-1) == codes).sum()
        return {"loss": total.double(), "count": count.double(), "right": right, "hidden": (codes >= 0).sum()}

    def zero_states(self) -> dict[str, Tensor]:
        """Returns zero counts and sums."""
        zero = torch.zeros((), device=next(self.parameters()).device)
        return {"loss": zero.double(), "count": zero.double(), "right": zero.long(), "hidden": zero.long()}

    def summarize(self, states: Mapping[str, Tensor]) -> dict[str, float]:
        """Computes ``loss``, and ``accuracy``, the share of hidden frames whose codes are guessed."""
        return {
            "loss": float(states["loss"] / states["count"].clamp(min=1)),
            "accuracy": float(states["right"] / states["hidden"].clamp(min=1)),
        }

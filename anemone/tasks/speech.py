"""What the tasks share that hear speech: a chain from audio to scores, and answers for recordings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.data.audio import waveform
from anemone.data.batch import Batch, FeatureBatch
from anemone.errors import DataError
from anemone.features.given import Given
from anemone.tasks.task import Task, inference, refuse_strangers
from anemone.types import Chain

if TYPE_CHECKING:
    from anemone.data.loader import SpeechDataConfig
    from anemone.tasks import Parts

Result = TypeVar("Result")

WINDOW = 16  # batches' worth of recordings that a verb reads before it sorts them by length


class SpeechTask(Task):
    """A task whose network goes from audio to scores: features, SpecAugment where it is set, encoder, head."""

    target: ClassVar[Literal["label", "text"]]
    """The column of a manifest that the task learns from; its config says so too."""

    network: Chain

    def __init__(self, parts: "Parts", head: Callable[[int], nn.Module]) -> None:
        """Builds ``network``.

        Args:
            parts: the configs, kept for `config_tree`.
            head: from the width of the encoder to the head.

        Raises:
            ConfigError: there are no features, or the model is not one of speech.
        """
        refuse_strangers(parts, "speech")
        features = parts.features.build()
        augment = parts.features.spec_augment
        encoder = parts.model.build(features.num_features)
        stages = {"features": features, **({"spec_augment": augment.build()} if augment else {})}
        super().__init__(parts, Chain(**stages, encoder=encoder, head=head(encoder.d_model)))
        self.rate, self.hop = int(features.rate), int(features.hop)

    @property
    def hears(self) -> bool:
        """Whether recordings go in; a model of given features takes those alone."""
        return not isinstance(self.network.features, Given)

    def forward(self, audio: Tensor, audio_len: Tensor, prompt: Sequence[int] | None = None) -> Any:
        """Returns what the head returns; a head that learns from text is given a prompt at most.

        Args:
            audio: (B, S) float32 at ``rate``.
            audio_len: (B,) samples.
            prompt: tokens that the text of each begins with; `default_prompt` by default.
        """
        prompt = self.default_prompt() if prompt is None else prompt
        return self.network(*self.filled(audio, audio_len), *self.no_text(len(audio), prompt))

    def default_prompt(self) -> Sequence[int]:
        """Returns the tokens that a text begins with where nothing else is asked for."""
        return ()

    @property
    def learns_from_text(self) -> bool:
        """Whether the head takes the text beside the states of the encoder."""
        return "targets" in self.network.inputs

    def no_text(self, num_items: int, prompt: Sequence[int] = ()) -> tuple[Tensor, ...]:
        """Returns what stands for the text where there is none: prompts (B, U) and lengths (B,), if the head has them.

        Args:
            num_items: B.
            prompt: tokens of each prompt.
        """
        if not self.learns_from_text:
            return ()
        prompts = torch.tensor([[*prompt]] * num_items, dtype=torch.long, device=next(self.parameters()).device)
        lengths = prompts.new_full((num_items,), len(prompt))
        return prompts, lengths, *([lengths] if "prompt_len" in self.network.inputs else [])

    def filled(self, audio: Tensor, audio_len: Tensor) -> tuple[Tensor, Tensor]:
        """Fills audio shorter than one hop of the features, which would have no frame, up with silence to one hop."""
        if audio.shape[1] < self.hop:
            audio = F.pad(audio, (0, self.hop - audio.shape[1]))
        return audio, audio_len.clamp(min=self.hop)

    def inputs(self, batch: Batch | FeatureBatch) -> tuple[Tensor, ...]:
        """Returns audio (B, S) and samples (B,), or features (B, F, T) and frames (B,) of a batch that brings them.

        Targets (B, U) and their lengths (B,) follow where the head takes them, and those of their prompts (B,).
        """
        text: tuple[Tensor, ...] = (batch.targets, batch.target_len) if self.learns_from_text else ()
        if "prompt_len" in self.network.inputs:
            text += (torch.zeros_like(batch.target_len) if batch.prompt_len is None else batch.prompt_len,)
        if isinstance(batch, FeatureBatch):
            return batch.features, batch.frames, *text
        return *self.filled(batch.audio, batch.audio_len), *text

    def output(self, batch: Batch | FeatureBatch) -> Any:
        """Runs the network over a batch; where that brings features, they stand in for those that it would compute.

        Raises:
            PortError: they are of another width than those.
        """
        return self.network(*self.inputs(batch), after="features" if isinstance(batch, FeatureBatch) else "")

    def evaluation_data(
        self, *, batch_size: int, channel: int | None = None, num_workers: int = 0, skip_bad: bool = True
    ) -> "SpeechDataConfig":
        """Returns how manifests are read to measure the task on them."""
        from anemone.data.loader import SpeechDataConfig

        return SpeechDataConfig(
            rate=self.rate, channel=channel, eval_batch_size=batch_size, num_workers=num_workers, skip_bad=skip_bad
        )

    def answer(
        self,
        sources: Iterable[Any],
        batch_size: int,
        read: Callable[[Any], Sequence[Result]],
        prompt: Sequence[int] | None = None,
    ) -> list[Result]:
        """Runs the network over recordings, in batches of like length, and returns the answers in input order.

        Args:
            sources: paths, pairs (array or tensor, its rate), or arrays and tensors already at ``rate``; see
                `anemone.data.audio.waveform`.
            batch_size: recordings a batch.
            read: from the output of the network to one answer per item.
            prompt: see `forward`.

        Raises:
            DataError: a single recording instead of a list, one that cannot be read, or one whose scores are not
                finite; says which. Or the model hears no recordings.
        """
        if not self.hears:
            raise DataError(
                "the model was trained on features made elsewhere (`features.kind` is given), so it hears no "
                "recordings: evaluate it on such features."
            )
        if batch_size < 1:
            raise DataError(f"`batch_size` must be 1 or more, but is {batch_size!r} instead.")
        device = next(self.parameters()).device
        answers: dict[int, Result] = {}
        with inference(self):
            for numbers, audio, audio_len in _batches(sources, self.rate, batch_size):
                output = self(audio.to(device), audio_len.to(device), prompt)
                if not all(finite := _finite(output).tolist()):
                    raise DataError(
                        f"recording {numbers[finite.index(False)]} of `sources`: the scores of the network are not "
                        "finite. Do its samples lie in [-1, 1], and were the weights finite when training ended?"
                    )
                answers.update(zip(numbers, read(output), strict=True))
        return [answers[i] for i in range(len(answers))]


def _batches(sources: Iterable[Any], rate: int, batch_size: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yields (numbers of the recordings, audio (B, S), samples (B,)); reads `WINDOW` batches ahead to sort them."""
    if isinstance(sources, str | Tensor | np.ndarray) or not isinstance(sources, Iterable) or _is_pair(sources):
        raise DataError(
            f"`sources` must be a list of recordings, but is a {type(sources).__name__} instead. "
            "For a single one write `[recording]`."
        )
    numbered = enumerate(sources)
    while window := [(i, _read(source, rate, i)) for i, source in islice(numbered, batch_size * WINDOW)]:
        window.sort(key=lambda item: len(item[1]))
        for start in range(0, len(window), batch_size):
            numbers, signals = zip(*window[start : start + batch_size], strict=True)
            audio = nn.utils.rnn.pad_sequence(list(signals), batch_first=True)
            yield list(numbers), audio, torch.tensor([len(signal) for signal in signals])


def _finite(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Whether each item's scores are all finite (B,): (B, V), or (B, T, V) and lengths (B,) beyond which none count."""
    if isinstance(output, Tensor):
        return output.isfinite().all(-1)
    scores, frames = output[:2]
    beyond = torch.arange(scores.shape[1], device=scores.device) >= frames[:, None]
    return (scores.isfinite().all(-1) | beyond).all(-1)


def _is_pair(sources: Any) -> bool:
    """Whether it is (samples, rate), which is one recording."""
    return isinstance(sources, tuple) and len(sources) == 2 and isinstance(sources[1], Real)


def _read(source: Any, rate: int, number: int) -> Tensor:
    try:
        return torch.from_numpy(waveform(source, rate))
    except DataError as error:
        raise DataError(f"recording {number} of `sources`: {error}") from error

"""Speech recognition: what is said in a recording, as text."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor

from anemone.config import EMPTY, kind_of, load_class, must, of_kind
from anemone.data.batch import Batch
from anemone.data.targets import RowEncode, Target
from anemone.decoding import DECODERS, Decoder, Hypothesis
from anemone.errors import ConfigError
from anemone.features.prompts import PromptConfig, Prompted
from anemone.features.text import TextConfig, Writing
from anemone.features.tokenizers import TOKENIZERS
from anemone.losses import LOSSES, Criterion, LossSum
from anemone.metrics.wer import Edits, character_edits, word_edits
from anemone.models import HEADS
from anemone.models.speech.attention_decoder import AttentionHeadConfig
from anemone.tasks.speech import SpeechTask

if TYPE_CHECKING:
    from anemone.data.manifest import Index
    from anemone.tasks import Parts


@dataclass(frozen=True, kw_only=True)
class RecognitionConfig:
    """Text from speech."""

    target: ClassVar[Literal["label", "text"]] = "text"
    """The column of a manifest that the task learns from."""

    data: ClassVar[str] = "speech"
    """The kind of data it learns from."""

    lazy: ClassVar[bool] = False
    """Whether the network can be built without memory, see `anemone.tasks.task.Task`."""

    tokenizer: Any = of_kind(TOKENIZERS)
    """How a text is cut into the units that the network writes."""

    text: TextConfig | None = None
    """What is made of a text before it is cut, in training and scoring; null leaves it as it is."""

    prompt: PromptConfig | None = None
    """What stands before a text and ends it: an attention head is given it, other heads learn it as tags."""

    head: Any = of_kind(HEADS, default="ctc")
    """What stands on the encoder and says which units; loss and decoding must fit it."""

    def __post_init__(self) -> None:
        prompt = self.prompt and self.prompt.whole()
        if isinstance(self.head, AttentionHeadConfig):
            rule = "one that is given and has an `end`, such as {format: canary}, for an attention head"
            fits = prompt is not None and bool(prompt.template) and prompt.end is not None and not prompt.learned
        else:
            rule = "one that is learned and has no `end`, such as {format: language_tag}, for this head"
            fits = prompt is None or (bool(prompt.learned) and prompt.end is None)
        must(fits, "prompt", rule, value=self.prompt)

    def complete(self, index: "Index") -> Self:
        """Returns the config as it is: the data add nothing to it."""
        return self

    def build(self, parts: "Parts", files: Mapping[str, bytes]) -> "RecognitionTask":
        """Builds the task.

        Args:
            parts: the configs of the whole; what is usual for the head stands in for a loss or decoding left out.
            files: what the tokenizer reads, by name.

        Raises:
            ConfigError: a loss or decoding that does not fit the head, or is of another task.
        """
        loss = _fitting(parts.loss, "loss", LOSSES, self.head.losses)
        decoding = _fitting(parts.decoding, "decoding", DECODERS, self.head.decodings)
        return RecognitionTask(replace(parts, loss=loss, decoding=decoding), files)


def rewritten(encode: Callable[[str], list[int]], writing: Writing) -> Callable[[str], list[int]]:
    """What rewrites a text, then gives its target as ``encode`` does, be that of rows (`RowEncode`)."""
    if isinstance(encode, RowEncode):
        return cast(Callable[[str], list[int]], encode._replace(of=partial(_row, encode.of, writing)))
    return partial(_text, encode, writing)


def _text(encode: Callable[[str], list[int]], writing: Writing, text: str) -> list[int]:
    return encode(writing(text))


def _row(of: Callable[[str, Mapping[str, Any]], Target], writing: Writing, text: str, row: Mapping[str, Any]) -> Target:
    return of(writing(text), row)


def _prompted(tokenizer: Prompted, text: str, row: Mapping[str, Any]) -> Target:
    return Target(*tokenizer.of(text, row))


def _fitting(config: Any, path: str, table: Mapping[str, str], kinds: Sequence[str]) -> Any:
    """The config, if its kind is one of those that fit; the first of them where it was left out."""
    if config is None:
        return load_class(table[kinds[0]])()
    fits = kind_of(table, config, path) in kinds
    must(fits, path, f"of the kind {' or '.join(kinds)} for a recogniser with this `task.head`", value=config)
    return config


class Transcript(NamedTuple):
    """What was understood of a recording."""

    text: str
    """The words."""

    tokens: list[int]
    """The units of the tokenizer they are made of."""

    language: str | None = None
    """The language that the model wrote, where it tells languages apart."""


class RecognitionTask(SpeechTask):
    """Writes down what is said.

    Example:
        >>> from anemone.testing import speech, tiny
        >>> task = tiny("recognition")
        >>> transcript = task.transcribe([(speech(1.0), 16_000)])[0]
        >>> transcript.text == task.tokenizer.decode(transcript.tokens)
        True
    """

    target: ClassVar[Literal["label", "text"]] = RecognitionConfig.target
    verb: ClassVar[str] = "transcribe"
    monitor: ClassVar[tuple[str, Literal["max", "min"]]] = ("wer", "min")

    def __init__(self, parts: "Parts", files: Mapping[str, bytes]) -> None:
        tokenizer = parts.task.tokenizer.build(files)
        if parts.task.prompt is not None:
            tokenizer = parts.task.prompt.build(tokenizer)
        head = partial(parts.task.head.build, vocab_size=tokenizer.vocab_size)
        if isinstance(parts.task.head, AttentionHeadConfig):
            head = partial(head, end=tokenizer.end)
        super().__init__(parts, head)
        self.tokenizer = tokenizer
        self._criterion: Criterion = parts.loss.build(self.network.head)
        self._decode: Decoder = parts.decoding.build(self.network.head)
        self._warned = False

    @property
    def encode(self) -> Callable[[str], list[int]]:
        """What gives the tokens of a text; it raises DataError where the tokenizer cannot write it."""
        encode: Any = self.tokenizer.encode
        if isinstance(self.tokenizer, Prompted):
            encode = RowEncode(self.tokenizer.columns, partial(_prompted, self.tokenizer))
        text = self.parts.task.text
        return encode if text is None else rewritten(encode, text.build())

    def files(self) -> dict[str, bytes]:
        """Returns the files of the tokenizer."""
        return dict(self.tokenizer.files())

    def lost(self, output: Any, batch: Batch) -> LossSum:
        """Computes the summed loss and what to divide it by.

        Warns once where no alignment of a recording with its text fits: it adds nothing to the loss.
        """
        if not self._warned:
            self._report(self._infeasible(output, batch), batch)
        return self._criterion(output, batch.targets, batch.target_len)

    def measured(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Counts edits of words and characters and sums the loss; see `scored`."""
        return self.scored(output, batch, self.transcripts(output))

    def scored(self, output: Any, batch: Batch, transcripts: Sequence[Transcript]) -> dict[str, Tensor]:
        """Counts edits of words and characters and sums the loss.

        The references are the targets as the tokenizer reads them back.

        Args:
            output: of the network.
            batch: what it was computed from.
            transcripts: what `transcripts` made of it.
        """
        total, count = self._criterion(output, batch.targets, batch.target_len)
        heard = [found.text for found in transcripts]
        prompts = [0] * len(batch.targets) if batch.prompt_len is None else batch.prompt_len.tolist()
        said = [
            self.tokenizer.decode(row[begin:length])
            for row, begin, length in zip(batch.targets.tolist(), prompts, batch.target_len.tolist(), strict=True)
        ]
        return {
            "loss": total.double(),
            "count": count.double(),
            "words": word_edits(heard, said).to(total.device),
            "characters": character_edits(heard, said).to(total.device),
            "infeasible": self._infeasible(output, batch).sum(),
        }

    def zero_states(self) -> dict[str, Tensor]:
        """Returns zero counts and sums."""
        zeros = partial(torch.zeros, dtype=torch.int64, device=next(self.parameters()).device)
        sums = {"loss": zeros(()).double(), "count": zeros(()).double()}
        return {**sums, "words": zeros(4), "characters": zeros(4), "infeasible": zeros(())}

    def summarize(self, states: Mapping[str, Tensor]) -> dict[str, float]:
        """Computes ``loss``, ``wer``, ``cer``, and ``infeasible``, the recordings too short for their text."""
        return {
            "loss": float(states["loss"] / states["count"].clamp(min=1)),
            "wer": Edits.of(states["words"]).rate,
            "cer": Edits.of(states["characters"]).rate,
            "infeasible": float(states["infeasible"]),
        }

    def transcribe(
        self,
        sources: Iterable[Path | str | Any],
        *,
        batch_size: int = 16,
        language: str | None = None,
        punctuation: bool | None = None,
        slots: Mapping[str, Any] = EMPTY,
    ) -> list[Transcript]:
        """Writes down what is said in each recording, in input order.

        Args:
            sources: paths, pairs (array or tensor, its rate), or arrays and tensors already at ``rate``.
            batch_size: recordings that are computed at a time; no answer depends on it.
            language: what is spoken and written, where the model is given a prompt with it.
            punctuation: whether to write punctuation and capitals, where the prompt says it.
            slots: further slots of the prompt, such as ``{"task": "translate", "target_lang": "de"}``.

        Raises:
            DataError: a recording cannot be read, or is empty; says which.
            ConfigError: the model has no such slot, or no such language.
        """
        asked = dict(slots) | ({} if punctuation is None else {"pnc": punctuation})
        return self.answer(sources, batch_size, self.transcripts, self._prompt(language, asked))

    def default_prompt(self) -> Sequence[int]:
        """Returns the prompt of the slots' defaults, where the head is given one."""
        given = isinstance(self.tokenizer, Prompted) and not self.tokenizer.config.learned
        return self.tokenizer.prompt({}) if given else ()

    def _prompt(self, language: str | None, slots: Mapping[str, Any]) -> Sequence[int]:
        """The prompt of a call."""
        if isinstance(self.tokenizer, Prompted) and not self.tokenizer.config.learned:
            return self.tokenizer.asked(language, slots)
        if asked := [*slots, *(["language"] if language else [])]:
            raise ConfigError(f"the model is given no prompt, so nothing can be asked for by `{asked[0]}`.")
        return ()

    def hypotheses(self, output: Any) -> list[Hypothesis]:
        """Decodes what came out of the network: units, frames and score of each item."""
        return self._decode(output)

    def transcripts(self, output: Any) -> list[Transcript]:
        """Reads what came out of the network: one transcript for each item."""
        return [self.read(found.tokens) for found in self.hypotheses(output)]

    def read(self, tokens: list[int]) -> Transcript:
        """Reads the units of one hypothesis."""
        language = self.tokenizer.language_of(tokens) if isinstance(self.tokenizer, Prompted) else None
        return Transcript(self.tokenizer.decode(tokens), tokens, language)

    def _infeasible(self, output: Any, batch: Batch) -> Tensor:
        found: Tensor = self.parts.loss.infeasible(self.network.head, output.x_len, batch.targets, batch.target_len)
        return found

    def _report(self, lost: Tensor, batch: Batch) -> None:
        if bool(lost.any()):
            self._warned = True
            warnings.warn(
                f"rows {batch.rows[lost.to(batch.rows.device)].tolist()} have fewer frames than their text needs: "
                "no alignment fits, they add nothing to the loss. Do text and recording belong together? (said once)",
                stacklevel=3,
            )

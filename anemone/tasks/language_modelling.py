"""Language modelling: what comes next in a text, token by token."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from anemone.config import must, of_kind
from anemone.decoding.generate import generate
from anemone.errors import DataError
from anemone.features.tokenizers import TOKENIZERS, Tokenizer
from anemone.losses import LossSum
from anemone.losses.token_cross_entropy import TokenCrossEntropyConfig
from anemone.metrics.text import bits_per_byte, perplexity
from anemone.tasks.task import States, Task, inference, refuse_strangers
from anemone.types import IGNORED

if TYPE_CHECKING:
    from anemone.data.token_rows import TokenBatch, TokenRows
    from anemone.data.tokens import TokenDataConfig
    from anemone.tasks import Parts

UNKNOWN_LEN = 1024  # tokens of a row where nothing says how many the model was trained to see


@dataclass(frozen=True, kw_only=True)
class LanguageModellingConfig:
    """The next token of a text, from all before it."""

    data: ClassVar[str] = "tokens"
    """The kind of data it learns from."""

    lazy: ClassVar[bool] = True
    """Whether the network can be built without memory, see `anemone.tasks.task.Task`."""

    tokenizer: Any = of_kind(TOKENIZERS)
    """How a text is cut into tokens."""

    context_len: int | None = None
    """Tokens that the model sees at once; null: `data.sequence_len` of the training."""

    vocab_size: int | None = None
    """Tokens that the model has scores for; null: those of the tokenizer. More make a vocabulary that divides well."""

    def __post_init__(self) -> None:
        must(self.vocab_size is None or self.vocab_size >= 1, "vocab_size", "1 or more", value=self.vocab_size)
        must(self.context_len is None or self.context_len >= 2, "context_len", "2 or more", value=self.context_len)

    def complete(self, index: "TokenRows") -> Self:
        """Returns the config with the length of the rows that are trained on, where it says none itself."""
        return self if self.context_len else replace(self, context_len=max(index.sequence_len, 2))

    def build(self, parts: "Parts", files: Mapping[str, bytes]) -> "LanguageModellingTask":
        """Builds the task.

        Args:
            parts: the configs of the whole; the cross entropy of tokens stands in for a loss that was left out.
            files: what the tokenizer reads, by name.

        Raises:
            ConfigError: a model, loss or decoding of another task, or features.
        """
        loss = parts.loss or TokenCrossEntropyConfig()
        rule = "of the kind token_cross_entropy for a language model"
        must(isinstance(loss, TokenCrossEntropyConfig), "loss", rule, value=loss)
        must(parts.decoding is None, "decoding", "left out for a language model", value=parts.decoding)
        return LanguageModellingTask(replace(parts, loss=loss), files)


class Continuation(NamedTuple):
    """How a text goes on."""

    text: str
    """What follows the prompt."""

    tokens: list[int]
    """The tokens it is made of."""


class Score(NamedTuple):
    """How likely a text is."""

    nats: float
    """Minus the natural logarithm of its probability."""

    tokens: int
    """Tokens it was summed over."""

    perplexity: float
    """``exp(nats / tokens)``."""

    bits_per_byte: float
    """The same in bits, for each byte of the text."""


class LanguageModellingTask(Task):
    """Knows what comes next in a text.

    Example:
        >>> from anemone.testing import tiny
        >>> task = tiny("language_modelling")
        >>> continued = task.generate(["Once upon a time"], max_new_tokens=8, seed=1)[0]
        >>> len(continued.tokens) <= 8 and continued.text == task.tokenizer.decode(continued.tokens)
        True
    """

    verb: ClassVar[str] = "generate"
    monitor: ClassVar[tuple[str, Literal["max", "min"]]] = ("loss", "min")

    def __init__(self, parts: "Parts", files: Mapping[str, bytes]) -> None:
        refuse_strangers(parts, "text")
        tokenizer = parts.task.tokenizer.build(files)
        vocab_size = parts.task.vocab_size or tokenizer.vocab_size
        rule = f"at least that of the tokenizer, {tokenizer.vocab_size}"
        must(vocab_size >= tokenizer.vocab_size, "task.vocab_size", rule, value=vocab_size)
        super().__init__(parts, parts.model.build(vocab_size))
        self.tokenizer: Tokenizer = tokenizer
        self.context_len: int | None = parts.task.context_len
        self._sizes = np.array(tokenizer.sizes)
        self._criterion = parts.loss.build()

    def forward(self, tokens: Tensor, positions: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """Returns the scores of the next token, (B, N, V).

        Args:
            tokens: (B, N).
            positions: (B, N), from 0; 0, 1, 2, ... by default.
            segments: (B, N), number of each token's document, where a row holds several.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        scores: Tensor = self.network(tokens, positions, segments)
        return scores

    def draw(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Draws the initial value of a parameter of the network, as its model does."""
        value: Tensor = self.network.draw(name, shape, generator)  # type: ignore[operator]  # a model of text has it
        return value

    @property
    def encode(self) -> Callable[[str], list[int]]:
        """What gives the tokens of a text; it raises DataError where the tokenizer cannot write it."""
        return self.tokenizer.encode

    def files(self) -> dict[str, bytes]:
        """Returns the files of the tokenizer."""
        return dict(self.tokenizer.files())

    # --- training and measuring ---------------------------------------------------------------------------------------

    def inputs(self, batch: "TokenBatch") -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns tokens (B, N), positions (B, N) and segments (B, N)."""
        return batch.tokens, batch.positions, batch.segments

    def lost(self, output: Tensor, batch: "TokenBatch") -> LossSum:
        """Computes the summed cross entropy of the next tokens and how many count."""
        found: LossSum = self._criterion(output, batch.targets)
        return found

    def measured(self, output: Tensor, batch: "TokenBatch") -> States:
        """Sums the loss and the bytes of the text that it is of."""
        total, count = self.lost(output, batch)
        return {"loss": total.double(), "count": count.double(), "bytes": self._bytes(batch.targets)}

    def _bytes(self, targets: Tensor) -> Tensor:
        """Bytes of the text that some targets stand for."""
        sizes = torch.from_numpy(self._sizes).to(targets.device)
        return sizes[targets[targets != IGNORED]].sum()

    def zero_states(self) -> States:
        """Returns zero sums."""
        zero = torch.zeros((), dtype=torch.int64, device=next(self.parameters()).device)
        return {"loss": zero.double(), "count": zero.double(), "bytes": zero}

    def summarize(self, states: Mapping[str, Tensor]) -> dict[str, float]:
        """Computes ``loss`` (nats a token), ``perplexity`` and ``bits_per_byte``."""
        nats, tokens, num_bytes = (float(states[name]) for name in ("loss", "count", "bytes"))
        return {
            "loss": nats / max(tokens, 1.0),
            "perplexity": perplexity(nats, tokens),
            "bits_per_byte": bits_per_byte(nats, num_bytes),
        }

    def evaluation_data(
        self, *, batch_size: int, channel: int | None = None, num_workers: int = 0, skip_bad: bool = True
    ) -> "TokenDataConfig":
        """Returns how texts are read to measure the task on them.

        Raises:
            ConfigError: a channel or workers are asked for.
        """
        from anemone.data.tokens import TokenDataConfig

        must(channel is None, "channel", "left out for text", value=channel)
        must(num_workers == 0, "num_workers", "0 for text, which nobody needs to read ahead", value=num_workers)
        length = self.context_len or UNKNOWN_LEN
        return TokenDataConfig(sequence_len=length, eval_batch_size=batch_size, skip_bad=skip_bad)

    # --- verbs --------------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
    ) -> list[Continuation]:
        """Continues texts, in input order; an end of the text ends a continuation.

        Args:
            prompts: beginnings; an empty one asks for a text of the model's own, where its tokenizer marks ends.
            max_new_tokens: of each continuation, at most.
            temperature: below 1 likely tokens become likelier; 0 always takes the likeliest.
            top_k: only so many of the likeliest tokens are drawn from; all by default.
            seed: of the random numbers.
            batch_size: texts that are continued at a time; no answer depends on it.

        Raises:
            ConfigError: a setting that cannot be.
            DataError: a prompt that cannot be used; says which.
        """
        must(max_new_tokens >= 1, "max_new_tokens", "1 or more", value=max_new_tokens)
        must(math.isfinite(temperature) and temperature >= 0, "temperature", "0 or more", value=temperature)
        must(top_k is None or top_k >= 1, "top_k", "1 or more", value=top_k)
        must(batch_size >= 1, "batch_size", "1 or more", value=batch_size)
        started = self._started(prompts)
        if self.context_len is not None:
            longest = max((len(tokens) for tokens in started), default=0)
            rule = f"at most {self.context_len - longest}, as the model sees {self.context_len} tokens and the longest "
            rule += f"prompt has {longest}"
            must(longest + max_new_tokens <= self.context_len, "max_new_tokens", rule, value=max_new_tokens)
        found: list[list[int]] = []
        with inference(self):
            for start in range(0, len(started), batch_size):
                some = started[start : start + batch_size]
                found += generate(
                    self.network,
                    some,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    top_k=top_k,
                    end=self.tokenizer.end,
                    seeds=[_mixed(seed, start + i) for i in range(len(some))],
                )
        return [Continuation(self.tokenizer.decode(tokens), tokens) for tokens in found]

    def score(self, texts: Sequence[str], *, batch_size: int = 8) -> list[Score]:
        """Tells how likely each text is, in input order; a long one is read in pieces of ``context_len`` tokens.

        Args:
            texts: any.
            batch_size: pieces that are computed at a time; no answer depends on it.

        Raises:
            DataError: a text that cannot be used; says which.
        """
        must(batch_size >= 1, "batch_size", "1 or more", value=batch_size)
        length = self.context_len or UNKNOWN_LEN
        pieces = []
        for number, tokens in enumerate(self._started(texts)):
            if len(tokens) < 2:
                raise DataError(f"text {number} must have a token to predict, but is {texts[number]!r}.")
            for start in range(0, len(tokens) - 1, length):
                pieces.append((number, tokens[start : start + length + 1]))
        nats, counts = [0.0] * len(texts), [0] * len(texts)
        with inference(self):
            for start in range(0, len(pieces), batch_size):
                some = pieces[start : start + batch_size]
                for (number, piece), lost in zip(some, self._losses([piece for _, piece in some]), strict=True):
                    nats[number] += lost
                    counts[number] += len(piece) - 1
        sizes = [len(text.encode()) for text in texts]
        rows = zip(nats, counts, sizes, strict=True)
        return [Score(n, count, perplexity(n, count), bits_per_byte(n, size)) for n, count, size in rows]

    def _losses(self, pieces: Sequence[Sequence[int]]) -> list[float]:
        """Minus the log-probability of each piece of text, given its first token."""
        device, longest = next(self.parameters()).device, max(len(piece) for piece in pieces)
        rows = torch.tensor([[*piece, *[0] * (longest - len(piece))] for piece in pieces], device=device)
        losses = []
        for scores, row, piece in zip(self(rows[:, :-1]), rows[:, 1:], pieces, strict=True):
            targets = row.masked_fill(torch.arange(longest - 1, device=device) >= len(piece) - 1, IGNORED)
            losses.append(float(self._criterion(scores[None], targets[None]).total))
        return losses

    def _started(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, after the mark of an end, with which documents begin.

        Raises:
            DataError: a single text instead of a list; a text that the tokenizer cannot write, or without any token.
        """
        if isinstance(texts, str):
            raise DataError("texts must be a list, but are a str instead. For a single one write `[text]`.")
        begin, started = [] if self.tokenizer.end is None else [self.tokenizer.end], []
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"text {number} must be a string, but is a {type(text).__name__} instead.")
            try:
                started.append([*begin, *self.tokenizer.encode(text)])
            except DataError as error:
                raise DataError(f"text {number}: {error}") from error
            if not started[-1]:
                raise DataError(f"text {number} must have a token to begin with, but is {text!r}.")
        return started


def _mixed(seed: int, number: int) -> int:
    """A seed of its own for each text of a call."""
    return int(np.random.default_rng([seed, number]).integers(2**63))

"""Transducers: a network that predicts from the text so far joins an encoder of speech (arXiv:1211.3711).

    states of the encoder (B, T, D) -> acoustic -> (B, T, J) -+
                                                              +-> joint -> scores of (B, T, U + 1, V')
    tokens (B, U) -> predictor -> textual -> (B, U + 1, J) ---+

The predictor is an LSTM, or sees the last few tokens alone (arXiv:2109.07513). The V' scores are of tokens, of big
blanks (arXiv:2211.03541; the last of them first), of the blank, and of durations (arXiv:2304.06795). The joint is not
run in ``forward``: losses and decodings run it where they need it, so all scores never exist at once.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.config import must, of_kind
from anemone.nn.dropout import dropout
from anemone.nn.heads import CTCHead, LabelLogProbs
from anemone.types import Acoustic, Frames, Hidden, Labels, Logits, LogProbs, Textual, Tokens

State = tuple[Tensor, ...]
"""What a predictor remembers of a text: tensors whose first axis is the batch."""

PREDICTORS = {
    "lstm": "anemone.models.speech.transducer:LSTMConfig",
    "stateless": "anemone.models.speech.transducer:StatelessConfig",
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """A predictor that remembers the whole text."""

    d_model: int = 640
    """Width of the embedding and of the output."""

    num_layers: int = 1
    """Layers of the LSTM."""

    d_cell: int | None = None
    """Width of the cells, whose output is projected to ``d_model`` where it is wider (arXiv:1402.1128)."""

    dropout: float = 0.2
    """Share of the outputs dropped, of each layer."""

    forget_bias: float | None = 1.0
    """First bias of the forget gates (Jozefowicz et al., ICML 2015); null leaves it random."""

    recurrent_bias_scale: float = 0.0
    """What the other first bias of the forget gates, that of the recurrent part, is multiplied by."""

    max_memory: int | None = None
    """Tokens that dependencies may span: gates begin so that memories last that long (arXiv:1804.11188)."""

    init_scale: float = 1.0
    """What the first weights of the LSTM are multiplied by."""

    random_start: bool = False
    """Begin each text in training with a random memory, which helps on long speech (arXiv:1910.11455)."""

    def __post_init__(self) -> None:
        must(self.d_model > 0, "d_model", "1 or more", value=self.d_model)
        must(self.num_layers > 0, "num_layers", "1 or more", value=self.num_layers)
        must(0 <= self.dropout < 1, "dropout", "at least 0 and below 1", value=self.dropout)
        wide = self.d_cell is None or self.d_cell > self.d_model
        must(wide, "d_cell", "null, or more than `d_model`", value=self.d_cell)
        must(self.max_memory is None or self.max_memory > 2, "max_memory", "null, or 3 or more", value=self.max_memory)

    def build(self, vocab_size: int) -> "LSTMPredictor":
        """Returns the predictor over ``vocab_size`` tokens."""
        return LSTMPredictor(vocab_size, self)


@dataclass(frozen=True, kw_only=True)
class StatelessConfig:
    """A predictor that sees the last few tokens (arXiv:2109.07513)."""

    d_model: int = 640
    """Width of the output; half of it, and the share of one more, are of the last token, the rest of those before."""

    context: int = 2
    """Tokens that it sees."""

    normalize: bool = False
    """Normalise the output to mean 0 and variance 1."""

    dropout: float = 0.0
    """Share of the embedding dropped."""

    def __post_init__(self) -> None:
        must(1 <= self.context <= 1000, "context", "in 1..1000", value=self.context)
        must(self.d_model >= 2 * self.context, "d_model", "at least twice `context`", value=self.d_model)
        must(0 <= self.dropout < 1, "dropout", "at least 0 and below 1", value=self.dropout)

    def build(self, vocab_size: int) -> "StatelessPredictor":
        """Returns the predictor over ``vocab_size`` tokens."""
        return StatelessPredictor(vocab_size, self)


@dataclass(frozen=True, kw_only=True)
class TransducerConfig:
    """A transducer; with durations a TDT, with big blanks a multi-blank transducer."""

    decodings: ClassVar[tuple[str, ...]] = ("transducer_greedy",)
    """Kinds of decoding that fit the head, the usual one first."""

    predictor: Any = of_kind(PREDICTORS, default="lstm")
    """What predicts from the text so far."""

    d_joint: int = 640
    """Width in which encoder and predictor are added."""

    activation: Literal["relu", "sigmoid", "tanh"] = "relu"
    """The non-linearity after the sum."""

    dropout: float = 0.2
    """Share of activations dropped after it."""

    durations: tuple[int, ...] = ()
    """Frames that a token or blank may last, for TDT."""

    big_blanks: tuple[int, ...] = ()
    """Frames that each further blank skips, for multi-blank transducers."""

    p_mask: float = 0.0
    """Probability that, in training, the predictor is not heard at a place (arXiv:2410.02597)."""

    def __post_init__(self) -> None:
        must(self.d_joint > 0, "d_joint", "1 or more", value=self.d_joint)
        must(0 <= self.dropout < 1, "dropout", "at least 0 and below 1", value=self.dropout)
        must(0 <= self.p_mask < 1, "p_mask", "at least 0 and below 1", value=self.p_mask)
        distinct = len(set(self.durations)) == len(self.durations) and min(self.durations, default=0) >= 0
        must(distinct, "durations", "different numbers of frames, 0 or more", value=self.durations)
        must(max(self.durations, default=1) > 0, "durations", "such that time can pass", value=self.durations)
        skips = len(set(self.big_blanks)) == len(self.big_blanks) and min(self.big_blanks, default=2) > 1
        must(skips, "big_blanks", "different numbers of frames, 2 or more", value=self.big_blanks)
        must(not (self.durations and self.big_blanks), "big_blanks", "empty with durations", value=self.big_blanks)

    @property
    def losses(self) -> tuple[str, ...]:
        """Kinds of losses that fit the head, the usual one first."""
        return ("tdt",) if self.durations else ("multi_blank",) if self.big_blanks else ("rnnt",)

    def build(self, d_model: int, vocab_size: int) -> "TransducerHead":
        """Returns the head over an encoder of width ``d_model``."""
        return TransducerHead(d_model, vocab_size, self)


@dataclass(frozen=True, kw_only=True)
class HybridConfig(TransducerConfig):
    """A transducer and CTC on one encoder: trained together, decoded by either."""

    decodings: ClassVar[tuple[str, ...]] = ("transducer_greedy", "ctc_greedy")
    """Kinds of decoding that fit the head, the usual one first."""

    @property
    def losses(self) -> tuple[str, ...]:
        """Kinds of losses that fit the head."""
        return ("hybrid",)

    def build(self, d_model: int, vocab_size: int) -> "HybridHead":
        """Returns the head over an encoder of width ``d_model``."""
        return HybridHead(d_model, vocab_size, self)


class Predictor(Protocol):
    """What every prediction network has."""

    d_model: int

    def start(self, num_items: int) -> State:
        """Returns the state of empty texts, before the blank that stands for their beginning was read."""

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads one token (B,) of each text; returns (B, D) and the state after it."""


class LSTMCells(nn.Module):
    """Layers of long short-term memory, whose parameters are named as PyTorch names them.

    PyTorch's own module stops compilers; the function behind it does not.

    Args:
        config: widths, layers, first values.
    """

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.d_model, self.num_layers = config.d_model, config.num_layers
        self.d_cell, self.projected = config.d_cell or config.d_model, config.d_cell is not None
        self.dropout = config.dropout
        if self.projected:  # it is so, and changes nothing
            warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        sizes = {"hidden_size": self.d_cell, "proj_size": config.d_model if self.projected else 0}
        for name, parameter in nn.LSTM(config.d_model, num_layers=config.num_layers, **sizes).named_parameters():
            self.register_parameter(name, parameter)
        with torch.no_grad():
            self._begin(config)

    def _begin(self, config: LSTMConfig) -> None:
        """Sets the first biases; the gates are, in order, input, forget, cell, output."""
        forget = slice(self.d_cell, 2 * self.d_cell)
        for name, parameter in self.named_parameters():
            if "bias" in name and config.max_memory is not None:
                parameter.zero_()
                parameter[forget].uniform_(1, config.max_memory - 1).log_()
                parameter[: self.d_cell] = -parameter[forget]
            elif name.startswith("bias_ih") and config.forget_bias is not None:
                parameter[forget] = config.forget_bias
            elif name.startswith("bias_hh") and config.forget_bias is not None:
                parameter[forget].mul_(config.recurrent_bias_scale)
            parameter.mul_(config.init_scale)

    def start(self, like: Tensor) -> State:
        """Returns the memory of nothing, (B, L, D) and (B, L, cells), of the batch and type of a tensor."""
        widths = (self.d_model, self.d_cell)
        return tuple(like.new_zeros(len(like), self.num_layers, width) for width in widths)

    def forward(
        self, x: Textual[Tensor, "B U D={self.d_model}"], h: Hidden[Tensor, "B H D"], c: Hidden[Tensor, "B H K"]
    ) -> "Remembered":
        """Reads tokens.

        Args:
            x: their embeddings.
            h: what each layer said last.
            c: what the cells of each layer hold.
        """
        state = [h.transpose(0, 1).contiguous(), c.transpose(0, 1).contiguous()]  # (B, L, D) -> (L, B, D)
        dropout = self.dropout if self.num_layers > 1 else 0.0
        weights = [parameter.to(x.dtype) for parameter in self.parameters()]
        out, h, c = torch.lstm(x, state, weights, True, self.num_layers, dropout, self.training, False, True)
        return Remembered(F.dropout(out, self.dropout, self.training), h.transpose(0, 1), c.transpose(0, 1))


class Remembered(NamedTuple):
    """What an LSTM says after each token, and what its layers say and hold after the last."""

    x: Textual[Tensor, "B U D={self.d_model}"]
    h: Hidden[Tensor, "B H D"]
    c: Hidden[Tensor, "B H K"]


class LSTMPredictor(nn.Module):
    """Embeddings and an LSTM. The blank, which stands for the beginning, has an embedding of zeros.

    Args:
        vocab_size: number of text tokens; the blank has the index after the last.
        config: widths, layers, first values.
    """

    def __init__(self, vocab_size: int, config: LSTMConfig) -> None:
        super().__init__()
        self.d_model, self.blank = config.d_model, vocab_size
        self.random_start = config.random_start
        self.embedding = nn.Embedding(vocab_size + 1, config.d_model, padding_idx=vocab_size)
        self.lstm = LSTMCells(config)

    def forward(self, x: Tokens[Tensor, "B U"]) -> Textual[Tensor, "B U' D={self.d_model}"]:
        """Returns what it says before the first token and after each, (B, U + 1, D).

        Args:
            x: the tokens of each text.
        """
        embedded = self.embedding(F.pad(x, (1, 0), value=self.blank))
        state = self.lstm.start(embedded)
        if self.random_start and self.training:
            state = tuple(torch.randn_like(each) for each in state)
        out: Tensor = self.lstm(embedded, *state).x
        return out

    def start(self, num_items: int) -> State:
        """Returns the state of empty texts."""
        return self.lstm.start(self.embedding.weight.new_zeros(num_items, 0))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads one token of each text.

        Args:
            tokens: (B,); the blank for the beginning.
            state: what it remembers of the tokens before.

        Returns:
            (B, D), and the state after it.
        """
        out, *after = self.lstm(self.embedding(tokens[:, None]), *state)
        return out[:, 0], tuple(after)


class StatelessPredictor(nn.Module):
    """Embeddings of the last few tokens, one table for each place, side by side.

    Args:
        vocab_size: number of text tokens; the blank, an embedding of zeros, has the index after the last.
        config: widths and context.
    """

    def __init__(self, vocab_size: int, config: StatelessConfig) -> None:
        super().__init__()
        self.d_model, self.blank, self.context = config.d_model, vocab_size, config.context
        self.dropout, self.normalize = config.dropout, config.normalize
        older = config.d_model // 2 // config.context
        widths = [config.d_model - older * (config.context - 1)] + [older] * (config.context - 1)
        self.embeddings = nn.ModuleList(nn.Embedding(vocab_size + 1, d, padding_idx=vocab_size) for d in widths)

    def forward(self, x: Tokens[Tensor, "B U"]) -> Textual[Tensor, "B U' D={self.d_model}"]:
        """Returns what it says before the first token and after each, (B, U + 1, D).

        Args:
            x: the tokens of each text.
        """
        return self._joined(F.pad(x, (self.context, 0), value=self.blank))

    def _joined(self, tokens: Tensor) -> Tensor:
        """Embeds (B, C - 1 + U) tokens, of which all but the first C - 1 get an output."""
        count = tokens.shape[1] - self.context + 1
        places = [self.context - 1 - age for age in range(self.context)]
        parts = [table(tokens[:, p : p + count]) for table, p in zip(self.embeddings, places, strict=True)]
        out = F.dropout(torch.cat(parts, -1), self.dropout, self.training)
        return F.layer_norm(out, (self.d_model,)) if self.normalize else out

    def start(self, num_items: int) -> State:
        """Returns the state of empty texts: (B, C - 1), the last tokens."""
        device = next(self.parameters()).device
        return (torch.full((num_items, self.context - 1), self.blank, device=device),)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads one token of each text.

        Args:
            tokens: (B,); the blank for the beginning.
            state: the tokens before.

        Returns:
            (B, D), and the state after it.
        """
        seen = torch.cat((state[0], tokens[:, None]), 1)
        return self._joined(seen)[:, 0], (seen[:, 1:],)


class Joint(nn.Module):
    """Scores of what comes next, from the sum of what encoder and predictor say.

    Args:
        d_joint: width of both.
        num_outputs: tokens, blanks, durations.
        activation: the non-linearity.
        dropout: share of activations dropped after it.
    """

    def __init__(self, d_joint: int, num_outputs: int, *, activation: str, dropout: float) -> None:
        super().__init__()
        self.d_joint, self.num_outputs, self.dropout = d_joint, num_outputs, dropout
        self.activation = ACTIVATIONS[activation]
        self.linear = nn.Linear(d_joint, num_outputs)

    def forward(self, x: Hidden[Tensor, "T U D={self.d_joint}"]) -> Logits[Tensor, "T U V={self.num_outputs}"]:
        """Returns unnormalised scores.

        Args:
            x: a sum at each node; any axes may stand for frames and labels.
        """
        out: Tensor = self.linear(dropout(self.activation(x), self.dropout, self.training))
        return out


class TransducerStates(NamedTuple):
    """What encoder and predictor say, in the width of the joint, and how many frames are valid."""

    x: Hidden[Tensor, "B T D'={self.d_joint}"]
    x_len: Frames[Tensor, "B"]
    predicted: Textual[Tensor, "B U' D'={self.d_joint}"]


class HybridStates(NamedTuple):
    """`TransducerStates`, and log-probabilities of tokens and blank at each frame, of inner layers too."""

    x: Hidden[Tensor, "B T D'={self.d_joint}"]
    x_len: Frames[Tensor, "B"]
    predicted: Textual[Tensor, "B U' D'={self.d_joint}"]
    log_probs: LogProbs[Tensor, "B T V={self.ctc.num_labels}"]
    inner: LogProbs[Tensor, "C B T V={self.ctc.num_labels}"] | None = None


class TransducerHead(nn.Module):
    """Predictor and joint.

    Example:
        >>> head = TransducerConfig(d_joint=8, predictor=LSTMConfig(d_model=8)).build(d_model=16, vocab_size=28)
        >>> states = torch.zeros(1, 5, 16), torch.tensor([5])
        >>> x, x_len, predicted = head(*states, torch.tensor([[4, 2]]), torch.tensor([2]))
        >>> head.joint(x[0, :, None] + predicted[0, None]).shape
        torch.Size([5, 3, 29])

    Args:
        d_model: width of the encoder.
        vocab_size: number of text tokens, without blanks.
        config: everything else.
    """

    def __init__(self, d_model: int, vocab_size: int, config: TransducerConfig) -> None:
        super().__init__()
        self.d_model, self.vocab_size, self.d_joint = d_model, vocab_size, config.d_joint
        self.durations, self.big_blanks, self.p_mask = config.durations, config.big_blanks, config.p_mask
        self.predictor: Any = config.predictor.build(vocab_size)
        self.acoustic = nn.Linear(d_model, config.d_joint)
        self.textual = nn.Linear(self.predictor.d_model, config.d_joint)
        num_outputs = vocab_size + len(config.big_blanks) + 1 + len(config.durations)
        self.joint = Joint(config.d_joint, num_outputs, activation=config.activation, dropout=config.dropout)

    def forward(
        self,
        x: Acoustic[Tensor, "B T D={self.d_model}"],
        x_len: Frames[Tensor, "B"],
        targets: Tokens[Tensor, "B U"],
        target_len: Labels[Tensor, "B"],
    ) -> TransducerStates:
        """Returns what the joint takes, from encoder and predictor.

        Args:
            x: encoder states.
            x_len: valid frames.
            targets: tokens of the text; none, (B, 0), to decode.
            target_len: not asked for, as the predictor sees only tokens before.
        """
        return TransducerStates(self.acoustic(x), x_len, self._predicted(targets))

    def _predicted(self, targets: Tensor) -> Tensor:
        out: Tensor = self.textual(self.predictor(targets))
        if self.training and self.p_mask:
            out = out * (torch.rand(*out.shape[:2], 1, device=out.device) > self.p_mask)
        return out


class HybridHead(TransducerHead):
    """A transducer's predictor and joint, and a CTC head.

    Args:
        d_model: width of the encoder.
        vocab_size: number of text tokens, without blanks.
        config: that of the transducer.
    """

    def __init__(self, d_model: int, vocab_size: int, config: HybridConfig) -> None:
        super().__init__(d_model, vocab_size, config)
        self.ctc = CTCHead(d_model, vocab_size)

    def forward(  # type: ignore[override]  # it gives more
        self,
        x: Acoustic[Tensor, "B T D={self.d_model}"],
        x_len: Frames[Tensor, "B"],
        targets: Tokens[Tensor, "B U"],
        target_len: Labels[Tensor, "B"],
        inner: Acoustic[Tensor, "C B T D={self.d_model}"] | None = None,
    ) -> HybridStates:
        """Returns what the joint takes, and log-probabilities of labels.

        Args:
            x: encoder states.
            x_len: valid frames.
            targets: tokens of the text; none, (B, 0), to decode.
            target_len: not asked for.
            inner: states of inner layers, where the encoder gives some.
        """
        labels = self.ctc(x, x_len, inner)
        return HybridStates(self.acoustic(x), x_len, self._predicted(targets), labels.x, labels.inner)

    def label_scores(self, output: HybridStates) -> LabelLogProbs:
        """Returns the part of an output that CTC reads."""
        return LabelLogProbs(output.log_probs, output.x_len, output.inner)

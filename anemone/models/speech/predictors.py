"""Predictors of transducers: from the text so far to what the joint hears of it.

Each has a width ``d_model`` and a ``blank``. ``forward`` reads whole texts; for decoding ``start(num_items)`` gives the
state of empty texts, before the blank that stands for their beginning was read, and ``step(tokens, state)`` reads one
token (B,) of each text and gives (B, D) and the state after it.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.config import must
from anemone.types import Hidden, Textual, Tokens

State = tuple[Tensor, ...]
"""What a predictor remembers of a text: tensors whose first axis is the batch."""

PREDICTORS = {
    "lstm": "anemone.models.speech.predictors:LSTMConfig",
    "stateless": "anemone.models.speech.predictors:StatelessConfig",
}


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

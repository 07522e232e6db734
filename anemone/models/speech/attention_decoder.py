"""The attention head: a Transformer decoder that writes text while it looks at the encoder's states (arXiv:1706.03762).

    states -> projection, where widths differ -> Transformer encoder, where it has layers -> memory
    tokens -> embedding + positions -> norm -> L times block(self-attention, memory, feed-forward) -> norm -> log-probs

This is the decoder of Canary (arXiv:2406.19674), whose targets begin with a prompt: see `anemone.features.prompts`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from anemone.config import must
from anemone.nn.encoded import key_mask
from anemone.nn.relative import sinusoids
from anemone.nn.transformer import Activation, KeysValues, TransformerBlock, through
from anemone.types import Acoustic, Frames, Labels, LogProbs, Tokens

Positions = Literal["fixed", "learned"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A stack of Transformer blocks."""

    num_layers: int = 24
    """Number of blocks."""

    num_heads: int = 8
    """Heads of each attention."""

    d_hidden: int = 4096
    """Width inside the feed-forward networks."""

    activation: Activation = "relu"
    """Of the feed-forward networks."""

    pre_norm: bool = True
    """Whether each part of a block sees normalised states, or its sum with the residual is normalised."""

    final_norm: bool = True
    """Whether the states after the last block are normalised; only with ``pre_norm``."""

    causal: bool = False
    """Whether a frame sees only those up to itself; a decoder is causal anyway."""

    dropout: float = 0.1
    """Of the feed-forward networks' output."""

    dropout_attention: float = 0.1
    """Of the attentions' output."""

    dropout_scores: float = 0.1
    """Of the attention weights."""

    key_bias: bool = True
    """Whether the attentions' maps to keys have biases."""

    def __post_init__(self) -> None:
        must(self.num_layers >= 0, "num_layers", "0 or more", value=self.num_layers)
        must(self.num_heads >= 1, "num_heads", "1 or more", value=self.num_heads)
        must(self.d_hidden >= 1, "d_hidden", "1 or more", value=self.d_hidden)
        for name in ("dropout", "dropout_attention", "dropout_scores"):
            must(0 <= getattr(self, name) < 1, name, "in [0, 1)", value=getattr(self, name))

    def build(self, d_model: int, *, memory: bool) -> "Transformer":
        """Returns the stack.

        Args:
            d_model: its width.
            memory: whether the blocks attend to a memory.
        """
        return Transformer(self, d_model, memory=memory)


@dataclass(frozen=True, kw_only=True)
class AttentionHeadConfig:
    """A Transformer decoder over the states of the encoder; defaults are those of Canary 1B."""

    losses: ClassVar[tuple[str, ...]] = ("attention",)
    """Kinds of losses that fit the head, the usual one first."""

    decodings: ClassVar[tuple[str, ...]] = ("attention_greedy", "whisper_greedy")
    """Kinds of decoding that fit the head, the usual one first."""

    d_model: int = 1024
    """Width of the decoder; states of another width are projected to it."""

    decoder: TransformerConfig = TransformerConfig()
    """The blocks that write."""

    encoder: TransformerConfig | None = None
    """Blocks over the states of the acoustic encoder, which the decoder then looks at; none if null."""

    max_len: int = 1024
    """Tokens that a text may have at most, prompt and end included."""

    positions: Positions = "fixed"
    """Whether positions are sines and cosines (section 3.5), or learned."""

    embedding_norm: bool = True
    """Whether the embedded tokens are normalised."""

    dropout_embedding: float = 0.1
    """Of the embedded tokens."""

    tie: bool = True
    """Whether the output layer has the embedding's weights."""

    output_bias: bool = True
    """Whether the output layer has a bias."""

    project: bool | None = None
    """Whether the encoder's states are projected; only where widths differ if null."""

    vocab_multiple: int = 8
    """The vocabulary is filled up with unused tokens to a multiple of this."""

    def __post_init__(self) -> None:
        must(self.d_model >= 2 and self.d_model % 2 == 0, "d_model", "an even number", value=self.d_model)
        for name, stack in (("decoder", self.decoder), ("encoder", self.encoder)):
            heads = stack.num_heads if stack else 1
            must(self.d_model % heads == 0, f"{name}.num_heads", f"a divisor of {self.d_model}", value=heads)
        must(self.max_len >= 2, "max_len", "2 or more", value=self.max_len)
        must(self.vocab_multiple >= 1, "vocab_multiple", "1 or more", value=self.vocab_multiple)
        must(0 <= self.dropout_embedding < 1, "dropout_embedding", "in [0, 1)", value=self.dropout_embedding)

    def build(self, d_model: int, vocab_size: int, end: int = 0) -> "AttentionHead":
        """Returns the head.

        Args:
            d_model: width of the acoustic encoder.
            vocab_size: number of tokens, special ones among them.
            end: the token that ends a text.
        """
        return AttentionHead(self, d_model, vocab_size, end)


class AttentionStates(NamedTuple):
    """The memory, what follows each token of the targets, and the targets themselves, which may be a prompt alone."""

    x: Acoustic[Tensor, "B T D'={self.d_model}"]
    x_len: Frames[Tensor, "B"]
    log_probs: LogProbs[Tensor, "B U V={self.num_labels}"]
    targets: Tokens[Tensor, "B U"]
    prompt_len: Labels[Tensor, "B"]


class State(NamedTuple):
    """What a decoder knows of what was written so far, and of the memory."""

    memory: list[KeysValues]
    """Keys and values of the memory, by layer."""

    keep: Tensor
    """(B, 1, 1, T), True on the valid frames of the memory."""

    past: list[KeysValues]
    """Keys and values of the tokens so far, by layer; empty before the first."""

    @property
    def length(self) -> int:
        """Tokens so far."""
        return self.past[0].keys.shape[2] if self.past else 0


class Transformer(nn.Module):
    """Transformer blocks, and a normalisation after them where they have it before their parts.

    Args:
        config: its numbers.
        d_model: its width.
        memory: whether the blocks attend to a memory.
    """

    def __init__(self, config: TransformerConfig, d_model: int, *, memory: bool) -> None:
        super().__init__()
        self.d_model, self.causal = d_model, config.causal
        self.layers = nn.ModuleList(
            TransformerBlock(
                d_model,
                config.num_heads,
                config.d_hidden,
                activation=config.activation,
                pre_norm=config.pre_norm,
                memory=memory,
                dropout=config.dropout,
                dropout_attention=config.dropout_attention,
                dropout_scores=config.dropout_scores,
                key_bias=config.key_bias,
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(d_model) if config.pre_norm and config.final_norm else nn.Identity()

    @property
    def blocks(self) -> list[TransformerBlock]:
        """The layers."""
        return [layer for layer in self.layers if isinstance(layer, TransformerBlock)]

    def forward(
        self, x: Acoustic[Tensor, "B T D={self.d_model}"], x_len: Frames[Tensor, "B"]
    ) -> Acoustic[Tensor, "B T D={self.d_model}"]:
        """Returns the states after all blocks.

        Args:
            x: states of an acoustic encoder.
            x_len: valid frames.
        """
        keep = key_mask(x_len, x.shape[1])
        if self.causal:
            keep = keep & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        return self.norm(through(self.layers, x, keep))  # type: ignore[no-any-return]


class AttentionHead(nn.Module):
    """Log-probabilities of the token after each token of a text, given a recording.

    Args:
        config: its numbers.
        d_encoder: width of the acoustic encoder.
        vocab_size: number of tokens.
        end: the token that ends a text.
    """

    def __init__(self, config: AttentionHeadConfig, d_encoder: int, vocab_size: int, end: int) -> None:
        super().__init__()
        self.d_encoder, self.d_model, self.vocab_size, self.end = d_encoder, config.d_model, vocab_size, end
        self.max_len = config.max_len
        self.num_labels = -(-vocab_size // config.vocab_multiple) * config.vocab_multiple
        differ = d_encoder != self.d_model
        must(not differ or config.project is not False, "project", "true where widths differ", value=config.project)
        self.projection = nn.Linear(d_encoder, self.d_model) if differ or config.project else nn.Identity()
        self.encoder = config.encoder.build(self.d_model, memory=False) if config.encoder else None
        self.embedding = nn.Embedding(self.num_labels, self.d_model)
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(self.max_len, self.d_model))
        else:
            places = torch.arange(self.max_len, dtype=torch.float32)
            table = sinusoids(places, self.d_model) / math.sqrt(self.d_model)
            self.register_buffer("positions", table, persistent=False)
        self.embedding_norm = nn.LayerNorm(self.d_model) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout_embedding)
        self.decoder = config.decoder.build(self.d_model, memory=True)
        self.output = nn.Linear(self.d_model, self.num_labels, bias=config.output_bias)
        self._draw()
        if config.tie:
            self.output.weight = self.embedding.weight

    def _draw(self) -> None:
        """Draws first weights: of normal distribution with deviation 1 / sqrt(width), biases 0."""
        std = self.d_model**-0.5
        for module in (m for part in (self.encoder, self.decoder, self.output) if part for m in part.modules()):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=std)
        if isinstance(self.positions, nn.Parameter):
            nn.init.normal_(self.positions, std=std)

    def forward(
        self,
        x: Acoustic[Tensor, "B T D={self.d_encoder}"],
        x_len: Frames[Tensor, "B"],
        targets: Tokens[Tensor, "B U"],
        target_len: Labels[Tensor, "B"],
        prompt_len: Labels[Tensor, "B"],
    ) -> AttentionStates:
        """Returns log-probabilities of what follows each token of the targets, as float32.

        Args:
            x: states of the acoustic encoder.
            x_len: valid frames.
            targets: prompt, text and end; or a prompt alone.
            target_len: tokens of each; a token sees only those before it, so padding changes nothing.
            prompt_len: how many of them are the prompt.
        """
        memory = self.remember(x, x_len)
        log_probs, _ = self.step(self.start(memory, x_len), targets)
        return AttentionStates(memory, x_len, log_probs, targets, prompt_len)

    def remember(self, x: Tensor, x_len: Tensor) -> Tensor:
        """Returns the memory (B, T, D) of states of the acoustic encoder."""
        memory: Tensor = self.projection(x)
        return memory if self.encoder is None else self.encoder(memory, x_len)

    def start(self, memory: Tensor, memory_len: Tensor) -> State:
        """Returns the state before the first token.

        Args:
            memory: (B, T, D), see `remember`.
            memory_len: (B,) valid frames.
        """
        keep = key_mask(memory_len, memory.shape[1])
        return State([layer.memory_attention.project(memory) for layer in self.decoder.blocks], keep, [])

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Reads tokens that follow those of the state.

        Args:
            state: see `start`.
            tokens: (B, N); more than one only at the beginning.

        Returns:
            Log-probabilities of what follows each of them (B, N, V), and the state after them.
        """
        first, num = state.length, tokens.shape[1]
        assert num == 1 or not first, "only the first step may read several tokens"
        assert first + num <= self.max_len, f"{first + num} tokens, but the head has {self.max_len} positions"
        x = self.dropout(self.embedding_norm(self.embedding(tokens) + self.positions[first : first + num]))
        past = []
        for i, layer in enumerate(self.decoder.blocks):
            own = layer.own_keys(x)
            if first:
                own = KeysValues(*(torch.cat(pair, 2) for pair in zip(state.past[i], own, strict=True)))
            past.append(own)
            x = layer(x, causal=not first, memory=state.memory[i], memory_keep=state.keep, own=own)
        logits = self.output(self.decoder.norm(x))
        return logits.float().log_softmax(-1), state._replace(past=past)

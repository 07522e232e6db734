"""Llama: a decoder-only Transformer over text tokens (arXiv:2302.13971, 2307.09288, 2407.21783).

    tokens -> embedding -> L times [ + attention(norm) -> + feed-forward(norm) ] -> norm -> head -> logits

Normalisation is by root mean square, positions are told by rotation, heads share keys and values, and the feed-forward
part is gated (SwiGLU, arXiv:2002.05202). With ``num_experts`` it is a mixture of experts, which makes a Mixtral
(arXiv:2401.04088). Weights are those published on Hugging Face, number by number: see `checkpoint/names/llama.py`.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.config import Tree, encode, must
from anemone.nn.attention import AttentionCore
from anemone.nn.norm import RMSNorm
from anemone.nn.rotary import RotaryScaling, rotary, rotate
from anemone.types import Logits, Positions, Rotations, Segments, Textual, Tokens

STD = 0.02  # of the first weights, as in GPT-2


class LlamaShape(NamedTuple):
    """All numbers of a Llama but the size of its vocabulary; `LlamaConfig` says what each of them is."""

    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    d_head: int
    d_ff: int
    rope_theta: float = 10_000.0
    rope_scaling: RotaryScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    window: int | None = None
    num_experts: int = 0
    num_experts_per_token: int = 2
    balance: float = 0.0

    def tree(self) -> Tree:
        """Settings of this very model, with every number written out, as checkpoints hold them."""
        return {"kind": "llama", **encode(LlamaConfig(size="custom", **self._asdict()))}


SIZES = {
    "tiny": LlamaShape(64, 2, 4, 2, 16, 176),
    "20m": LlamaShape(384, 8, 6, 6, 64, 1024),
    "100m": LlamaShape(768, 12, 12, 4, 64, 2048),
    "1b": LlamaShape(2048, 16, 32, 8, 64, 8192, 500_000.0, RotaryScaling(factor=32.0), tie_embeddings=True),
    "3b": LlamaShape(3072, 28, 24, 8, 128, 8192, 500_000.0, RotaryScaling(factor=32.0), tie_embeddings=True),
    "8b": LlamaShape(4096, 32, 32, 8, 128, 14_336, 500_000.0, RotaryScaling()),
    "70b": LlamaShape(8192, 80, 64, 8, 128, 28_672, 500_000.0, RotaryScaling()),
    "405b": LlamaShape(16_384, 126, 128, 8, 128, 53_248, 500_000.0, RotaryScaling()),
    "mistral_7b": LlamaShape(4096, 32, 32, 8, 128, 14_336, window=4096),
    "mixtral_tiny": LlamaShape(64, 2, 4, 2, 16, 96, num_experts=4),
    "mixtral_8x7b": LlamaShape(4096, 32, 32, 8, 128, 14_336, 1_000_000.0, num_experts=8),
    "mixtral_8x22b": LlamaShape(6144, 56, 48, 8, 128, 16_384, 1_000_000.0, num_experts=8),
}
NEEDED = ("d_model", "num_layers", "num_heads", "d_ff")  # what a custom size must say


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """A Llama of a named size, or of one's own numbers; a number that is given goes before that of the size."""

    size: Literal[
        "tiny", "20m", "100m", "1b", "3b", "8b", "70b", "405b",
        "mistral_7b", "mixtral_tiny", "mixtral_8x7b", "mixtral_8x22b", "custom",
    ] = "tiny"  # fmt: skip
    """A published size (Llama 3.1 and 3.2, Mistral, Mixtral), or one of ours for small machines."""

    d_model: int | None = None
    """Width of the states."""

    num_layers: int | None = None
    """Number of layers."""

    num_heads: int | None = None
    """Heads of queries."""

    num_kv_heads: int | None = None
    """Heads of keys and values; as many as of queries in a custom size that does not say."""

    d_head: int | None = None
    """Width of a head; ``d_model / num_heads`` in a custom size that does not say."""

    d_ff: int | None = None
    """Width inside the feed-forward part, or inside each expert."""

    rope_theta: float | None = None
    """Sets the slowest rotation of `anemone.nn.rotary`; 10,000 in a custom size that does not say."""

    rope_scaling: RotaryScaling | None = None
    """Slower rotation for texts longer than those of pre-training; none in a custom size that does not say."""

    norm_eps: float | None = None
    """What normalisation adds to the mean square; 1e-5 in a custom size that does not say."""

    tie_embeddings: bool | None = None
    """Whether the head has the weights of the embedding; false in a custom size that does not say."""

    window: int | None = None
    """How many tokens a token sees, itself among them; all before it by default."""

    num_experts: int | None = None
    """Experts in each feed-forward part; 0 for one that is plain."""

    num_experts_per_token: int | None = None
    """How many of them compute a token; 2 in a custom size that does not say."""

    balance: float | None = None
    """Weight of the loss that spreads tokens evenly over experts; 0 in a custom size that does not say."""

    def __post_init__(self) -> None:
        if self.size == "custom":
            for name in NEEDED:
                given = getattr(self, name)
                must(given is not None, name, 'given where `size` is "custom"', value=given)
        shape = self.shape
        for name in (*NEEDED, "num_kv_heads", "d_head", "num_experts_per_token"):
            must(getattr(shape, name) >= 1, name, "1 or more", value=getattr(shape, name))
        divides = shape.num_heads % shape.num_kv_heads == 0
        must(divides, "num_kv_heads", f"a divisor of `num_heads`, {shape.num_heads}", value=shape.num_kv_heads)
        must(shape.d_head % 2 == 0, "d_head", "even, as rotation takes pairs", value=shape.d_head)
        must(shape.rope_theta > 1, "rope_theta", "above 1", value=shape.rope_theta)
        must(shape.norm_eps >= 0, "norm_eps", "0 or more", value=shape.norm_eps)
        must(shape.window is None or shape.window >= 1, "window", "1 or more", value=shape.window)
        must(shape.num_experts >= 0, "num_experts", "0 or more", value=shape.num_experts)
        few = not shape.num_experts or shape.num_experts_per_token <= shape.num_experts
        rule = f"at most `num_experts`, {shape.num_experts}"
        must(few, "num_experts_per_token", rule, value=shape.num_experts_per_token)
        for name in ("d_model", "d_ff") if shape.num_experts else ():
            must(getattr(shape, name) % 8 == 0, name, "a multiple of 8 with experts", value=getattr(shape, name))
        must(shape.balance >= 0, "balance", "0 or more", value=shape.balance)

    @property
    def shape(self) -> LlamaShape:
        """All numbers, of which those of the size fill in what is not given."""
        given = {name: value for name in LlamaShape._fields if (value := getattr(self, name)) is not None}
        if self.size != "custom":
            return SIZES[self.size]._replace(**given)
        heads = given["num_heads"]
        return LlamaShape(**{"num_kv_heads": heads, "d_head": given["d_model"] // heads, **given})

    def build(self, vocab_size: int) -> "Llama":
        """Returns a model over ``vocab_size`` tokens, with random weights unless on the meta device."""
        return Llama(vocab_size, self.shape)


class SwiGLU(nn.Module):
    """The gated feed-forward part: ``down(silu(gate(x)) * up(x))`` (arXiv:2002.05202, equation 6).

    Args:
        d_model: width of the states.
        d_ff: width inside.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Textual[Tensor, "B N D={self.d_model}"]) -> Textual[Tensor, "B N D={self.d_model}"]:
        """Returns what is added to the states.

        Args:
            x: normalised states.
        """
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class LlamaAttention(nn.Module):
    """Attention over all tokens before, with rotated queries and keys.

    Heads are counted from the width the projections give, so that they may be spread over processes.

    Args:
        shape: numbers of the model.
    """

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.d_model, self.d_head = shape.d_model, shape.d_head
        self.query = nn.Linear(shape.d_model, shape.num_heads * shape.d_head, bias=False)
        self.key = nn.Linear(shape.d_model, shape.num_kv_heads * shape.d_head, bias=False)
        self.value = nn.Linear(shape.d_model, shape.num_kv_heads * shape.d_head, bias=False)
        self.output = nn.Linear(shape.num_heads * shape.d_head, shape.d_model, bias=False)
        self.core = AttentionCore(window=shape.window)

    def forward(
        self,
        x: Textual[Tensor, "B N D={self.d_model}"],
        cos: Rotations[Tensor, "B N K"],
        sin: Rotations[Tensor, "B N K"],
        segments: Segments[Tensor, "B N"] | None = None,
    ) -> Textual[Tensor, "B N D={self.d_model}"]:
        """Returns what is added to the states.

        Args:
            x: normalised states.
            cos: cosines of the rotation of each position, from `rotary`.
            sin: its sines.
            segments: number of each token's document.
        """
        query, key, value = (f(x) for f in (self.query, self.key, self.value))
        query, key, value = (y.view(*y.shape[:2], -1, self.d_head) for y in (query, key, value))  # (B, N, H, K)
        read = self.core(rotate(query, cos, sin), rotate(key, cos, sin), value, segments)
        out: Tensor = self.output(read.flatten(2))  # (B, N, H, K) -> (B, N, H * K)
        return out


class LlamaBlock(nn.Module):
    """One layer: attention and a feed-forward part, each on normalised states and added to them.

    Args:
        shape: numbers of the model.
    """

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.d_model = shape.d_model
        self.attention_norm = RMSNorm(shape.d_model, shape.norm_eps)
        self.attention = LlamaAttention(shape)
        self.ffn_norm = RMSNorm(shape.d_model, shape.norm_eps)
        self.ffn = _experts(shape) if shape.num_experts else SwiGLU(shape.d_model, shape.d_ff)

    def forward(
        self,
        x: Textual[Tensor, "B N D={self.d_model}"],
        cos: Rotations[Tensor, "B N K"],
        sin: Rotations[Tensor, "B N K"],
        segments: Segments[Tensor, "B N"] | None = None,
    ) -> Textual[Tensor, "B N D={self.d_model}"]:
        """Returns the states after the layer.

        Args:
            x: states.
            cos: cosines of the rotation of each position, from `rotary`.
            sin: its sines.
            segments: number of each token's document.
        """
        x = x + self.attention(self.attention_norm(x), cos, sin, segments)
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out


def _experts(shape: LlamaShape) -> nn.Module:
    from anemone.nn.moe import MoE

    return MoE(
        shape.d_model,
        shape.d_ff,
        num_experts=shape.num_experts,
        num_experts_per_token=shape.num_experts_per_token,
        balance=shape.balance,
    )


class Llama(nn.Module):
    """The model: tokens (B, N) to scores of the next token (B, N, V).

    A part of a model is a model, too: without an embedding it takes states, without a head it returns states, and it
    computes the layers it has. Parts keep the names of the whole.

    Example:
        >>> model = LlamaConfig(size="tiny").build(vocab_size=256)
        >>> tokens = torch.arange(6).view(2, 3)
        >>> model(tokens, positions=torch.arange(3).expand(2, 3)).shape
        torch.Size([2, 3, 256])

    Args:
        vocab_size: number of tokens, V.
        shape: all other numbers.
    """

    def __init__(self, vocab_size: int, shape: LlamaShape) -> None:
        super().__init__()
        self.vocab_size, self.shape, self.d_model = vocab_size, shape, shape.d_model
        self.embedding: nn.Embedding | None = nn.Embedding(vocab_size, shape.d_model)
        self.layers = nn.ModuleDict({str(n): LlamaBlock(shape) for n in range(shape.num_layers)})
        self.norm: RMSNorm | None = RMSNorm(shape.d_model, shape.norm_eps)
        self.head: nn.Linear | None = nn.Linear(shape.d_model, vocab_size, bias=False)
        self.tie()
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if not parameter.is_meta:
                    parameter.copy_(self.draw(name, parameter.shape))

    def tie(self) -> None:
        """Gives the head the embedding's weights, where they are tied and both are here.

        Whatever puts new parameters into the modules calls it afterwards.
        """
        if self.shape.tie_embeddings and self.head is not None and self.embedding is not None:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        x: Tokens[Tensor, "B N"],
        positions: Positions[Tensor, "B N"],
        segments: Segments[Tensor, "B N"] | None = None,
    ) -> Logits[Tensor, "B N V={self.vocab_size}"]:
        """Returns the scores of the next token; states (B, N, D) where there is no head.

        Args:
            x: tokens; states (B, N, D) where there is no embedding.
            positions: of each token in its document, from 0.
            segments: number of each token's document, where several are packed into a row.
        """
        cos, sin = rotary(positions, self.shape.d_head, theta=self.shape.rope_theta, scaling=self.shape.rope_scaling)
        if self.embedding is not None:
            x = self.embedding(x)
        for layer in self.layers.values():
            x = layer(x, cos, sin, segments)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.head is None else self.head(x)

    def draw(self, name: str, shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
        """Draws the first value of the parameter of that name: 1 for gains, else normal.

        The deviation is 0.02, and ``0.02 / sqrt(2 L)`` for matrices whose product is added to the states, so that the
        states of deep models start as small as those of shallow ones (GPT-2).

        Args:
            name: of the parameter in the whole model.
            shape: of the whole parameter.
            generator: where random numbers come from, and on which device; torch's own by default.

        Returns:
            Of that shape, float32.
        """
        device = torch.device("cpu") if generator is None else generator.device
        if name.endswith("norm.weight"):
            return torch.ones(shape, device=device)
        added = name.endswith(("attention.output.weight", "ffn.down.weight", "ffn.experts.down"))
        std = STD / math.sqrt(2 * self.shape.num_layers) if added else STD
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).mul_(std)

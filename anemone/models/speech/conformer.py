"""Conformer: attention for what is far, convolution for what is near (arXiv:2005.08100).

    features -> sub-sampling -> L layers -> states

    x = x + 1/2 FeedForward(x)
    x = x + Attention(x)              relative positions
    x = x + Convolution(x)            pointwise, GLU, depthwise, normalisation, SiLU, pointwise
    x = x + 1/2 FeedForward(x)
    x = LayerNorm(x)

each part over a layer normalisation of its input. FastConformer (arXiv:2305.05084) is the same behind a stronger
sub-sampling; see `anemone.models.speech.fastconformer`.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from anemone.config import must
from anemone.models.speech.conformer_config import (
    AttentionConfig,
    ReductionConfig,
    Size,
    SubsamplingConfig,
    check_count,
    check_share,
)
from anemone.nn.conformer import ConformerLayer, ConvNorm
from anemone.nn.context import in_context
from anemone.nn.dropout import dropout
from anemone.nn.encoded import Encoded, Tapped, keep_mask
from anemone.nn.relative import (
    LocalAttention,
    RelativeAttention,
    SelfAttention,
    distances,
    masked_scores,
    new_biases,
    sinusoids,
)
from anemone.nn.subsampling import Reduction, subsampling, whole
from anemone.types import Features, Frames


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """A Conformer of a named size, or of one's own."""

    SIZES: ClassVar[dict[str, Size]] = {
        "small": Size(16, 176, 4),
        "medium": Size(18, 256, 4),
        "large": Size(18, 512, 8),
    }
    """Numbers of the named sizes."""

    size: Literal["small", "medium", "large", "custom"] = "large"
    """NeMo's sizes, of 13, 30 and 120 million parameters; what is given below stands instead of theirs."""

    num_layers: int | None = None
    """Layers; by the size."""

    d_model: int | None = None
    """Width; by the size."""

    num_heads: int | None = None
    """Heads, a divisor of the width; by the size."""

    kernel: int | None = None
    """Frames that a kernel of the layers spans, odd; by the size."""

    scaled: bool | None = None
    """Multiply the states by the root of the width before the first layer; by the size."""

    d_out: int | None = None
    """Width of the output, through a last matrix; that of the layers by default."""

    ff_factor: int = 4
    """Width inside the feed-forward parts, in widths of the model."""

    bias: bool = True
    """Projections and convolutions of the layers have biases."""

    subsampling: SubsamplingConfig = SubsamplingConfig()
    """From frames of features to those of the layers."""

    attention: AttentionConfig = AttentionConfig()
    """What a frame sees of others."""

    reduction: ReductionConfig | None = None
    """A second sub-sampling, among the layers."""

    kernel_past: int | None = None
    """Frames of the past in a kernel; half of the others by default, ``kernel - 1`` for causal convolutions."""

    norm: Literal["batch", "layer", "group", "instance", "affine"] = "batch"
    """Normalisation inside the convolution; "affine" is a factor and a bias, as batch normalisation leaves them."""

    norm_groups: int = 1
    """Groups of channels of "group"."""

    dropout: float = 0.1
    """Share dropped inside the feed-forward parts and of what each part adds."""

    dropout_input: float = 0.1
    """Share dropped before the first layer."""

    dropout_positions: float = 0.0
    """Share of the vectors of distances dropped."""

    dropout_attention: float = 0.1
    """Share of the weights of attention dropped."""

    stochastic_depth: float = 0.0
    """Share of batches that pass over the last layer in training (arXiv:2102.03216)."""

    stochastic_mode: Literal["linear", "uniform"] = "linear"
    """The share grows from ``stochastic_start`` to the last layer, or is the same for all from there."""

    stochastic_start: int = 1
    """First layer, from 0, that may be passed over."""

    tap_layers: tuple[int, ...] = ()
    """Layers, from 0, whose states come out too, for losses on them."""

    nemo: bool = False
    """Do as NeMo does where that depends on padding or departs from the papers, for its archives: normalisation over
    padded frames, lengths after stacking, and `anemone.nn.relative.LocalAttention`."""

    def __post_init__(self) -> None:
        shape = self.shape
        for name in ("num_layers", "d_model", "num_heads", "kernel"):
            given = getattr(shape, name)
            must(given is not None, name, 'given where `size` is "custom"', value=given)
            check_count(name, given)
        must(shape.d_model % 2 == 0, "d_model", "even", value=shape.d_model)
        must(shape.d_model % shape.num_heads == 0, "num_heads", f"a divisor of {shape.d_model}", value=shape.num_heads)
        must(shape.kernel % 2 == 1, "kernel", "odd", value=shape.kernel, hint="An even kernel has no middle frame.")
        past = self.kernel_past
        must(past is None or 0 <= past < shape.kernel, "kernel_past", f"in 0..{shape.kernel - 1}", value=past)
        for name in ("dropout", "dropout_input", "dropout_positions", "dropout_attention", "stochastic_depth"):
            check_share(name, getattr(self, name))
        check_count("ff_factor", self.ff_factor)
        if self.d_out is not None:
            check_count("d_out", self.d_out)
        check_count("norm_groups", self.norm_groups)
        must(shape.d_model % self.norm_groups == 0, "norm_groups", "a divisor of the width", value=self.norm_groups)
        start, layers = self.stochastic_start, shape.num_layers
        must(1 <= start <= layers, "stochastic_start", f"in 1..{layers}", value=start)
        taps = self.tap_layers
        must(all(0 <= tap < layers for tap in taps), "tap_layers", f"in 0..{layers - 1}", value=taps)
        if self.reduction is not None:
            after = self.reduction.after
            must(after is None or 0 <= after < layers, "reduction.after", f"in 0..{layers - 1}", value=after)
            alone = after is not None or self.d_out in (None, shape.d_model)
            must(alone, "d_out", "left out where the reduction stands at the end", value=self.d_out)
            must(
                all(after is not None and tap >= after for tap in taps), "tap_layers", "after the reduction", value=taps
            )

    @property
    def shape(self) -> Size:
        """The numbers of the size, and what was given instead."""
        none = Size(None, None, None, None)  # type: ignore[arg-type]
        named = self.SIZES.get(self.size, none)
        given = {name: getattr(self, name) for name in ("num_layers", "d_model", "num_heads", "kernel", "scaled")}
        return named._replace(**{name: value for name, value in given.items() if value is not None})

    def written_out(self) -> Self:
        """Returns the same model as a custom size."""
        shape = self.shape
        sample = replace(self.subsampling, channels=self.subsampling.channels or shape.channels or None)
        own = shape._asdict()
        own.pop("channels")
        return replace(self, size="custom", subsampling=sample, **own)

    def build(self, num_features: int) -> "Conformer":
        """Returns an encoder of ``num_features`` feature bins."""
        return (TappedConformer if self.tap_layers else Conformer)(num_features, self)


class Scene(NamedTuple):
    """What all layers see alike."""

    keep: Tensor | None
    """(B, T, 1), True on valid frames; None where all are."""

    mask: Tensor | None
    """Added to scores; None where every frame sees all, and for local attention."""

    positions: Tensor | None
    """Vectors of distances."""


class Conformer(nn.Module):
    """The encoder: features (B, F, T) to states (B, T', D).

    Example:
        >>> encoder = ConformerConfig(size="custom", num_layers=1, d_model=16, num_heads=2, kernel=3).build(8)
        >>> x, x_len = encoder(torch.zeros(1, 8, 41), torch.tensor([41]))
        >>> x.shape, x_len
        (torch.Size([1, 11, 16]), tensor([11]))

    Args:
        num_features: feature bins, F.
        config: its settings.
    """

    def __init__(self, num_features: int, config: ConformerConfig) -> None:
        super().__init__()
        again = config.reduction.factor if config.reduction else 1
        self.stride = config.subsampling.factor * again
        shape = config.shape
        self.num_features, self.width, self.config, self.context = num_features, shape.d_model, config, 0
        self.d_model = config.d_out or shape.d_model
        sample = config.subsampling
        self.subsampling: nn.Module
        if sample.kind == "none":
            self.subsampling = nn.Linear(num_features, shape.d_model)
        else:
            self.subsampling = subsampling(
                num_features,
                shape.d_model,
                kind=sample.kind,
                factor=sample.factor,
                channels=sample.channels or shape.channels or shape.d_model,
                causal=sample.causal,
                even=config.nemo,
            )
        self.scale = math.sqrt(shape.d_model) if shape.scaled else 1.0
        biases = new_biases(shape.d_model, shape.num_heads) if config.attention.tied else None
        self.layers = nn.ModuleList(self._layer(biases) for _ in range(shape.num_layers))
        self.reduction: nn.Module | None = None
        if config.reduction is not None:
            after = config.reduction.after
            self.reduced_after = shape.num_layers - 1 if after is None else after
            self.reduction = Reduction(shape.d_model, config.reduction.kind, config.reduction.factor)
        wide = self.d_model != shape.d_model
        self.output = nn.Linear(shape.d_model, self.d_model) if wide else None

    def _layer(self, biases: tuple[nn.Parameter, nn.Parameter] | None) -> ConformerLayer:
        config, shape, see = self.config, self.config.shape, self.config.attention
        share, bias = config.dropout_attention, config.bias
        attention: SelfAttention
        if see.positions == "relative":
            attention = RelativeAttention(shape.d_model, shape.num_heads, dropout=share, bias=bias, biases=biases)
        elif see.positions == "absolute":
            attention = SelfAttention(shape.d_model, shape.num_heads, dropout=share, bias=bias)
        else:
            attention = LocalAttention(
                shape.d_model,
                shape.num_heads,
                past=see.contexts[0][0],
                future=see.contexts[0][1],
                num_global=see.num_global,
                spacing=see.global_spacing,
                separate=see.global_separate,
                dropout=share,
                bias=bias,
                nemo=config.nemo,
            )
        norm = ConvNorm(shape.d_model, kind=config.norm, num_groups=config.norm_groups, padded=config.nemo)
        return ConformerLayer(
            attention,
            norm,
            d_ff=shape.d_model * config.ff_factor,
            kernel=shape.kernel,
            past=(shape.kernel - 1) // 2 if config.kernel_past is None else config.kernel_past,
            dropout=config.dropout,
            bias=bias,
        )

    def forward(self, x: Features[Tensor, "B F={self.num_features} T"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns the states of the last layer; what stands at padded frames means nothing.

        Args:
            x: features of speech.
            x_len: valid frames.
        """
        x, x_len, _ = self.run(x, x_len)
        return Encoded(x, x_len)

    def run(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Returns the states of the last layer, their lengths, and the states of ``tap_layers``.

        Args:
            x: features of speech (B, F, T).
            x_len: valid frames (B,).
        """
        x = x.transpose(1, 2)  # (B, F, T) -> (B, T, F)
        if isinstance(self.subsampling, nn.Linear):
            x = self.subsampling(x)
        else:
            x, x_len = self.subsampling(x, x_len)
        if self.scale != 1.0:
            x = x * self.scale
        if self.config.attention.positions == "absolute":
            places = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
            x = x + sinusoids(places, self.width).to(x.dtype)
        x = dropout(x, self.config.dropout_input, self.training)
        context = self.draw(x.device)
        scene = self.scene(x, x_len, context)
        taps: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            y = layer(x, *scene)
            x = self.deepened(x, y, number)
            if self.reduction is not None and number == self.reduced_after:
                x, x_len = self.reduction(x, x_len)
                scene = self.scene(x, x_len, context)
            if number in self.config.tap_layers:
                taps.append(x if self.output is None else self.output(x))
        return (x if self.output is None else self.output(x)), x_len, taps

    def deepened(self, x: Tensor, y: Tensor, number: int) -> Tensor:
        """Stochastic depth (arXiv:2102.03216): the input of a layer, or its output further from it, at random.

        Args:
            x: input of the layer.
            y: its output.
            number: of the layer.
        """
        config, start = self.config, self.config.stochastic_start
        share = config.stochastic_depth if number >= start else 0.0
        if not self.training or not share:
            return y
        if config.stochastic_mode == "linear":
            share *= (number - start + 1) / (len(self.layers) - start)
        stays = (torch.rand((), device=x.device) >= share).to(x.dtype)
        return x + (y - x) * (stays / (1 - share))

    def draw(self, device: torch.device) -> tuple[int, int] | Tensor:
        """The context of a batch: number `context` of them, or in training one of several at random, as (2,) frames."""
        see = self.config.attention
        if not self.training or len(see.contexts) == 1:
            return see.contexts[self.context]
        shares = torch.tensor(see.shares or (1.0,) * len(see.contexts))
        ends = torch.tensor(see.contexts, device=device)
        return ends[torch.multinomial(shares, 1).to(device)][0]

    def scene(self, x: Tensor, x_len: Tensor, context: tuple[int, int] | Tensor) -> Scene:
        """Computes what all layers see alike.

        Args:
            x: states before the first layer.
            x_len: valid frames.
            context: frames seen before and after each, -1 for all.
        """
        see, frames = self.config.attention, x.shape[1]
        full = whole(x_len, frames)
        keep = None if full else keep_mask(x_len, frames)
        if see.positions == "local":
            attention = self.layers[0].attention
            assert isinstance(attention, LocalAttention)
            positions = attention.columns(x.device).to(x.dtype)
            mask = None
        else:
            positions = distances(frames, self.width, x.device).to(x.dtype)
            seen = None if keep is None else keep.transpose(1, 2)  # (B, 1, T)
            if isinstance(context, Tensor) or context != (-1, -1):
                window = in_context(frames, context, see.chunked, x.device)
                seen = window if seen is None else seen & window
            mask = None if seen is None else masked_scores(seen, x.dtype).unsqueeze(1)
        if see.positions == "absolute":
            return Scene(keep, mask, None)
        return Scene(keep, mask, dropout(positions, self.config.dropout_positions, self.training))


class TappedConformer(Conformer):
    """A Conformer that gives the states of some inner layers too.

    Args:
        num_features: feature bins, F.
        config: its settings.
    """

    def __init__(self, num_features: int, config: ConformerConfig) -> None:
        super().__init__(num_features, config)
        self.num_taps = len(config.tap_layers)

    def forward(self, x: Features[Tensor, "B F={self.num_features} T"], x_len: Frames[Tensor, "B"]) -> Tapped:  # type: ignore[override]
        """Returns the states of the last layer and of ``tap_layers``, from the first to the last.

        Args:
            x: features of speech.
            x_len: valid frames.
        """
        x, x_len, taps = self.run(x, x_len)
        return Tapped(x, x_len, torch.stack(taps))

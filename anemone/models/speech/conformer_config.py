"""Parts of a Conformer's settings: its sub-sampling, what a frame sees, a second sub-sampling, named sizes."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from anemone.config import must
from anemone.nn.context import EVERY

MOST = 65_536


def check_share(name: str, value: float) -> None:
    """Raises unless a share is at least 0 and below 1.

    Raises:
        ConfigError: naming the setting.
    """
    must(0 <= value < 1, name, "at least 0 and below 1", value=value)


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raises unless a number is one that a network can have.

    Raises:
        ConfigError: naming the setting.
    """
    must(least <= value <= MOST, name, f"in {least}..{MOST}", value=value)


@dataclass(frozen=True, kw_only=True)
class SubsamplingConfig:
    """How many frames of features become one, and by what; see `anemone.nn.subsampling`."""

    kind: Literal[
        "striding",
        "dw_striding",
        "vggnet",
        "striding_conv1d",
        "dw_striding_conv1d",
        "stacking",
        "stacking_norm",
        "none",
    ] = "striding"
    """By what; "none" is one matrix."""

    factor: int = 4
    """Frames that become one; a power of 2, but for stacking."""

    channels: int | None = None
    """Of the convolutions; by the size, or as wide as the model."""

    causal: bool = False
    """Convolutions look back further, and ahead less."""

    def __post_init__(self) -> None:
        check_count("factor", self.factor)
        if self.channels is not None:
            check_count("channels", self.channels)
        plain = self.kind == "none"
        must(plain == (self.factor == 1), "factor", '1 where `kind` is "none", and only there', value=self.factor)
        power = self.kind.startswith("stacking") or self.factor.bit_count() == 1
        must(power, "factor", "a power of 2", value=self.factor)
        able = self.kind in ("striding", "dw_striding", "striding_conv1d") or not self.causal
        must(able, "causal", f'false where `kind` is "{self.kind}"', value=self.causal)


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """What a frame sees of others."""

    positions: Literal["relative", "absolute", "local"] = "relative"
    """Vectors of distances (arXiv:1901.02860), of places (arXiv:1706.03762), or of the distances in a window."""

    contexts: tuple[tuple[int, int], ...] = ((-1, -1),)
    """Frames before and after that a frame sees, -1 for all; training draws one of several for each batch, and
    inference takes the first."""

    shares: tuple[float, ...] = ()
    """How often each of several contexts is drawn; alike by default."""

    chunked: bool = False
    """Frames come in chunks of one more than the frames after; a chunk sees itself and whole chunks before it."""

    tied: bool = False
    """All layers share the two biases of relative positions."""

    num_global: int = 0
    """Global frames, which all see and which see all; for "local"."""

    global_spacing: int = 1
    """Frames from a global one to the next."""

    global_separate: bool = False
    """Global frames have projections of their own."""

    def __post_init__(self) -> None:
        must(bool(self.contexts), "contexts", "one or more", value=self.contexts)
        for i, (past, future) in enumerate(self.contexts):
            must(
                -1 <= past <= EVERY and -1 <= future <= EVERY, f"contexts[{i}]", f"in -1..{EVERY}", value=(past, future)
            )
            whole_chunks = not self.chunked or future < 0 or past <= 0 or past % (future + 1) == 0
            must(whole_chunks, f"contexts[{i}]", "whole chunks before", value=(past, future))
        drawn = not self.shares or (len(self.shares) == len(self.contexts) and abs(sum(self.shares) - 1) < 1e-6)
        must(drawn, "shares", f"{len(self.contexts)} that sum to 1", value=self.shares)
        must(all(share >= 0 for share in self.shares), "shares", "0 or more each", value=self.shares)
        local = self.positions == "local"
        near = not local or (len(self.contexts) == 1 and min(self.contexts[0]) >= 0 and max(self.contexts[0]) > 0)
        must(near, "contexts", 'one with ends where `positions` is "local"', value=self.contexts)
        must(not (local and self.chunked), "chunked", 'false where `positions` is "local"', value=self.chunked)
        must(self.num_global == 0 or local, "num_global", '0 unless `positions` is "local"', value=self.num_global)
        check_count("num_global", self.num_global, 0)
        check_count("global_spacing", self.global_spacing)
        must(not self.tied or self.positions == "relative", "tied", "for relative positions only", value=self.tied)


@dataclass(frozen=True, kw_only=True)
class ReductionConfig:
    """A second sub-sampling, among the layers."""

    kind: Literal["pooling", "striding"] = "pooling"
    """Maxima of frames, or convolutions as in `SubsamplingConfig`."""

    factor: int = 2
    """Frames that become one, a power of 2."""

    after: int | None = None
    """Number of the layer that it follows, from 0; the end by default."""

    def __post_init__(self) -> None:
        check_count("factor", self.factor, 2)
        must(self.factor.bit_count() == 1, "factor", "a power of 2", value=self.factor)


class Size(NamedTuple):
    """A named size."""

    num_layers: int
    d_model: int
    num_heads: int
    kernel: int = 31
    scaled: bool = True
    channels: int = 0

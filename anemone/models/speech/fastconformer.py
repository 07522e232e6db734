"""FastConformer: a Conformer whose frames last 80 ms, by depthwise-separable sub-sampling (arXiv:2305.05084).

The layers are those of `anemone.models.speech.conformer`, with kernels of 9 frames.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from anemone.models.speech.conformer import ConformerConfig
from anemone.models.speech.conformer_config import Size, SubsamplingConfig


@dataclass(frozen=True, kw_only=True)
class FastConformerConfig(ConformerConfig):
    """A FastConformer of a named size, or of one's own; further settings are those of `ConformerConfig`.

    Example:
        >>> import torch
        >>> config = FastConformerConfig(size="custom", num_layers=1, d_model=16, num_heads=2, kernel=3)
        >>> config.build(8)(torch.zeros(1, 8, 41), torch.tensor([41])).x.shape
        torch.Size([1, 6, 16])
    """

    SIZES: ClassVar[dict[str, Size]] = {
        "small": Size(16, 176, 4, 9),
        "medium": Size(16, 256, 4, 9),
        "large": Size(17, 512, 8, 9, channels=256),
        "xlarge": Size(24, 1024, 8, 9, scaled=False, channels=256),
        "xxlarge": Size(42, 1024, 8, 5, scaled=False, channels=256),
    }
    """Numbers of the named sizes."""

    size: Literal["small", "medium", "large", "xlarge", "xxlarge", "custom"] = "large"  # type: ignore[assignment]
    """NeMo's sizes, from 12 million to 1.1 milliards of parameters; what is given below stands instead of theirs."""

    subsampling: SubsamplingConfig = SubsamplingConfig(kind="dw_striding", factor=8)
    """From frames of features to those of the layers."""

"""Random-projection quantiser and masking of BEST-RQ (arXiv:2202.01855): what is hidden, and the codes to guess."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.types import Codes, Features, Frames

SEED = 0  # of the masks in evaluation


class Masked(NamedTuple):
    """Features with hidden spans, and the code of each hidden frame of the encoder in each codebook, -1 elsewhere."""

    x: Features[Tensor, "B F={self.num_features} T"]
    x_len: Frames[Tensor, "B"]
    codes: Codes[Tensor, "B U Q={self.num_codebooks}"]


class MaskedCodes(nn.Module):
    """Hides spans of features, and gives each group of ``stride`` frames its nearest code by a random projection.

    Groups are normalised over the recording, projected by a frozen matrix, and compared with frozen codes on the unit
    sphere. Hidden frames become normal noise. In evaluation the same masks are drawn each time.

    Args:
        num_features: feature bins, F.
        stride: frames that the encoder makes one of.
        num_codebooks: projections with codes of their own, Q.
        num_codes: codes in each.
        d_code: width of a code.
        p_start: probability that a span starts at a frame of the encoder.
        span: frames of the encoder that a span has.
        noise: standard deviation of what stands in a span.
    """

    projection: Tensor
    codebooks: Tensor

    def __init__(
        self,
        num_features: int,
        stride: int,
        *,
        num_codebooks: int,
        num_codes: int,
        d_code: int,
        p_start: float,
        span: int,
        noise: float,
    ) -> None:
        super().__init__()
        self.num_features, self.stride, self.num_codebooks = num_features, stride, num_codebooks
        self.p_start, self.span, self.noise = p_start, span, noise
        projection = torch.empty(num_codebooks, stride * num_features, d_code)
        for matrix in projection:
            nn.init.xavier_uniform_(matrix)
        self.register_buffer("projection", projection)
        self.register_buffer("codebooks", F.normalize(torch.randn(num_codebooks, num_codes, d_code), dim=-1))

    def forward(self, x: Features[Tensor, "B F={self.num_features} T"], x_len: Frames[Tensor, "B"]) -> Masked:
        """Returns masked features, and codes of what was there.

        Args:
            x: features of speech.
            x_len: valid frames.
        """
        frames = x.shape[2]
        groups = -(-frames // self.stride)
        valid = torch.arange(groups, device=x.device) < (-(-x_len // self.stride))[:, None]
        hidden = self._spans(valid) & valid
        wide = hidden.repeat_interleave(self.stride, 1)[:, None, :frames]
        noise = torch.randn(x.shape, generator=self._generator(x), device=x.device, dtype=x.dtype) * self.noise
        codes = self.codes(x, x_len, groups).masked_fill(~hidden[:, :, None], -1)
        return Masked(torch.where(wide, noise, x), x_len, codes)

    @torch.no_grad()
    def codes(self, x: Tensor, x_len: Tensor, groups: int) -> Tensor:
        """Returns the numbers of the nearest codes, (B, T', Q).

        Args:
            x: features, (B, F, T).
            x_len: valid frames.
            groups: T'.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            keep = (torch.arange(x.shape[2], device=x.device) < x_len[:, None]).unsqueeze(1)
            count = x_len.clamp(min=1)[:, None, None]
            mean = (x * keep).sum(2, keepdim=True) / count
            deviation = (((x - mean) * keep).square().sum(2, keepdim=True) / count).sqrt()
            x = F.pad((x - mean) / (deviation + 1e-5) * keep, (0, groups * self.stride - x.shape[2]))
            stacked = x.mT.reshape(x.shape[0], groups, -1)  # (B, F, T) -> (B, T', stride F)
            point = F.normalize(torch.einsum("btf,qfd->btqd", stacked, self.projection), dim=-1)
            near: Tensor = torch.einsum("btqd,qvd->btqv", point, self.codebooks)
            return near.argmax(-1)  # on the unit sphere, the largest product is the least distance

    def _spans(self, valid: Tensor) -> Tensor:
        """Where spans are, (B, T'); at least one starts within each recording."""
        generator = self._generator(valid)
        drawn = torch.rand(valid.shape, generator=generator, device=valid.device).masked_fill(~valid, 1.0)
        starts = (drawn < self.p_start) | (drawn == drawn.amin(1, keepdim=True))
        spread = F.pad(starts[:, None].float(), (self.span - 1, 0))
        return F.max_pool1d(spread, self.span, 1)[:, 0] > 0

    def _generator(self, like: Tensor) -> torch.Generator | None:
        return None if self.training else torch.Generator(like.device).manual_seed(SEED)

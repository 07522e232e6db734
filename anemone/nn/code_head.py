"""Scores of codes at each frame, for pre-training that guesses what was hidden (arXiv:2202.01855)."""

from typing import NamedTuple

from torch import Tensor, nn

from anemone.nn.encoded import keep_mask
from anemone.types import Acoustic, Codes, Frames, Logits


class CodeScores(NamedTuple):
    """Scores of ``num_codes`` codes in each codebook at each frame, valid frames, and the codes, -1 where none."""

    x: Logits[Tensor, "B T Q={self.num_codebooks} V={self.num_codes}"]
    x_len: Frames[Tensor, "B"]
    codes: Codes[Tensor, "B T Q={self.num_codebooks}"]


class CodeHead(nn.Module):
    """A matrix from states to the scores of all codebooks.

    Args:
        d_model: width of the encoder.
        num_codebooks: codebooks, Q.
        num_codes: codes in each, V.
    """

    def __init__(self, d_model: int, *, num_codebooks: int, num_codes: int) -> None:
        super().__init__()
        self.d_model, self.num_codebooks, self.num_codes = d_model, num_codebooks, num_codes
        self.linear = nn.Linear(d_model, num_codebooks * num_codes)

    def forward(
        self,
        x: Acoustic[Tensor, "B T D={self.d_model}"],
        x_len: Frames[Tensor, "B"],
        codes: Codes[Tensor, "B U Q={self.num_codebooks}"],
    ) -> CodeScores:
        """Returns scores as float32 beside the codes; frames that only one of them has at the end are not guessed.

        Args:
            x: encoder states.
            x_len: valid frames.
            codes: the right codes, -1 where none is to be guessed.
        """
        frames = min(x.shape[1], codes.shape[1])
        scores = self.linear(x[:, :frames]).float().unflatten(2, (self.num_codebooks, self.num_codes))
        codes = codes[:, :frames].where(keep_mask(x_len, frames), -1)
        return CodeScores(scores, x_len.clamp(max=frames), codes)

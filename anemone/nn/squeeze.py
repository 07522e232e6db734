"""Squeeze-and-excitation over time: channels are scaled by what all frames say of them (arXiv:1709.01507)."""

import torch
from torch import Tensor, nn

from anemone.nn.activations import Activation, activate
from anemone.nn.encoded import keep_mask
from anemone.types import Frames, Hidden


class SqueezeExcite(nn.Module):
    """Scales channels: ``y[b, t] = x[b, t] sigmoid(W2 act(W1 mean_t x[b, t]))``, the mean over valid frames.

    It computes in float32, and gives zeros at padded frames.

    Args:
        d_model: width of input and output.
        reduction: how many times narrower the layer between is.
        context: frames of a window, drawn anew for each batch in training, over which the mean is taken; in evaluation
            it runs over all frames, as it does where it is None (arXiv:2104.01721, section 3.2).
        activation: of the layer between.
    """

    def __init__(
        self, d_model: int, *, reduction: int = 8, context: int | None = None, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        self.d_model, self.context, self.activation = d_model, context, activation
        self.down = nn.Linear(d_model, d_model // reduction, bias=False)
        self.up = nn.Linear(d_model // reduction, d_model, bias=False)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.xavier_uniform_(self.up.weight)

    def forward(
        self, x: Hidden[Tensor, "B T D={self.d_model}"], x_len: Frames[Tensor, "B"]
    ) -> Hidden[Tensor, "B T D={self.d_model}"]:
        """Returns the scaled channels.

        Args:
            x: states.
            x_len: valid frames.
        """
        keep = keep_mask(x_len, x.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            y = x.float().masked_fill(~keep, 0)
            seen = self._window(keep) if self.training and self.context else keep
            mean = (y * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
            gate: Tensor = self.up(activate(self.down(mean), self.activation)).sigmoid()
            return (y * gate).to(x.dtype)

    def _window(self, keep: Tensor) -> Tensor:
        """The valid frames within a window at a random place, the same for the whole batch; (B, T, 1)."""
        frames, context = keep.shape[1], self.context or keep.shape[1]
        start = torch.randint(max(frames - context, 0) + 1, (), device=keep.device)
        place = torch.arange(frames, device=keep.device)
        return keep & ((place >= start) & (place < start + context))[:, None]

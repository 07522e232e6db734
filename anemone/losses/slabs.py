"""Scores of a transducer's nodes, a slab at a time: what an alignment can use is kept, and gradients are carried back.

A slab is a stretch of frames of one utterance with all its nodes, so padding is never looked at. It comes out of a
tensor of all scores, or is computed by the joint when it is wanted, and again in the backward.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from anemone.losses.lattice import arcs_of, sum_paths

SLABS = {"cpu": 1 << 18}  # scores that are in work at a time, by device: 1 MiB, which a cache holds
SLAB = 1 << 26  # elsewhere

Slab = tuple[int, slice, slice]  # number of the utterance, its frames, its nodes


class Kind(NamedTuple):
    """Which loss, in numbers; see `anemone.losses.transducer.transducer_loss`."""

    durations: tuple[int, ...] = ()
    big_blanks: tuple[int, ...] = ()
    sigma: float = 0.0
    fastemit: float = 0.0
    clamp: float = 0.0
    unused: int = 0
    """Channels at the end that do not count: those of durations, where TDT is trained as RNN-T."""

    def split(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Parts scores of tokens and blanks (..., V + 1) from those of durations (..., D); D may be 0."""
        end = scores.shape[-1] - self.unused
        return scores[..., : end - len(self.durations)], scores[..., end - len(self.durations) : end]

    def read(self, scores: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Computes what a node can use: log-probabilities (t, u, C) of its token, blanks and durations.

        Args:
            scores: (t, u, V').
            tokens: (u,), the next token of each node.

        Returns:
            them, and the log of the summed exponentials (t, u, 1) of the scores of tokens and blanks.
        """
        words, lasts = self.split(scores)
        log_sums = words.logsumexp(-1, keepdim=True)
        picked = [words.gather(-1, tokens.expand(len(words), -1)[..., None])]
        picked += [words[..., -1 - i, None] for i in range(1 + len(self.big_blanks))]
        kept = torch.cat(picked, -1) - (log_sums + self.sigma)
        return (torch.cat((kept, lasts.log_softmax(-1)), -1) if self.durations else kept), log_sums

    def carry(self, scores: Tensor, tokens: Tensor, log_sums: Tensor, grads: Tensor, out: Tensor) -> Tensor:
        """Computes the gradient (t, u, V') of scores from that of what `read` kept (t, u, C), into ``out``."""
        words, lasts = self.split(scores)
        of_words, of_lasts = self.split(out)
        blanks = 1 + len(self.big_blanks)
        into_words, into_lasts = grads[..., : 1 + blanks], grads[..., 1 + blanks :]
        torch.sub(words, log_sums, out=of_words).exp_().mul_(into_words.sum(-1, keepdim=True).neg_())
        of_words.scatter_add_(-1, tokens.expand(len(words), -1)[..., None], into_words[..., :1])
        for i in range(blanks):
            of_words[..., -1 - i] += into_words[..., 1 + i]
        if self.durations:
            torch.sub(into_lasts, lasts.softmax(-1) * into_lasts.sum(-1, keepdim=True), out=of_lasts)
        if self.unused:
            out[..., -self.unused :] = 0
        return out


class Texts(NamedTuple):
    """Tokens and lengths of a batch, here and on the host."""

    x_len: Tensor
    target_len: Tensor
    tokens: Tensor
    """(B, U + 1), the next token of each node; 0 where there is none."""

    frames: list[int]
    nodes: list[int]
    """Per utterance, one more than tokens."""

    @classmethod
    def of(cls, frames: int, nodes: int, x_len: Tensor, targets: Tensor, target_len: Tensor) -> "Texts":
        """Pads the tokens and reads the lengths, which must lie within the scores' ``frames`` and ``nodes``."""
        tokens = torch.cat((targets, targets.new_zeros(len(targets), 1)), 1).long()
        tokens = tokens.where(torch.arange(tokens.shape[1], device=tokens.device) < target_len[:, None], 0)
        texts = cls(x_len, target_len, tokens, x_len.tolist(), [u + 1 for u in target_len.tolist()])
        most, nodes = max(texts.frames, default=0), min(nodes, tokens.shape[1])
        assert most <= frames, f"`x_len` says {most} frames, but there are scores of {frames}"
        assert max(texts.nodes, default=1) <= nodes, f"`target_len` says {max(texts.nodes) - 1} tokens of {nodes - 1}"
        return texts

    def slabs(self, width: int) -> Iterator[Slab]:
        """Cuts the nodes of the batch into slabs of no more scores than the device is given at a time."""
        most = SLABS.get(self.x_len.device.type, SLAB)
        for i, (frames, nodes) in enumerate(zip(self.frames, self.nodes, strict=True)):
            step = max(1, most // (nodes * width))
            yield from ((i, slice(t, min(t + step, frames)), slice(nodes)) for t in range(0, frames, step))


class Problem(NamedTuple):
    """What a loss is asked for beside its scores."""

    kind: Kind
    texts: Texts
    graded: bool
    """Whether gradients are on."""


class Summed(NamedTuple):
    """A loss, and what its backward needs."""

    losses: Tensor
    """(B,)."""

    grads: Tensor
    """(B, T, U + 1, C), of what `Kind.read` kept; empty where no gradient is wanted."""

    log_sums: Tensor
    """(B, T, U + 1, 1)."""


def summed(kind: Kind, texts: Texts, width: int, scores: Callable[[Slab], Tensor], *, wanted: bool) -> Summed:
    """Computes the losses, and their gradients if ``wanted``, from scores that come in slabs (t, u, width)."""
    arcs = arcs_of(kind.durations, kind.big_blanks)
    shape = (len(texts.frames), max(texts.frames, default=0), max(texts.nodes, default=1))
    parts = 2 + len(kind.big_blanks) + len(kind.durations)
    kept, log_sums = None, None
    for i, t, u in texts.slabs(width):
        read, sums = kind.read(_wide(scores((i, t, u))), texts.tokens[i, u])
        if kept is None or log_sums is None:
            kept, log_sums = read.new_zeros(*shape, parts), read.new_zeros(*shape, 1)
        kept[i, t, u], log_sums[i, t, u] = read, sums
    if kept is None or log_sums is None:  # not one frame
        nothing = torch.zeros(shape[0], device=texts.x_len.device)
        return Summed(nothing, nothing.new_zeros(*shape, parts), nothing.new_zeros(*shape, 1))
    of_arcs = torch.stack([kept[..., arc.parts].sum(-1, dtype=torch.float64) for arc in arcs])
    log_probs, occupancies = sum_paths(of_arcs, arcs, texts.x_len, texts.target_len, occupied=wanted)
    losses = log_probs.where(log_probs != -torch.inf, 0) * -(1 + kind.fastemit)
    grads = kept.new_zeros(kept.shape if wanted else 0)
    if occupancies is not None:
        for arc, share in zip(arcs, occupancies, strict=True):
            for part in arc.parts:
                grads[..., part].sub_(share, alpha=1 + kind.fastemit if part == 0 else 1)
    return Summed(losses.to(kept.dtype), grads, log_sums)


def _wide(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


class _Back(NamedTuple):
    """Gradients of the slabs of scores, given those of the losses."""

    kind: Kind
    texts: Texts
    grads: Tensor
    log_sums: Tensor
    limits: Tensor  # (B,), largest gradient of a score

    @classmethod
    def of(cls, kind: Kind, texts: Texts, grads: Tensor, log_sums: Tensor, of_losses: Tensor) -> "_Back":
        of_losses = of_losses.to(grads.dtype)
        return cls(kind, texts, grads * of_losses[:, None, None, None], log_sums, kind.clamp * of_losses.abs())

    def slab(self, scores: Tensor, at: Slab, out: Tensor) -> Tensor:
        self.kind.carry(scores, self.texts.tokens[at[0], at[2]], self.log_sums[at], self.grads[at], out)
        return out.clamp_(-self.limits[at[0]], self.limits[at[0]]) if self.kind.clamp else out


class Given(torch.autograd.Function):
    """The losses of scores that are there."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, logits: Tensor) -> Tensor:
        """Keeps the scores, as they are, for the backward."""
        kind, texts, graded = problem
        wanted = graded and logits.requires_grad
        losses, grads, log_sums = summed(kind, texts, logits.shape[-1], logits.__getitem__, wanted=wanted)
        ctx.kind, ctx.texts = kind, texts
        ctx.save_for_backward(logits, grads, log_sums)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_losses: Tensor) -> tuple[None, Tensor]:
        """Makes one tensor as large as the scores: their gradient."""
        logits, grads, log_sums = ctx.saved_tensors
        back = _Back.of(ctx.kind, ctx.texts, grads, log_sums, of_losses)
        result = torch.zeros_like(logits)
        for at in ctx.texts.slabs(logits.shape[-1]):
            scores = _wide(logits[at])
            if scores.dtype == logits.dtype:
                back.slab(scores, at, result[at])
            else:
                result[at] = back.slab(scores, at, torch.empty_like(scores))
        return None, result


class _Setting(NamedTuple):
    """What the joint ran under: autocast, and the random numbers that its dropout was given."""

    device: torch.device
    autocast: bool
    dtype: torch.dtype
    states: tuple[Tensor, ...]

    @classmethod
    def here(cls, device: torch.device) -> "_Setting":
        kind = device.type
        states = (torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if kind == "cuda" else []))
        return cls(device, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind), states)

    def casting(self) -> torch.autocast:
        """Weights are cast anew each time: copies made without gradients must not be found by who wants them."""
        return torch.autocast(self.device.type, self.dtype, self.autocast, cache_enabled=False)

    @contextmanager
    def again(self) -> Iterator[None]:
        with torch.random.fork_rng([self.device] if len(self.states) > 1 else []):
            torch.set_rng_state(self.states[0])
            if len(self.states) > 1:
                torch.cuda.set_rng_state(self.states[1], self.device)
            yield


class Fused(torch.autograd.Function):
    """The losses of scores that a joint gives, a slab at a time."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, joint: nn.Module, x: Tensor, predicted: Tensor, *params: Tensor) -> Tensor:
        """Keeps what goes into the joint, for the backward."""
        kind, texts, graded = problem
        wanted = graded and any(ctx.needs_input_grad)
        with torch.no_grad():
            width = max(joint(x[:1, :1] + predicted[:1, :1]).shape[-1], x.shape[-1])
        setting = _Setting.here(x.device)

        def scores(at: Slab) -> Tensor:
            i, t, u = at
            with setting.casting():
                result: Tensor = joint(x[i, t, None] + predicted[i, u])
            return result

        losses, grads, log_sums = summed(kind, texts, width, scores, wanted=wanted)
        ctx.kind, ctx.texts, ctx.joint, ctx.width, ctx.setting = kind, texts, joint, width, setting
        ctx.save_for_backward(grads, log_sums, x, predicted, *params)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor | None, ...]:
        """Computes each slab again and carries its gradient through the joint."""
        grads, log_sums, *inputs = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        back = _Back.of(ctx.kind, ctx.texts, grads, log_sums, of_losses)
        totals = [torch.zeros_like(tensor) if needs else None for tensor, needs in zip(inputs, wanted, strict=True)]
        with ctx.setting.again():
            for i, t, u in ctx.texts.slabs(ctx.width):
                with torch.enable_grad(), ctx.setting.casting():
                    x, predicted = (
                        s[i, at].detach().requires_grad_(n)
                        for s, at, n in zip(inputs[:2], (t, u), wanted[:2], strict=True)
                    )
                    logits = ctx.joint(x[:, None] + predicted)
                scores = _wide(logits.detach())
                slab = back.slab(scores, (i, t, u), torch.empty_like(scores)).to(logits.dtype)
                leaves = [leaf for leaf, needs in zip((x, predicted, *inputs[2:]), wanted, strict=True) if needs]
                found = iter(torch.autograd.grad(logits, leaves, slab, allow_unused=True))
                places = (
                    *(s if s is None else s[i, at] for s, at in zip(totals[:2], (t, u), strict=True)),
                    *totals[2:],
                )
                for place in places:
                    gradient = None if place is None else next(found)
                    if place is not None and gradient is not None:
                        place += gradient
        return None, None, *totals

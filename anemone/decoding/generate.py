"""Text token by token: each is drawn from what a model says of the next one, and keys and values are kept.

A model computes only its newest tokens: wherever tokens meet (`anemone.nn.attention.AttentionCore`) a `Remembering`
core stands in for the time of a generation, which holds the keys and values of all tokens before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from anemone.nn.attention import AttentionCore, attention
from anemone.types import Hidden, Segments


class Remembering(nn.Module):
    """Attention of new tokens over all tokens so far, whose keys and values it keeps.

    Args:
        core: what it stands in for.
        size: tokens it has room for.
        filled: (B,), how many tokens at the beginning of each text only fill it up; None if none.
    """

    def __init__(self, core: AttentionCore, size: int, filled: Tensor | None) -> None:
        super().__init__()
        assert core.causal, "only text that is read from the left can be generated"
        self.core, self.size, self.filled = core, size, filled
        self.used = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def forward(
        self,
        query: Hidden[Tensor, "B N H K"],
        key: Hidden[Tensor, "B N H' K"],
        value: Hidden[Tensor, "B N H' K"],
        segments: Segments[Tensor, "B N"] | None = None,
    ) -> Hidden[Tensor, "B N H K"]:
        """Returns what each head of each new token reads.

        Args:
            query: what the new tokens ask for.
            key: what they answer to; kept.
            value: what they tell; kept.
            segments: must be None: a generation is one text.
        """
        assert segments is None
        if self.keys is None or self.values is None:
            room = (key.shape[0], self.size, *key.shape[2:])
            self.keys, self.values = key.new_empty(room), value.new_empty(room)
        old, new = self.used, self.used + key.shape[1]
        self.keys[:, old:new], self.values[:, old:new] = key, value
        self.used = new
        bias = None if self.filled is None else hide(self.filled, old, new).to(query.dtype)
        keys, values = self.keys[:, :new], self.values[:, :new]
        return attention(query, keys, values, window=self.core.window, bias=bias, scale=self.core.scale)


@contextmanager
def remembering(network: nn.Module, size: int, filled: Tensor | None = None) -> Iterator[None]:
    """Within the block the network is given each token once, in order; afterwards it is as it was.

    Args:
        network: a model of text.
        size: tokens of the longest text, in all.
        filled: see `Remembering`.
    """
    places = [
        (parent, name, core)
        for parent in network.modules()
        for name, core in parent.named_children()
        if isinstance(core, AttentionCore)
    ]
    for parent, name, core in places:
        setattr(parent, name, Remembering(core, size, filled))
    try:
        yield
    finally:
        for parent, name, core in places:
            setattr(parent, name, core)


def generate(
    network: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    end: int | None = None,
    seeds: Sequence[int],
) -> list[list[int]]:
    """Continues some texts; each token is drawn in proportion to ``softmax(scores / temperature)``.

    Args:
        network: from tokens (B, N) and positions (B, N) to scores of the next token (B, N, V), in evaluation mode.
        prompts: tokens of each text, one or more.
        max_new_tokens: where a continuation ends at the latest.
        temperature: below 1 likely tokens become likelier; 0 takes the likeliest.
        top_k: only so many of the likeliest tokens are drawn from; all by default.
        end: the token that ends a continuation; it is not returned.
        seeds: of the random numbers of each text.

    Returns:
        The new tokens of each text.
    """
    device = next(network.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    filled = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    tokens = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    drawn: list[Tensor] = []
    going = torch.ones(len(prompts), dtype=torch.bool)
    with remembering(network, longest + max_new_tokens, filled if filled.any() else None):
        for step in range(max_new_tokens):
            places = torch.arange(longest + step - tokens.shape[1], longest + step, device=device)
            positions = (places - filled[:, None]).clamp(min=0)
            scores = network(tokens, positions)[:, -1].float().cpu()
            chosen = choose(scores, generators, temperature=temperature, top_k=top_k)
            drawn.append(chosen)
            going &= chosen != (-1 if end is None else end)
            if not going.any():
                break
            tokens = chosen[:, None].to(device)
    rows = torch.stack(drawn, 1).tolist() if drawn else [[] for _ in prompts]
    return [row[: row.index(end)] if end in row else row for row in rows]


def hide(filled: Tensor, start: int, stop: int) -> Tensor:
    """What to add to the scores of the queries from ``start`` to ``stop``, so that no text reads what fills it up.

    Filling reads itself, as it must read something.

    Args:
        filled: (B,), tokens that fill a text up on the left.
        start: the first query.
        stop: the one after the last, and after the last key.

    Returns:
        (B, 1, stop - start, stop).
    """
    keys = torch.arange(stop, device=filled.device)
    hidden = (keys < filled[:, None, None]) & (keys[start:, None] != keys)
    return torch.zeros(hidden.shape, device=filled.device).masked_fill(hidden, -torch.inf)[:, None]


def choose(
    scores: Tensor, generators: Sequence[torch.Generator], *, temperature: float, top_k: int | None = None
) -> Tensor:
    """Draws a token for each row of scores.

    Args:
        scores: (B, V) float32, on the CPU.
        generators: of random numbers, one for each row.
        temperature: see `generate`.
        top_k: see `generate`.

    Returns:
        (B,) int64.
    """
    if temperature == 0:
        return scores.argmax(-1)
    if top_k is not None and top_k < scores.shape[1]:
        least = scores.topk(top_k).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    shares = (scores / temperature).softmax(-1)
    rows = zip(shares, generators, strict=True)
    return torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in rows])

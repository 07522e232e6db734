"""Context parallelism: each rank has a part of every sequence, and only attention sees the others' parts.

    ring      keys and values go from rank to rank (`anemone.parallel.ring`): point to point, while ranks compute
    gather    keys and values are gathered; windows and packed documents are possible
    ulysses   heads are exchanged for tokens (arXiv:2309.14509): each rank has whole sequences for some of the heads

Which part of a sequence a rank has, `anemone.parallel.sequence` says.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anemone.config import must
from anemone.nn.attention import AttentionCore, attention
from anemone.nn.moe import working_dtype
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.plans import Plan, find, matching, number_of
from anemone.parallel.ring import Ring, blockwise, ring_attention
from anemone.parallel.sequence import Part, Run, num_chunks, runs, sequence_order
from anemone.parallel.tensor import check_length


def apply_context(network: nn.Module, plan: Plan, mesh: Mesh) -> None:
    """Puts attention over all ranks of ``cp`` in the place of each `AttentionCore` that the plan names.

    Args:
        network: changed in place; a stage of a pipeline will do.
        plan: of its class.
        mesh: of all processes.

    Raises:
        ConfigError: the method cannot do what a core asks for.
    """
    axis, config = mesh.axis("cp"), mesh.config
    if axis is None:
        return
    part = Part(axis.get_group(), config.cp_balance)
    for name, core in list(matching(network, *plan.cores)):
        assert isinstance(core, AttentionCore), name
        network.set_submodule(name, METHODS[config.cp_method](core, part))


def check_cores(network: nn.Module, plan: Plan, config: ParallelConfig) -> None:
    """Raises unless the method can spread the attention of a network over ``cp``.

    Args:
        network: whole.
        plan: of its class.
        config: with all numbers.

    Raises:
        ConfigError: naming the setting.
    """
    if config.cp > 1 and config.cp_method == "ring":
        _ring_cannot(any(core.window is not None for core in find(network, plan.cores)), "windows")
    if config.cp > 1 and config.cp_method == "ulysses":
        _check_heads(number_of(network, plan.heads) // config.tp, config.cp)


def check_rows(length: int, config: ParallelConfig, *, packed: bool) -> None:
    """Raises unless rows of tokens can be shared out over ``cp`` and ``tp``.

    Args:
        length: tokens of a row.
        config: with all numbers.
        packed: whether a row holds several documents that do not see each other.

    Raises:
        ConfigError: naming the setting.
    """
    if config.cp > 1:
        num_chunks(length, config.cp, config.cp_balance)
        _ring_cannot(packed and config.cp_method == "ring", "packed documents")
    if config.sequence_parallel:
        check_length(length // config.cp, config.tp)


# --- which part of a sequence -----------------------------------------------------------------------------------------


def shard_sequence(tensor: Tensor, mesh: Mesh, config: ParallelConfig) -> Tensor:
    """Returns this rank's part of whole sequences, in the order that attention expects.

    Args:
        tensor: (B, N, ...) tokens, targets, positions, segments.
        mesh: of all processes.
        config: says how sequences are divided.

    Raises:
        ConfigError: sequences are not a multiple of the chunks.
    """
    size = mesh.size("cp")
    if size == 1:
        return tensor
    order = sequence_order(tensor.shape[1], size, config.cp_balance, tensor.device)
    return tensor.index_select(1, order.chunk(size)[mesh.rank("cp")])


class _Gather(torch.autograd.Function):
    """`Part.gather`, whose gradient is `Part.scatter_sum`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: Part) -> Tensor:
        ctx.part = part
        return part.gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.part.scatter_sum(gradient), None


# --- methods ----------------------------------------------------------------------------------------------------------


class SharedCore(nn.Module):
    """Attention over all ranks that have parts of the same sequences.

    Args:
        core: whose place it takes.
        part: the ranks.
    """

    def __init__(self, core: AttentionCore, part: Part) -> None:
        super().__init__()
        self.core, self.part = core, part

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, query: Tensor, key: Tensor, value: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns what each head of each token of this rank reads.

        Args:
            query: (B, N, H, K).
            key: (B, N, H', K).
            value: (B, N, H', K).
            segments: (B, N), numbers of documents.

        Raises:
            ConfigError: the method cannot do it.
        """
        return self.read(query, key, value, segments)

    def read(self, query: Tensor, key: Tensor, value: Tensor, segments: Tensor | None) -> Tensor:
        """What `forward` says, by one method."""
        raise NotImplementedError


class RingCore(SharedCore):
    """Attention whose keys and values go round.

    Args:
        core: whose place it takes.
        part: the ranks.

    Raises:
        ConfigError: the core has a window.
    """

    def __init__(self, core: AttentionCore, part: Part) -> None:
        super().__init__(core, part)
        _ring_cannot(core.window is not None, "windows")

    def read(self, query: Tensor, key: Tensor, value: Tensor, segments: Tensor | None) -> Tensor:
        """Refuses segments."""
        _ring_cannot(segments is not None, "packed documents")
        query, key, value = _heads_first(query, key, value)
        ring = Ring(self.part.group, self.part.balance, self.core.causal, _scale(self.core, query))
        return ring_attention(query, key, value, ring).transpose(1, 2)


class GatherCore(SharedCore):
    """Attention over gathered keys and values."""

    def read(self, query: Tensor, key: Tensor, value: Tensor, segments: Tensor | None) -> Tensor:
        """Run by run, within the documents of each row."""
        core, dtype, length = self.core, working_dtype(query), query.shape[1]
        both = torch.stack([key.to(dtype), value.to(dtype)], 2)  # (B, N, H', K) -> (B, N, 2, H', K)
        key, value = _Gather.apply(both, self.part).unbind(2)  # type: ignore[no-untyped-call]
        whole = None if segments is None else self.part.gather(segments)
        rows = list(runs(self.part.starts(length), length, key.shape[1], whole))
        if core.window is None:
            pieces = [piece for row in rows for run in row for piece in run.pieces(core.causal)]
            query, key, value = _heads_first(query, key, value)
            return blockwise(query, key, value, pieces, _scale(core, query)).transpose(1, 2)
        return torch.cat([torch.cat([_windowed(run, query, key, value, core) for run in row], 1) for row in rows])


def _windowed(run: Run, query: Tensor, key: Tensor, value: Tensor, core: AttentionCore) -> Tensor:
    assert core.window is not None
    keys = run.seen(core.window)
    query, key, value = query[run.rows, run.queries], key[run.rows, keys], value[run.rows, keys]
    return attention(query.to(key.dtype), key, value, window=core.window, scale=core.scale, kernel=core.kernel)


class UlyssesCore(SharedCore):
    """Attention over whole sequences for some of the heads; any kernel, window and documents are possible.

    Fewer heads of keys than ranks are repeated, so that each rank has those that its queries use.
    """

    def read(self, query: Tensor, key: Tensor, value: Tensor, segments: Tensor | None) -> Tensor:
        """By the core itself, if ranks can have as many heads each."""
        size, heads, shared, dtype = self.part.group.size(), query.shape[2], key.shape[2], working_dtype(query)
        _check_heads(heads, size)
        copies = math.lcm(shared, size) // shared
        key, value = (x.repeat_interleave(copies, 2) if copies > 1 else x for x in (key, value))
        heads, shared = heads // size, key.shape[2] // size
        mixed = [_split(x.to(dtype), 2, size) for x in (query, key, value)]  # (B, N, H, K) -> (B, N, n, H, K)
        own = _exchange(torch.cat(mixed, 3), self.part, to_heads=True)
        whole = None if segments is None else self.part.gather(segments)
        read: Tensor = self.core(*torch.split_with_sizes(own, [heads, shared, shared], 2), whole)
        return _exchange(read, self.part, to_heads=False)


METHODS: dict[str, Callable[[AttentionCore, Part], nn.Module]] = {
    "ring": RingCore,
    "gather": GatherCore,
    "ulysses": UlyssesCore,
}
"""``parallel.cp_method`` -> what takes the place of attention."""


def _check_heads(heads: int, size: int) -> None:
    rule = f"a divisor of the {heads} heads of a rank with `parallel.cp_method` = 'ulysses'"
    must(heads % size == 0, "parallel.cp", rule, value=size, hint="Change `parallel.tp` or take ring or gather.")


def _ring_cannot(asked: bool, what: str) -> None:
    rule = f"gather or ulysses with {what}, as keys that go round would meet queries that may not see them"
    must(not asked, "parallel.cp_method", rule, value="ring")


def _scale(core: AttentionCore, query: Tensor) -> float:
    return 1 / math.sqrt(query.shape[-1]) if core.scale is None else core.scale


def _heads_first(*tensors: Tensor) -> Iterator[Tensor]:
    """The tensors in the format that products are computed in, (B, N, H, K) -> (B, H, N, K)."""
    return (x.to(working_dtype(tensors[0])).transpose(1, 2) for x in tensors)


# --- ulysses: heads for tokens ----------------------------------------------------------------------------------------


def _exchange(x: Tensor, part: Part, *, to_heads: bool) -> Tensor:
    out: Tensor = _Exchange.apply(x, part, to_heads)  # type: ignore[no-untyped-call]
    return out


class _Exchange(torch.autograd.Function):
    """From some tokens of all heads, (B, N, n, H, K), to all tokens of some heads, (B, n N, H, K), or back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: Part, to_heads: bool) -> Tensor:
        ctx.part, ctx.to_heads = part, to_heads
        return _to_heads(x, part) if to_heads else _to_tokens(x, part).flatten(2, 3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        size = ctx.part.group.size()
        back = _to_tokens(gradient, ctx.part) if ctx.to_heads else _to_heads(_split(gradient, 2, size), ctx.part)
        return back, None, None


def _to_heads(x: Tensor, part: Part) -> Tensor:
    order = part.order(x.shape[1], x.device)
    got = _all_to_all(x.movedim(2, 0), part)  # (B, N, n, H, K) -> (n of heads, B, N, H, K) -> (n of tokens, ...)
    return got.transpose(0, 1).flatten(1, 2)[:, order.argsort()]  # -> (B, n N, H, K)


def _to_tokens(x: Tensor, part: Part) -> Tensor:
    size = part.group.size()
    parts = _split(x[:, part.order(x.shape[1] // size, x.device)], 1, size)  # (B, n N, H, K) -> (B, n, N, H, K)
    return _all_to_all(parts.transpose(0, 1), part).movedim(0, 2)  # (n of heads, B, N, H, K) -> (B, N, n, H, K)


def _split(x: Tensor, dim: int, size: int) -> Tensor:
    """Makes two dimensions of one: ``size`` parts of what lies along it."""
    return x.reshape(*x.shape[:dim], size, -1, *x.shape[dim + 1 :])


def _all_to_all(x: Tensor, part: Part) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    dist.all_to_all_single(out, x, group=part.group)
    return out

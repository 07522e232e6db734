"""Expert parallelism: each rank of ``ep`` has some of the experts, and tokens travel to them and back; none is dropped.

Ranks of ``ep`` see different tokens, so a layer sends sizes, then rows, then results: three exchanges forward, two
backward. Under ``tp`` all ranks route the same tokens alike, each computes with its part of the width of every expert,
and what they give is summed. `docs/decisions/0006-the-balance-of-experts-is-a-gradient.md` says how the load-balancing
loss stays the same in every layout.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from anemone.config import must
from anemone.nn.moe import Balance, Experts, MoE, grouped_swiglu, permuted, scores
from anemone.parallel.mesh import Mesh
from anemone.parallel.plans import Plan, matching
from anemone.parallel.tensor import between


def apply_experts(network: nn.Module, plan: Plan, mesh: Mesh) -> None:
    """Spreads the experts that the plan names, of one `MoE` each, over ``ep`` and ``tp``.

    Args:
        network: changed in place, after tensor parallelism; a stage of a pipeline will do.
        plan: of its class.
        mesh: of all processes.

    Raises:
        ConfigError: the experts do not divide.
    """
    for name, _ in list(matching(network, *plan.experts)):
        owner = name.rpartition(".")[0]
        moe = network.get_submodule(owner)
        assert isinstance(moe, MoE), owner
        _spread(owner, moe, plan, mesh)


def _spread(name: str, moe: MoE, plan: Plan, mesh: Mesh) -> None:
    ep, tp, width = mesh.size("ep"), mesh.size("tp"), moe.experts.gate.shape[1]
    must(moe.num_experts % ep == 0, "parallel.ep", f"a divisor of the {moe.num_experts} experts of `{name}`", value=ep)
    rule = f"such that each part of {width}, the width of an expert of `{name}`, is a multiple of 8"
    must(width % (8 * tp) == 0, "parallel.tp", rule, value=tp)
    tensor, context = mesh.axis("tp"), mesh.axis("cp")
    moe.balance = SharedBalance(moe.balance.coefficient, context.get_group() if context else None, 1 / tp)
    if ep > 1 or tp > 1:
        moe.register_module("experts", SpreadExperts(moe.experts, mesh))
    if mesh.size("pp") > 1 and moe.balance.coefficient:
        moe.register_forward_hook(_leave_out)
    if tensor is not None:
        _meet(moe, tensor, between(plan, mesh.config).states)


# --- tokens under tensor parallelism ----------------------------------------------------------------------------------


def _meet(moe: MoE, tensor: DeviceMesh, states: Placement) -> None:
    """Lets a layer take all tokens on each rank of ``tp``, and sums what the ranks give, each from a part of the width.

    The plan's style, "whole", has collected the tokens. Gradients of tokens and router are summands as well: each rank
    has that of its own part.
    """
    moe.register_module("router", WholeRouter(moe.router, tensor))

    def take(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *rest = inputs
        return (_local(first, (Partial(),)), *rest)

    def add(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Any:
        total = DTensor.from_local(output, tensor, (Partial(),), run_check=False)
        return total.redistribute(placements=(states,)).to_local()

    moe.register_forward_pre_hook(take)
    moe.register_forward_hook(add)


class WholeRouter(nn.Module):
    """A router whose weights are whole on each rank of ``tp``, and of whose gradient each rank has a summand.

    Args:
        router: whose weights it takes.
        tensor: the ranks.
    """

    def __init__(self, router: nn.Linear, tensor: DeviceMesh) -> None:
        super().__init__()
        self.weight = nn.Parameter(distribute_tensor(router.weight, tensor, (Replicate(),), src_data_rank=None))

    def forward(self, x: Tensor) -> Tensor:
        """Returns scores of the experts as float32, (N, D) -> (N, C)."""
        return scores(x, _local(self.weight, (Partial(),)))


class SharedBalance(Balance):
    """A `Balance` of tokens that are shared out over ranks.

    Args:
        coefficient: how much the loss counts.
        context: ranks that have other tokens of the same micro-batch.
        share: what part of the gradient this rank adds, where others add the same.
    """

    def __init__(self, coefficient: float, context: dist.ProcessGroup | None, share: float) -> None:
        super().__init__(coefficient)
        self.context, self.share = context, share
        self.latest = self.scale

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def count(self, sizes: Tensor) -> tuple[Tensor, float]:
        """Rows of each expert over all ranks that share the micro-batch, and which share of the gradient is ours."""
        if self.context is not None:
            sizes = sizes.clone()
            dist.all_reduce(sizes, group=self.context)
        return sizes, self.share

    def read_later(self, device: torch.device) -> Tensor:
        """A tensor of this call's own, since calls of a pipeline do not go back one by one."""
        self.latest = self.scale.to(device, copy=True)
        return self.latest


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _leave_out(moe: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
    """Gives a micro-batch the balance's scale only if something depends on what the layer gives for it.

    A pipeline takes micro-batches of weight 0 along, to fill up a step. It knows so at its last stage alone; all other
    stages see gradients of zero.
    """
    balance = moe.balance
    assert isinstance(balance, SharedBalance)
    latest = balance.latest

    def read(gradient: Tensor) -> None:
        counts = gradient.any().to(torch.float32)
        if balance.context is not None:
            dist.all_reduce(counts, dist.ReduceOp.MAX, group=balance.context)
        latest.copy_(balance.scale * counts)

    if output.requires_grad:
        output.register_hook(read)  # type: ignore[no-untyped-call]


# --- experts elsewhere ------------------------------------------------------------------------------------------------


class SpreadExperts(nn.Module):
    """Experts of which each rank of ``ep`` has some, and each rank of ``tp`` a part of the width.

    Args:
        experts: all of them, or all on the meta device.
        mesh: of all processes.
    """

    def __init__(self, experts: Experts, mesh: Mesh) -> None:
        super().__init__()
        expert, axes = mesh.axis("ep"), [axis for axis in ("ep", "tp") if mesh.size(axis) > 1]
        self.group = expert.get_group() if expert else None

        def spread(weight: Tensor, width: int) -> nn.Parameter:
            shards = [Shard(0 if axis == "ep" else width) for axis in axes]
            return nn.Parameter(distribute_tensor(weight, mesh.over(*axes), shards, src_data_rank=None))

        self.gate, self.up, self.down = spread(experts.gate, 1), spread(experts.up, 1), spread(experts.down, 2)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Returns the output of each row's expert; under ``tp`` this rank's summand of it.

        Args:
            x: (N, D) rows, sorted by expert.
            sizes: (C,) rows of each expert.
        """
        weights = [_local(weight) for weight in (self.gate, self.up, self.down)]
        if self.group is None:
            return grouped_swiglu(x, sizes, *weights)
        journey = Journey.of(sizes, self.group)
        rows = permuted(_exchange(x, journey), journey.order, journey.back)
        rows = permuted(grouped_swiglu(rows, journey.sizes, *weights), journey.back, journey.order)
        return _exchange(rows, journey.reverse())


def _local(tensor: Tensor, gradient: tuple[Placement, ...] | None = None) -> Tensor:
    """This rank's part of a tensor, whose gradient is a part in the same way, or as said."""
    assert isinstance(tensor, DTensor)
    part: Tensor = tensor.to_local(grad_placements=gradient)
    return part


class Journey(NamedTuple):
    """Where rows go, and what comes."""

    sent: list[int]
    """Rows to each rank."""

    received: list[int]
    """Rows from each rank."""

    sizes: Tensor
    """Rows of each expert here."""

    order: Tensor
    """Sorts what comes by expert."""

    back: Tensor
    """Undoes it."""

    group: dist.ProcessGroup

    @classmethod
    def of(cls, sizes: Tensor, group: dist.ProcessGroup) -> "Journey":
        """Tells all ranks how many rows will come; the only moment at which the host waits for the device.

        Args:
            sizes: (C,) rows of each expert, here and elsewhere.
            group: ranks that have the experts.
        """
        ours = sizes.view(group.size(), -1)
        theirs = torch.empty_like(ours)
        dist.all_to_all_single(theirs, ours.contiguous(), group=group)
        sent, received = torch.stack([ours.sum(1), theirs.sum(1)]).tolist()
        experts = torch.arange(theirs.shape[1], device=sizes.device).expand(theirs.shape)  # (rank, expert)
        order = experts.flatten().repeat_interleave(theirs.flatten(), output_size=sum(received)).argsort(stable=True)
        return cls(sent, received, theirs.sum(0), order, order.argsort(), group)

    def reverse(self) -> "Journey":
        """The way back."""
        return self._replace(sent=self.received, received=self.sent)


def _exchange(rows: Tensor, journey: Journey) -> Tensor:
    out: Tensor = _Exchange.apply(rows, journey)  # type: ignore[no-untyped-call]
    return out


class _Exchange(torch.autograd.Function):
    """Rows for rows; the gradient goes the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, journey: Journey) -> Tensor:
        ctx.journey = journey
        got = rows.new_empty(sum(journey.received), rows.shape[1])
        dist.all_to_all_single(got, rows.contiguous(), journey.received, journey.sent, group=journey.group)
        return got

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Exchange.forward(ctx, gradient, ctx.journey.reverse()), None

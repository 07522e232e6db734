"""Recomputation: not a bit of the loss, the gradients or the running statistics changes, and memory falls."""

import weakref

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anemone.config import decode
from anemone.errors import ConfigError
from anemone.models.text.llama import LlamaConfig
from anemone.parallel.budget import Budget, Kept
from anemone.parallel.plans import Plan, find
from anemone.parallel.processes import run_ranks
from anemone.parallel.recompute import (
    AutoConfig,
    FullConfig,
    NoneConfig,
    SelectiveConfig,
    parse_bytes,
    recompute,
)

PLAN = Plan(blocks=("layers.*",))
MIB = 2**20


class Memory(TorchDispatchMode):
    """Counts the bytes of all that operations made and something still holds."""

    def __init__(self):
        super().__init__()
        self.held, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                memory = tensor.untyped_storage()
                if memory.data_ptr() not in given | {0} | self.held.keys():
                    self.held[memory.data_ptr()] = memory.nbytes()
                    weakref.finalize(memory, self._free, memory.data_ptr())
                    self.now += memory.nbytes()
                    self.peak = max(self.peak, self.now)
        return out

    def _free(self, key):
        self.now -= self.held.pop(key)


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d, bias=False)
        self.norm, self.drop = nn.BatchNorm1d(4 * d), nn.Dropout(0.3)

    def forward(self, x, scale=1.0, mask=None):
        return x + self.down(self.drop(torch.relu(self.norm(self.up(x)) * scale)))


class Net(nn.Module):
    def __init__(self, num_layers=5, d=64):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict({str(n): Block(d) for n in range(num_layers)})
        self.d = d

    def forward(self, x):
        for layer in self.layers.values():
            x = layer(x, 1.5, None)
        return x


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(size="custom", d_model=128, num_layers=4, num_heads=4, num_kv_heads=2, d_ff=352)
    return config.build(64)


def loss_of(network):
    if isinstance(network, Net):
        return network(torch.linspace(-1, 1, 256 * network.d).sin().view(256, network.d)).square().sum()
    positions = torch.arange(128).expand(2, 128)
    return network(positions % 61, positions, positions // 50).logsumexp(-1).sum()


def step(network, config, *, steps=1):
    """Loss, gradients, buffers, MiB after the forward, and at the peak; of the last of several equal steps."""
    recompute(network, PLAN, config)
    for _ in range(steps):
        network.zero_grad()
        torch.manual_seed(1)
        with Memory() as memory:
            loss = loss_of(network)
            kept = memory.now
            memory.peak = memory.now
            loss.backward()
    grads = [p.grad for p in network.parameters()]
    return loss.item(), grads, [b.clone() for b in network.buffers()], kept / MIB, memory.peak / MIB


CONFIGS = [
    FullConfig(),
    SelectiveConfig(),
    SelectiveConfig(save=("attention",)),
    SelectiveConfig(save=("products",), every=2),
    FullConfig(first=2),
    AutoConfig(budget="3MiB"),
]


@pytest.mark.parametrize("build", [Net, llama])
@pytest.mark.parametrize("config", CONFIGS)
def test_not_a_bit_changes(build, config):
    if isinstance(config, AutoConfig) and build is llama:
        config = AutoConfig(budget="9MiB")
    loss, grads, buffers, kept, _ = step(build(), NoneConfig(), steps=2)
    again = step(build(), config, steps=2)
    assert again[0] == loss
    assert all(torch.equal(a, b) for a, b in zip(again[1], grads, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(again[2], buffers, strict=True))
    assert again[3] < kept


def test_names_and_classes_stay():
    network = llama()
    names, classes = [name for name, _ in network.named_parameters()], [type(m) for m in network.modules()]
    recompute(network, PLAN, SelectiveConfig())
    assert [name for name, _ in network.named_parameters()] == names
    assert [type(m) for m in network.modules()] == classes
    assert list(network.state_dict()) == names


def test_memory_falls_in_the_order_of_the_modes():
    """Of a Llama of 4 layers with 256 tokens, in float32."""
    kept = {}
    for name, config in {
        "none": None,
        "products": SelectiveConfig(save=("products",)),
        "attention": SelectiveConfig(save=("attention",)),
        "every second": FullConfig(every=2),
        "first": FullConfig(first=1),
        "full": FullConfig(),
    }.items():
        kept[name] = step(llama(), config)[3]
    width, tokens = 128 * 4 / MIB, 256
    rest = kept["full"] - 4 * width * tokens  # what lies outside the blocks
    a_block = (kept["none"] - rest) / 4
    assert kept["full"] < kept["attention"] < kept["products"] < kept["none"]
    assert kept["attention"] - kept["full"] == pytest.approx(4 * tokens * (width + 4 * 4 / MIB), rel=0.02)
    assert kept["every second"] == pytest.approx(rest + 2 * a_block + 2 * width * tokens, rel=0.02)
    assert kept["first"] == pytest.approx(rest + 3 * a_block + width * tokens, rel=0.02)


@pytest.mark.parametrize("config", [FullConfig(), SelectiveConfig()])
def test_gradients_of_inputs_and_of_weights_may_come_in_two_passes(config):
    """As in zero-bubble pipelines: each pass runs the forward again, and finds what the first forward kept."""
    grads = []
    for chosen in (None, config):
        network = Net(num_layers=2)
        recompute(network, PLAN, chosen)
        x = torch.linspace(-1, 1, 256 * 64).view(256, 64).requires_grad_()
        torch.manual_seed(1)
        loss = network(x).square().sum()
        inputs = torch.autograd.grad(loss, [x], retain_graph=True)
        grads.append([*inputs, *torch.autograd.grad(loss, list(network.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_nothing_is_recomputed_without_gradients():
    network = llama()
    recompute(network, PLAN, FullConfig())
    calls = []
    network.layers["0"].ffn.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with torch.no_grad():
        loss_of(network)
    assert calls == [False]
    loss_of(network).backward()
    assert calls == [False, True, True]


def test_it_is_counted_over_the_blocks_that_a_process_holds():
    network = llama()
    del network.layers["0"], network.layers["2"]
    ran = []
    for name, block in network.layers.items():
        block.ffn.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    recompute(network, PLAN, FullConfig(first=1))
    assert len(find(network, PLAN.blocks)) == 2
    loss_of(network).backward()
    assert ran == ["1", "3", "1"]


# --- a budget ---------------------------------------------------------------------------------------------------------


def block_memory(config, **sizes):
    """MiB that blocks keep, and need at most, in each of four equal steps of a network that is blocks alone."""
    network = Net(**sizes)
    recompute(network, PLAN, config)
    x = torch.linspace(-1, 1, 256 * network.d).sin().view(256, network.d)
    found = []
    for _ in range(4):
        torch.manual_seed(1)
        with Memory() as memory:
            out = network(x)
            kept = memory.now - out.nbytes
            memory.peak = memory.now
            out.backward(out.detach())
        found.append((kept / MIB, (memory.peak - 2 * out.nbytes) / MIB))
    return found


@pytest.mark.parametrize("mib", [2, 3, 4, 5])
def test_a_budget_is_met_and_used(mib):
    """Without one the five blocks keep 5.3 MiB. Gradients of the states within a block come on top."""
    within = 256 * 4 * 64 * 4 / MIB
    first, *others = block_memory(AutoConfig(budget=f"{mib}MiB"))
    assert first[0] < 0.4
    for kept, peak in others:
        assert kept <= mib and peak <= mib + within
    assert others[-1][1] > 0.75 * mib


def test_a_generous_budget_costs_nothing():
    assert block_memory(AutoConfig(budget="1GiB"))[-1] == block_memory(NoneConfig())[-1]


def test_a_budget_below_the_least_is_refused_with_the_least():
    with pytest.raises(ConfigError, match=r"`parallel.recompute.budget` must be at least 1\.\dMiB, .* is '1.0MiB'"):
        block_memory(AutoConfig(budget="1MiB"))


@pytest.mark.parametrize("mib", [4, 8])
def test_a_budget_is_for_all_micro_batches_under_way(mib):
    """A pipeline takes three forward before the first comes back; each would keep 5.3 MiB."""
    network = Net()
    recompute(network, PLAN, AutoConfig(budget=f"{mib}MiB"))
    x = torch.linspace(-1, 1, 256 * 64).view(256, 64)
    for _ in range(3):
        with Memory() as memory:
            outs = [network(x) for _ in range(3)]
            kept = (memory.now - sum(out.nbytes for out in outs)) / MIB
            while outs:
                outs.pop(0).sum().backward()
    assert 0.6 * mib < kept <= mib


def test_a_forward_that_never_comes_back_is_not_waited_for():
    budget = Budget(MIB, num_blocks=1)
    kept = Kept(full=10, selective=20, none=30)
    for _ in range(2):
        budget.choose(0, (2, 3), lambda: kept)
        out = torch.ones(1, requires_grad=True) * 1
        budget.watch(0, out)
        del out
    assert budget.choose(0, (2, 3), lambda: kept) == "none" and budget.most == [1]


def test_an_input_no_larger_than_measured_ones_is_not_measured_again():
    budget = Budget(70, num_blocks=2)
    asked = []

    def measure():
        asked.append(1)
        return Kept(full=10, selective=20, none=40)

    for shape in [(4, 8), (4, 8), (2, 8), (4, 7), (5, 1)]:
        modes = [budget.choose(number, shape, measure) for number in (0, 1)]
        asked.append("full" if modes == ["full", "full"] else "chosen")
    assert asked == [1, 1, "full", "chosen", "chosen", "chosen", 1, 1, "full"]
    assert budget.plans[(4, 8)] == ["selective", "none"]


def choose_apart(rank):
    """One rank of a group measures more than the other."""
    budget = Budget(70, 2, [dist.group.WORLD])
    kept = Kept(full=10, selective=30, none=60) if rank else Kept(full=10, selective=20, none=40)
    for _ in range(2):
        modes = [budget.choose(number, (4, 8), lambda: kept) for number in (0, 1)]
    return modes


def test_ranks_that_meet_within_a_block_choose_alike():
    assert run_ranks(2, choose_apart) == [["full", "none"]] * 2


@pytest.mark.parametrize(("text", "size"), [("12GiB", 12 * 2**30), ("1.5 MiB", 3 * 2**19), ("800MiB", 800 * MIB)])
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"budget": "12"}, r"`budget` must be a number of MiB or GiB, such as 12GiB, but is '12'"),
        ({"budget": "12GB"}, r"`budget` must be a number of MiB or GiB"),
    ],
)
def test_other_sizes_are_refused(tree, words):
    with pytest.raises(ConfigError, match=words):
        decode(AutoConfig, tree)


@pytest.mark.parametrize(("tree", "words"), [({"every": 0}, "`every` must be 1"), ({"save": []}, "`save` must be one")])
def test_impossible_settings_are_refused(tree, words):
    with pytest.raises(ConfigError, match=words):
        decode(SelectiveConfig, tree)

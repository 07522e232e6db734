"""Optimisers: equal to golden values, to torch and to hand-computed steps; one `Optimizer` each; resume exactly."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from anemone.config import decode, load_class
from anemone.errors import ConfigError
from anemone.testing import run_ranks
from anemone.training import optimizers
from anemone.training.optim import OPTIMIZERS
from anemone.training.optimizers import Lion, Muon, NovoGrad, orthogonal, squared_norms

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/parity/schedules/values.json").read_text())["novograd"]


class ConvNet(nn.Module):
    """Convolutions of all sorts with norms, in stages named like a task's."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.encoder = nn.Sequential(
            nn.Conv1d(4, 6, 3, padding=1),
            nn.BatchNorm1d(6),
            nn.Conv1d(6, 6, 5, padding=2, groups=6),
            nn.Conv1d(6, 8, 1),
            nn.LayerNorm([8, 7]),
        )
        self.middle = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        # (B, T, C) -> (B, C, T)
        x = self.encoder(self.embed(ids).transpose(1, 2)).relu()
        return self.head(self.middle(x.mean(-1)).relu())


IDS = torch.randint(5, (32, 7), generator=torch.Generator().manual_seed(1))
TARGETS = (IDS == 0).sum(1).clamp(max=2)


def build(kind, module, **settings):
    return decode(load_class(OPTIMIZERS[kind]), settings).build(module)


def learn(net, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(IDS), TARGETS)
        loss.backward()
        optimizer.step()
    return loss.item()


def names(net, params):
    wanted = {id(p) for p in params}
    return {name for name, p in net.named_parameters() if id(p) in wanted}


# --- equations --------------------------------------------------------------------------------------------------------


def test_novograd_equals_the_golden_trace():
    params = [nn.Parameter(torch.tensor(p)) for p in GOLDEN["params"][0]]
    settings = {key: GOLDEN[key] for key in ("lr", "betas", "weight_decay")}
    optimizer = NovoGrad(params, **settings)
    for grads, after in zip(GOLDEN["grads"], GOLDEN["params"][1:], strict=True):
        for p, grad in zip(params, grads, strict=True):
            p.grad = torch.tensor(grad)
        optimizer.step()
        for p, expected in zip(params, after, strict=True):
            torch.testing.assert_close(p.detach(), torch.tensor(expected), rtol=0, atol=1e-6)


def test_lion_equals_steps_computed_by_hand():
    w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = Lion([w], lr=0.1, betas=(0.5, 0.75), weight_decay=0.5)
    w.grad = torch.tensor([4.0, -8.0, 0.0])
    optimizer.step()
    # m = 0: c = g / 2, sign (1, -1, 0); w = 0.95 w - 0.1 sign; m = g / 4 = (1, -2, 0)
    torch.testing.assert_close(w.detach(), torch.tensor([0.85, -1.8, 0.475]))
    w.grad = torch.tensor([-2.0, -1.0, -1.0])
    optimizer.step()
    # c = m / 2 + g / 2 = (-0.5, -1.5, -0.5): the momentum decides nothing alone; m = 0.75 m + 0.25 g
    torch.testing.assert_close(w.detach(), torch.tensor([0.9075, -1.61, 0.55125]))
    torch.testing.assert_close(optimizer.state[w]["momentum"], torch.tensor([0.25, -1.75, -0.25]))


def test_lion_keeps_its_direction_when_the_momentum_outweighs_the_gradient():
    w = nn.Parameter(torch.zeros(1))
    optimizer = Lion([w], lr=1.0, betas=(0.9, 0.5))
    for grad, place in ((1.0, -1.0), (-1.0, -2.0), (-1.0, -1.0)):
        # m before each step: 0, 0.5, -0.25, so c = 0.1, 0.35, -0.325
        w.grad = torch.tensor([grad])
        optimizer.step()
        assert w.item() == place


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_muon_equals_torchs_on_a_matrix(shape):
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 24).reshape(shape)) for _ in range(2))
    settings = {"lr": 0.1, "weight_decay": 0.3, "momentum": 0.9}
    made = [
        Muon([{"params": [ours]}], [], **settings),
        torch.optim.Muon([theirs], **settings, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(4):
        grad = torch.randn(shape)
        for p, optimizer in zip((ours, theirs), made, strict=True):
            p.grad = grad.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_newton_schulz_keeps_directions_and_levels_singular_values():
    matrix = torch.randn(8, 5)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonal(matrix)
    assert torch.linalg.svdvals(made).min() > 0.6 and torch.linalg.svdvals(made).max() < 1.3
    assert (made - u @ v).norm() < 0.25 * (u @ v).norm()


# --- which parameter is treated how -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_decay_spares_biases_and_norms_unless_asked(kind):
    net = ConvNet()
    spared = {p for g in build(kind, net, weight_decay=0.1).param_groups if g["weight_decay"] == 0 for p in g["params"]}
    assert spared == {p for p in net.parameters() if p.ndim < 2}
    assert all(g["weight_decay"] == 0.1 for g in build(kind, net, weight_decay=0.1, decay_vectors=True).param_groups)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_trainable_parameter_is_in_one_group_with_its_peak_rate(kind):
    net = ConvNet()
    net.embed.requires_grad_(False)
    groups = build(kind, net, lr=0.003).param_groups
    held = [p for g in groups for p in g["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {p for p in net.parameters() if p.requires_grad}
    assert {(g["lr"], g["base_lr"]) for g in groups} == {(0.003, 0.003)}


def test_muon_takes_hidden_matrices_of_a_convolution_model_and_adamw_everything_else():
    net = ConvNet()
    optimizer = build("muon", net)
    learn(net, optimizer)
    by_muon = {p for p, state in optimizer.state.items() if set(state) == {"momentum"}}
    by_adamw = {p for p, state in optimizer.state.items() if set(state) == {"step", "exp_avg", "exp_avg_sq"}}
    assert names(net, by_muon) == {"encoder.0.weight", "encoder.3.weight", "middle.weight"}
    assert by_muon | by_adamw == set(net.parameters()) and not by_muon & by_adamw


def test_muon_names_of_ends_are_a_setting():
    net = ConvNet()
    optimizer = build("muon", net, adamw=["encoder"])
    matrices = [p for g in optimizer.param_groups if "momentum" in g for p in g["params"]]
    assert names(net, matrices) == {"middle.weight", "head.weight"}


def test_muon_steps_a_kernel_as_the_matrix_it_is():
    conv, linear = nn.Conv1d(4, 6, 3, bias=False), nn.Linear(12, 6, bias=False)
    linear.weight.data = conv.weight.data.flatten(1).clone()
    made = [build("muon", module, lr=0.1) for module in (conv, linear)]
    conv.weight.grad = torch.randn(6, 4, 3)
    linear.weight.grad = conv.weight.grad.flatten(1).clone()
    for optimizer in made:
        optimizer.step()
    assert torch.equal(conv.weight.flatten(1), linear.weight)


def test_a_step_is_the_same_for_long_and_short_lists_of_tensors(monkeypatch):
    for kind in ("novograd", "lion", "muon"):
        trained = []
        for cached in (1, 60, 10**9):
            monkeypatch.setattr(optimizers, "CACHED", cached)
            torch.manual_seed(0)
            net = ConvNet()
            learn(net, build(kind, net), 2)
            trained.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
        assert torch.equal(trained[0], trained[1]) and torch.equal(trained[0], trained[2])


def test_muon_leaves_its_adamw_parameters_to_torchs_adamw():
    net, alone = ConvNet(), ConvNet()
    alone.load_state_dict(net.state_dict())
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.01}
    learn(net, build("muon", net, lr=0.01, adamw=["encoder", "middle", "head"]), 3)
    learn(alone, build("adamw", alone, **settings), 3)
    for ours, theirs in zip(net.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


# --- as one optimiser -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_it_learns(kind):
    net = ConvNet()
    optimizer = build(kind, net, lr={"adafactor": 0.1, "sgd": 0.5}.get(kind, 0.03))
    first = learn(net, optimizer)
    assert learn(net, optimizer, 60) < 0.6 * first


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_state_is_tensors_and_numbers_and_resumes_bit_for_bit(kind):
    net, other = ConvNet(), ConvNet()
    optimizer = build(kind, net)
    learn(net, optimizer, 3)
    saved = optimizer.state_dict()
    assert all(isinstance(v, torch.Tensor) for state in saved["state"].values() for v in state.values())
    groups = json.loads(json.dumps(saved["param_groups"]))
    state = {key: {name: v.clone() for name, v in held.items()} for key, held in saved["state"].items()}
    other.load_state_dict(net.state_dict())
    resumed = build(kind, other, lr=0.5)
    resumed.load_state_dict({"state": state, "param_groups": groups})
    assert {g["base_lr"] for g in resumed.param_groups} == {g["base_lr"] for g in optimizer.param_groups}
    for module, its_optimizer in ((net, optimizer), (other, resumed)):
        learn(module, its_optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_rate_of_the_groups_is_the_rate_of_the_step(kind):
    net = ConvNet()
    optimizer = build(kind, net)
    for group in optimizer.param_groups:
        group["lr"] = 0.0 * group["base_lr"]
    before = {name: p.clone() for name, p in net.named_parameters()}
    learn(net, optimizer)
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"]
    learn(net, optimizer)
    stayed = {name for name, p in net.named_parameters() if torch.equal(before[name], p)}
    assert stayed <= (
        {"encoder.0.bias"} if kind == "sgd" else set()
    )  # a normalisation undoes it: its gradient is noise


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_parameters_without_gradient_stay_and_gradients_are_cleared(kind):
    net = ConvNet()
    optimizer = build(kind, net)
    net.middle.weight.grad = torch.ones_like(net.middle.weight)
    before = [p.clone() for p in net.parameters()]
    optimizer.step()
    moved = {n for (n, p), old in zip(net.named_parameters(), before, strict=True) if not torch.equal(p, old)}
    assert moved == {"middle.weight"}
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_closure_is_evaluated_with_gradients_on(kind):
    layer = nn.Linear(2, 2)

    def closure():
        loss = layer(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss.detach()

    assert build(kind, layer).step(closure) > 0


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("adamw", {"lr": 0}, r"`lr` must be above 0, and finite, but is 0\.0 instead"),
        ("lion", {"weight_decay": -1}, r"`weight_decay` must be 0 or more, but is -1\.0 instead"),
        ("novograd", {"betas": [0.9, 1]}, r"`betas` must be at least 0 and below 1, but is \(0\.9, 1\.0\) instead"),
        ("muon", {"momentum": 1}, r"`momentum` must be at least 0 and below 1, but is 1\.0 instead"),
        ("adafactor", {"clip": 0.5}, r"`clip` must be 1 or more, but is 0\.5 instead"),
        ("adafactor", {"beta2_decay": 0.5}, r"`beta2_decay` must be 0 or less"),
        ("adamw", {"beta": [0.9, 0.99]}, r"`beta` is not a setting of AdamWConfig\. Did you mean `betas`\?"),
    ],
)
def test_impossible_settings_are_refused(kind, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(kind, nn.Linear(2, 2), **settings)


# --- over shards ------------------------------------------------------------------------------------------------------


class Matrices(nn.Module):
    """Weights of several forms, whose gradients need no forward."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(12, 6)
        self.conv = nn.Conv1d(5, 7, 3)
        self.head = nn.Linear(6, 4)
        generator = torch.Generator().manual_seed(5)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator)


def moved(rank, kind, sharded):
    """Weights after three steps along the same gradients, whole."""
    net = Matrices()
    if sharded:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
        for name, p in list(net.named_parameters()):
            inner = [Shard(1)] if name == "wide.weight" else [Replicate()]
            over, places = (mesh, [Shard(0), *inner]) if name != "head.bias" else (mesh["b"], [Shard(0)])
            owner = net.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], nn.Parameter(distribute_tensor(p.detach(), over, places)))
    optimizer = build(kind, net, lr=0.1, weight_decay=0.1, **({"momentum": 0.9} if kind == "sgd" else {}))
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for p in net.parameters():
            gradient = torch.randn(p.shape, generator=generator)
            p.grad = distribute_tensor(gradient, p.device_mesh, p.placements) if sharded else gradient
        optimizer.step()
    return {name: p.full_tensor().detach() if sharded else p.detach() for name, p in net.named_parameters()}


@pytest.mark.parametrize("kind", sorted(set(OPTIMIZERS) - {"adafactor"}))
def test_sharded_weights_move_as_whole_ones_do(kind):
    whole = moved(0, kind, False)
    for found in run_ranks(4, moved, kind, True):
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def squared_norm_of_twice_cut(rank):
    net, mesh = nn.Linear(8, 8, bias=False), init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_shard", "tp"))
    net.weight.data = torch.arange(64.0).view(8, 8)
    parallelize_module(net, mesh["tp"], ColwiseParallel())
    fully_shard(net, mesh=mesh["dp_shard"])
    (found,) = squared_norms([net.weight.detach()])
    return found.item()


def test_norms_are_of_whole_tensors_where_fsdp_cuts_what_tensor_parallelism_has_cut_along_the_same_axis():
    """Torch says of such a placement that it is no shard."""
    assert run_ranks(4, squared_norm_of_twice_cut) == [pytest.approx(float(torch.arange(64.0).square().sum()))] * 4


def refused(rank):
    net = nn.Linear(4, 4)
    mesh = init_device_mesh("cpu", (2,))
    net.weight = nn.Parameter(distribute_tensor(net.weight.detach(), mesh, [Shard(0)]))
    try:
        build("adafactor", net)
    except ConfigError as error:
        return str(error)


def test_adafactor_is_refused_over_shards_with_the_reason():
    for said in run_ranks(2, refused):
        assert "`optim.kind` must be adamw, lion, muon, novograd or sgd where weights are sharded" in said
        assert "means of rows and columns" in said


def test_sgd_equals_steps_computed_by_hand():
    w = nn.Parameter(torch.tensor([1.0, -2.0]))
    holder = nn.Module()
    holder.w = w
    optimizer = build("sgd", holder, lr=0.1, momentum=0.5, nesterov=True)
    for gradient, expected in (([1.0, -4.0], [0.85, -1.4]), ([0.0, 2.0], [0.825, -1.6])):
        # m = g, then m = 0.5 m + g: (1, -4), (0.5, 0); w = w - 0.1 (g + 0.5 m)
        w.grad = torch.tensor(gradient)
        optimizer.step()
        torch.testing.assert_close(w.detach(), torch.tensor(expected))

"""Precisions: products have the format that was asked for, and the scaler of float16 acts."""

import math

import pytest
import torch
from torch import nn

from anemone.data.batch import Batch
from anemone.errors import ConfigError
from anemone.losses import LossSum
from anemone.testing import run_ranks
from anemone.training.engine import Engine
from anemone.training.precision import PRECISIONS, Scaler, precision

CPU = torch.device("cpu")


class Product(nn.Module):
    """One product, whose format it remembers; the gradient is multiplied by ``gain``."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.gain = gain
        self.seen = None

    def loss(self, batch):
        y = self.linear(batch.audio)
        self.seen = y.dtype
        return LossSum(y.float().sum() * self.gain, torch.tensor(float(len(y))))


def batch():
    audio = torch.arange(8.0).view(2, 4) / 8
    return Batch(audio, torch.full((2,), 4), torch.zeros(2, 1).long(), torch.ones(2).long(), torch.arange(2))


def engine(task, name, lr=0.1):
    optimizer = torch.optim.SGD([{"params": task.parameters(), "base_lr": lr}])
    return Engine(task, optimizer, lambda step: 1.0, precision=name)


@pytest.mark.parametrize(
    ("name", "format"), [("32", torch.float32), ("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16)]
)
def test_a_product_has_the_format_of_the_precision_and_weights_stay_float32(name, format):
    task = Product()
    e = engine(task, name)
    e.step([batch()])
    assert task.seen == format
    assert {p.dtype for p in task.parameters()} == {p.grad.dtype for p in task.parameters()} == {torch.float32}
    task.seen = None
    with e.evaluation():
        task.loss(batch())
    assert task.seen == format


@pytest.mark.parametrize("name", ["bf16-true", "fp8"])
def test_a_network_that_is_not_laid_out_computes_in_the_short_format_too(name):
    task = Product()
    with torch.no_grad(), precision(name, CPU).autocast(CPU, laid_out=False):
        task.loss(batch())
    assert task.seen == torch.bfloat16


def test_tf32_is_refused_on_a_cpu_with_the_reason():
    with pytest.raises(ConfigError, match=r"`precision` must be 32, .* or fp8-rowwise on this device \(cpu\), but"):
        precision("tf32", CPU)
    with pytest.raises(ConfigError, match=r"matrix units of NVIDIA GPUs since Ampere"):
        engine(Product(), "tf32")


def test_transformer_engine_is_refused_on_a_cpu_with_the_way_out():
    with pytest.raises(ConfigError, match=r"but is 'fp8-te' instead\. Transformer Engine .*torchao computes fp8"):
        precision("fp8-te", CPU)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match=r"`precision` must be one of \['16-mixed', '32', .*'tf32'\], but is '16'"):
        precision("16", CPU)
    assert [name for name, p in PRECISIONS.items() if p.scaled] == ["16-mixed"]


def test_the_scaler_halves_its_scale_on_overflow_and_skips_without_counting_it():
    task = Product(gain=1e3)  # 1e3 * 65536 does not fit into float16
    e = engine(task, "16-mixed")
    before = task.linear.weight.detach().clone()
    result = e.step([batch()])
    assert result.skipped == "overflow" and e.nonfinite == 0
    assert e.scaler.factor == 65536 / 2
    assert torch.equal(task.linear.weight, before)
    for _ in range(12):
        result = e.step([batch()])
    assert result.skipped == "" and not torch.equal(task.linear.weight, before)


def test_the_scaled_gradient_is_unscaled_before_it_is_used():
    plain, scaled = Product(), Product()
    scaled.load_state_dict(plain.state_dict())
    e = engine(scaled, "16-mixed")
    e.scaler = Scaler(init_scale=1024.0)
    a, b = engine(plain, "32").step([batch()]), e.step([batch()])
    assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-3)
    torch.testing.assert_close(scaled.linear.weight, plain.linear.weight, rtol=1e-3, atol=1e-3)


def test_the_scale_grows_after_enough_good_steps():
    task = Product(gain=1e-3)
    e = engine(task, "16-mixed", lr=1e-6)
    e.scaler.growth_interval = 3
    for _ in range(3):
        e.step([batch()])
    assert e.scaler.factor == 2 * 65536


def test_an_overflow_that_no_scale_can_cure_counts_as_nonfinite():
    task = Product(gain=1.0)
    task.linear.weight.register_hook(lambda gradient: gradient * math.inf)
    e = engine(task, "16-mixed")
    for _ in range(17):
        assert e.step([batch()]).skipped == "overflow"
    assert e.step([batch()]).skipped == "gradient" and e.nonfinite == 1


def overflow_on_one(rank):
    task = Product(gain=1e3 if rank == 1 else 1e-3)
    with torch.no_grad():
        task.linear.weight.fill_(0.1)
    e = engine(task, "16-mixed")
    result = e.step([batch()])
    return result.skipped, e.scaler.factor, float(task.linear.weight.sum())


def test_an_overflow_of_one_rank_is_found_by_all():
    first, second = run_ranks(2, overflow_on_one)
    assert first == second
    assert first[:2] == ("overflow", 32768.0) and first[2] == pytest.approx(0.4)


def test_a_gpu_is_refused_formats_that_it_does_not_have(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    cuda = torch.device("cuda")
    assert precision("tf32", cuda).tf32 and precision("bf16-true", cuda).weights == torch.bfloat16
    with pytest.raises(ConfigError, match=r"but is 'fp8' instead\. Its format needs compute capability \(8, 9\)"):
        precision("fp8", cuda)


@pytest.mark.parametrize(("name", "legacy", "newer"), [("tf32", "high", "tf32"), ("32", "highest", "ieee")])
def test_a_gpu_is_told_of_tf32_so_that_both_ways_of_asking_agree(name, legacy, newer):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        PRECISIONS[name].prepare(torch.device("cuda"))
        assert torch.get_float32_matmul_precision() == legacy  # raises where the two ways are mixed
        assert torch.backends.cuda.matmul.fp32_precision == newer
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == (name == "tf32")
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_a_scaler_follows_what_it_is_told_and_goes_on_from_its_state():
    scaler = Scaler(init_scale=8.0, growth_interval=2)
    assert float(scaler.scale(torch.tensor(3.0))) == 24.0
    gradients = [torch.full((2,), 24.0), torch.full((1,), 8.0)]
    scaler.unscale(gradients)
    assert [float(g[0]) for g in gradients] == [3.0, 1.0]
    factors = []
    for overflow in (True, False, True, False, False, False):
        scaler.update(overflow)
        factors.append(scaler.factor)
    assert factors == [4, 4, 2, 2, 4, 4]
    other = Scaler(growth_interval=2)
    other.load_state_dict(scaler.state_dict())
    other.update(False)
    assert other.factor == 8.0  # the good step before was counted


def test_a_scaler_that_is_not_enabled_changes_nothing():
    scaler = Scaler(enabled=False)
    loss, gradient = torch.tensor(3.0), torch.ones(2)
    scaler.unscale([gradient])
    scaler.update(True)
    assert scaler.scale(loss) is loss and torch.equal(gradient, torch.ones(2)) and scaler.state_dict() == {}


def overflow_in_one_part(rank):
    """Each rank holds half of a gradient, and one half is not finite; what decides is a norm over both."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (2,))
    scaler = Scaler(init_scale=4.0)
    gradient = DTensor.from_local(torch.full((1,), math.inf if rank else 4.0), mesh, [Shard(0)])
    scaler.unscale([gradient])
    norm = float(torch.linalg.vector_norm(gradient).full_tensor())
    scaler.update(not math.isfinite(norm))
    return scaler.factor, float(gradient.to_local())


def test_an_overflow_in_one_part_of_a_gradient_halves_the_scale_everywhere():
    assert run_ranks(2, overflow_in_one_part) == [(2.0, 1.0), (2.0, math.inf)]

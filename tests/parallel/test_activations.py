"""Activations by formula are those that autograd keeps, byte by byte in a block and nearly so in a whole model."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from anemone.losses.token_cross_entropy import token_cross_entropy
from anemone.models.text.llama import LlamaBlock, LlamaConfig
from anemone.nn import attention
from anemone.nn.rotary import rotary
from anemone.parallel.activations import Tokens, block, tokens
from anemone.parallel.budget import measure
from anemone.parallel.memory import Decoder, Layout
from anemone.parallel.plans.llama import PLAN
from anemone.parallel.prediction import Job, activations_of
from anemone.parallel.recompute import FullConfig, NoneConfig, SelectiveConfig, recompute

VOCAB, ROWS, LENGTH = 512, 2, 128
NUMBERS = {"size": "custom", "d_model": 64, "num_heads": 4, "num_kv_heads": 2, "d_ff": 176, "num_layers": 6}
CONFIGS = {"dense": LlamaConfig(**NUMBERS), "experts": LlamaConfig(**NUMBERS, num_experts=4)}
MODES = {"none": NoneConfig(), "selective": SelectiveConfig(), "full": FullConfig()}
TYPES = {"32": torch.float32, "bf16-true": torch.bfloat16}


@pytest.fixture(autouse=True)
def _fused_attention(monkeypatch):
    """The kernel that is planned for, in every precision: it keeps a sum for each query, blocks of queries do not."""
    monkeypatch.setattr(attention, "LONGEST", 0)


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_block_keeps_what_the_formula_says_to_the_byte(kind, precision):
    shape, dtype = CONFIGS[kind].shape, TYPES[precision]
    layer = LlamaBlock(shape).to(dtype)
    x = torch.randn(ROWS, LENGTH, shape.d_model, dtype=dtype, requires_grad=True)
    angles = rotary(torch.arange(LENGTH).expand(ROWS, LENGTH), shape.d_head)
    kept = measure(layer, layer.forward, (x, *angles, None), save=SelectiveConfig().operations)
    n = Tokens(ROWS * LENGTH, ROWS * LENGTH)
    planned = {mode: block(Decoder.of(shape, VOCAB), Layout(precision=precision), n, mode=mode).kept for mode in MODES}
    assert planned == kept._asdict()


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_block_under_autocast_keeps_copies_of_its_weights(kind):
    shape = CONFIGS[kind].shape
    layer = LlamaBlock(shape)
    x = torch.randn(ROWS, LENGTH, shape.d_model, requires_grad=True)
    angles = rotary(torch.arange(LENGTH).expand(ROWS, LENGTH), shape.d_head)
    with torch.autocast("cpu", torch.bfloat16):
        kept = measure(layer, layer.forward, (x, *angles, None), save=SelectiveConfig().operations)
    n, layout = Tokens(ROWS * LENGTH, ROWS * LENGTH), Layout(precision="bf16-mixed")
    assert {mode: block(Decoder.of(shape, VOCAB), layout, n, mode=mode).kept for mode in MODES} == kept._asdict()


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_holds_what_is_planned(kind, mode, precision):
    """After the forward within 1 %; at the peak of the backward about what is planned."""
    config = CONFIGS[kind]
    model = config.build(VOCAB).to(TYPES[precision])
    recompute(model, PLAN, MODES[mode])
    ids = torch.randint(VOCAB, (ROWS, LENGTH))
    tracker, cpu = MemTracker(), torch.device("cpu")
    tracker.track_external(model)
    with tracker:
        before = tracker.get_tracker_snapshot("current")[cpu]["Total"]
        loss = token_cross_entropy(model(ids, torch.arange(LENGTH).expand(ROWS, LENGTH)), ids)[0]
        after = tracker.get_tracker_snapshot("current")[cpu]["Total"] - before
        loss.backward()
        peak = tracker.get_tracker_snapshot("peak")[cpu]
    job = Job(Decoder.of(config.shape, VOCAB), LENGTH, ROWS, 1)
    layout = Layout(precision=precision, recompute=mode)
    planned = activations_of(job, layout, 0)
    again = block(job.decoder, layout, tokens(layout, LENGTH, ROWS), mode=mode).again
    assert planned - again == pytest.approx(after, rel=0.01)
    taken = sum(peak[kind] for kind in peak if str(kind).endswith(("ACT", "TEMP")))
    assert 0.7 * planned < taken < 1.15 * planned

"""Archives of convolutional encoders compute what NeMo computed, rarer options included; odd ones are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import anemone
from anemone.checkpoint.names import quartznet
from anemone.checkpoint.names.rules import translate
from anemone.checkpoint.nemo import read_nemo, tensor_names
from anemone.errors import ArchiveError
from anemone.losses.ctc import ctc_loss
from anemone.types import checked

GOLDEN = Path(__file__).parents[2] / "golden/parity"
CITRINET = GOLDEN / "citrinet_ctc_bpe"
OPTIONS = {
    "citrinet_options": "citrinet",
    "jasper_dense": "jasper",
    "unmasked_group_norm": "quartznet",
    "layer_norm": "citrinet",
}


def utterances():
    data = np.load(GOLDEN / "utterances.npz")
    return torch.from_numpy(data["signal"] / np.float32(32768)), torch.from_numpy(data["signal_len"])


def arrays(path):
    return {name: torch.from_numpy(value) for name, value in np.load(path).items()}


@torch.inference_mode()
def test_citrinet_gives_the_golden_log_probabilities_and_texts():
    task, want = anemone.load(CITRINET / "model.nemo"), arrays(CITRINET / "reference.npz")
    signal, signal_len = utterances()
    with checked(task.network):
        out = task.network(signal, signal_len)
    assert (out.x - want["log_probs"]).abs().max() < 1e-5
    assert torch.equal(out.x_len, want["log_probs_len"])
    alone = task.network(signal[:1, : signal_len[0]], signal_len[:1])
    assert (alone.x - out.x[:1, : out.x_len[0]]).abs().max() < 1e-5
    texts = [t.text for t in task.transcribe([(x[:n], 16_000) for x, n in zip(signal, signal_len, strict=True)])]
    assert texts == json.loads((CITRINET / "expected.json").read_text("utf-8"))["texts"]


def test_citrinet_trains_as_the_golden_one():
    read = read_nemo(CITRINET / "model.nemo")
    net = anemone.load(CITRINET / "model.nemo").network
    theirs, data = tensor_names(read.config), arrays(CITRINET / "reference.npz")
    want = json.loads((CITRINET / "expected.json").read_text("utf-8"))

    def loss():
        out = net(*utterances())
        total, count = ctc_loss(out.x, out.x_len, data["targets"], data["target_len"], reduction="mean_batch")
        return total / count

    assert loss().item() == pytest.approx(want["eval_loss"], rel=1e-5)
    net.train()
    optimizer, losses = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0), []
    for step in range(3):
        optimizer.zero_grad()
        now = loss()
        now.backward()
        if step == 0:
            norms = {theirs[name]: p.grad.norm().item() for name, p in net.named_parameters()}
            assert norms == pytest.approx(want["train_grad_norms_step0"], rel=1e-3)
        optimizer.step()
        losses.append(now.item())
    assert losses == pytest.approx(want["train_losses"], rel=5e-3)


@torch.inference_mode()
@pytest.mark.parametrize(("name", "kind"), OPTIONS.items())
def test_rarer_options_give_the_golden_outputs(name, kind):
    task, want = anemone.load(GOLDEN / f"conv_options/{name}.nemo"), arrays(GOLDEN / "conv_options/reference.npz")
    assert task.config_tree()["model"]["kind"] == kind
    x, x_len = task.network.features(*utterances())
    with checked(task.network):
        together = task.network.encoder(x, x_len)
    scores = task.network.head(*together).x
    assert (scores[:, ::5] - want[name]).abs().max() < 1e-4
    alone = task.network.encoder(x[:1, :, : x_len[0]], x_len[:1]).x
    assert (alone.mT[:, :, ::5] - want[f"{name}.single"]).abs().max() < 1e-5


PLAIN = {"filters": 8, "repeat": 1, "kernel": [3], "stride": [1], "dilation": [1], "dropout": 0.0, "residual": False}


def read(blocks, **settings):
    encoder = {"jasper": [{**PLAIN, **block} for block in blocks], "activation": "relu", **settings}
    return quartznet.blocks(translate(encoder, quartznet.ENCODER, "encoder"))


def test_a_block_that_says_nothing_merges_as_the_one_before():
    got = read([{}, {"residual": True, "residual_mode": "max"}, {"residual": True}, {"residual_mode": "add"}])
    assert [block["merge"] for block in got] == ["add", "max", "max", "add"]


def test_a_future_as_wide_as_the_kernel_is_none():
    got = read([{"future_context": future} for future in (-1, 0, 2, 3)])
    assert [block["look_ahead"] for block in got] == [None, 0, 2, None]


def test_heads_are_those_of_masked_depthwise_convolutions():
    blocks = [{"separable": True, "heads": 4}, {"heads": 4}]
    assert [block["heads"] for block in read(blocks)] == [4, None]
    assert [block["heads"] for block in read(blocks, conv_mask=False)] == [None, None]


DENSE = {"residual": True, "residual_dense": True}
ODD = [
    ([{"residual": True, "stride": [2]}], {}, r"`encoder.jasper\[0\].residual_mode` must be stride_add with a stride"),
    ([{"residual_mode": "mean"}], {}, r"residual_mode` must be add, stride_add or max to be read, but is 'mean'"),
    ([{"dilation": [2], "future_context": 1}], {}, r"future_context` must be -1 with a dilation to be read, but is 1"),
    ([{"se": True, "stride": [2]}], {"conv_mask": False}, r"`encoder.jasper\[0\].se` must be false with a stride"),
    ([DENSE, {"residual": True}], {}, r"`encoder.jasper\[1\].residual_dense` must be true in a residual block after"),
    ([DENSE, {}, DENSE], {}, r"`encoder.jasper\[2\].residual_dense` must be false after a block without it"),
    ([{}], {"activation": "tanh"}, r"`encoder.activation` cannot be read: 'tanh': must be one of relu"),
    ([{}], {"normalization_mode": "none"}, r"`encoder.normalization_mode` is 'none', which cannot be read"),
    ([{}], {"quantize": True}, r"`encoder.quantize` must be False to be read"),
]


@pytest.mark.parametrize(("blocks", "settings", "message"), ODD, ids=[message for *_, message in ODD])
def test_what_nemo_builds_but_nobody_wants_is_refused(blocks, settings, message):
    with pytest.raises(ArchiveError, match=message):
        read(blocks, **settings)

"""NeMo's transducers of all kinds compute, decode and learn as NeMo does; what cannot be had is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import anemone
from anemone.checkpoint.names.transducer import hybrid, transducer
from anemone.checkpoint.nemo import tensor_names
from anemone.errors import ArchiveError

GOLDEN = Path(__file__).parents[2] / "golden/parity"
OPTIONS = GOLDEN / "transducer_options"
TEXTS = ["he was not an ill disposed young man", "he might even have been made amiable himself"]
TRANSDUCERS = ["rnnt_two_layers", "tdt_sigmoid", "multi_blank_stateless", "hybrid_inner_ctc"]


def given(task):
    """The inputs of the network, and the text."""
    data = np.load(GOLDEN / "utterances.npz")
    signal, signal_len = torch.from_numpy(data["signal"] / np.float32(32768)), torch.from_numpy(data["signal_len"])
    rows = [torch.tensor(task.encode(text)) for text in TEXTS]
    text = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
    return (signal, signal_len, *(text if task.learns_from_text else ())), text


def golden(name):
    arrays = {key.partition(".")[2]: torch.from_numpy(array) for key, array in np.load(OPTIONS / f"{name}.npz").items()}
    return anemone.load(OPTIONS / f"{name}.nemo"), arrays, json.loads((OPTIONS / f"{name}.json").read_text("utf-8"))


@torch.no_grad()
@pytest.mark.parametrize("name", TRANSDUCERS)
def test_scores_and_greedy_texts_are_those_of_nemo(name):
    task, want, expected = golden(name)
    inputs, _ = given(task)
    out = task.network(*inputs)
    assert torch.equal(out.x_len, want["length"].long())
    keep = torch.arange(out.x.shape[1]) < out.x_len[:, None]
    joint = task.network.head.joint(out.x[:, ::6, None] + out.predicted[:, None, ::4]).log_softmax(-1)
    torch.testing.assert_close(joint[keep[:, ::6]], want["joint"][keep[:, ::6]], atol=1e-4, rtol=0)
    if name.startswith("hybrid"):
        torch.testing.assert_close(out.log_probs[:, ::2][keep[:, ::2]], want["ctc"][keep[:, ::2]], atol=1e-4, rtol=0)
    for strategy in ("greedy", "greedy_batch"):
        for found, theirs in zip(task._decode(out), expected[strategy], strict=True):
            assert (found.tokens, found.frames) == (theirs["tokens"], theirs["frames"])
            assert task.tokenizer.decode(found.tokens) == theirs["text"]


@pytest.mark.parametrize("name", [*TRANSDUCERS, "ctc_inner"])
def test_losses_and_gradients_are_those_of_nemo(name):
    task, _, expected = golden(name)
    inputs, text = given(task)
    with torch.no_grad():
        total, count = task._criterion(task.network(*inputs), *text)
    share = 1.01 if name == "rnnt_two_layers" else 1.0  # in evaluation NeMo does without FastEmit
    assert float(total / count) == pytest.approx(share * expected["eval_loss"], rel=1e-5)
    task.train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0)
    names, losses = tensor_names(task.config_tree()), []
    for step in range(3):
        optimizer.zero_grad()
        total, count = task._criterion(task.network(*inputs), *text)
        (total / count).backward()
        if step == 0:
            norms = {names[key]: p.grad.norm().item() for key, p in task.network.named_parameters()}
            scale = max(norms.values())  # a bias before batch normalisation has but rounding for a gradient
            assert norms == pytest.approx(expected["train_grad_norms_step0"], rel=1e-3, abs=1e-5 * scale)
        optimizer.step()
        losses.append((total / count).item())
    assert losses == pytest.approx(expected["train_losses"], rel=5e-3)


def test_a_trained_tdt_reads_what_was_said():
    task = anemone.load(GOLDEN / "fastconformer_tdt_bpe/model.nemo")
    inputs, _ = given(task)
    lengths = inputs[1].tolist()
    heard = task.transcribe([signal[:length] for signal, length in zip(inputs[0], lengths, strict=True)])
    assert [transcript.text for transcript in heard] == TEXTS


def settings():
    jointnet = {"joint_hidden": 8, "activation": "relu"}
    return {
        "labels": ["a", "b"],
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "prednet": {"pred_hidden": 8, "pred_rnn_layers": 1},
        },
        "joint": {"_target_": "nemo.collections.asr.modules.RNNTJoint", "jointnet": jointnet},
    }


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        (
            "decoder",
            {"normalization_mode": "batch"},
            "`decoder.normalization_mode` must be None to be read, but is 'batch'",
        ),
        ("decoder", {"blank_as_pad": False}, "`decoder.blank_as_pad` must be True to be read"),
        ("decoder", {"beam": 1}, "`decoder.beam` is not a setting that can be read"),
        ("joint", {"num_extra_outputs": 2}, "`joint.num_extra_outputs` must be 0, as `loss` says, but is 2"),
        (
            "joint",
            {"_target_": "nemo.collections.asr.modules.HATJoint"},
            "`joint._target_` is .*HATJoint.*cannot be read",
        ),
        ("loss", {"loss_name": "graph_rnnt"}, "`loss.loss_name` is 'graph_rnnt', which cannot be read"),
        ("loss", {"loss_name": "tdt", "tdt_kwargs": {"durations": 3}}, "`loss.tdt_kwargs.durations` cannot be read"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(group, change, message):
    tree = settings()
    tree[group] = {**tree.get(group, {}), **change}
    with pytest.raises(ArchiveError, match=message):
        transducer(tree)


def test_usual_settings_are_nemos():
    tree, _ = transducer(settings())
    assert tree["loss"] == {"kind": "rnnt", "fastemit": 0.0, "clamp": 0.0, "reduction": "mean_batch"}
    assert tree["decoding"] == {"kind": "transducer_greedy", "max_symbols": 1000}
    with pytest.warns(UserWarning, match=r"`decoding.strategy` is maes: the model is decoded greedily"):
        transducer({**settings(), "decoding": {"strategy": "maes"}})
    with pytest.raises(ArchiveError, match="`aux_ctc` must be a group of settings"):
        hybrid(settings())


def test_cells_as_wide_as_the_output_are_not_projected_and_narrower_ones_refused():
    tree = settings()
    tree["decoder"]["prednet"]["rnn_hidden_size"] = 8
    assert transducer(tree).tree["task"]["head"]["predictor"]["d_cell"] is None
    tree["decoder"]["prednet"]["rnn_hidden_size"] = 6
    with pytest.raises(ArchiveError, match=r"`decoder.prednet.rnn_hidden_size` must be 8 or more, but is 6 instead"):
        transducer(tree)

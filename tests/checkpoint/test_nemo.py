"""NeMo's archives: what they compute is what NeMo computed; what cannot be read is refused by name."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

import anemone
from anemone.checkpoint.archive import read_archive
from anemone.checkpoint.fit import load_tensors_into
from anemone.checkpoint.nemo import read_nemo, tensor_names
from anemone.config import decode, load_class
from anemone.errors import ArchiveError
from anemone.features import FEATURES
from anemone.models import MODELS
from anemone.nn.heads import ClassificationHead, CTCHead
from anemone.types import Chain, checked

GOLDEN = Path(__file__).parents[1] / "golden/parity"
FAMILIES = ["quartznet_ctc_char", "matchboxnet_commands", "marblenet_vad"]


def archive(family):
    return GOLDEN / family / "model.nemo"


def expected(family):
    return json.loads((GOLDEN / family / "expected.json").read_text("utf-8"))


def reference(family):
    return {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / family / "reference.npz").items()}


def utterances():
    data = np.load(GOLDEN / "utterances.npz")
    return torch.from_numpy(data["signal"] / np.float32(32768)), torch.from_numpy(data["signal_len"])


def of_kind(table, tree):
    return decode(load_class(table[tree["kind"]]), {key: value for key, value in tree.items() if key != "kind"})


def network(read):
    """Features, encoder and head with the archive's weights."""
    features = of_kind(FEATURES, read.config["features"])
    assert (features.spec_augment is not None) == (read.config["model"]["kind"] == "quartznet")
    encoder = of_kind(MODELS, read.config["model"]).build(features.build().num_features)
    task = read.config["task"]
    if task["kind"] == "recognition":
        head = CTCHead(encoder.d_model, len(task["tokenizer"]["characters"]))
    else:
        head = ClassificationHead(encoder.d_model, len(task["labels"]), pooling=task["pooling"])
    net = Chain(features=features.build(), encoder=encoder, head=head)
    load_tensors_into(net, read.tensors)
    return net


def loss_of(family, net):
    signal, signal_len = utterances()
    out, want = net(signal, signal_len), reference(family)
    if family == "quartznet_ctc_char":
        x = out.x.transpose(0, 1)
        return F.ctc_loss(x, want["targets"], out.x_len, want["target_len"], blank=28, reduction="none").mean()
    return F.cross_entropy(out, torch.tensor(expected(family)["targets"]))


# --- equal to what NeMo computed --------------------------------------------------------------------------------------


@torch.inference_mode()
def test_quartznet_gives_the_golden_log_probabilities():
    want = reference("quartznet_ctc_char")
    net = network(read_nemo(archive("quartznet_ctc_char"))).eval()
    signal, signal_len = utterances()
    with checked(net):
        out = net(signal, signal_len)
    assert torch.equal(out.x_len, want["log_probs_len"])
    assert (out.x - want["log_probs"]).abs().max() < 1e-5
    alone = net(signal[:1, : signal_len[0]], signal_len[:1])
    assert (alone.x - want["log_probs"][:1, :150]).abs().max() < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES[1:])
def test_classifiers_give_the_golden_logits(family):
    net = network(read_nemo(archive(family))).eval()
    with checked(net):
        logits = net(*utterances())
    assert (logits - reference(family)["logits"]).abs().max() < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("family", ["quartznet_options", "matchboxnet_options"])
def test_rarer_settings_give_the_golden_outputs_in_every_frame(family):
    task, want = anemone.load(archive(family)), reference(family)
    out = task.network(*utterances())
    scores = out if isinstance(out, torch.Tensor) else out.x
    assert (scores - want["out"]).abs().max() < 1e-5
    assert "len" not in want or torch.equal(out.x_len, want["len"])


@torch.inference_mode()
def test_frames_beyond_the_length_are_the_golden_ones_where_a_fixed_length_makes_them_valid(tmp_path):
    crop = {"_target_": "nemo.collections.asr.modules.CropOrPadSpectrogramAugmentation", "audio_length": 400}
    change = put(crop_or_pad_augment=crop, decoder__pooling_type="avg")
    task = anemone.load(altered(tmp_path, "matchboxnet_options", change))
    assert (task.network(*utterances()) - reference("matchboxnet_options")["padded"]).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_in_evaluation_mode_is_the_golden_one(family):
    net = network(read_nemo(archive(family))).eval()
    assert loss_of(family, net).item() == pytest.approx(expected(family)["eval_loss"], rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_three_training_steps_give_the_golden_losses_and_gradients(family):
    read = read_nemo(archive(family))
    net, want = network(read).train(), expected(family)
    theirs = tensor_names(read.config)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0)
    losses = []
    for step in range(3):
        loss = loss_of(family, net)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            norms = {theirs[name]: p.grad.norm().item() for name, p in net.named_parameters()}
            assert norms == pytest.approx(want["train_grad_norms_step0"], rel=1e-3)
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(want["train_losses"], rel=5e-3)  # Adam's first steps turn rounding into signs


def test_a_loaded_recogniser_hears_the_golden_texts():
    signal, signal_len = utterances()
    task = anemone.load(archive("quartznet_ctc_char"))
    transcripts = task.transcribe([(x[:n], 16_000) for x, n in zip(signal, signal_len, strict=True)])
    assert [t.text for t in transcripts] == expected("quartznet_ctc_char")["texts"]


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_a_loaded_classifier_gives_the_golden_labels(family):
    signal, signal_len = utterances()
    task = anemone.load(archive(family))
    results = task.classify([(x[:n], 16_000) for x, n in zip(signal, signal_len, strict=True)])
    assert [r.label for r in results] == expected(family)["labels"]


# --- the table of names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_a_name_on_both_sides(family):
    read = read_nemo(archive(family))
    names = tensor_names(read.config)
    assert set(names) == set(network(read).state_dict()) == set(read.tensors)
    assert len(set(names.values())) == len(names)
    with tarfile.open(archive(family)) as tar:
        state = torch.load(tar.extractfile("./model_weights.ckpt"), weights_only=True)
    assert set(state) == set(names.values()) | {"preprocessor.featurizer.window", "preprocessor.featurizer.fb"}


def test_the_reader_of_archives_knows_a_nemo_by_what_it_holds(tmp_path):
    other = tmp_path / "model"
    other.write_bytes(archive("marblenet_vad").read_bytes())
    read = read_archive(other)
    assert read.config["task"] == {
        "kind": "classification",
        "labels": ["background", "speech"],
        "pooling": "average_padded",
    }
    assert read.config["features"]["normalize"] == "none"


# --- altered archives -------------------------------------------------------------------------------------------------


def altered(tmp_path, family, change=lambda config: None, *, weights=lambda state: None, more=()):
    """An archive after changes to its settings and tensors."""
    with tarfile.open(archive(family)) as tar:
        config = yaml.safe_load(tar.extractfile("./model_config.yaml"))
        state = torch.load(tar.extractfile("./model_weights.ckpt"), weights_only=True)
    change(config)
    weights(state)
    data = io.BytesIO()
    torch.save(state, data)
    path = tmp_path / "altered.nemo"
    with tarfile.open(path, "w") as tar:
        for name, content in [
            ("./model_config.yaml", yaml.safe_dump(config).encode()),
            ("./model_weights.ckpt", data.getvalue()),
            *more,
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def put(**values):
    """A change that sets values by path, with ``__`` between the parts; numbers index lists."""

    def change(config):
        for path, value in values.items():
            *parents, last = path.split("__")
            node = config
            for part in parents:
                node = node[int(part) if part.isdigit() else part]
            node[last] = value

    return change


EVIL = "os.system"
REFUSED = [
    (put(target=EVIL), r"`target` is 'os.system', which cannot be read.*It can be: nemo\."),
    (put(target=None), r"`target` is None, which cannot be read"),
    (put(encoder___target_=EVIL), r"`encoder._target_` is 'os.system', which cannot be read"),
    (
        put(encoder___target_="nemo.collections.asr.modules.ConvASREncode"),
        r"which cannot be read. Did you mean `nemo.collections.asr.modules.ConvASREncoder`\?",
    ),
    (put(decoder___target_=EVIL), r"`decoder._target_` is 'os.system', which cannot be read"),
    (put(preprocessor___target_=EVIL), r"`preprocessor._target_` is 'os.system', which cannot be read"),
    (put(spec_augment___target_=EVIL), r"`spec_augment._target_` is 'os.system', which cannot be read"),
    (put(loss={"_target_": EVIL}), r"`loss._target_` is 'os.system', which cannot be read"),
    (put(decoding__beam=[{"x": {"_target_": EVIL}}]), r"`decoding.beam.0.x._target_` is 'os.system', which cannot"),
    (put(_target_=EVIL), r"`_target_` is 'os.system', which cannot be read"),
    (put(preprocessor__rng={"_target_": EVIL}), r"`preprocessor.rng._target_` is 'os.system', which cannot be read"),
    (put(adapters={"a": 1}), r"`adapters` cannot be read yet"),
    (put(encoder=None), r"must have the group `encoder`, but `encoder` is None instead"),
    (put(encoder__activation="tanh"), r"`encoder.activation` cannot be read: 'tanh': must be one of relu"),
    (put(encoder__quantize=True), r"`encoder.quantize` must be False to be read, but is True instead"),
    (put(encoder__wings=2), r"`encoder.wings` is not a setting that can be read"),
    (put(encoder__jasper=[]), r"`encoder.jasper` must be a list of blocks, but is \[\] instead"),
    (
        put(encoder__jasper__1__residual_mode="mean"),
        r"`encoder.jasper\[1\].residual_mode` must be add, stride_add or max",
    ),
    (put(encoder__jasper__1__kernel=[3, 5]), r"`encoder.jasper\[1\].kernel` cannot be read: \[3, 5\]: must be a whole"),
    (put(encoder__jasper__1__repeat=10**9), r"`encoder.jasper\[1\].repeat` cannot be read: 1000000000: .*65536"),
    (put(encoder__jasper__1__repeat=60_000), r"`encoder.jasper` must have at most 1000 repeats, but has 60007 instead"),
    (put(encoder__jasper__1__filter=3), r"`encoder.jasper\[1\].filter` is not a setting.*Did you mean `filters`"),
    (
        put(preprocessor__feature=3),
        r"`preprocessor.feature` is not a setting that can be read. Did you mean `features`",
    ),
    (put(preprocessor__normalize={"fixed_mean": [0]}), r"`preprocessor.normalize` cannot be read: .*fixed means"),
    (put(labels=["a", True]), r"`decoder.vocabulary` must be a list of strings|`labels` must be a list of strings"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_read_is_refused_by_name(tmp_path, change, message):
    def both(config):
        config.setdefault("spec_augment", {})
        config["decoder"].pop("vocabulary", None)
        change(config)

    with pytest.raises(ArchiveError, match=r"altered.nemo`: " + f"(?s:.*)(?:{message})"):
        read_nemo(altered(tmp_path, "quartznet_ctc_char", both))


def test_poolings_other_than_the_known_are_refused(tmp_path):
    path = altered(tmp_path, "marblenet_vad", put(decoder__pooling_type="sum"))
    with pytest.raises(ArchiveError, match=r"`decoder.pooling_type` cannot be read: 'sum'"):
        read_nemo(path)


def test_missing_and_unknown_tensors_are_named(tmp_path):
    name = "encoder.encoder.0.mconv.0.conv.weight"
    with pytest.raises(ArchiveError, match=rf"`model_weights.ckpt` lacks `{name}`"):
        read_nemo(altered(tmp_path, "marblenet_vad", weights=lambda state: state.pop(name)))
    with pytest.raises(ArchiveError, match=r"has tensors that its settings do not ask for: `extra.weight`"):
        read_nemo(
            altered(tmp_path, "marblenet_vad", weights=lambda state: state.update({"extra.weight": torch.ones(1)}))
        )


def test_a_tensor_of_another_shape_does_not_fit(tmp_path):
    name = "decoder.decoder_layers.0.bias"
    read = read_nemo(altered(tmp_path, "marblenet_vad", weights=lambda state: state.update({name: torch.ones(7)})))
    with pytest.raises(ArchiveError, match=r"`head.linear.bias`"):
        network(read)


@torch.inference_mode()
def test_max_pooling_mfcc_and_a_fixed_length_are_read(tmp_path):
    preprocessor = {
        "_target_": "nemo.collections.asr.modules.AudioToMFCCPreprocessor",
        "window_size": 0.025,
        "window_stride": 0.01,
        "window": "hann",
        "n_mels": 64,
        "n_mfcc": 64,
        "n_fft": 512,
    }
    crop = {"_target_": "nemo.collections.asr.modules.CropOrPadSpectrogramAugmentation", "audio_length": 400}
    change = put(preprocessor=preprocessor, crop_or_pad_augment=crop, decoder__pooling_type="max")
    read = read_nemo(altered(tmp_path, "matchboxnet_commands", change))
    assert read.config["features"]["kind"] == "mfcc"
    assert read.config["features"]["edges"] == "batch"
    assert read.config["model"]["num_frames"] == 400
    assert read.config["task"]["pooling"] == "max_padded"
    assert network(read).eval()(*utterances()).shape == (2, 5)


def test_kernel_factors_make_odd_kernels(tmp_path):
    change = put(encoder__jasper__1__kernel_size_factor=0.5, encoder__jasper__2__kernel_size_factor=2.0)
    read = read_nemo(altered(tmp_path, "matchboxnet_commands", change))
    assert [block["kernel"] for block in read.config["model"]["blocks"]][:3] == [11, 7, 31]


def test_settings_of_the_time_before_nemo_1_are_read_alike(tmp_path):
    groups = ("preprocessor", "spec_augment", "encoder", "decoder")

    def aged(tree):
        for group in groups:
            name = tree[group].pop("_target_")
            tree[group] = {"cls": name, "params": tree[group]}

    read, now = read_nemo(altered(tmp_path, "quartznet_ctc_char", aged)), read_nemo(archive("quartznet_ctc_char"))
    assert read.config == now.config
    other = {"encoder": {"cls": "os.system", "params": {}}}
    with pytest.raises(ArchiveError, match=r"`encoder._target_` is 'os.system', which cannot be read"):
        read_nemo(altered(tmp_path, "quartznet_ctc_char", lambda tree: tree.update(other)))


def test_a_window_of_ones_is_none(tmp_path):
    read = read_nemo(altered(tmp_path, "quartznet_ctc_char", put(preprocessor__window="ones")))
    assert read.config["features"]["window"] == "none"


def test_a_sub_word_model_brings_its_tokenizer(tmp_path):
    tokenizer = {
        "type": "bpe",
        "dir": "somewhere",
        "model_path": "nemo:1f_tokenizer.model",
        "vocab_path": "nemo:2f_vocab.txt",
    }
    change = put(target="nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE", tokenizer=tokenizer)
    path = altered(tmp_path, "quartznet_ctc_char", change, more=[("./1f_tokenizer.model", b"pieces")])
    read = read_nemo(path)
    assert read.config["task"]["tokenizer"] == {"kind": "sentencepiece"}
    assert read.files == {"tokenizer.model": b"pieces"}


def test_a_sub_word_model_without_its_tokenizer_is_refused(tmp_path):
    tokenizer = {"type": "bpe", "model_path": "/etc/passwd"}
    with pytest.raises(ArchiveError, match=r"`tokenizer.model_path` must name a member of the archive, but is '/etc"):
        read_nemo(altered(tmp_path, "quartznet_ctc_char", put(tokenizer=tokenizer)))
    tokenizer["model_path"] = "nemo:tokenizer.model"
    with pytest.raises(ArchiveError, match=r"lacks `tokenizer.model`"):
        read_nemo(altered(tmp_path, "quartznet_ctc_char", put(tokenizer=tokenizer)))

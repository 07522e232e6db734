"""Archives written for NeMo: read back they are the task that was written; what has no place there is refused."""

import io
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

import anemone
from anemone.checkpoint.nemo import read_nemo
from anemone.errors import ArchiveError, ConfigError
from anemone.tasks import rebuild
from anemone.tasks.nemo import save_nemo, written_out

GOLDEN = Path(__file__).parents[1] / "golden/parity"
ARCHIVES = [*sorted(GOLDEN.glob("*/model.nemo")), *sorted(GOLDEN.glob("conv_options/*.nemo"))]


def same(one, other):
    return all(torch.equal(a, other[name]) for name, a in one.items()) and one.keys() == other.keys()


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_written_is_read_as_it_was(archive, tmp_path):
    task = anemone.load(archive)
    save_nemo(task, tmp_path / "one.nemo")
    back = anemone.load(tmp_path / "one.nemo")
    assert back.config_tree() == task.config_tree()
    assert back.files() == task.files()
    assert same(back.network.state_dict(), task.network.state_dict())
    save_nemo(back, tmp_path / "two.nemo")
    assert (tmp_path / "two.nemo").read_bytes() == (tmp_path / "one.nemo").read_bytes()
    ours, theirs = contents(tmp_path / "one.nemo")[1], contents(archive)[1]
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}
    for name, tensor in theirs.items():
        exact = not name.startswith("preprocessor.")  # those are computed anew
        assert torch.equal(tensor, ours[name]) if exact else torch.allclose(tensor, ours[name], atol=1e-5), name


def contents(path):
    with tarfile.open(path) as tar:
        files = {Path(member.name).name: tar.extractfile(member).read() for member in tar if member.isfile()}
    weights = torch.load(io.BytesIO(files["model_weights.ckpt"]), weights_only=True)
    return yaml.safe_load(files["model_config.yaml"]), weights, files


def test_files_of_sentencepiece_stand_as_nemo_has_them(tmp_path):
    archive = GOLDEN / "citrinet_ctc_bpe/model.nemo"
    save_nemo(anemone.load(archive), tmp_path / "one.nemo")
    (ours, _, files), (theirs, _, golden) = contents(tmp_path / "one.nemo"), contents(archive)
    for key in ("model_path", "vocab_path", "spe_tokenizer_vocab"):
        mine, other = (tree["tokenizer"][key].removeprefix("nemo:") for tree in (ours, theirs))
        assert files[mine] == golden[other], key


def built(model=None, **parts):
    tree = {
        "task": {"kind": "recognition", "tokenizer": {"kind": "characters", "characters": list("abc")}},
        "model": model or {"kind": "quartznet", "size": "tiny"},
        "features": {"kind": "log_mel", "num_mels": 20},
        **parts,
    }
    return rebuild(tree)


BLOCK = {"d_model": 8, "kernel": 3}
LABELS = {"kind": "classification", "labels": ["a", "b"]}
REFUSED = [
    (
        {"model": {"kind": "quartznet", "size": "custom", "blocks": [BLOCK, {**BLOCK, "activation": "gelu"}]}},
        r"`model.blocks\[1\].activation` must be 'relu' to be written for NeMo, as in the first block, but is 'gelu'",
    ),
    (
        {"model": {"kind": "quartznet", "size": "custom", "blocks": [BLOCK, {**BLOCK, "norm_groups": 2}]}},
        r"`model.blocks.norm_groups` must be alike in all blocks",
    ),
    (
        {"model": {"kind": "quartznet", "size": "custom", "blocks": [{**BLOCK, "dilation": 2, "look_ahead": 0}]}},
        r"future_context` must be -1 with a dilation",
    ),
    ({"task": LABELS}, r"`task.pooling` must be one of \['average_padded', 'max_padded'\], but is 'average' instead"),
    (
        {"features": {"kind": "mfcc", "num_mels": 20, "num_mfcc": 20}},
        r"cannot be written: `features.edges` is 'utterance', for which NeMo's archives have no place",
    ),
    ({"features": {"kind": "given", "num_features": 8}}, r"`features.kind` must be one of \['log_mel', 'mfcc'\]"),
    (
        {"task": {"kind": "recognition", "tokenizer": {"kind": "bytes"}}},
        r"`task.tokenizer.kind` must be characters, sentencepiece, wordpiece or aggregate, but is 'bytes' instead",
    ),
]


@pytest.mark.parametrize(("parts", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_has_no_place_is_refused_by_name(parts, message, tmp_path):
    with pytest.raises((ConfigError, ArchiveError), match=message):
        save_nemo(built(**parts), tmp_path / "one.nemo")
    assert not list(tmp_path.iterdir())


CONFORMER = {"kind": "conformer", "size": "custom", "num_layers": 1, "d_model": 16, "num_heads": 2, "kernel": 5}
FAST = {**CONFORMER, "kind": "fastconformer", "subsampling": {"kind": "dw_striding", "factor": 8, "channels": 8}}
TRANSDUCER = {"kind": "transducer", "predictor": {"kind": "lstm", "d_model": 12}, "d_joint": 10}
WRITTEN = {
    "conformer": (CONFORMER, {"kind": "ctc"}),
    "options": (
        {**CONFORMER, "d_out": 24, "bias": False, "norm": "layer", "kernel_past": 4, "scaled": False}
        | {
            "reduction": {"kind": "striding", "after": 0},
            "attention": {"contexts": [[4, 1], [-1, 1]], "chunked": True},
        },
        {"kind": "ctc"},
    ),
    "absolute": ({**CONFORMER, "attention": {"positions": "absolute"}}, {"kind": "ctc"}),
    "local": (
        {**FAST, "nemo": True, "attention": {"positions": "local", "contexts": [[8, 8]], "num_global": 1}},
        {"kind": "ctc"},
    ),
    "fastconformer": (FAST, {"kind": "ctc"}),
    "rnnt": (FAST, TRANSDUCER),
    "stateless": (FAST, {**TRANSDUCER, "predictor": {"kind": "stateless", "d_model": 12, "context": 2}}),
    "tdt": (FAST, {**TRANSDUCER, "durations": [0, 1, 2]}),
    "multi_blank": (CONFORMER, {**TRANSDUCER, "big_blanks": [2, 4]}),
    "hybrid": (FAST, {**TRANSDUCER, "kind": "hybrid"}),
}


@pytest.mark.filterwarnings("ignore:.*leaves out `loss.transducer`")
@pytest.mark.parametrize("name", WRITTEN)
def test_conformers_and_transducers_come_back(name, tmp_path):
    model, head = WRITTEN[name]
    characters = {"kind": "characters", "characters": list("abc"), "lowercase": True, "unknown": "drop"}
    task = built(model, task={"kind": "recognition", "tokenizer": characters, "head": head})
    save_nemo(task, tmp_path / "one.nemo")
    back = anemone.load(tmp_path / "one.nemo")
    assert same(back.network.state_dict(), task.network.state_dict())
    save_nemo(back, tmp_path / "two.nemo")
    assert (tmp_path / "two.nemo").read_bytes() == (tmp_path / "one.nemo").read_bytes()


def test_models_of_text_and_other_endings_are_refused(tmp_path):
    from anemone.testing import tiny

    with pytest.raises(ConfigError, match=r"`path` must be a file that ends in `.nemo`"):
        save_nemo(built(), tmp_path / "one.tar")
    with pytest.raises(ConfigError, match=r"NeMo's archives hold models of speech"):
        save_nemo(tiny("language_modelling"), tmp_path / "one.nemo")


def test_settings_of_training_that_have_no_place_are_told(tmp_path):
    task = rebuild(
        {
            "task": {**LABELS, "pooling": "average_padded"},
            "model": {"kind": "matchboxnet", "size": "3x1x64"},
            "features": {"kind": "log_mel"},
            "loss": {"kind": "cross_entropy", "smoothing": 0.1},
        }
    )
    with pytest.warns(UserWarning, match=r"one.nemo` leaves out `loss.smoothing`: no place for them"):
        save_nemo(task, tmp_path / "one.nemo")
    assert written_out(task)["model"]["size"] == "custom"
    assert anemone.load(tmp_path / "one.nemo").labels == ("a", "b")


def test_a_window_of_ones_is_left_out(tmp_path):
    task = built(features={"kind": "log_mel", "window": "none"}, model={"kind": "quartznet", "size": "tiny"})
    with pytest.warns(UserWarning, match="leaves out"):
        save_nemo(task, tmp_path / "one.nemo")
    names = contents(tmp_path / "one.nemo")[1]
    assert "preprocessor.featurizer.window" not in names and "preprocessor.featurizer.fb" in names


def test_layers_whose_states_ctc_reads_too_stand_as_nemo_has_them(tmp_path):
    golden = GOLDEN / "transducer_options/ctc_inner.nemo"
    save_nemo(anemone.load(golden), tmp_path / "one.nemo")
    assert contents(tmp_path / "one.nemo")[0]["interctc"] == {"loss_weights": [0.2, 0.3], "apply_at_layers": [0, 1]}
    back = read_nemo(tmp_path / "one.nemo")
    assert back.config["model"]["tap_layers"] == [0, 1] and back.config["loss"]["intermediate_weights"] == [0.2, 0.3]


def test_tokenizers_by_language_stand_as_nemo_has_them(tmp_path):
    pieces = (GOLDEN / "features/bpe_64.model").read_bytes()
    members = [{"language": name, "tokenizer": {"kind": "sentencepiece"}} for name in ("en", "de")]
    task = {"kind": "recognition", "tokenizer": {"kind": "aggregate", "members": members}}
    model = {"kind": "quartznet", "size": "tiny"}
    tree = {"task": task | {"prompt": {"format": "language"}}, "features": {"kind": "log_mel"}, "model": model}
    files = {f"{name}.tokenizer.model": pieces for name in ("en", "de")}
    save_nemo(rebuild(tree, files), tmp_path / "one.nemo")
    group = contents(tmp_path / "one.nemo")[0]["tokenizer"]
    assert group["type"] == "agg" and list(group["langs"]) == ["en", "de"]
    assert anemone.load(tmp_path / "one.nemo").files() == files


def test_only_a_predictor_of_cells_says_that_blank_pads(tmp_path):
    for name, pads in (("multi_blank_stateless", False), ("rnnt_two_layers", True)):
        save_nemo(anemone.load(GOLDEN / f"transducer_options/{name}.nemo"), tmp_path / "one.nemo")
        assert ("blank_as_pad" in contents(tmp_path / "one.nemo")[0]["decoder"]) == pads

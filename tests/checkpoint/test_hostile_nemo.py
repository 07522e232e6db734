"""Archives of the peer's form made to do harm: names of classes are keys, never imported; junk is refused in words."""

import copy
import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import anemone
from anemone.checkpoint.archive import read_archive
from anemone.checkpoint.nemo import read_nemo, tensor_names
from anemone.config import encode
from anemone.errors import AnemoneError, ArchiveError
from anemone.models.speech.quartznet import BlockConfig

ASR = "nemo.collections.asr"
BLOCK = {"filters": 8, "repeat": 1, "kernel": [3], "stride": [1], "dilation": [1], "dropout": 0.0, "residual": False}
CONFIG: dict[str, Any] = {
    "target": f"{ASR}.models.classification_models.EncDecClassificationModel",
    "labels": ["a", "b"],
    "preprocessor": {"_target_": f"{ASR}.modules.AudioToMelSpectrogramPreprocessor", "features": 16, "dither": 0.0},
    "encoder": {
        "_target_": f"{ASR}.modules.ConvASREncoder",
        "feat_in": 16,
        "activation": "relu",
        "conv_mask": True,
        "jasper": [{**BLOCK, "separable": True}],
    },
    "decoder": {"_target_": f"{ASR}.modules.ConvASRDecoderClassification", "feat_in": 8, "num_classes": 2},
}

OURS: dict[str, Any] = {
    "task": {"kind": "classification"},
    "model": {"kind": "matchboxnet", "blocks": [encode(BlockConfig(d_model=8, kernel=3))]},
}


def nemo(folder: Path, config: object, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """An archive of any config; its tensors are those the small config above asks for, if none are given."""
    torch.save(tensors or {name: torch.ones(1) for name in tensor_names(OURS).values()}, data := io.BytesIO())
    with tarfile.open(folder / "m.nemo", "w") as tar:
        for name, content in (
            ("./model_config.yaml", yaml.safe_dump(config).encode()),
            ("./model_weights.ckpt", data.getvalue()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return folder / "m.nemo"


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """The small config with another value at a path."""
    config = copy.deepcopy(CONFIG)
    place: Any = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return config


@pytest.fixture
def evil(tmp_path, monkeypatch) -> Path:
    """A module that leaves a mark when it is imported, where Python would find it; gives the mark's path."""
    (tmp_path / "evil_package.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\nclass Model: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "imported"


def test_the_small_good_archive_of_these_tests_is_read(tmp_path):
    archive = read_archive(nemo(tmp_path, CONFIG))
    assert archive.config["task"]["labels"] == ["a", "b"] and "head.linear.weight" in archive.tensors


@pytest.mark.parametrize(
    "name", ["evil_package.Model", "os.system", "subprocess.Popen", "builtins.eval", "", None, 3, ["a"]]
)
@pytest.mark.parametrize(
    "path",
    [("target",), ("preprocessor", "_target_"), ("encoder", "_target_"), ("decoder", "_target_"), ("loss",)],
    ids=lambda path: path[0],
)
def test_an_unknown_class_is_refused_by_name_and_never_imported(tmp_path, evil, path, name):
    value = {"_target_": name, "args": "touch ran"} if path == ("loss",) else name
    archive = nemo(tmp_path, changed(path, value))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ArchiveError) as caught:
        read_archive(archive)
    message = str(caught.value)
    assert path[0] in message and repr(name) in message and "cannot be read" in message
    assert sorted(tmp_path.iterdir()) == before and not evil.exists()
    assert "evil_package" not in sys.modules and not any(name.startswith("nemo") for name in sys.modules)


def test_the_mark_of_these_tests_would_be_seen(evil):
    import importlib

    importlib.import_module("evil_package")
    assert evil.exists()
    del sys.modules["evil_package"]


@pytest.mark.parametrize("member", ["nemo:../../secret", "nemo:/etc/hostname", "/etc/hostname", "nemo:", 3, None])
def test_an_artifact_is_looked_for_in_the_archive_alone(tmp_path, member):
    config = changed(("target",), f"{ASR}.models.ctc_bpe_models.EncDecCTCModelBPE")
    config["decoder"] = {"_target_": f"{ASR}.modules.ConvASRDecoder"}
    config["tokenizer"] = {"type": "bpe", "model_path": member}
    with pytest.raises(ArchiveError, match=r"lacks `|must name a member of the archive"):
        read_nemo(nemo(tmp_path, config))


def test_tensors_that_are_missing_unknown_or_misshapen_are_named(tmp_path):
    with pytest.raises(ArchiveError, match=r"`model_weights.ckpt` lacks `encoder.encoder.0"):
        read_nemo(nemo(tmp_path, CONFIG, {"x": torch.ones(1)}))
    with pytest.raises(ArchiveError, match=r"the config asks for more than the 9 weights that came with it"):
        anemone.load(nemo(tmp_path, CONFIG))
    names = tensor_names(OURS).values()
    enough = dict.fromkeys(names, torch.ones(1)) | {"decoder.decoder_layers.0.bias": torch.ones(10_000)}
    with pytest.raises(ArchiveError, match=r"must be \[8, 16\], but is \[1\] instead"):
        anemone.load(nemo(tmp_path, CONFIG, enough))


JUNK = [None, True, -1, 0, 2**70, float("nan"), "", "x" * 1000, [], [[]], {}, {"a": {"b": 1}}, ["a", None]]


def test_whatever_stands_in_the_config_nothing_else_goes_wrong(tmp_path):
    """Each value, and each group, is replaced by junk: archives are read, or refused with an error of ours."""

    def paths(tree: object, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        return [p for key, value in items for p in [(*at, key), *paths(value, (*at, key))]]

    outcomes = {"read": 0, "refused": 0}
    for path in [
        *paths(CONFIG),
        ("tokenizer",),
        ("spec_augment",),
        ("crop_or_pad_augment",),
        ("adapters",),
        ("optim",),
    ]:
        for junk in JUNK:
            try:
                read_nemo(nemo(tmp_path, changed(path, junk)))
                outcomes["read"] += 1
            except AnemoneError:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 20

"""`convert` writes a model in another format and says what it is."""

import json
from pathlib import Path

from anemone import tasks
from anemone.testing import tiny


def test_an_archive_becomes_a_folder_and_a_folder_an_archive(anemone, tmp_path):
    tasks.save(tiny("language_modelling"), tmp_path / "ours.anemone")
    ran = anemone("convert", "ours.anemone", "theirs", "--dtype", "bfloat16")
    assert ran.status == 0 and not ran.err
    assert ran.out.startswith("theirs: language_modelling, llama, ")
    assert json.loads((tmp_path / "theirs/config.json").read_text())["torch_dtype"] == "bfloat16"
    assert anemone("convert", "theirs", "again.anemone", "--tokenizer", "bytes").status == 0
    assert anemone("generate", "again.anemone", "My", "--max-new-tokens", 3).out.startswith("My")


def test_what_cannot_be_is_told_in_a_line(anemone, tmp_path):
    tasks.save(tiny("language_modelling"), tmp_path / "ours.anemone")
    anemone("convert", "ours.anemone", "theirs")
    for words, said in (
        (("gone", "new"), "`gone` is neither a file or folder that exists nor a pretrained model."),
        (("theirs", "new.anemone"), "Give `--tokenizer` one, or bytes."),
        (("ours.anemone", "new", "--dtype", "int8"), "invalid choice: 'int8'"),
    ):
        ran = anemone("convert", *words)
        assert ran.status == 2 and said in ran.err and ran.err.count("\n") == 1


def test_an_archive_goes_to_nemos_format_and_back(anemone, tmp_path):
    archive = Path(__file__).parents[1] / "golden/parity/quartznet_ctc_char/model.nemo"
    assert anemone("convert", archive, "ours.anemone").status == 0
    assert anemone("convert", "ours.anemone", "theirs.nemo").out.startswith("theirs.nemo: recognition, quartznet, ")
    first, last = tasks.load(archive), tasks.load(tmp_path / "theirs.nemo")
    assert last.config_tree() == first.config_tree()
    state = first.network.state_dict()
    assert all(tensor.equal(state[name]) for name, tensor in last.network.state_dict().items())

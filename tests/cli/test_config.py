"""`config` prints a tree that is an experiment itself."""

import yaml

from anemone.cli.config import experiment as decoded
from anemone.config import encode


def test_the_tree_is_printed_decoded_and_reads_back(anemone, experiment, tmp_path):
    ran = anemone("config", experiment, "optim.lr=0.25", "optim=lion")
    assert ran.status == 0
    tree = yaml.safe_load(ran.out)
    assert tree["optim"]["kind"] == "lion" and tree["optim"]["lr"] == 0.25 and tree["optim"]["weight_decay"] == 0.1
    assert tree == encode(decoded(str(experiment), ["optim.lr=0.25", "optim=lion"]))
    (tmp_path / "again.yaml").write_text(ran.out)
    assert anemone("config", tmp_path / "again.yaml").out == ran.out


def test_a_run_lives_in_a_folder_of_its_experiments_name_unless_told(experiment):
    assert decoded(str(experiment), []).run.folder == "runs/mine"
    assert decoded(str(experiment), ["run.folder=here"]).run.folder == "here"
    assert decoded("telephone_words_quartznet", []).run.folder == "runs/telephone_words_quartznet"

"""`config` prints a tree that is an experiment itself."""

import yaml

from anemone.config import encode
from anemone.training.settings import experiment as decoded


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
    assert decoded("speech_commands_quartznet").run.folder == "runs/speech_commands_quartznet"
    assert decoded("speech_commands_quartznet", ["run.seed=1"]).run.folder == "runs/speech_commands_quartznet"


def test_a_run_on_top_of_a_shipped_experiment_has_its_own_name(anemone, tmp_path):
    mine = tmp_path / "louder.yaml"
    mine.write_text("# @package _global_\ndefaults: [/experiment/speech_commands_quartznet, _self_]\n")
    assert yaml.safe_load(anemone("config", mine).out)["run"]["folder"] == "runs/louder"

"""The table of metrics has each step once, however often a run starts; other loggers are there on request."""

from types import SimpleNamespace

import pytest

from anemone.errors import ConfigError
from anemone.training import loggers
from anemone.training.loggers import MetricsTable, build_loggers, read_rows


def test_rows_of_a_step_are_one_row_and_columns_come_when_they_come(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv", 0)
    table.log_metrics({"loss": 0.1 + 0.2, "speed/steps": 9.0}, 5)
    table.log_metrics({"accuracy": 0.5}, 5)
    table.log_metrics({"loss": 1.0}, 10)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,accuracy\n5,0.30000000000000004,0.5\n10,1.0,\n"


def test_a_resumed_table_drops_later_rows_their_columns_and_a_line_cut_off(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,accuracy\n5,1.0,\n10,0.9,\n15,0.8,0.5\n20,0.")
    table = MetricsTable(path, 10)
    assert path.read_text() == "step,loss\n5,1.0\n10,0.9\n"
    table.log_metrics({"loss": 0.8}, 15)
    table.save()
    assert [row["step"] for row in read_rows(path)] == ["5", "10", "15"]


def test_a_logger_that_is_not_installed_says_what_to_install(tmp_path):
    for name in ("wandb", "mlflow"):
        with pytest.raises(
            ConfigError, match=r"`run\.loggers` needs a package:.*Install anemone\[wandb\] or anemone\[mlf"
        ):
            build_loggers(tmp_path, [name], project="p", step=0)


def test_mlflow_goes_on_with_the_run_of_the_sitting_before(tmp_path, monkeypatch):
    asked = []

    class Logger:
        def __init__(self, run_id, **settings):
            asked.append(run_id)
            self.run_id = run_id or "5eed"

    monkeypatch.setattr(loggers, "MLFlowLogger", Logger)
    for _ in range(2):
        build_loggers(tmp_path, ["mlflow"], project="p", step=0)
    assert asked == [None, "5eed"]


def test_a_run_of_weights_and_biases_ends_with_ours():
    ended = []
    logger = loggers._Wandb.__new__(loggers._Wandb)
    logger._experiment, logger._checkpoint_callbacks = SimpleNamespace(finish=ended.append), {}
    logger.finalize("success")
    logger.finalize("failed")
    assert ended == [0, 1]

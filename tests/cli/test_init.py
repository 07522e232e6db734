"""The command line as a whole: help, verbs, exit statuses, and mistakes as one line."""
# ruff: noqa: E501  (the table of mistakes quotes whole messages)

import os
import signal
import subprocess
import sys
import time

import pytest

from anemone.cli import VERBS, parser_of


def start(*words, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "anemone", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | more.pop("env", {}),
        preexec_fn=listen,
        **more,
    )


def listen():
    """Hears Ctrl-C, also where the tests were started in the background, which makes it be ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_help_lists_every_verb(anemone):
    ran = anemone("--help")
    assert ran.status == 0 and not ran.err
    assert all(f"  {verb} " in ran.out and line in ran.out for verb, line in VERBS.items())


def test_no_words_print_the_help_and_fail(anemone):
    assert anemone().status == 2


def test_the_version_is_printed(anemone):
    assert anemone("--version").out.strip().replace(".", "").isdigit()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_every_argument_of_it_a_line(anemone, verb):
    ran = anemone(verb, "--help")
    assert ran.status == 0 and f"usage: anemone {verb}" in ran.out
    assert all(action.help for action in parser_of(verb)[0]._actions)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "anemone: `trian` is not a verb. Did you mean `train`? There are: train, "),
        (["--hepl"], "anemone: `--hepl` is not a verb. Did you mean `--help`?"),
        (["models", "--jsn"], "anemone models: `--jsn` is not an option of `anemone models`. Did you mean `--json`?"),
        (["train"], "anemone train: the following arguments are required: EXPERIMENT (`anemone train --help`"),
        (["train", "telephone_words_quartznet", "lr=0.1"], "`lr` is not a setting of ExperimentConfig. Did you mean `optim.lr`?"),
        (["train", "telephone_words_quartznet", "max_steps=3"], "Did you mean `trainer.max_steps`?"),
        (["train", "telephone_words_quartznet", "seed=0"], "Did you mean `run.seed`?"),
        (["train", "telephone_words_quartznet", "run.folder=${oc.env:HOME}"], "`run.folder` must be written out"),
        (["classify", "m"], "anemone classify: the following arguments are required: AUDIO"),
        (["classify", "m", "a", "--batch-size", "x"], "anemone classify: argument --batch-size: must be 1 or more, but is 'x' instead"),
        (["data", "speech-comands", "a", "b"], "`speech-comands` is not a verb of `anemone data`. Did you mean `speech-commands`?"),
        (["config", "telephone_word_quartznet"], "is not an experiment. Did you mean `telephone_words_quartznet`?"),
        (["train", "speech_commands_quartznet", "optim.lrr=1"], "`optim.lrr` is not a setting of NovoGradConfig. Did you mean `optim.lr`?"),
        (["config", "telephone_words_quartznet", "optim.lr=x"], "`optim.lr` must be a number, but is 'x' instead."),
        (["config", "telephone_words_quartznet", "model=quartznet5x5"], "asks for `model/quartznet5x5`, which does not exist. Did you mean `model/quartznet_5x5`?"),
        (["config", "telephone_words_quartznet", "optim"], "`optim` must be an override of the form key=value."),
        (["config", "telephone_words_quartznet", "optim.lr=1,2"], "with --multirun, a,b is a run for each."),
        (["train", "mine.yaml"], "`mine.yaml` must be a YAML file that exists."),
        (["evaluate", "no.anemone", "data.jsonl"], "`no.anemone` is neither a file or folder that exists nor a pretrained model."),
        (["inspect", "telephone_words_quartzne"], "is neither a model nor an experiment. Did you mean `telephone_words_quartznet`?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_fix(anemone, words, message):
    ran = anemone(*words)
    assert ran.status == 2 and not ran.out
    assert message in ran.err and ran.err.count("\n") == 1


def test_what_the_system_refuses_is_one_line(anemone, tmp_path):
    long = tmp_path / f"{'a' * 300}.svg"
    ran = anemone("inspect", "telephone_words_quartznet", "task.labels=[a,b]", "--graph", long)
    assert ran.status == 2 and "File name too long" in ran.err and ran.err.count("\n") == 1


def test_the_traceback_of_a_mistake_is_shown_on_demand(anemone, monkeypatch):
    monkeypatch.setenv("ANEMONE_DEBUG", "1")
    with pytest.raises(ValueError, match="is not an experiment"):
        anemone("config", "nothing")


def test_an_interrupt_exits_130_without_a_traceback(tmp_path):
    """The process reads a registry that is a pipe, to which nothing is written."""
    os.mkfifo(tmp_path / "pipe")
    process = start("models", env={"ANEMONE_REGISTRY": str(tmp_path / "pipe")})
    writer = os.open(tmp_path / "pipe", os.O_WRONLY)  # opens once the process reads
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    os.close(writer)
    assert (process.returncode, out, err) == (130, "", "anemone models: interrupted\n")


def test_a_broken_pipe_is_quiet():
    process = start("config", "telephone_words_quartznet")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("folder", ["yes.wav", "yes.wav/run"])
def test_a_run_folder_that_is_a_file_or_in_one_is_named(anemone, experiment, folder):
    ran = anemone("train", experiment, f"run.folder={folder}")
    message = f"`run.folder` must be a folder, or one that can be made, but is '{folder}' instead. `yes.wav` is a file."
    assert (ran.status, ran.err) == (2, f"anemone train: {message}\n")

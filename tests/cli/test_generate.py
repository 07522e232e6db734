"""`generate` prints each prompt with its continuation, and `evaluate` measures a model of text on texts."""

import json

import pytest

from anemone import tasks
from anemone.tasks.language_modelling import Continuation, LanguageModellingTask
from anemone.testing import tiny


@pytest.fixture
def model(tmp_path):
    tasks.save(tiny("language_modelling"), path := tmp_path / "text.anemone")
    return path


def test_prompts_are_printed_with_their_continuations(anemone, model):
    found = tasks.load(model).generate(["Dear", "My"], max_new_tokens=7, temperature=0.5, top_k=9, seed=2)
    settings = ("--max-new-tokens", 7, "--temperature", 0.5, "--top-k", 9, "--seed", 2)
    ran = anemone("generate", model, "Dear", "My", "--json", *settings)
    assert ran.status == 0 and not ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert rows == [{"prompt": p, "text": f.text} for p, f in zip(["Dear", "My"], found, strict=True)]
    assert anemone("generate", model, "Dear", "--batch-size", 1, "--max-new-tokens", 3).out.startswith("Dear")


def test_without_a_prompt_one_text_is_written(anemone, model):
    ran = anemone("generate", model, "--max-new-tokens", 3, "--json")
    assert [json.loads(line)["prompt"] for line in ran.out.splitlines()] == [""]


def test_lines_are_kept_and_nothing_that_steers_a_terminal_is_printed(anemone, model, monkeypatch):
    steering = [Continuation("two\nlines\x1b[31m\r", [])]
    monkeypatch.setattr(LanguageModellingTask, "generate", lambda self, prompts, **settings: steering)
    assert anemone("generate", model, "a ").out == "a two\nlines\ufffd[31m\ufffd\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--temperature", -1), "`temperature` must be 0 or more, but is -1.0 instead"),
        (("--temperature", "hot"), "invalid float value: 'hot'"),
        (("--top-k", 0), "must be 1 or more, but is '0' instead"),
    ],
)
def test_settings_that_cannot_be_are_told_in_a_line(anemone, model, words, said):
    ran = anemone("generate", model, "a", *words)
    assert ran.status == 2 and said in ran.err and ran.err.count("\n") == 1


def test_models_are_sent_to_their_own_verbs(anemone, model, classifier, recordings):
    assert "is a model for classification: use `anemone classify`." in anemone("generate", classifier, "a").err
    assert "is a model for language_modelling: use `anemone generate`." in anemone("classify", model, recordings[0]).err


def test_evaluate_measures_on_texts(anemone, model, tmp_path):
    (tmp_path / "a.txt").write_text("We choose to go to the moon.")
    ran = anemone("evaluate", model, "a.txt", "--json")
    row = json.loads(ran.out)
    assert row["sequences"] == 1 and row["left_out"] == 0 and 7 < row["bits_per_byte"] < 9
    assert "bits_per_byte" in anemone("evaluate", model, "a.txt").out
    ran = anemone("evaluate", model, "a.txt", "--channel", 0)
    assert ran.status == 2 and "`channel` must be left out for text" in ran.err


def test_inspect_shows_a_model_of_text(anemone, model, tmp_path):
    ran = anemone("inspect", model)
    assert ran.status == 0 and "language_modelling, llama, 17,784 parameters\n" in ran.out and "Embedding" in ran.out
    ran = anemone("inspect", model, "--graph", tmp_path / "a.svg")
    assert ran.status == 2 and "`--graph` must be left out" in ran.err
    assert "llama, 405" in anemone("inspect", "llama_405b").out

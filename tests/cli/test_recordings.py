"""`classify` and `transcribe` print a line for each recording, in order, and refuse what cannot work before it does."""

import json
from pathlib import Path

import anemone as package
from anemone.tasks.recognition import RecognitionTask, Transcript


def test_classify_prints_path_label_and_probability(anemone, classifier, recordings):
    ran = anemone("classify", classifier, *recordings)
    assert ran.status == 0 and not ran.err
    expected = package.load(classifier).classify(recordings)
    lines = [f"{path}\t{found.label}\t{found.score:.4f}" for path, found in zip(recordings, expected, strict=True)]
    assert ran.out.splitlines() == lines


def test_classify_prints_json(anemone, classifier, recordings):
    ran = anemone("classify", classifier, *recordings, "--json", "--top", 2)
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["audio"] for row in rows] == [str(path) for path in recordings]
    for row in rows:
        assert next(iter(row["scores"].items())) == (row["label"], row["score"])
        assert len(row["scores"]) == 2 and 0 < sum(row["scores"].values()) < 1


def test_transcribe_prints_path_and_text(anemone, recogniser, recordings):
    texts = [found.text for found in package.load(recogniser).transcribe(recordings)]
    plain = anemone("transcribe", recogniser, *recordings, "--batch-size", 1)
    assert plain.out.splitlines() == [f"{path}\t{text}" for path, text in zip(recordings, texts, strict=True)]
    rows = [json.loads(line) for line in anemone("transcribe", recogniser, *recordings, "--json").out.splitlines()]
    assert rows == [{"audio": str(path), "text": text} for path, text in zip(recordings, texts, strict=True)]


def test_a_missing_recording_is_named_with_the_nearest_file(anemone, classifier, recordings, tmp_path):
    ran = anemone("classify", classifier, recordings[0], tmp_path / "stpo.wav")
    assert ran.status == 2 and not ran.out
    assert "stpo.wav` must be a recording that exists. Did you mean `" in ran.err and "stop.wav`?" in ran.err


def test_a_recording_that_is_none_is_named(anemone, classifier, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    ran = anemone("classify", classifier, tmp_path / "text.wav")
    assert ran.status == 2 and "text.wav" in ran.err and ran.err.count("\n") == 1


def test_a_bad_recording_costs_no_other_its_answer(anemone, classifier, recordings, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    ran = anemone("classify", classifier, recordings[0], tmp_path / "text.wav", recordings[1])
    alone = anemone("classify", classifier, recordings[0], recordings[1])
    assert ran.status == 2 and ran.out == alone.out
    assert "text.wav" in ran.err and ran.err.startswith("anemone classify: ") and ran.err.count("\n") == 1


def test_nothing_that_steers_a_terminal_is_printed(anemone, recogniser, recordings, monkeypatch):
    steering = [Transcript("\x1b[31mred\x9b", [])]
    monkeypatch.setattr(RecognitionTask, "transcribe", lambda self, sources, batch_size: steering * len(sources))
    ran = anemone("transcribe", recogniser, recordings[0])
    assert ran.status == 0 and ran.out.endswith("\t\ufffd[31mred\ufffd\n")


def test_a_model_of_another_task_says_which_verb_it_takes(anemone, classifier, recogniser, recordings):
    ran = anemone("transcribe", classifier, recordings[0])
    assert ran.status == 2 and "is a model for classification: use `anemone classify`." in ran.err
    ran = anemone("classify", recogniser, recordings[0])
    assert ran.status == 2 and "is a model for recognition: use `anemone transcribe`." in ran.err


def test_a_model_that_is_broken_is_named(anemone, recordings, tmp_path):
    (tmp_path / "broken.anemone").write_bytes(b"not an archive")
    ran = anemone("classify", tmp_path / "broken.anemone", recordings[0])
    assert ran.status == 2 and "broken.anemone" in ran.err and ran.err.count("\n") == 1


def test_numbers_of_things_are_one_or_more(anemone, classifier, recordings, manifest):
    for verb, subject, option, text in (
        ("classify", recordings[0], "--batch-size", "0"),
        ("classify", recordings[0], "--top", "-1"),
        ("evaluate", manifest, "--batch-size", "few"),
    ):
        ran = anemone(verb, classifier, subject, f"{option}={text}")
        assert ran.status == 2 and f"argument {option}: must be 1 or more, but is '{text}' instead" in ran.err


def test_a_prompt_is_asked_for_by_language_and_slots(anemone, recogniser, recordings):
    model = Path(__file__).parents[1] / "golden/parity/canary_options/post.nemo"
    words = ["--language", "de", "--no-punctuation", "--slot", "task=translate", "--json"]
    ran = anemone("transcribe", model, recordings[0], *words)
    asked = {"language": "de", "punctuation": False, "slots": {"task": "translate"}}
    wanted = package.load(model).transcribe(recordings[:1], **asked)[0]
    language = {"language": wanted.language} if wanted.language else {}
    assert json.loads(ran.out) == {"audio": str(recordings[0]), "text": wanted.text, **language}
    for given, words, wrong in (
        (model, ["--slot", "pncc=no"], "`pncc` is not a slot of the model's prompt. Did you mean `pnc`?"),
        (model, ["--slot", "pnc"], "`--slot` must be written NAME=VALUE, but is 'pnc' instead."),
        (model, ["--language", "fr"], "`source_lang` must be one of en, de, but is 'fr' instead"),
        (recogniser, ["--language", "de"], "the model is given no prompt, so nothing can be asked for by `language`"),
    ):
        ran = anemone("transcribe", given, *recordings, *words)
        assert ran.status == 2 and wrong in ran.err and ran.err.count("\n") == 1

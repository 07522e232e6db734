"""A language model trains on rows of tokens, continues texts and tells how likely they are."""

import math

import pytest
import torch

from anemone import tasks
from anemone.config import decode
from anemone.data.tokens import TokenDataConfig
from anemone.errors import ConfigError, DataError
from anemone.tasks import Parts, build, rebuild
from anemone.testing import run_ranks, tiny
from anemone.training.experiment import evaluate
from anemone.types import IGNORED

TEXT = "We choose to go to the moon in this decade and do the other things, not because they are easy. "


@pytest.fixture
def task():
    """A task whose weights are large enough for its scores to differ."""
    task = tiny("language_modelling")
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return task


@pytest.fixture
def rows(tmp_path):
    """Reads a text as rows."""
    path = tmp_path / "a.txt"
    path.write_text(TEXT * 4)

    def make(task, **settings):
        config = TokenDataConfig(**{"sequence_len": 32, **settings})
        return config.read([path], task.parts.task)

    return make


def batch(rows, *numbers):
    return rows.batch(torch.tensor(numbers).numpy())


def test_loss_is_the_mean_over_the_tokens_that_count(task, rows):
    found = batch(rows(task), 0, 1, 11)
    total, count = task.loss(found)
    scores = task(found.tokens).flatten(0, 1)
    counts = found.targets.flatten() != IGNORED
    assert 64 < count == counts.sum() < 96
    expected = torch.nn.functional.cross_entropy(scores[counts], found.targets.flatten()[counts], reduction="sum")
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


def test_states_add_and_sum_up_to_loss_perplexity_and_bits_per_byte(task, rows):
    index = rows(task)
    states = [task.evaluate(batch(index, *numbers)) for numbers in ((0, 1), (2, 11))]
    zero = task.zero_states()
    assert {k: (v.shape, v.dtype) for k, v in zero.items()} == {k: (v.shape, v.dtype) for k, v in states[0].items()}
    found = task.summarize({name: zero[name] + states[0][name] + states[1][name] for name in zero})
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    end = 1  # the last row holds the end of the document, which is no byte of the text
    count = float(states[0]["count"] + states[1]["count"])
    assert found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2) * count / (count - end))
    assert task.summarize(zero) == {"loss": 0.0, "perplexity": 1.0, "bits_per_byte": 0.0}


def test_packed_rows_are_as_each_document_alone(task, tmp_path):
    documents = ["We choose", "to go to the moon", "in this decade"]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(f'{{"text": "{text}"}}' for text in documents))
    index = TokenDataConfig(sequence_len=64, pack=True).read([path], task.parts.task)
    together = task.evaluate(batch(index, 0))
    alone = []
    for text in documents:
        path.write_text(f'{{"text": "{text}"}}')
        one = TokenDataConfig(sequence_len=64).read([path], task.parts.task)
        alone.append(task.evaluate(batch(one, 0)))
    for name in ("loss", "count", "bytes"):
        assert float(together[name]) == pytest.approx(float(sum(states[name] for states in alone)), rel=1e-5)


def measured(rank, path):
    return evaluate(tiny("language_modelling"), [path], batch_size=3)


def test_metrics_do_not_depend_on_batch_size_or_ranks(tmp_path):
    path = str(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text(TEXT * 150)
    whole = evaluate(tiny("language_modelling"), [path], batch_size=100)
    assert (whole["sequences"], whole["left_out"]) == (14, 0) and 7 < whole["bits_per_byte"] < 9
    assert evaluate(tiny("language_modelling"), [path], batch_size=1) == pytest.approx(whole, rel=1e-5)
    for of_rank in run_ranks(2, measured, path):
        assert of_rank == pytest.approx(whole, rel=1e-5)


def test_continuations_are_the_likeliest_ones_at_temperature_0(task):
    prompts = ["We choose", "", "the other things"]
    found = task.generate(prompts, max_new_tokens=10, temperature=0)
    for prompt, continued in zip(prompts, found, strict=True):
        tokens = [task.tokenizer.end, *prompt.encode()]
        for token in continued.tokens:
            assert int(task(torch.tensor([tokens]))[0, -1].argmax()) == token
            tokens.append(token)
        assert continued.text == task.tokenizer.decode(continued.tokens)


def test_continuations_do_not_depend_on_the_batch_and_seeds_fix_them(task):
    prompts = ["We choose", "to go", "to the moon", "in this decade"]
    found = task.generate(prompts, max_new_tokens=12, seed=3)
    assert task.generate(prompts, max_new_tokens=12, seed=3, batch_size=1) == found
    assert task.generate(prompts, max_new_tokens=12, seed=4) != found
    assert len({found.text for found in task.generate(["same"] * 4, max_new_tokens=12)}) == 4
    assert task.generate([]) == []


@torch.inference_mode()
def test_scores_are_sums_over_the_text_and_do_not_depend_on_the_batch(task):
    texts = [TEXT, "é", TEXT[:20]]
    found = task.score(texts)
    for text, score in zip(texts, found, strict=True):
        tokens = torch.tensor([[task.tokenizer.end, *text.encode()]])
        chances = task(tokens)[0, :-1].log_softmax(-1)
        nats = -float(chances.gather(1, tokens[0, 1:, None]).sum())
        assert score.nats == pytest.approx(nats, rel=1e-4) and score.tokens == len(text.encode())
        assert score.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-4)
        assert score.perplexity == pytest.approx(math.exp(nats / score.tokens), rel=1e-4)
    assert [score.nats for score in task.score(texts, batch_size=1)] == pytest.approx([s.nats for s in found], rel=1e-5)


def test_a_long_text_is_scored_in_pieces_as_rows_are(rows):
    tree = tiny("language_modelling").config_tree()
    tree["task"]["context_len"] = 32
    task = rebuild(tree).eval()
    index = rows(task)
    states = task.evaluate(batch(index, *range(len(index))))
    end = len(TEXT * 4)
    score = task.score([TEXT * 4])[0]
    with torch.no_grad():
        last = batch(index, len(index) - 1)
        place = int((last.targets[0] == task.tokenizer.end).nonzero())
        nats = -float(task(last.tokens)[0, place].log_softmax(-1)[task.tokenizer.end])
    assert score.tokens == end and score.nats == pytest.approx(float(states["loss"]) - nats, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be 1 or more, but is 0"),
        ({"temperature": -1.0}, "`temperature` must be 0 or more"),
        ({"temperature": math.nan}, "`temperature` must be 0 or more"),
        ({"top_k": 0}, "`top_k` must be 1 or more"),
        ({"batch_size": 0}, "`batch_size` must be 1 or more"),
    ],
)
def test_settings_of_a_generation_that_cannot_be_are_refused(task, settings, words):
    with pytest.raises(ConfigError, match=words):
        task.generate(["a"], **settings)


def test_a_generation_longer_than_the_model_sees_is_refused():
    tree = tiny("language_modelling").config_tree()
    tree["task"]["context_len"] = 16
    task = rebuild(tree).eval()
    with pytest.raises(
        ConfigError, match="`max_new_tokens` must be at most 11, as the model sees 16 tokens and the lon"
    ):
        task.generate(["abcd", "a"], max_new_tokens=12)
    assert len(task.generate(["abcd", "a"], max_new_tokens=11)[1].tokens) <= 11


def test_texts_that_cannot_be_used_are_named():
    tree = tiny("language_modelling").config_tree()
    tree["task"]["tokenizer"] = {"kind": "characters", "characters": ["a", "b"]}
    task = rebuild(tree).eval()
    for texts, words in (
        ("ab", "texts must be a list, but are a str instead"),
        (["a", 3], "text 1 must be a string, but is a int instead"),
        (["a", "c"], r"text 1: the text 'c' has \['c'\], which the tokenizer does not know"),
        (["a", ""], "text 1 must have a token to begin with, but is ''"),
    ):
        for verb in (task.generate, task.score):
            with pytest.raises(DataError, match=words):
                verb(texts)
    with pytest.raises(DataError, match="text 0 must have a token to predict, but is 'a'"):
        task.score(["a"])


def test_an_archive_gives_the_same_answers(task, tmp_path):
    tasks.save(task, tmp_path / "m.anemone")
    again = tasks.load(tmp_path / "m.anemone")
    assert again.generate(["We"], max_new_tokens=8) == task.generate(["We"], max_new_tokens=8)
    tasks.save(task, tmp_path / "m")
    assert "| task | language_modelling |" in (tmp_path / "m" / "README.md").read_text()


def test_loading_draws_no_first_weights_and_keeps_tied_ones_tied(tmp_path, monkeypatch):
    tree = tiny("language_modelling").config_tree()
    tree["model"] = {"kind": "llama", "size": "tiny", "tie_embeddings": True}
    task = rebuild(tree).eval()
    tasks.save(task, tmp_path / "m.anemone")
    monkeypatch.setattr(type(task.network), "draw", None)
    again = tasks.load(tmp_path / "m.anemone")
    assert again.network.head.weight is again.network.embedding.weight
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), task.parameters(), strict=True))
    assert again.score(["We"]) == task.score(["We"])


def test_modes_and_networks_are_put_back(task):
    task.train()
    modules = list(task.network.modules())
    task.generate(["a"], max_new_tokens=2)
    assert task.training and list(task.network.modules()) == modules
    assert all(p.requires_grad for p in task.parameters())


def test_what_does_not_belong_to_text_is_refused_by_name():
    tree = tiny("language_modelling").config_tree()
    speech = tiny("classification").config_tree()
    for changes, words in (
        ({"features": speech["features"]}, "`features` must be null, as text has none"),
        ({"model": speech["model"]}, "`model` must be a model of text, as the task wants one"),
        ({"loss": {"kind": "ctc"}}, "`loss` must be of the kind token_cross_entropy for a language model"),
        ({"decoding": {"kind": "ctc_greedy"}}, "`decoding` must be left out for a language model"),
        ({"task": tree["task"] | {"vocab_size": 255}}, "`task.vocab_size` must be at least that of the tokenizer, 256"),
    ):
        with pytest.raises(ConfigError, match=words):
            rebuild(tree | changes)
    for changes, words in (
        ({"features": None}, "`features` must be set: the task hears speech"),
        ({"model": tree["model"]}, "`model` must be a model of speech, as the task wants one"),
    ):
        with pytest.raises(ConfigError, match=words):
            rebuild(speech | changes)


def test_a_larger_vocabulary_than_the_tokenizers_is_built():
    parts = decode(Parts, tiny("language_modelling").config_tree() | {"task": {
        "kind": "language_modelling", "tokenizer": "bytes", "vocab_size": 320}})  # fmt: skip
    assert build(parts.task, parts.model).network.head.out_features == 320


def test_channels_and_workers_are_refused_for_text(task):
    with pytest.raises(ConfigError, match="`num_workers` must be 0 for text"):
        task.evaluation_data(batch_size=1, num_workers=2)
    with pytest.raises(ConfigError, match="`channel` must be left out for text, but is 0"):
        task.evaluation_data(batch_size=1, channel=0)

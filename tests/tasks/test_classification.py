"""The classifier: labels, scores, confusion, poolings."""

import pytest
import torch

from anemone.config import decode
from anemone.data.batch import Batch
from anemone.errors import ConfigError, DataError
from anemone.tasks import rebuild
from anemone.tasks.classification import ClassificationConfig
from anemone.testing import speech, tiny


def test_labels_become_their_numbers():
    task = tiny("classification")
    assert [task.encode(label) for label in ("yes", "no", "stop")] == [[0], [1], [2]]
    assert task.target == "label"


def test_an_unknown_label_is_refused_with_the_nearest():
    with pytest.raises(DataError, match=r"`stob` is not one of the 3 labels\. Did you mean `stop`\?"):
        tiny("classification").encode("stob")


def test_scores_are_probabilities_and_the_label_is_the_best():
    for result in tiny("classification").classify([speech(0.5, seed=i) for i in range(4)]):
        assert sum(result.scores.values()) == pytest.approx(1)
        assert result.score == max(result.scores.values()) == result.scores[result.label]
        assert list(result.scores) == ["yes", "no", "stop"]


def test_it_counts_the_confusions():
    task = tiny("classification")
    audio = torch.stack([torch.from_numpy(speech(0.5, seed=i)) for i in range(6)])
    targets = torch.tensor([[0], [1], [2], [0], [1], [2]])
    six = torch.ones(6, dtype=torch.long)
    states = task.evaluate(Batch(audio, 8000 * six, targets, six, torch.arange(6)))
    found = [task.labels.index(r.label) for r in task.classify(list(audio))]
    assert states["confusion"].sum() == 6
    for right, predicted in zip(targets[:, 0].tolist(), found, strict=True):
        assert states["confusion"][right, predicted] > 0
    right = sum(t == f for t, f in zip(targets[:, 0].tolist(), found, strict=True))
    assert task.summarize(states)["accuracy"] == pytest.approx(right / 6)


@pytest.mark.parametrize("pooling", ["average", "max", "attentive"])
def test_every_pooling_learns_a_batch_by_heart(pooling):
    tree = tiny("classification").config_tree()
    tree["task"]["pooling"] = pooling
    torch.manual_seed(0)
    task = rebuild(tree).train()
    audio = torch.stack([torch.from_numpy(speech(0.4, seed=i)) for i in range(3)])
    three = torch.ones(3, dtype=torch.long)
    batch = Batch(audio, 6400 * three, torch.tensor([[0], [1], [2]]), three, torch.arange(3))
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        total, count = task.loss(batch)
        (total / count).backward()
        optimizer.step()
    assert (total / count).item() < 0.2


def test_a_head_that_pools_over_padding_hears_it_unless_alone():
    tree = tiny("classification").config_tree()
    tree["task"]["pooling"] = "average_padded"
    task = rebuild(tree).eval()
    sources = [speech(0.3), speech(1.5)]
    single = task.classify(sources[:1])[0].score
    assert task.classify(sources, batch_size=1)[0].score == single
    assert task.classify(sources, batch_size=2)[0].score != pytest.approx(single, abs=1e-4)


@pytest.mark.parametrize(
    "labels, words",
    [
        (["a", "b", "a"], r"`task\.labels` must be all different, but is \['a'\] instead"),
        (["a", "\x1b[31mX"], r"`task\.labels` must be words without control characters, none of them empty, but is"),
        (["a", "b\x9bK"], r"`task\.labels` must be words without control characters"),
        (["a", ""], r"`task\.labels` must be words without control characters, none of them empty, but is \[''\]"),
        (["a"], r"`task\.labels` must be two or more"),
    ],
)
def test_impossible_labels_are_refused(labels, words):
    with pytest.raises(ConfigError, match=words):
        decode(ClassificationConfig, {"labels": labels}, "task")


def test_labels_must_be_known_when_the_task_is_built():
    tree = tiny("classification").config_tree()
    tree["task"]["labels"] = []
    with pytest.raises(ConfigError, match=r"`task\.labels` must be set before the task is built"):
        rebuild(tree)


def test_a_classifier_decodes_nothing():
    tree = tiny("classification").config_tree()
    tree["decoding"] = {"kind": "ctc_greedy"}
    with pytest.raises(ConfigError, match="`decoding` must be left out for a classifier"):
        rebuild(tree)

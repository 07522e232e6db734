"""Rows of tokens: each once an epoch, the same global steps for any number of ranks, targets one further on."""

import json
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from anemone.config import decode, of_kind
from anemone.data.token_rows import TokenBatch
from anemone.data.tokens import TokenDataConfig
from anemone.errors import ConfigError, DataError
from anemone.features.tokenizers import TOKENIZERS
from anemone.testing import WORDS
from anemone.types import IGNORED


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What a task's config says of its text."""

    tokenizer: Any = of_kind(TOKENIZERS)


BYTES = decode(Cut, {"tokenizer": "bytes"})
LETTERS = decode(Cut, {"tokenizer": {"kind": "characters", "characters": list("abcdefghij ")}})


@pytest.fixture
def index(tmp_path):
    """Reads some documents as rows."""

    def make(*texts, task=BYTES, **settings):
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
        config = TokenDataConfig(**{"sequence_len": 4, "batch_size": 3, "eval_batch_size": 2, **settings})
        return config, config.read([path], task)

    return make


def everything(index):
    return index.batch(np.arange(len(index)))


def test_rows_overlap_by_one_so_that_each_token_but_the_first_is_a_target_once(index):
    _, rows = index("abcdefgh", "ij")
    stream = [255, *b"abcdefgh", 255, *b"ij", 255]
    batch = everything(rows)
    assert len(rows) == 3 and batch.tokens.shape == (3, 4)
    assert batch.tokens.flatten().tolist() == stream[:12]
    assert batch.targets.flatten().tolist() == stream[1:13]
    assert batch.positions.tolist() == [[0, 1, 2, 3]] * 3 and batch.segments is None
    assert batch.rows.tolist() == [0, 1, 2] and batch.size == 12
    assert all(tensor.dtype == torch.int64 for tensor in batch if tensor is not None)


def test_the_last_row_is_filled_up_with_targets_that_do_not_count(index):
    _, rows = index("abcde")
    batch = everything(rows)
    assert batch.targets.tolist() == [[*b"abcd"], [*b"e", 255, IGNORED, IGNORED]] and batch.size == 6


def test_packed_documents_are_told_apart_and_predict_their_own_ends(index):
    _, rows = index("abcd", "ef", "g", pack=True, sequence_len=8)
    batch = everything(rows)
    assert batch.tokens[0].tolist() == [255, *b"abcd", 255, *b"ef"]
    assert batch.targets[0].tolist() == [*b"abcd", 255, *b"ef", 255]
    assert batch.segments[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.targets[1, :2].tolist() == [ord("g"), 255] and batch.segments[1, :2].tolist() == [0, 0]


def test_a_packed_document_that_goes_on_in_the_next_row_begins_there_at_0(index):
    _, rows = index("abcdef", pack=True)
    assert everything(rows).positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_packed_documents_without_marks_do_not_predict_each_other(index):
    _, rows = index("abc", "de", task=LETTERS, pack=True)
    batch = everything(rows)
    assert batch.tokens.tolist() == [[0, 1, 2, 3]] and batch.targets.tolist() == [[1, 2, IGNORED, 4]]
    _, plain = index("abc", "de", task=LETTERS)
    assert everything(plain).targets.tolist() == [[1, 2, 3, 4]]


def test_a_batch_can_be_moved_cut_and_shared(index):
    _, rows = index("abcdefgh", "ij", pack=True)
    batch = everything(rows)
    one = batch.item(1)
    assert [tensor.shape[0] for tensor in one] == [1] * 5 and one.rows.tolist() == [1]
    left = batch.shard(lambda tensor: tensor[:, :2])
    assert [tensor.shape for tensor in left[:4]] == [(3, 2)] * 4 and left.rows is batch.rows
    assert isinstance(batch.to("cpu"), TokenBatch) and batch.item(0)._replace(segments=None).to("cpu").segments is None


# --- the loader -------------------------------------------------------------------------------------------------------


@pytest.fixture
def loader(index):
    """Makes loaders over 101 rows, whose micro-batches have 3 of them."""
    config, rows = index("x" * 400)

    def make(training=True, seed=1, **settings):
        return config.loader(rows, None, training=training, seed=seed, **settings)

    assert len(rows) == 101
    return make


def steps(loader):
    return [[batch.rows.tolist() for batch in step] for step in loader]


@pytest.mark.parametrize("batches_per_step", [1, 2, 4, 12])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_global_steps_are_the_same_for_any_number_of_ranks_and_rows_come_at_most_once(loader, world, batches_per_step):
    if batches_per_step % world:
        with pytest.raises(
            ConfigError, match=r"`batches_per_step` must be a multiple of the number of processes \(\d\)"
        ):
            loader(world=world, batches_per_step=batches_per_step)
        return
    alone = steps(loader(batches_per_step=batches_per_step))
    shares = [steps(loader(rank=r, world=world, batches_per_step=batches_per_step)) for r in range(world)]
    joined = [
        [batch for together in zip(*step, strict=True) for batch in together] for step in zip(*shares, strict=True)
    ]
    assert joined == alone and len(alone) == 101 // (3 * batches_per_step)
    rows = [row for step in alone for batch in step for row in batch]
    assert len(set(rows)) == len(rows) == len(alone) * batches_per_step * 3


def test_steps_of_as_many_rows_hold_the_same_rows_however_they_are_cut(index):
    found = []
    for batch_size, batches_per_step in ((1, 12), (3, 4), (12, 1)):
        config, rows = index("x" * 400, batch_size=batch_size)
        each = config.loader(rows, None, training=True, seed=5, batches_per_step=batches_per_step)
        found.append([list(chain(*step)) for step in steps(each)])
    assert found[0] == found[1] == found[2]


def test_epochs_have_orders_of_their_own_that_seeds_fix(loader):
    each = loader(batches_per_step=2)
    epochs = [steps(each) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] and each.state_dict() == {"epoch": 3, "step": 0}
    again = loader(batches_per_step=2)
    assert [steps(again) for _ in range(3)] == epochs
    assert steps(loader(batches_per_step=2, seed=2)) != epochs[0]


@pytest.mark.parametrize("world", [1, 2])
def test_who_starts_at_a_position_gets_what_an_uninterrupted_run_gets(loader, world):
    whole = loader(batches_per_step=2)
    expected = [steps(whole) for _ in range(2)]
    stopped = loader(batches_per_step=2)
    for number, _ in enumerate(stopped):
        if number == 6:
            break
    state = stopped.state_dict()
    assert state == {"epoch": 0, "step": 7}
    shares = []
    for rank in range(world):
        resumed = loader(rank=rank, world=world, batches_per_step=2)
        resumed.set_position(**state)
        shares.append([steps(resumed) for _ in range(2)])
    for epoch, first in ((0, 7), (1, 0)):
        joined = [list(chain(*zip(*step, strict=True))) for step in zip(*(s[epoch] for s in shares), strict=True)]
        assert joined == expected[epoch][first:]


def test_a_position_beyond_the_epoch_is_refused(loader):
    each = loader()
    each.set_position(2, len(each))
    assert each.state_dict() == {"epoch": 3, "step": 0}
    with pytest.raises(DataError, match=r"step 34 of epoch 0 must be one of 33: the data, `data.batch_size`"):
        each.set_position(0, 34)


def test_what_fills_no_step_is_said_once(loader, caplog):
    caplog.set_level("INFO")
    each = loader(batches_per_step=4)
    steps(each), steps(each)
    assert [r.message for r in caplog.records] == [
        "the last 5 of 101 sequences of each epoch fill no step and are left out"
    ]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_evaluation_reads_every_row_once_in_order_again_and_again(loader, world):
    shares = [loader(training=False, rank=r, world=world) for r in range(world)]
    for _ in range(2):
        found = [steps(each) for each in shares]
        assert [len(share) for share in found] == [each.steps(0) for each in shares]
        rows = sorted(row for share in found for step in share for batch in step for row in batch)
        assert rows == list(range(101))
    assert sum(each.used for each in shares) == 202


def test_steps_of_epochs_are_counted_and_too_few_rows_refused(loader, index):
    assert loader(batches_per_step=4).total_steps(3) == 24
    config, rows = index("x" * 40, batch_size=16)
    with pytest.raises(
        ConfigError, match=r"`data.batch_size` must be at most 11, as there are 11 rows and a step takes"
    ):
        config.loader(rows, None, training=True).total_steps(1)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_set_describes_itself(index):
    _, rows = index("abcdefgh", "ij", "")
    assert rows.describe() == {
        "rows": 3,
        "tokens": 13,
        "documents": 2,
        "fingerprint": rows.fingerprint,
        "left_out": 1,
    }
    assert rows.extent == "of 4 tokens" and rows.noun == "sequence"
    assert rows.name(2).endswith("a.jsonl:1 (tokens 8 to 12)")


def test_documents_that_are_left_out_are_reported_or_refused(index, caplog, tmp_path):
    index("abc", "")
    assert any("a.jsonl:2: has no text" in record.message for record in caplog.records)
    assert "left out 1 of 2 documents" in caplog.records[-1].message
    with pytest.raises(DataError, match=r"a\.jsonl:2: has no text. Mend or remove them, or set `data.skip_bad=true`"):
        index("abc", "", skip_bad=False)
    with pytest.raises(DataError, match=r"none of 1 documents could be used; the first: .*a\.jsonl:1: has no text"):
        index("")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.txt", r"`.*nowhere\.txt` must be a file of text that exists"),
        ("corpsu.txt", r"`.*corpsu\.txt` must be a file of text that exists.* Did you mean `.*corpus\.txt`"),
        ("words.pdf", r"words\.pdf` must end in \.txt, \.jsonl or \.json"),
        ("folder.txt", r"folder\.txt` must be a file of text that exists"),
    ],
)
def test_files_that_are_no_text_are_named(tmp_path, path, words):
    (tmp_path / "words.pdf").write_text("text")
    (tmp_path / "corpus.txt").write_text("text")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError, match=words):
        TokenDataConfig().read([str(tmp_path / path)], BYTES)


def test_texts_of_the_package_are_found():
    rows = TokenDataConfig(sequence_len=256).read(["assets/state_of_the_union/valid.jsonl"], BYTES)
    assert rows.describe()["documents"] == 2 and not rows.problems


def test_another_tokenizer_of_the_same_kind_makes_other_tokens(index):
    upper = decode(Cut, {"tokenizer": {"kind": "characters", "characters": list(" jihgfedcba")}})
    found = [everything(index("abc", task=task)[1]).tokens[0].tolist() for task in (LETTERS, upper)]
    assert found == [[0, 1, 2, 2], [10, 9, 8, 8]]


@pytest.mark.parametrize("name", ["sequence_len", "batch_size", "eval_batch_size"])
def test_settings_that_cannot_be_are_refused(name):
    with pytest.raises(ConfigError, match=rf"`{name}` must be 1 or more, but is 0 instead"):
        TokenDataConfig(**{name: 0})


def test_a_manifest_of_speech_gives_its_texts():
    config = TokenDataConfig(field="label", sequence_len=16)
    assert len(config.read([WORDS / "test.jsonl"], BYTES)) > 100

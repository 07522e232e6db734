"""Features of Kaldi as an index and as micro-batches."""

import numpy as np
import pytest
import torch

from anemone.data.kaldi import KaldiFeatureDataLayer, KaldiFeatureDataset, check_kaldi, write_features
from anemone.data.kaldi.cmvn import normalize, statistics
from anemone.data.kaldi.loader import KaldiDataConfig
from anemone.data.kaldi.places import write_ark
from anemone.data.plan import PlanConfig
from anemone.errors import ConfigError, DataError

DRAW = np.random.default_rng(0)
FRAMES = (30, 12, 45, 7, 22, 18, 9)
MATRICES = {f"s{i % 2}-u{i}": DRAW.standard_normal((n, 5)).astype(np.float32) for i, n in enumerate(FRAMES)}
MATRICES = dict(sorted(MATRICES.items()))
TARGETS = {name: "ab"[i % 2] for i, name in enumerate(MATRICES)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    (path / "text").write_text("".join(f"{name} {text}\n" for name, text in TARGETS.items()))
    (path / "utt2spk").write_text("".join(f"{name} {name[:2]}\n" for name in MATRICES))
    owners = {who: [name for name in MATRICES if name.startswith(who)] for who in ("s0", "s1")}
    (path / "spk2utt").write_text("".join(f"{who} {' '.join(own)}\n" for who, own in owners.items()))
    assert write_features(path, MATRICES.items()) == len(MATRICES)
    return path


def encode(text):
    if text not in "ab":
        raise DataError(f"`{text}` is not one of the 2 labels.")
    return ["ab".index(text)]


def loader(folder, *, training=True, world=1, rank=0, per_step=None, **settings):
    config = KaldiDataConfig(train=(str(folder),), plan=PlanConfig(batch_size=2), **settings)
    index = KaldiFeatureDataset.read([folder], target="text", hop_ms=config.hop_ms)
    places = {"rank": rank, "world": world, "batches_per_step": per_step}
    return config.loader(index, encode, training=training, seed=3, **places)


def test_what_is_written_is_a_directory_of_kaldi(folder):
    assert check_kaldi(folder, features=True, wav=False) == []


def test_the_dataset_has_names_frames_and_targets_and_gives_matrices(folder):
    assert KaldiFeatureDataLayer is KaldiFeatureDataset
    dataset = KaldiFeatureDataset.read([folder], target="text", hop_ms=20)
    assert dataset.ids(range(len(dataset))) == list(MATRICES)
    assert dataset.num_frames == sum(FRAMES) and dataset.width == 5
    assert np.allclose(dataset.durations, [len(m) / 50 for m in MATRICES.values()])
    assert dataset.labels == ["a", "b"] and dataset.row(1).target == "b"
    for number, (name, matrix) in enumerate(MATRICES.items()):
        assert np.array_equal(dataset.features(number), matrix)
        own = statistics([m for other, m in MATRICES.items() if other[:2] == name[:2]])
        for norm in ("mean", "mean_and_variance"):
            assert np.allclose(dataset.features(number, norm), normalize(matrix, own, norm), atol=1e-6)
    again = KaldiFeatureDataset.read([folder / "feats.scp"], target="text", hop_ms=20)
    assert again.path == dataset.path and again.fingerprint == dataset.fingerprint


def test_frames_and_ranges_are_read_where_nothing_counts_them(folder):
    (folder / "utt2num_frames").unlink()
    lines = (folder / "feats.scp").read_text().splitlines()
    (folder / "feats.scp").write_text("\n".join([lines[0] + "[2:4]", *lines[1:]]) + "\n")
    dataset = KaldiFeatureDataset.read([folder], target="text")
    assert dataset.table["frames"].to_pylist() == [3, *(len(m) for m in list(MATRICES.values())[1:])]
    assert np.array_equal(dataset.features(0), next(iter(MATRICES.values()))[2:5])


def test_labels_have_a_table_of_their_own_and_seconds_too(folder):
    (folder / "utt2label").write_text("".join(f"{name} x{i}\n" for i, name in enumerate(MATRICES)))
    (folder / "utt2dur").write_text("".join(f"{name} 0.5\n" for name in MATRICES))
    dataset = KaldiFeatureDataset.read([folder], target="label")
    assert dataset.row(2).target == "x2" and dataset.durations.tolist() == [0.5] * len(MATRICES)


def test_what_is_wrong_is_said_by_line_and_left_out(folder, caplog):
    lines = (folder / "feats.scp").read_text().splitlines()
    write_ark(folder / "empty.ark", iter([("e", np.zeros((0, 5)))]))
    (folder / "utt2num_frames").unlink()
    extra = [
        f"s9-e {folder}/empty.ark:2",
        "s9-gone nowhere.ark:3",
        f"s9-cmd touch {folder}/ran; cat x |",
        "s9-x a.ark[2:1]",
    ]
    (folder / "feats.scp").write_text("\n".join([*lines, *extra, "s9-none a.ark:1"]) + "\n")
    with (folder / "text").open("a") as file:
        file.writelines(f"{line.split()[0]} a\n" for line in extra)
    dataset = KaldiFeatureDataset.read([folder], target="text")
    assert len(dataset) == len(MATRICES) and not (folder / "ran").exists()
    assert [p.line for p in dataset.problems] == [8, 9, 10, 11, 12]
    causes = " ".join(p.cause for p in dataset.problems)
    for part in ("has no frames", "nowhere.ark", "--trust-commands", "first:last", "`s9-none` is not in text"):
        assert part in causes
    with pytest.raises(DataError, match=r"feats\.scp:8: "):
        KaldiFeatureDataset.read([folder], target="text", skip_bad=False)
    with pytest.raises(DataError, match=r"with a feats\.scp, or the path of that file. Did you mean `.*/data`"):
        KaldiFeatureDataset.read([folder.parent / "dataa"], target="text")


def test_commands_run_where_they_are_trusted(folder):
    lines = (folder / "feats.scp").read_text().splitlines()
    place, _, offset = lines[0].split()[1].rpartition(":")
    command = f"{lines[0].split()[0]} tail -c +{int(offset) + 1} {place} |"
    (folder / "feats.scp").write_text("\n".join([command, *lines[1:]]) + "\n")
    dataset = KaldiFeatureDataset.read([folder], target="text", trust_commands=True)
    assert np.array_equal(dataset.features(0), next(iter(MATRICES.values())))


def rows_of(steps):
    return [batch.rows.tolist() for step in steps for batch in step]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_padded_features_and_every_utterance_once(folder, workers):
    seen = []
    for step in loader(folder, num_workers=workers, cmvn="mean"):
        for batch in step:
            assert batch.features.shape == (len(batch.rows), 5, int(batch.frames.max()) + 1)
            for i, row in enumerate(batch.rows.tolist()):
                name, matrix = list(MATRICES.items())[row]
                own = statistics([m for other, m in MATRICES.items() if other[:2] == name[:2]])
                valid = batch.features[i, :, : len(matrix)].T.numpy()
                assert np.allclose(valid, normalize(matrix, own, "mean"), atol=1e-6)
                assert int(batch.frames[i]) == len(matrix) and not batch.features[i, :, len(matrix) :].any()
                assert batch.targets[i].tolist() == encode(TARGETS[name])
            assert batch.size == pytest.approx(float(batch.frames.sum()) / 100)
            seen += batch.rows.tolist()
    assert sorted(seen) == list(range(len(MATRICES)))


def test_a_position_goes_on_with_what_an_uninterrupted_run_gets_on_any_ranks(folder):
    whole = [rows_of([step]) for step in loader(folder, per_step=2)]
    for stop in range(1, len(whole)):
        parts = []
        for rank in (0, 1):
            some = loader(folder, per_step=2, world=2, rank=rank)
            some.set_position(0, stop)
            parts.append([rows_of([step]) for step in some])
        joined = [one + other for one, other in zip(*parts, strict=True)]
        assert joined == whole[stop:]


def test_what_cannot_be_used_is_reported_once_and_left_out(folder):
    write_ark(folder / "wide.ark", iter([("w", np.ones((5, 6)))]))
    lines = (folder / "feats.scp").read_text().splitlines()
    wide, gone = (f"{lines[i].split()[0]} {folder}/{name}" for i, name in ((2, "wide.ark:2"), (4, "gone.ark:2")))
    (folder / "feats.scp").write_text("\n".join([*lines[:2], wide, lines[3], gone, *lines[5:]]) + "\n")
    found = loader(folder)
    for _ in range(2):
        used = [row for batch in rows_of(found) for row in batch]
        assert sorted(used) == [0, 1, 3, 5, 6]
    assert found.bad == {2, 4}
    causes = {p.line: p.cause for p in found.problems}
    assert "width of the first utterance, 5, but has 6" in causes[3] and "gone.ark" in causes[5]


def test_missing_statistics_are_a_problem_of_the_utterance(folder):
    (folder / "cmvn.scp").unlink()
    with pytest.raises(DataError, match=r"no statistics in cmvn\.scp"):
        list(loader(folder, cmvn="mean"))


def test_settings_must_be_possible():
    for setting in ({"hop_ms": 0}, {"pad_frames": -1}, {"num_workers": -1}, {"eval_batch_size": 0}):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            KaldiDataConfig(**setting)


def test_one_of_a_batch_keeps_its_padding(folder):
    batch = next(iter(loader(folder)))[0]
    one = batch.to("cpu").item(1)
    assert torch.equal(one.features[0], batch.features[1]) and one.rows.tolist() == batch.rows.tolist()[1:2]

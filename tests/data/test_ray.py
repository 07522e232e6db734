"""Ray Data on a cluster of this machine does what processes do, to the byte. Run by `make test-ray`."""

import json
from pathlib import Path

import pytest
import soundfile

from anemone.data.augmentation import Recipe
from anemone.data.engines import engine
from anemone.data.offline import OfflineConfig, augment_offline
from anemone.data.sharding import shard
from anemone.testing import speech


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_a_cluster_writes_the_bytes_that_processes_write(tmp_path):
    soundfile.write(tmp_path / "long.wav", speech(5.0), 16_000)
    rows = [
        {"audio_filepath": "long.wav", "offset": i * 0.1, "duration": 0.5, "text": str(i), f"only{i}": {"odd": [i]}}
        for i in range(40)
    ]
    rows[3]["audio_filepath"] = "gone.wav"
    source = tmp_path / "set.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.parse([{"speed": {"p": 0.7}}, {"white_noise": {"p": 0.5}}])
    for name in ("jobs", "ray"):
        does = engine(name, 2)
        config = OfflineConfig(recipe=recipe, copies=2)
        report = augment_offline([source], tmp_path / name / "files", config, engine=does, tell=max)
        assert report.lines == 117 and len(report.problems) == 1
        shard([source], tmp_path / name / "tars", shards=5, engine=does, tell=max)
    assert content(tmp_path / "ray") == content(tmp_path / "jobs")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

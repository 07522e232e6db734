"""What training decides over all ranks."""

import json
from types import SimpleNamespace

import torch

from anemone.config import decode
from anemone.data.manifest import Index
from anemone.errors import DataError
from anemone.testing import run_ranks, tiny
from anemone.training.experiment import ExperimentConfig
from anemone.training.module import TrainingModule


def judged(rank, tree):
    """What the ranks of a run say in the middle and at the end of an epoch, and at the end of another."""
    config = decode(ExperimentConfig, tree)
    index = Index.read(config.data.train, target="label")
    module = TrainingModule(tiny("classification"), config, {"train": index}, total_steps=1)
    module.engine = SimpleNamespace(device=torch.device("cpu"))
    loader, said = module.train_dataloader().loader, []
    list(loader)
    for last in (False, True, True):
        try:
            module._judge_data(last)
            said.append(module.left_out)
        except DataError as error:
            said.append(str(error))
        list(loader if last else [])
    return said


def manifest(recordings, good, bad):
    rows = [json.loads(line) for line in (recordings / "train.jsonl").read_text().splitlines()[: good + bad]]
    rows = [row | ({} if i < good else {"label": "what"}) for i, row in enumerate(rows)]
    path = recordings / f"{good}_{bad}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_ranks_count_together_what_is_left_out_of_the_training_data(tree, recordings):
    settings = tree(data__train=[manifest(recordings, 1, 3)], data__plan={"batch_size": 1})
    assert run_ranks(2, judged, settings) == [[0, 3, 3]] * 2


def test_ranks_give_up_together_where_nothing_can_be_used(tree, recordings):
    settings = tree(data__train=[manifest(recordings, 0, 3)], data__plan={"batch_size": 1})
    for middle, *ends in run_ranks(2, judged, settings):
        assert middle == 0
        assert all(end.startswith("none of 3 utterances could be used; the first: ") for end in ends)

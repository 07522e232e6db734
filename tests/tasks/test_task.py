"""What every task shares."""

import pickle

import pytest
import torch

from anemone.tasks import TASKS
from anemone.tasks.task import inference
from anemone.testing import tiny


def test_inference_puts_modes_back_after_an_error():
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(1, 1)).train()
    module[1].eval()
    with pytest.raises(RuntimeError, match="inside"), inference(module):
        assert not module[0].training and torch.is_inference_mode_enabled()
        raise RuntimeError("inside")
    assert module[0].training and not module[1].training


@pytest.mark.parametrize("kind", TASKS)
def test_what_goes_to_the_processes_that_read_data_holds_no_network(kind):
    task = tiny(kind)
    task.network.bound = lambda: None  # like a network that is laid out, it cannot be pickled
    with pytest.raises(AttributeError):
        pickle.dumps(task)
    assert pickle.loads(pickle.dumps(task.encode))("yes") == task.encode("yes")

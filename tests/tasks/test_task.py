"""What every task shares."""

import pytest
import torch

from anemone.tasks.task import inference


def test_inference_puts_modes_back_after_an_error():
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(1, 1)).train()
    module[1].eval()
    with pytest.raises(RuntimeError, match="inside"), inference(module):
        assert not module[0].training and torch.is_inference_mode_enabled()
        raise RuntimeError("inside")
    assert module[0].training and not module[1].training

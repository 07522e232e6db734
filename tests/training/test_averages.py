"""Running statistics of a step are the mean over its micro-batches; averaged weights save and restore."""

import torch
from torch import nn

from anemone.training.averages import AveragedWeights, RunningStatistics, statistics


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("table", torch.ones(4), persistent=False)


def test_statistics_are_the_floating_buffers_that_are_saved():
    assert set(statistics(Net())) == {"norm.running_mean", "norm.running_var"}


def test_the_order_of_micro_batches_does_not_matter_and_undo_leaves_no_trace():
    batches, means = [torch.randn(8, 3) + i for i in range(3)], []
    for order in ((0, 1, 2), (2, 0, 1)):
        net = Net()
        running = RunningStatistics(net)
        running.begin()
        for i in order:
            net.norm(batches[i])
            running.collect()
        running.end(3)
        means.append(net.norm.running_mean.clone())
    expected = 0.1 * torch.stack([b.mean(0) for b in batches]).mean(0)
    torch.testing.assert_close(means[0], expected)
    torch.testing.assert_close(means[1], expected)
    running.begin()
    net.norm(batches[0])
    running.undo()
    assert torch.equal(net.norm.running_mean, means[1])


def test_an_average_that_is_new_to_a_run_starts_at_its_weights():
    net = nn.Linear(2, 2)
    average = AveragedWeights(net, 0.9)
    with torch.no_grad():
        net.weight.add_(1.0)
    average.update()
    other = AveragedWeights(nn.Linear(2, 2), 0.9)
    other.load_state_dict(average.state_dict())
    assert other.updates == 1 and torch.equal(other.mean["weight"], average.mean["weight"])
    average.load_state_dict({})
    assert average.updates == 0 and torch.equal(average.mean["weight"], net.weight)

"""The confusion matrix counts, adds, and gives accuracy and recalls."""

import pytest
import torch

from anemone.metrics.confusion import accuracy, confused, confusion, recall


def test_rows_are_right_classes_and_columns_predictions():
    matrix = confusion(torch.tensor([2, 0, 2, 1]), torch.tensor([0, 0, 2, 2]), 3)
    assert matrix.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 1]]


def test_matrices_add():
    predictions, targets = torch.randint(0, 4, (30,)), torch.randint(0, 4, (30,))
    whole = confusion(predictions, targets, 4)
    assert torch.equal(confusion(predictions[:7], targets[:7], 4) + confusion(predictions[7:], targets[7:], 4), whole)
    assert accuracy(whole) == pytest.approx((predictions == targets).float().mean().item())


def test_recall_is_the_share_of_each_class():
    shares = recall(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert shares[:2].tolist() == [0.75, 1.0]
    assert shares[2].isnan()


def test_no_items_give_zero_accuracy():
    empty = torch.zeros(0, dtype=torch.long)
    assert accuracy(confusion(empty, empty, 3)) == 0.0


def test_the_most_frequent_mistakes_come_first():
    matrix = torch.tensor([[9, 1, 0], [4, 9, 2], [0, 0, 9]])
    assert confused(matrix) == [(1, 0, 4), (1, 2, 2), (0, 1, 1)]
    assert confused(matrix, 1) == [(1, 0, 4)]

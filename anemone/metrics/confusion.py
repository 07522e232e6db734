"""Confusion matrix of a classifier, and what follows from it."""

import torch
from torch import Tensor


def confusion(predictions: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Counts how often each class was taken for each.

    Example:
        >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
        [[1, 1], [0, 1]]

    Args:
        predictions: (B,) class indices.
        targets: (B,) class indices.
        num_classes: V.

    Returns:
        (V, V) int64, rows are the right classes, columns the predicted ones; such matrices add.
    """
    cells = targets * num_classes + predictions
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(matrix: Tensor) -> float:
    """Computes the share of right predictions; 0 where there are none at all."""
    return int(matrix.diagonal().sum()) / max(int(matrix.sum()), 1)


def recall(matrix: Tensor) -> Tensor:
    """Computes, of each class, the share that was recognised; NaN where a class does not occur. (V,) float."""
    return matrix.diagonal() / matrix.sum(1)


def confused(matrix: Tensor, num: int = 10) -> list[tuple[int, int, int]]:
    """Lists the most frequent mistakes as (right class, predicted class, count), most frequent first."""
    wrong = matrix - torch.diag(matrix.diagonal())
    counts, cells = wrong.flatten().sort(descending=True, stable=True)
    pairs = zip(cells[:num].tolist(), counts[:num].tolist(), strict=True)
    return [(cell // len(matrix), cell % len(matrix), count) for cell, count in pairs if count]

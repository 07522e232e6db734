"""Another vocabulary for a trained model: rows of tokens that both know are kept, new ones are drawn like the old.

A row is what a network has for one token: of a linear layer that scores tokens its weights and bias, of an embedding
its vector. The first rows are the tokens in their order; what follows (the blank, long blanks, durations) stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from anemone.checkpoint.fit import load_tensors_into
from anemone.config import EMPTY, must
from anemone.nn.adapters import fitting

if TYPE_CHECKING:
    from anemone.tasks.task import Task

FOLLOWED = (
    "head.linear.*",
    "head.ctc.linear.*",
    "head.joint.linear.*",
    "head.predictor.embedding.weight",
    "head.predictor.embeddings.*.weight",
)
"""Weights of heads that have a row for each token, and then for the blank and what else there is to say."""

PADDED = ("head.embedding.weight", "head.output.*", "embedding.weight", "head.weight")
"""Weights of networks that have a row for each token, and then some that mean nothing."""


class Regrown(NamedTuple):
    """Weights for another vocabulary."""

    tensors: dict[str, Tensor]
    """All of them by name; those without rows of tokens are as they were."""

    names: tuple[str, ...]
    """Of those whose rows changed."""

    shared: int
    """Tokens that both vocabularies have."""


def with_tokenizer(task: "Task", tokenizer: Any, files: Mapping[str, bytes] = EMPTY, *, seed: int = 0) -> "Task":
    """Returns a task like another, with another tokenizer; tokens of the same spelling keep their weights.

    Args:
        task: a recogniser or a language model.
        tokenizer: config of the new one, of `anemone.features.tokenizers.TOKENIZERS`.
        files: what it reads, by name; those that its config tells by default.
        seed: of the rows of new tokens.

    Raises:
        ConfigError: the task has no tokenizer.
    """
    from anemone.tasks import build

    parts = task.parts
    old: Any = getattr(task, "tokenizer", None)
    must(old is not None, "task", "one with a tokenizer", value=type(task).__name__)
    must(not task.adapters, "task", "without adapters: merge or remove them first", value=list(task.adapters))
    settings = replace(parts.task, tokenizer=tokenizer)
    made = build(settings, parts.model, parts.features, loss=parts.loss, decoding=parts.decoding, files=files)
    new: Any = made
    own = made.network.state_dict()
    regrown = regrow(task.network.state_dict(), own, old.pieces, new.tokenizer.pieces, seed=seed)
    load_tensors_into(made.network, regrown.tensors)
    return made.eval()


def regrow(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str], *, seed: int = 0
) -> Regrown:
    """Gives weights the rows of another vocabulary.

    A token that only the new one has is drawn from a normal distribution with mean and deviation of the old rows.

    Args:
        tensors: of the model with the old vocabulary.
        own: of the model with the new one, for names and shapes.
        old: spellings of the old tokens.
        new: of the new ones.
        seed: of what is drawn.
    """
    numbers = {_spelling(piece): number for number, piece in reversed([*enumerate(old)])}
    found = [numbers.get(_spelling(piece), -1) for piece in new]
    generator = torch.Generator().manual_seed(seed)
    grown = {}
    for name, tensor in tensors.items():
        rest = len(tensor) - len(old) if tensor.ndim else -1
        if name not in own or rest < 0 or tensor.shape[1:] != own[name].shape[1:]:
            continue
        if fitting(name, PADDED) and len(own[name]) >= len(new):
            padding = [-1] * (len(own[name]) - len(new))
            grown[name] = _rows(tensor[: len(old)], [*found, *padding], len(old), generator)
        elif fitting(name, FOLLOWED) and len(own[name]) == len(new) + rest:
            grown[name] = _rows(tensor, found, len(old), generator)
    return Regrown({**tensors, **grown}, tuple(grown), sum(number >= 0 for number in found))


def _rows(tensor: Tensor, found: Sequence[int], number: int, generator: torch.Generator) -> Tensor:
    """The rows of tokens by their old numbers, -1 for new ones, then those that are of no token."""
    rows = tensor[:number]
    drawn = torch.randn(len(found), *tensor.shape[1:], generator=generator)
    mean, deviation = rows.float().mean(0), rows.float().std(0, correction=0)
    index = torch.tensor(found)
    known = (index >= 0).view(-1, *[1] * (tensor.ndim - 1))
    kept = torch.where(known, rows[index.clamp(min=0)], (mean + deviation * drawn).to(tensor.dtype))
    return torch.cat([kept, tensor[number:]])


def _spelling(piece: str) -> str:
    """A token as all tokenizers spell it: SentencePiece writes a space as U+2581."""
    return piece.replace("\u2581", " ")

"""What the ranks of a job decide together: each works, the first decides on what all did, each is told.

A fault on any rank, or in the deciding, is raised on all alike. Only JSON travels; nothing is pickled.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anemone.errors import AnemoneError, ArchiveError

Work = Callable[[], Any]
Decide = Callable[[list[Any]], Sequence[Any]]

SHOWN = 3
"""Ranks whose faults one message names."""


def agree(group: dist.ProcessGroup | None, work: Work = lambda: None, decide: Decide = lambda results: results) -> Any:
    """Returns the first rank's answer to this rank.

    Args:
        group: a gloo group; None for a process that is alone.
        work: what this rank does; gives what JSON can hold.
        decide: on the first rank, makes of the results of all, by rank, an answer to each.

    Raises:
        ArchiveError: a rank failed, or the first did in deciding; on all ranks.
    """
    size, rank = (dist.get_world_size(group), dist.get_rank(group)) if group else (1, 0)
    own, raised = _try(work)
    results = _gather(own, group) if group else [own]
    answers: list[Any] = []
    if rank == 0:
        faults = [_fault(number, result["fault"], size) for number, result in enumerate(results) if "fault" in result]
        if faults:
            more = f" So {len(faults) - SHOWN} ranks more." if len(faults) > SHOWN else ""
            answers = [{"fault": " ".join(faults[:SHOWN]) + more}] * size
        else:
            decided, raised = _try(lambda: list(decide([result["value"] for result in results])))
            answers = [{"value": value} for value in decided["value"]] if raised is None else [decided] * size
    answer = _scatter(answers, group) if group else answers[0]
    if "fault" in answer:
        raise ArchiveError(answer["fault"]) from raised
    return answer["value"]


def _try(work: Work) -> tuple[dict[str, Any], Exception | None]:
    """What the work gives, or its fault in words that another rank can be told."""
    try:
        return {"value": work()}, None
    except AnemoneError as error:
        return {"fault": str(error)}, error
    except OSError as error:
        return {"fault": f"{error.strerror or error}: `{error.filename}`." if error.filename else f"{error}."}, error
    except Exception as error:
        return {"fault": f"{type(error).__name__}: {error}"}, error


def _fault(rank: int, fault: str, size: int) -> str:
    return f"Rank {rank} of {size}: {fault}" if size > 1 else fault


def _gather(value: Any, group: dist.ProcessGroup) -> list[Any]:
    """The values of all ranks, on the first; an empty list on the others."""
    rank, own = dist.get_rank(group), _bytes(value)
    size = torch.tensor([own.numel()])
    if rank:
        dist.gather(size, group=group, group_dst=0)
        dist.send(own, group=group, group_dst=0)
        return []
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.gather(size, sizes, group=group, group_dst=0)
    values = [value]
    for other, length in enumerate(sizes[1:], start=1):
        values.append(_received(int(length), other, group))
    return values


def _scatter(values: Sequence[Any], group: dist.ProcessGroup) -> Any:
    """This rank's value of those that the first has."""
    size = torch.zeros(1, dtype=torch.int64)
    if dist.get_rank(group):
        dist.scatter(size, group=group, group_src=0)
        return _received(int(size), 0, group)
    texts = [_bytes(value) for value in values]
    dist.scatter(size, [torch.tensor([text.numel()]) for text in texts], group=group, group_src=0)
    for other, text in enumerate(texts[1:], start=1):
        dist.send(text, group=group, group_dst=other)
    return values[0]


def _received(length: int, source: int, group: dist.ProcessGroup) -> Any:
    data = torch.empty(length, dtype=torch.uint8)
    dist.recv(data, group=group, group_src=source)
    return json.loads(data.numpy().tobytes())


def _bytes(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value, separators=(",", ":")).encode("utf-8")), dtype=torch.uint8)

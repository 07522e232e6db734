"""What each rank of a pipeline does, in order, by torch's own tables; and how long that takes, event by event."""

from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch.distributed.pipelining import schedules

from anemone.parallel.pipeline import CLASSES, stage_numbers

NAMES = {"FORWARD": "F", "FULL_BACKWARD": "B", "BACKWARD_INPUT": "I", "BACKWARD_WEIGHT": "W"}
SECONDS = {"F": 1.0, "B": 2.0, "I": 1.0, "W": 1.0}


class Action(NamedTuple):
    stage: int
    kind: str
    batch: int


Orders = dict[int, list[Action]]


def orders(schedule: str, pp: int, chunks: int, count: int) -> Orders:
    """Rank -> its actions. Two schedules of torch have no table: their order is that of the papers."""
    if chunks == 1:
        return {rank: _single(schedule, pp, rank, count) for rank in range(pp)}
    group = SimpleNamespace(size=lambda: pp, rank=lambda: 0)
    same = {"group_size": pp, "group_rank": 0, "group": group, "num_stages": pp * chunks, "has_backward": True}
    stages = [
        SimpleNamespace(
            **same,
            submod=torch.nn.Module(),
            stage_index=index,
            is_first=index == 0,
            is_last=index == pp * chunks - 1,
            device=torch.device("cpu"),
            stage_index_to_group_rank={},
        )
        for index in stage_numbers(schedule, 0, pp, stages_per_rank=chunks)
    ]
    made = getattr(schedules, CLASSES[schedule])(stages, count, loss_fn=lambda output, target: output)
    return {
        rank: [
            Action(part.stage_index, NAMES[part.computation_type.name], part.microbatch_index)
            for action in order
            if action is not None
            for part in (action.sub_actions or [action])
        ]
        for rank, order in made.pipeline_order.items()
    }


def _single(schedule: str, pp: int, rank: int, count: int) -> list[Action]:
    warm = count if schedule == "gpipe" else min(count, pp - rank)
    batches = {"F": iter(range(count)), "B": iter(range(count))}
    return [Action(rank, kind, next(batches[kind])) for kind in "F" * warm + "BF" * (count - warm) + "B" * warm]


def most_waiting(order: list[Action]) -> int:
    """Forwards whose backward has not come, at most."""
    waiting = most = 0
    for action in order:
        waiting += action.kind == "F"
        most = max(most, waiting)
        waiting -= action.kind in "BI"
    return most


def seconds(order: Orders) -> float:
    """Time until all is done, where each action waits for those that it needs."""
    done: dict[tuple[int, str, int], float] = {}
    clock, left = dict.fromkeys(order, 0.0), {rank: list(actions) for rank, actions in order.items()}
    last = max(action.stage for actions in order.values() for action in actions)
    while any(left.values()):
        before = sum(map(len, left.values()))
        for rank, actions in left.items():
            while actions and all(need in done for need in _needs(actions[0], last)):
                action = actions.pop(0)
                clock[rank] = max([clock[rank], *(done[need] for need in _needs(action, last))]) + SECONDS[action.kind]
                done[action.stage, "B" if action.kind == "I" else action.kind, action.batch] = clock[rank]
        assert sum(map(len, left.values())) < before, "ranks wait for each other"
    return max(clock.values())


def _needs(action: Action, last: int) -> list[tuple[int, str, int]]:
    stage, kind, batch = action
    if kind == "F":
        return [(stage - 1, "F", batch)] if stage else []
    if kind == "W":
        return [(stage, "B", batch)]
    return [(stage, "F", batch)] + ([(stage + 1, "B", batch)] if stage < last else [])

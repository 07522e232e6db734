"""Citrinet: as QuartzNet, with the two matrices of squeeze-and-excitation beside."""

from anemone.parallel.plans import Plan
from anemone.parallel.plans.quartznet import PLAN as QUARTZNET

PLAN = Plan(
    blocks=QUARTZNET.blocks,
    tensor={
        **QUARTZNET.tensor,
        "blocks.*.squeeze.down": "column_gathered",
        "blocks.*.squeeze.up": "column_gathered",
    },
)

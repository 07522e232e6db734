"""Jasper: as QuartzNet, with convolutions of the inputs of earlier blocks beside; full convolutions stay whole."""

from anemone.parallel.plans import Plan
from anemone.parallel.plans.quartznet import PLAN as QUARTZNET

PLAN = Plan(blocks=QUARTZNET.blocks, tensor={**QUARTZNET.tensor, "blocks.*.earlier.*.pointwise": "column_gathered"})

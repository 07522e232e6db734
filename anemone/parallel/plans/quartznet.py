"""QuartzNet and MatchboxNet: pointwise convolutions hold nearly all weights; each gives its channels whole."""

from anemone.parallel.plans import Plan

PLAN = Plan(
    blocks=("blocks.*",),
    tensor={
        "blocks.*.units.*.pointwise": "column_gathered",
        "blocks.*.residual.pointwise": "column_gathered",
    },
)

"""Conformer and FastConformer: feed-forward parts by columns and rows; projections of attention and convolutions whole.

Attention and convolutions are narrow beside the feed-forward parts, and their biases of positions belong to heads.
"""

from anemone.parallel.plans import Plan

PLAN = Plan(
    blocks=("layers.*",),
    tensor={
        "layers.*.ff1": "whole",
        "layers.*.ff1.up": "column",
        "layers.*.ff1.down": "row",
        "layers.*.ff2": "whole",
        "layers.*.ff2.up": "column",
        "layers.*.ff2.down": "row",
        "layers.*.attention.query": "column_gathered",
        "layers.*.attention.key": "column_gathered",
        "layers.*.attention.value": "column_gathered",
        "layers.*.attention.output": "column_gathered",
        "layers.*.attention.position": "column_gathered",
        "layers.*.attention.global_query": "column_gathered",
        "layers.*.attention.global_key": "column_gathered",
        "layers.*.attention.global_value": "column_gathered",
        "layers.*.conv.up": "column_gathered",
        "layers.*.conv.down": "column_gathered",
        "subsampling": "column_gathered",
        "subsampling.output": "column_gathered",
        "reduction.convs.output": "column_gathered",
        "output": "column_gathered",
    },
)

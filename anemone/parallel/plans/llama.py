"""Llama and Mixtral: columns before, rows after each non-linearity (arXiv:1909.08053, section 3)."""

from anemone.parallel.plans import Plan

PLAN = Plan(
    blocks=("layers.*",),
    tensor={
        "embedding": "embedding",
        "layers.*.attention_norm": "norm",
        "layers.*.attention": "whole",
        "layers.*.attention.query": "column",
        "layers.*.attention.key": "column",
        "layers.*.attention.value": "column",
        "layers.*.attention.output": "row",
        "layers.*.ffn_norm": "norm",
        "layers.*.ffn": "whole",
        "layers.*.ffn.gate": "column",
        "layers.*.ffn.up": "column",
        "layers.*.ffn.down": "row",
        "norm": "norm",
        "head": "logits",
    },
    divides={
        "model.num_heads": "shape.num_heads",
        "model.num_kv_heads": "shape.num_kv_heads",
        "model.d_ff": "shape.d_ff",
        "task.tokenizer": "vocab_size",
    },
    layers="layers",
    first=("embedding",),
    last=("norm", "head"),
    cores=("layers.*.attention.core",),
    heads="shape.num_heads",
    experts=("layers.*.ffn.experts",),
)

"""wav2vec 2.0 and the encoder of Whisper: each matrix of their layers gives its channels whole."""

from anemone.parallel.plans import Plan

LINEARS = (
    *(f"layers.*.self_attention.{name}" for name in ("query", "key", "value", "output")),
    *(f"layers.*.feed_forward.{name}" for name in ("up", "down")),
)
PLAN = Plan(blocks=("layers.*",), tensor=dict.fromkeys((*LINEARS, "projection"), "column_gathered"))
WHISPER = Plan(blocks=("layers.*",), tensor=dict.fromkeys(LINEARS, "column_gathered"))

"""The layouts that `make parity` proves, and those that must be refused.

A row is a network of `NETWORKS` and its settings, of ``parallel`` where they name no other group.
"""

from typing import NamedTuple

SMALL = ("data.sequence_len=64", "data.batch_size=2", "model.num_kv_heads=4", "model.d_ff=128")

NETWORKS: dict[str, tuple[str, ...]] = {
    "llama": ("llama_tiny", *SMALL, "model.num_layers=4"),
    "llama of 8 layers": ("llama_tiny", *SMALL, "model.num_layers=8"),
    "llama, tied": ("llama_tiny", *SMALL, "model.tie_embeddings=true"),
    "llama, documents": ("llama_tiny", *SMALL, "data.pack=true"),
    "mixtral": ("llama_tiny", *SMALL, "model.num_experts=4", "model.balance=0.01"),
    "quartznet": ("telephone_words_quartznet", "data.plan.batch_size=4", "data.plan.num_buckets=1", "run.seed=1"),
}
"""Name -> an experiment and settings that make it small.

QuartzNet has seed 1 (2 and 3 do as well): with 0, the gradient norm of the fifth step differs by 2e-5 where gradients
of micro-batches are added in another order, most likely as rounding decides whether some rectifier is open.
"""


class Row(NamedTuple):
    """One layout."""

    network: str
    settings: str
    quick: bool = False
    """Whether the tests prove it, too."""

    @property
    def overrides(self) -> list[str]:
        """Settings of the experiment."""
        others = ("data.", "precision=")
        return [s if s.startswith(others) else f"parallel.{s}" for s in self.settings.split()]


def rows(network: str, *settings: str, quick: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """Rows of one network."""
    return tuple(Row(network, setting, setting in quick) for setting in settings)


LAYOUTS: tuple[Row, ...] = (
    # one axis
    *rows(
        "llama",
        *("dp_replicate=2", "dp_replicate=4", "dp_shard=2 zero=1", "dp_shard=2 zero=2", "dp_shard=2", "dp_shard=4"),
        *("dp_shard=8 zero=1", "dp_shard=8"),
        *("tp=2", "tp=4", "tp=2 sequence_parallel=false", "tp=2 loss_parallel=false"),
        *("tp=2 sequence_parallel=false loss_parallel=false",),
        *("cp=2", "cp=2 cp_balance=contiguous", "cp=2 cp_method=gather", "cp=2 cp_method=ulysses", "cp=4"),
        *("cp=4 cp_method=gather cp_balance=contiguous", "cp=4 cp_method=ulysses"),
        *("pp=2 schedule=gpipe", "pp=2", "pp=2 schedule=interleaved_1f1b", "pp=2 schedule=looped_bfs"),
        *("pp=2 schedule=interleaved_zero_bubble", "pp=2 schedule=zbv", "pp=2 schedule=dualpipev", "pp=4"),
        quick=("dp_replicate=2", "dp_shard=2 zero=1", "dp_shard=2 zero=2", "dp_shard=2", "tp=2", "cp=2", "pp=2"),
    ),
    *rows("llama of 8 layers", "pp=4 schedule=interleaved_1f1b", "pp=4 schedule=zbv"),
    # two axes
    *rows(
        "llama",
        *("dp_replicate=2 dp_shard=2", "dp_replicate=2 dp_shard=4", "dp_replicate=2 tp=2", "dp_replicate=2 cp=2"),
        *("dp_replicate=2 pp=2", "dp_shard=2 tp=2", "dp_shard=2 tp=2 zero=1", "dp_shard=4 tp=2", "dp_shard=2 tp=4"),
        *("dp_shard=2 cp=2", "dp_shard=4 cp=2 cp_method=gather", "tp=2 cp=2", "tp=2 cp=2 cp_method=gather"),
        *("tp=2 cp=2 cp_method=ulysses", "pp=2 dp_shard=2", "pp=2 dp_shard=2 schedule=gpipe zero=2"),
        *("pp=2 dp_shard=2 schedule=interleaved_1f1b", "pp=2 dp_shard=2 schedule=zbv zero=1"),
        *("pp=2 dp_shard=2 schedule=interleaved_zero_bubble zero=1", "pp=2 dp_shard=2 schedule=dualpipev zero=1"),
        *("pp=2 tp=2", "pp=2 tp=2 schedule=interleaved_1f1b", "pp=2 tp=2 schedule=zbv", "pp=2 cp=2", "pp=4 tp=2"),
        quick=("dp_shard=2 tp=2", "pp=2 dp_shard=2"),
    ),
    # three axes and more
    *rows(
        "llama",
        *("pp=2 dp_shard=2 tp=2", "pp=2 dp_shard=2 tp=2 schedule=interleaved_1f1b"),
        *("pp=2 dp_shard=2 tp=2 schedule=zbv zero=1", "pp=2 tp=2 cp=2", "pp=2 dp_shard=2 cp=2", "dp_shard=2 tp=2 cp=2"),
        *("dp_replicate=2 dp_shard=2 tp=2", "dp_replicate=2 dp_shard=2 cp=2", "dp_replicate=2 dp_shard=2 pp=2"),
        *("dp_replicate=2 pp=2 tp=2", "dp_shard=2 tp=2 cp=2 cp_method=ulysses"),
    ),
    # weights with two names; several documents in a row
    *rows("llama, tied", "dp_shard=2", "tp=2", "dp_shard=2 tp=2"),
    *rows("llama, documents", "dp_shard=2", "cp=2 cp_method=gather", "pp=2 dp_shard=2", "tp=2"),
    # experts
    *rows(
        "mixtral",
        *("dp_shard=2", "tp=2", "pp=2", "cp=2", "dp_shard=2 ep=2", "dp_shard=4 ep=4", "dp_shard=4 ep=2", "cp=2 ep=2"),
        *("dp_replicate=2 dp_shard=2 ep=2", "dp_shard=2 ep=2 tp=2", "dp_shard=2 ep=2 pp=2", "dp_shard=2 ep=2 cp=2"),
        *("dp_shard=2 ep=2 pp=2 tp=2", "dp_shard=2 ep=2 zero=1"),
        quick=("dp_shard=2 ep=2",),
    ),
    # speech
    *rows(
        "quartznet",
        *("dp_replicate=2", "dp_shard=2", "dp_shard=2 zero=1", "tp=2", "dp_shard=2 tp=2", "dp_replicate=2 dp_shard=2"),
        quick=("tp=2",),
    ),
    # less is kept, and other numbers
    *rows(
        "llama",
        *("dp_shard=2 recompute.kind=full", "tp=2 dp_shard=2 recompute.kind=selective", "pp=2 recompute.kind=full"),
        *("dp_shard=2 precision=bf16-mixed", "dp_shard=2 precision=bf16-true", "tp=2 precision=bf16-true"),
        *("pp=2 precision=bf16-true", "tp=2 precision=bf16-mixed", "dp_shard=2 precision=16-mixed"),
        *("dp_shard=2 precision=fp8", "dp_shard=2 precision=fp8-rowwise"),
        *("tp=2 precision=fp8", "tp=2 precision=fp8-rowwise"),
    ),
)

REFUSED: tuple[Row, ...] = (
    *rows(
        "llama",
        *("pp=2 dp_shard=2 schedule=zbv", "pp=2 dp_shard=2 schedule=interleaved_zero_bubble zero=2"),
        *("pp=2 schedule=1f1b stages_per_rank=2", "pp=8", "tp=3", "ep=2", "async_tp=true tp=2 compile=true"),
        *("cp=2 data.sequence_len=66",),
    ),
    *rows("llama, tied", "pp=2"),
    *rows("llama, documents", "cp=2"),
    *rows("mixtral", "dp_shard=3 ep=2", "dp_shard=8 ep=8"),
    *rows("quartznet", "pp=2", "cp=2"),
)
"""Layouts that cannot be, or are known to be wrong in torch 2.13."""

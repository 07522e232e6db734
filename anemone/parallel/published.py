"""Published training runs, against which predictions are held: what ran, how fast it was, and who says so.

Rows marked ``calibrated`` are those that constants of `hardware.py` and `costs.py` were fitted to; all others are
judged only. The marks were set before anything was fitted. docs/planner.md says which constant comes from which row,
what sources leave open and how it was filled in, and which published rows are not here and why.
"""

from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

from anemone.parallel.hardware import GB, GPU, gpu_named
from anemone.parallel.memory import Decoder, Layout
from anemone.parallel.prediction import Job, Prediction, predict

LLAMA3, LLAMA2 = 128_256, 32_000


def _decoder(
    d_model: int,
    num_layers: int,
    num_heads: int,
    kv: int,
    d_ff: int,
    vocab_size: int,
    experts: tuple[int, int] = (0, 1),
) -> Decoder:
    return Decoder(
        d_model=d_model,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=kv,
        d_head=128,
        d_ff=d_ff,
        vocab_size=vocab_size,
        num_experts=experts[0],
        num_experts_per_token=experts[1],
    )


DECODERS = {
    "llama2_7b": _decoder(4096, 32, 32, 32, 11_008, LLAMA2),
    "llama2_13b": _decoder(5120, 40, 40, 40, 13_824, LLAMA2),
    "llama2_34b": _decoder(8192, 48, 64, 8, 22_016, LLAMA2),
    "llama2_70b": _decoder(8192, 80, 64, 8, 28_672, LLAMA2),
    "llama3_8b": _decoder(4096, 32, 32, 8, 14_336, LLAMA3),
    "llama3_70b": _decoder(8192, 80, 64, 8, 28_672, LLAMA3),
    "llama3_405b": _decoder(16_384, 126, 128, 8, 53_248, LLAMA3),
    "qwen3_30b_a3b": _decoder(2048, 48, 32, 4, 768, 151_936, (128, 8)),
    "qwen3_235b_a22b": _decoder(4096, 94, 64, 4, 1536, 151_936, (128, 8)),
}


class Run(NamedTuple):
    """One published measurement."""

    source: str
    model: str
    gpu: str
    layout: Layout
    sequence_len: int
    micro_batch: int
    micro_batches: int
    tokens_per_second: float
    """Of one GPU."""
    calibrated: bool = False
    network: float | None = None
    """Bytes a second of one GPU between machines, where it is not that of the table."""

    @property
    def job(self) -> Job:
        """What ran."""
        return Job(DECODERS[self.model], self.sequence_len, self.micro_batch, self.micro_batches)

    @property
    def hardware(self) -> GPU:
        """On what it ran."""
        gpu = gpu_named(self.gpu)
        return gpu if self.network is None else replace(gpu, slow=self.network)

    def predicted(self) -> Prediction:
        """What the planner says of it."""
        return predict(self.job, self.layout, self.hardware)

    def error(self) -> float:
        """Relative error of the predicted tokens a second."""
        return self.predicted().tokens_per_second / self.tokens_per_second - 1


TITAN = "torchtitan 2024-12"
TITAN_TP = "torchtitan 2025-06"
TITAN_H200 = "torchtitan 2025-06, Trainy"
IBM = "fms-fsdp"
BRIDGE = "Megatron-Bridge"
SOURCES = {
    TITAN: "github.com/pytorch/torchtitan/blob/b5bcd76/benchmarks/llama3_h100_202412_torchtitan.md",
    TITAN_TP: "github.com/pytorch/torchtitan/blob/b5bcd76/benchmarks/asyncTP_llama3_h100_2025-06_torchtitan.md",
    TITAN_H200: "github.com/pytorch/torchtitan/blob/b5bcd76/benchmarks/llama3-8b_h200_202506_trainy-whitefiber.md",
    IBM: "github.com/foundation-model-stack/fms-fsdp/blob/main/README.md",
    BRIDGE: "github.com/NVIDIA-NeMo/Megatron-Bridge/blob/067f987/docs/performance-summary-archive.md",
    "Automodel": "github.com/NVIDIA-NeMo/Automodel/blob/36044ad/docs/performance-summary.mdx",
    "Llama 3": "arXiv:2407.21783, table 4",
}
"""Short name of a source -> where it is."""


TITAN_LAYOUT = Layout(compile=True, recompute="alternate")
IBM_LAYOUT = Layout(compile=True, summed=2)  # FSDP1 with its policy `bfSixteen`: gradients are summed in bf16, too
BRIDGE_LAYOUT = Layout(compile=True, precision="fp8", zero=1, async_tp=True, kernels="te")
"""Megatron-Core: weights whole, optimizer sharded, fused kernels, tensor-parallel transfers overlapped."""


def _interleaved(ranks: int, chunks: int) -> dict[str, Any]:
    return {"pp": ranks, "schedule": "interleaved_1f1b", "stages_per_rank": chunks}


GRAND_TETON = "h100-96gb-500w"
RUNS = (
    # source, model, GPU, layout, sequence, micro-batch, micro-batches, tokens a second of a GPU
    Run(
        TITAN,
        "llama3_8b",
        GRAND_TETON,
        replace(TITAN_LAYOUT, dp_shard=8, compile=False),
        8192,
        2,
        1,
        5762,
        calibrated=True,
    ),
    Run(TITAN, "llama3_8b", GRAND_TETON, replace(TITAN_LAYOUT, dp_shard=8), 8192, 2, 1, 6667, calibrated=True),
    Run(
        TITAN,
        "llama3_8b",
        GRAND_TETON,
        replace(TITAN_LAYOUT, dp_shard=8, precision="fp8"),
        8192,
        2,
        1,
        8532,
        calibrated=True,
    ),
    Run(TITAN, "llama3_8b", GRAND_TETON, replace(TITAN_LAYOUT, dp_shard=128, compile=False), 8192, 2, 1, 5605),
    Run(TITAN, "llama3_8b", GRAND_TETON, replace(TITAN_LAYOUT, dp_shard=128), 8192, 2, 1, 6514),
    Run(TITAN, "llama3_8b", GRAND_TETON, replace(TITAN_LAYOUT, dp_shard=128, precision="fp8"), 8192, 2, 1, 8380),
    *(
        Run(
            TITAN,
            "llama3_8b",
            GRAND_TETON,
            replace(TITAN_LAYOUT, dp_shard=8 // cp, cp=cp, cp_method="gather", precision="fp8", recompute="full"),
            32_768 * cp,
            1,
            1,
            rate,
        )
        for cp, rate in ((1, 3890), (2, 2540), (4, 1071), (8, 548))
    ),
    *(
        Run(
            TITAN,
            "llama3_70b",
            GRAND_TETON,
            replace(TITAN_LAYOUT, dp_shard=32, tp=8, precision="fp8", recompute="full", async_tp=overlap),
            8192,
            16,
            1,
            rate,
        )
        for overlap, rate in ((False, 829), (True, 876))
    ),
    Run(
        TITAN,
        "llama3_405b",
        GRAND_TETON,
        replace(TITAN_LAYOUT, dp_shard=8, tp=8, pp=8, zero=1, precision="fp8", recompute="full", async_tp=True),
        8192,
        4,
        8,
        100,
    ),
    Run(
        TITAN,
        "llama3_405b",
        GRAND_TETON,
        replace(
            TITAN_LAYOUT,
            dp_shard=8,
            tp=8,
            zero=1,
            precision="fp8",
            recompute="full",
            async_tp=True,
            **_interleaved(8, 2),
        ),
        8192,
        4,
        8,
        128,
    ),
    *(
        Run(
            TITAN,
            "llama3_405b",
            GRAND_TETON,
            replace(
                TITAN_LAYOUT,
                dp_shard=8 // cp,
                cp=cp,
                cp_method="gather",
                tp=8,
                pp=8,
                zero=1,
                precision="fp8",
                recompute="full",
                async_tp=True,
            ),
            32_768 * cp,
            1,
            8,
            rate,
        )
        for cp, rate in ((1, 76), (2, 47), (4, 31), (8, 16))
    ),
    Run(
        TITAN_TP,
        "llama3_70b",
        GRAND_TETON,
        replace(TITAN_LAYOUT, dp_shard=32, tp=8, recompute="full"),
        8192,
        16,
        1,
        597.3,
        calibrated=True,
    ),
    Run(
        TITAN_TP,
        "llama3_70b",
        GRAND_TETON,
        replace(TITAN_LAYOUT, dp_shard=32, tp=8, recompute="full", async_tp=True),
        8192,
        16,
        1,
        652.4,
        calibrated=True,
    ),
    Run(
        TITAN_TP,
        "llama3_70b",
        GRAND_TETON,
        replace(TITAN_LAYOUT, dp_shard=32, tp=8, recompute="full", precision="fp8"),
        8192,
        16,
        1,
        809.8,
    ),
    Run(
        TITAN_TP,
        "llama3_70b",
        GRAND_TETON,
        replace(TITAN_LAYOUT, dp_shard=32, tp=8, recompute="full", precision="fp8", async_tp=True),
        8192,
        16,
        1,
        942.4,
    ),
    *(
        Run(
            TITAN_TP,
            "llama3_8b",
            GRAND_TETON,
            replace(TITAN_LAYOUT, dp_shard=8, tp=8, precision=precision, async_tp=overlap),
            8192,
            12,
            1,
            rate,
        )
        for precision, overlap, rate in (
            ("bf16-true", False, 4378),
            ("bf16-true", True, 4809.4),
            ("fp8", False, 5078.1),
            ("fp8", True, 5570.1),
        )
    ),
    *(
        Run(
            TITAN_H200,
            "llama3_8b",
            "h200-141gb",
            replace(TITAN_LAYOUT, dp_shard=gpus, precision="fp8"),
            8192,
            2,
            1,
            rate,
        )
        for gpus, rate in ((32, 10_938), (64, 10_753))
    ),
    Run(
        IBM,
        "llama2_7b",
        "a100-80gb",
        replace(IBM_LAYOUT, dp_replicate=16, dp_shard=8),
        4096,
        2,
        1,
        4550,
        calibrated=True,
        network=6.25 * GB,
    ),
    *(
        Run(
            IBM,
            model,
            "a100-80gb",
            replace(IBM_LAYOUT, dp_shard=128, recompute="full", recomputed=share),
            4096,
            2,
            1,
            rate,
            network=6.25 * GB,
        )
        for model, share, rate in (("llama2_13b", 0.4, 2150), ("llama2_34b", 1.0, 820), ("llama2_70b", 1.0, 410))
    ),
    Run(
        IBM,
        "llama2_7b",
        "h100-80gb",
        replace(IBM_LAYOUT, dp_replicate=12, dp_shard=8),
        4096,
        2,
        1,
        9600,
        calibrated=True,
        network=12.5 * GB,
    ),
    *(
        Run(
            IBM,
            model,
            "h100-80gb",
            replace(IBM_LAYOUT, dp_shard=96, recompute="full", recomputed=share),
            4096,
            2,
            1,
            rate,
            network=12.5 * GB,
        )
        for model, share, rate in (("llama2_13b", 0.21, 4850), ("llama2_34b", 0.87, 1830), ("llama2_70b", 0.71, 890))
    ),
    Run(
        "Automodel",
        "llama3_70b",
        "h100-80gb",
        Layout(dp_shard=32, cp=2, cp_method="gather", compile=True, recompute="full"),
        8192,
        1,
        4,
        866.8,
    ),
    Run(
        "Automodel",
        "qwen3_30b_a3b",
        "h100-80gb",
        Layout(dp_shard=8, ep=8, zero=2, compile=True, recompute="full", kernels="te"),
        4096,
        4,
        16,
        12_040,
    ),
    Run(
        "Llama 3",
        "llama3_405b",
        "h100-80gb",
        Layout(dp_shard=64, tp=8, zero=1, compile=True, **_interleaved(16, 4)),
        8192,
        1,
        32,
        430e12 / 2.634e12,
    ),
    Run(
        "Llama 3",
        "llama3_405b",
        "h100-80gb",
        Layout(dp_shard=128, tp=8, zero=1, compile=True, **_interleaved(16, 4)),
        8192,
        1,
        16,
        400e12 / 2.634e12,
    ),
    Run(
        BRIDGE,
        "llama3_8b",
        "h100-80gb",
        replace(BRIDGE_LAYOUT, dp_shard=8, zero=3, recompute="full", recomputed=5 / 32),
        8192,
        1,
        16,
        14_451,
        calibrated=True,
    ),
    *(
        Run(
            BRIDGE,
            "llama3_70b",
            "h100-80gb",
            replace(BRIDGE_LAYOUT, dp_shard=2, tp=4, **_interleaved(8, 5)),
            8192,
            1,
            batches,
            rate,
        )
        for batches, rate in ((64, 1602), (128, 1633))
    ),
    *(
        Run(
            BRIDGE,
            "llama3_405b",
            "h100-80gb",
            replace(BRIDGE_LAYOUT, dp_shard=8, tp=8, cp=2, cp_method="ring", **_interleaved(8, 8)),
            8192,
            1,
            batches,
            rate,
        )
        for batches, rate in ((64, 292), (192, 311))
    ),
    Run(BRIDGE, "llama3_8b", "b200-180gb", replace(BRIDGE_LAYOUT, dp_shard=8), 8192, 2, 8, 30_624, calibrated=True),
    Run(
        BRIDGE,
        "llama3_405b",
        "b200-180gb",
        replace(BRIDGE_LAYOUT, dp_shard=2, tp=4, cp=2, **_interleaved(8, 8)),
        8192,
        1,
        32,
        661,
    ),
    Run(BRIDGE, "llama3_8b", "gb200-186gb", replace(BRIDGE_LAYOUT, dp_shard=8), 8192, 2, 8, 31_508),
    Run(BRIDGE, "llama3_70b", "gb200-186gb", replace(BRIDGE_LAYOUT, dp_shard=64, zero=3), 8192, 2, 2, 4312),
    Run(
        BRIDGE,
        "llama3_405b",
        "gb200-186gb",
        replace(BRIDGE_LAYOUT, dp_shard=4, tp=4, **_interleaved(16, 4)),
        8192,
        1,
        384,
        813,
    ),
    Run(BRIDGE, "llama3_8b", "gb300-288gb", replace(BRIDGE_LAYOUT, dp_shard=8), 8192, 2, 8, 37_556, calibrated=True),
    Run(BRIDGE, "llama3_70b", "gb300-288gb", replace(BRIDGE_LAYOUT, dp_shard=64, zero=3), 8192, 2, 2, 4520),
    Run(
        BRIDGE,
        "llama3_405b",
        "gb300-288gb",
        replace(BRIDGE_LAYOUT, dp_shard=8, tp=2, cp=2, **_interleaved(8, 4)),
        8192,
        1,
        192,
        999,
    ),
    Run(BRIDGE, "qwen3_30b_a3b", "h100-80gb", replace(BRIDGE_LAYOUT, dp_shard=16, ep=16), 4096, 1, 64, 8901),
    Run(
        BRIDGE,
        "qwen3_235b_a22b",
        "h100-80gb",
        replace(BRIDGE_LAYOUT, dp_shard=16, tp=2, ep=16, **_interleaved(8, 4)),
        4096,
        1,
        512,
        1686,
    ),
    Run(
        BRIDGE,
        "qwen3_235b_a22b",
        "gb300-288gb",
        replace(BRIDGE_LAYOUT, dp_shard=64, ep=16, precision="bf16-true", **_interleaved(4, 12)),
        4096,
        2,
        64,
        6131,
    ),
)


def judged() -> float:
    """Returns the median absolute error over the rows that nothing was fitted to."""
    return median(abs(run.error()) for run in RUNS if not run.calibrated)


def rows() -> list[dict[str, Any]]:
    """Returns the table: every run, what was predicted, and by how much it is off."""
    found = []
    for run in RUNS:
        layout, said = run.layout, run.predicted()
        degrees = {
            "dp": layout.dp_replicate,
            "fsdp": layout.dp_shard,
            "cp": layout.cp,
            "tp": layout.tp,
            "pp": layout.pp,
        }
        degrees |= {"ep": layout.ep}
        found.append(
            {
                "source": run.source,
                "model": run.model,
                "GPUs": layout.world,
                "GPU": run.gpu,
                "layout": " ".join(f"{name}{degree}" for name, degree in degrees.items() if degree > 1),
                "precision": layout.precision,
                "sequence": run.sequence_len,
                "published": f"{run.tokens_per_second:,.0f}",
                "predicted": f"{said.tokens_per_second:,.0f}",
                "error": f"{run.error():+.0%}" + (" (calibrated)" if run.calibrated else ""),
            }
        )
    return found

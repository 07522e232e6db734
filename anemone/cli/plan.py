"""Predict which layouts of an experiment fit on some GPUs, and how fast each would train: know before you rent.

  anemone plan llama_70b --gpus 256 --gpu h100-80gb
  anemone plan llama_70b --gpus 256 data.sequence_len=32768 parallel.tp=8 --refused

Settings of `parallel` that are asked for here are kept, all others are tried; those that the experiment sets itself are
one layout among others, marked with a star. Nothing is trained, and no GPU is needed.
"""

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from anemone.cli import positive
from anemone.cli.config import add_experiment
from anemone.config import compose, encode, must
from anemone.parallel.hardware import GB, GIB, GPUS, gpu_named

if TYPE_CHECKING:
    from anemone.parallel.planner import Asked, Plan, Refused
    from anemone.parallel.prediction import Prediction


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    add_experiment(parser)
    parser.add_argument("--gpus", type=positive, required=True, metavar="N", help="how many there are")
    parser.add_argument("--gpu", default="h100-80gb", metavar="NAME", help=f"one of {', '.join(GPUS)}")
    parser.add_argument("--network", type=positive, metavar="GBIT", help="of each GPU between machines, Gbit a second")
    parser.add_argument("--sequences", type=positive, metavar="N", help="of a step, over all processes")
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="how many layouts to show (default 10)")
    parser.add_argument("--refused", action="store_true", help="list every layout that does not work")
    parser.add_argument("--json", action="store_true", help="one JSON object, with everything")


def run(args: argparse.Namespace) -> int:
    """Prints the layouts."""
    from anemone.cli.table import table
    from anemone.parallel.planner import plan

    asked = question(args)
    found = plan(asked)
    if args.json:
        print(_json(asked, found, args.top))
        return 0 if found.feasible else 1
    print(_heading(args, asked))
    if found.feasible:
        shown = found.feasible[: args.top]
        print(f"\n{table([_row(number, one, asked.base) for number, one in enumerate(shown, 1)])}")
        memory = table([_memory(number, one) for number, one in enumerate(shown, 1)])
        print(f"\nMemory of the process that needs the most, GiB:\n{memory}")
        print(f"\nWhat a process of layout 1 exchanges in a step:\n{table(_traffic(shown[0]))}")
        print(f"\nlayout 1: {overrides(shown[0])}")
    print(f"\n{_refusals(found, all_of_them=args.refused)}")
    return 0 if found.feasible else 1


# --- what is asked ----------------------------------------------------------------------------------------------------


def question(args: argparse.Namespace) -> "Asked":
    """Returns what is to be planned.

    Raises:
        ConfigError: the experiment is none of a language model, or its settings cannot be planned.
    """
    from dataclasses import replace

    from anemone.parallel.activations import BYTES
    from anemone.parallel.costs import number_of
    from anemone.parallel.memory import OPTIMIZERS, Decoder
    from anemone.parallel.planner import Asked
    from anemone.training.settings import experiment

    gpu = gpu_named(args.gpu)
    if args.network is not None:
        gpu = replace(gpu, slow=args.network / 8 * GB)
    config = experiment(args.experiment, args.overrides)
    tree = encode(config)
    kind, optim = tree["model"]["kind"], tree["optim"]
    hint = "`anemone inspect` shows the sizes of other networks."
    must(kind == "llama", "model.kind", "llama: time and activations of others are not known", value=kind, hint=hint)
    optimizer = f"{optim['kind']} with momentum" if optim["kind"] == "sgd" and optim["momentum"] else optim["kind"]
    must(optimizer in OPTIMIZERS, "optim.kind", f"one of {', '.join(OPTIMIZERS)} for a plan", value=optimizer)
    must(config.precision in BYTES, "precision", f"one of {', '.join(BYTES)} for a plan", value=config.precision)
    must(number_of(config.precision) in gpu.peak, "precision", f"one that {gpu.name} has", value=config.precision)
    vocabulary = config.task.vocab_size or config.task.tokenizer.build({}).vocab_size
    data, micro = config.data, config.data.batch_size
    step = config.trainer.batches_per_step or args.gpus
    return Asked(
        decoder=Decoder.of(config.model.shape, vocabulary),
        sequence_len=data.sequence_len,
        micro_batch=micro,
        sequences=args.sequences or step * micro,
        gpus=args.gpus,
        gpu=gpu,
        base=config.parallel,
        fixed=_fixed(args.experiment, args.overrides, config.parallel),
        optimizer=optimizer,
        precision=config.precision,
    )


def _fixed(name: str, overrides: list[str], parallel: Any) -> dict[str, Any]:
    """The settings of `parallel` that these overrides set, one by one or by a file of the group."""
    keys = {text: text.partition("=")[0].lstrip("+~").split(".") for text in overrides}
    ours = {text: key[1:] for text, key in keys.items() if key[0] == "parallel"}
    named = {key[0] for key in ours.values() if key}
    if not all(ours.values()):
        others = [text for text in overrides if text not in ours]
        before, after = (compose(name, words).get("parallel") or {} for words in (others, overrides))
        named |= {key for key in after if after[key] != before.get(key)}
    return {key: getattr(parallel, key) for key in sorted(named)}


# --- what is told -----------------------------------------------------------------------------------------------------


def _heading(args: argparse.Namespace, asked: "Asked") -> str:
    from anemone.parallel.memory import count

    job = f"{asked.sequences:,} sequences of {asked.sequence_len:,} tokens a step"
    return (
        f"{args.experiment}: {count(asked.decoder):,} parameters, {job}, micro-batches of {asked.micro_batch}, "
        f"{asked.precision}, on {asked.gpus:,} {asked.gpu.name}"
    )


def _row(number: int, prediction: "Prediction", own: Any) -> dict[str, Any]:
    layout, step = prediction.layout, prediction.step
    pipeline = layout.schedule + (f" x{layout.stages_per_rank}" if layout.stages_per_rank > 1 else "")
    return {
        "": f"{number}{'*' if _same(layout, own) else ''}",
        "layout": degrees(layout),
        "zero": layout.zero if layout.sharded > 1 else None,
        "schedule": pipeline if layout.pp > 1 else None,
        "recompute": layout.recompute,
        "batches": prediction.micro_batches,
        "step s": f"{step:.2f}",
        "tokens/s/GPU": f"{prediction.tokens_per_second:,.0f}",
        "MFU": f"{prediction.utilisation:.1%}",
        "bubble": f"{prediction.seconds['bubble'] / step:.1%}" if layout.pp > 1 else None,
        "waits": f"{prediction.seconds['communication'] / step:.1%}",
        "GiB": f"{prediction.needed / GIB:.1f}",
    }


def degrees(layout: Any) -> str:
    """The degrees of a layout that are not 1, outermost first."""
    names = {"pp": "pp", "dp_replicate": "dp", "dp_shard": "fsdp", "cp": "cp", "tp": "tp", "ep": "ep"}
    return (
        " ".join(
            f"{short}{value}" for name, short in names.items() if (value := getattr(layout, name)) not in (None, 1)
        )
        or "1"
    )


def _same(layout: Any, own: Any) -> bool:
    """Whether a layout is what the experiment asks for."""
    from anemone.parallel.memory import recompute_kind

    names = ("dp_shard", "cp", "tp", "pp", "ep", "zero", "schedule")
    turns = own.stages_per_rank in (None, layout.stages_per_rank)
    return (
        turns
        and recompute_kind(own) == layout.recompute
        and all(getattr(layout, name) == getattr(own, name) for name in names)
    )


def _memory(number: int, prediction: "Prediction") -> dict[str, Any]:
    parts = {name: f"{size / GIB:.1f}" for name, size in prediction.memory.items()}
    return {"": str(number)} | parts | {"all": f"{prediction.needed / GIB:.1f}"}


def _traffic(prediction: "Prediction") -> list[dict[str, Any]]:
    return [
        {
            "what": row.what,
            "axis": row.axis,
            "collective": row.collective,
            "link": row.link,
            "calls": row.calls,
            "payload GB": f"{row.payload / GB:.3f}",
            "received GB": f"{row.moved / GB:.3f}",
            "alone s": f"{row.seconds:.3f}",
        }
        for row in prediction.traffic
    ] or [{"what": "nothing"}]


def overrides(prediction: "Prediction") -> str:
    """The overrides with which `anemone train` runs a layout."""
    layout = prediction.layout
    names = ["dp_replicate", "dp_shard", "cp", "tp", "pp", "ep", "zero"]
    names += ["schedule", "stages_per_rank"] if layout.pp > 1 else []
    words = [f"parallel.{name}={getattr(layout, name)}" for name in names]
    batches = prediction.micro_batches * layout.data
    return " ".join([*words, f"parallel.recompute={layout.recompute}", f"trainer.batches_per_step={batches}"])


def _refusals(found: "Plan", *, all_of_them: bool) -> str:
    from anemone.cli.table import table

    if not found.refused:
        return f"{len(found.feasible)} layouts fit; none was refused"
    counts = Counter(refused.kind for refused in found.refused)
    lines = [f"{len(found.feasible)} layouts fit; {len(found.refused)} do not:"]
    if all_of_them:
        return "\n".join([*lines, table([{"layout": degrees(r.config), "why not": _why(r)} for r in found.refused])])
    rows = []
    for kind, number in counts.most_common():
        same = [refused for refused in found.refused if refused.kind == kind]
        nearest = min(same, key=lambda refused: refused.memory or 0)
        rows.append({"why": kind, "layouts": number, "for example": f"{degrees(nearest.config)}: {nearest.reason}"})
    return "\n".join([*lines, table(rows)])


def _why(refused: "Refused") -> str:
    from anemone.parallel.memory import recompute_kind

    config = refused.config
    if refused.kind != "memory":
        return refused.reason
    return f"zero {config.zero}, {config.schedule}, recompute {recompute_kind(config)}: {refused.reason}"


def _json(asked: "Asked", found: "Plan", top: int) -> str:
    import json
    from dataclasses import asdict

    layouts = [
        {
            "layout": asdict(one.layout),
            "overrides": overrides(one).split(),
            "micro_batches": one.micro_batches,
            "step_seconds": one.step,
            "seconds": one.seconds,
            "tokens_per_second_per_gpu": one.tokens_per_second,
            "mfu": one.utilisation,
            "memory_bytes": one.memory,
            "traffic": [row._asdict() for row in one.traffic],
        }
        for one in found.feasible[:top]
    ]
    refused = [{"layout": degrees(r.config), "kind": r.kind, "reason": _why(r)} for r in found.refused]
    question = {"gpus": asked.gpus, "gpu": asked.gpu.name, "sequences": asked.sequences}
    question |= {"sequence_len": asked.sequence_len, "micro_batch": asked.micro_batch, "precision": asked.precision}
    return json.dumps({"asked": question, "feasible": len(found.feasible), "layouts": layouts, "refused": refused})

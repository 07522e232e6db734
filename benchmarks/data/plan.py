"""Times batch plans, ours and those of Lhotse's DynamicBucketingSampler: the same work, in one run, in turns.

Each side is a process that goes through an epoch when told to and looks at every micro-batch. Lhotse is given cuts that
cost nothing to read, and the buffers it has by default. Memory is that of the whole process, with what it imports.

    python benchmarks/data/plan.py --ours PYTHON --peer PYTHON [--number 1000000] [--epochs 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ITEMS = {
    "seconds": "300 s with padding, 30 buckets",
    "attention": "the same, d seconds count as d + d²/20",
}
Answer = dict[str, float]


class Worker:
    """A process that goes through epochs."""

    def __init__(self, python: str, script: str, number: int) -> None:
        command = [python, str(HERE / script), str(number)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, item: str, epoch: int) -> Answer:
        """Time, micro-batches and memory of an epoch."""
        assert self.process.stdin and self.process.stdout
        time.sleep(0.2)
        print(item, epoch, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.process.args} ended at {item}; run it by hand to see why")


def row(name: str, answers: list[Answer], number: int) -> str:
    """One side of an item: medians, and memory after each epoch."""
    assert all(answer["utterances"] == number for answer in answers), f"{name}: not every utterance once"
    rate = number / statistics.median(answer["seconds"] for answer in answers)
    padding = statistics.median(answer["padding"] for answer in answers)
    memory = ", ".join(f"{answer['resident']:.0f}" for answer in answers)
    batches = statistics.median(answer["batches"] for answer in answers)
    beyond = statistics.median(answer["beyond"] for answer in answers)
    peak = answers[-1]["peak"]
    return f"| {name} | {rate:,.0f} | {batches:,.0f} | {padding:.2%} | {beyond:.1%} | {memory} | {peak:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", default=sys.executable, help="Python of our environment")
    parser.add_argument("--peer", required=True, help="Python of the peer's environment")
    parser.add_argument("--number", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--items", nargs="*", default=list(ITEMS), choices=list(ITEMS))
    args = parser.parse_args()
    print("| side, budget | utterances a second | micro-batches | padding | beyond | MB after each epoch | peak MB |")
    print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for item in args.items:
        ours, peer = (
            Worker(python, script, args.number)
            for python, script in ((args.ours, "plan_ours.py"), (args.peer, "plan_lhotse.py"))
        )
        pairs = [(ours.ask(item, epoch), peer.ask(item, epoch)) for epoch in range(args.epochs)]
        us, them = (list(side) for side in zip(*pairs, strict=True))
        print(row(f"anemone, {ITEMS[item]}", us, args.number))
        print(row(f"Lhotse 1.33.0, {ITEMS[item]}", them, args.number))
        clock, cpu = (statistics.median(b[key] / a[key] for a, b in pairs) for key in ("seconds", "cpu"))
        print(f"\n{item}: ratio {clock:.1f} by the clock, {cpu:.1f} in seconds of the processor\n", flush=True)


if __name__ == "__main__":
    main()

"""Times us and the peer in one run, in turns, and prints medians and ratios.

Each side is a worker process that times one repetition when told to, so that both meet the same machine within the same
second. A pair is one repetition of each; the ratio is the median over the pairs of (peer seconds / our seconds).

    python benchmarks/run.py --ours PYTHON --peer PYTHON [--pairs 15] [--items log_mel quartznet_train ...]
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).parent
REST = 0.5  # seconds before a repetition, so that the other side's threads no longer spin for work
ITEMS = {
    "log_mel": "log-mel, 80 bins, batch 4 x 8 s",
    "quartznet_train": "QuartzNet 5x5 training step, batch 4 (27 s of audio)",
    "quartznet_infer": "QuartzNet 5x5 inference, batch 4 (27 s of audio)",
}

START = {
    "import": ("import anemone", "import nemo"),
    "import of the part that loads models": (
        "from anemone import load",
        "from nemo.collections.asr.models import ASRModel",
    ),
    "`anemone --help`": ("from anemone.cli import main; main(['--help'])", None),
}


class Worker:
    """A process that times what it is told to."""

    def __init__(self, python: str, script: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [python, str(HERE / script), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, item: str) -> dict[str, float]:
        """Seconds of one repetition, and what else the worker says of it."""
        assert self.process.stdin
        time.sleep(REST)
        print(item, file=self.process.stdin, flush=True)
        return self.wait()

    def wait(self) -> dict[str, float]:
        """What the worker says next."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.process.args} ended; run it by hand to see why")


def measure(ours: Worker, peer: Worker, item: str, title: str, pairs: int) -> str:
    for _ in range(3):
        first, second = ours.ask(item), peer.ask(item)
    sizes = (first["size"], second["size"])
    assert sizes[0] == sizes[1], f"{item}: not the same work: {sizes}"
    times = [(ours.ask(item)["seconds"], peer.ask(item)["seconds"]) for _ in range(pairs)]
    us, them = (statistics.median(side) for side in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    return f"| {title} | {1000 * us:.1f} | {1000 * them:.1f} | {ratio:.2f} |"


def start(python: str, statement: str, times: int = 5) -> float:
    """Median seconds of a new process that runs one statement; the first, which writes bytecode, does not count."""
    command, seconds = [python, "-c", statement], []
    for _ in range(times + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", required=True, help="Python of our environment")
    parser.add_argument("--peer", required=True, help="Python of the peer's environment")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--items", nargs="*", default=list(ITEMS), choices=list(ITEMS))
    args = parser.parse_args()
    ours, peer = Worker(args.ours, "ours.py"), Worker(args.peer, "peer_nemo.py")
    print("| what | anemone, ms | NeMo 3.0.0, ms | NeMo / anemone |\n|---|--:|--:|--:|")
    for item in args.items:
        print(measure(ours, peer, item, ITEMS[item], args.pairs), flush=True)
    print("\n| a new Python, seconds | anemone | NeMo 3.0.0 |\n|---|--:|--:|")
    for name, (us, them) in START.items():
        theirs = f"{start(args.peer, them):.2f}" if them else ""
        print(f"| {name} | {start(args.ours, us):.2f} | {theirs} |", flush=True)


if __name__ == "__main__":
    main()

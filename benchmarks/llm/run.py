"""Times the training of a Llama by us, a loop by hand, transformers' Trainer and litgpt: one run, in turns.

Each side is a process that trains in its own loop and takes a step when told to, so that all meet the same machine
within the same seconds. A round is one step of each; a ratio is the median over rounds of (their seconds / ours). The
peak is that of one product of two 2048 x 2048 matrices, measured in the same rounds.

    python benchmarks/llm/run.py --ours PYTHON --peer PYTHON [--rounds 9] [--sizes 20m 100m] [--formats fp32 bf16]
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import torch
from work import BATCH, SEQUENCE, SIZES, Size

HERE = Path(__file__).parent
REST = 0.3  # seconds before a step, so that the other side's threads no longer spin for work
WARM = 3  # rounds that do not count
SIDES = {"anemone": "ours.py", "by hand": "loop.py", "HF Trainer": "peer_hf.py", "litgpt": "peer_litgpt.py"}
PEERS = ("HF Trainer", "litgpt")  # sides that live in the peers' environment


class Side:
    """A process that trains."""

    def __init__(self, python: str, script: str, size: str, form: str) -> None:
        command = [python, str(HERE / script), size, form]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.parameters = int(self._answer("parameters"))

    def step(self) -> float:
        """Seconds of one step."""
        time.sleep(REST)
        assert self.process.stdin
        print(file=self.process.stdin, flush=True)
        return self._answer("seconds")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self, name: str) -> float:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{") and name in (said := json.loads(line)):
                return float(said[name])
        raise SystemExit(f"{self.process.args} ended; run it by hand to see why")


def work(size: Size) -> float:
    """Operations of the products of one step, forward and backward; half of the attention is masked."""
    kv = size.d_model * size.num_kv_heads // size.num_heads
    layer = 2 * size.d_model * (size.d_model + kv) + 3 * size.d_model * size.d_ff
    weights = size.num_layers * layer + size.d_model * size.vocab_size
    attention = size.num_layers * size.d_model * SEQUENCE
    return 6.0 * BATCH * SEQUENCE * (weights + attention)


def peak(form: str) -> float:
    """Operations a second of one large product."""
    dtype = torch.bfloat16 if form == "bf16" else torch.float32
    a = torch.randn(2048, 2048, dtype=dtype)
    start = time.perf_counter()
    a @ a
    return 2 * 2048**3 / (time.perf_counter() - start)


def measure(pythons: dict[str, str], size: str, form: str, rounds: int) -> str:
    sides = {name: Side(pythons[name], script, size, form) for name, script in SIDES.items()}
    try:
        assert len({side.parameters for side in sides.values()}) == 1, "not the same model"
        times, peaks = [], []
        for number in range(WARM + rounds):
            seconds = {name: side.step() for name, side in sides.items()}
            time.sleep(REST)
            best = peak(form)
            if number >= WARM:
                times.append(seconds)
                peaks.append(best)
    finally:
        for side in sides.values():
            side.end()
    ours = statistics.median(t["anemone"] for t in times)
    share = work(SIZES[size]) / ours / statistics.median(peaks)
    ratios = [f"{statistics.median(t[name] / t['anemone'] for t in times):.2f}" for name in list(SIDES)[1:]]
    return f"| {size}, {form} | {BATCH * SEQUENCE / ours:,.0f} | {share:.2f} | " + " | ".join(ratios) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", required=True, help="Python of our environment")
    parser.add_argument("--peer", required=True, help="Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--formats", nargs="*", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    args = parser.parse_args()
    torch.set_num_threads(2)
    pythons = {name: args.peer if name in PEERS else args.ours for name in SIDES}
    print(
        "| model, format | tokens a second | share of peak | " + " | ".join(f"{n} / anemone" for n in list(SIDES)[1:])
    )
    print("|---|--:|--:|" + "--:|" * (len(SIDES) - 1))
    for size in args.sizes:
        for form in args.formats:
            print(measure(pythons, size, form, args.rounds), flush=True)


if __name__ == "__main__":
    main()

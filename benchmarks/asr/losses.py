"""Times transducer losses of us and the peer in one run, in turns, and compares the memory that they take.

Loss and gradient of the same scores: batch 4, 100 frames, 20 tokens, 129 outputs (durations or big blanks on top).
NeMo's losses on a CPU are its numba one, for RNN-T, and those in PyTorch; of its TDT loss calls of `.cuda()` are taken
away. Last, RNN-T with its joint, from what encoder and predictor say: ours fused, NeMo's loss on all scores. Memory is
how far the resident set rises, in a process of its own that gives freed memory back.

    python benchmarks/asr/losses.py --ours PYTHON --peer PYTHON [--pairs 9] [--items rnnt ...]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SIZES = (4, 100, 20, 129)  # batch, frames, tokens, outputs
LARGE = (4, 100, 40, 1025)
WIDTH = 320
ITEMS = {  # what, its pairs at most, our way, ways of the peer
    "rnnt": ("RNN-T", 99, "ours", ("numba", "pytorch")),
    "multi_blank": ("multi-blank, skips 2 and 4", 99, "ours", ("pytorch",)),
    "tdt": ("TDT, durations 0 to 4", 1, "ours", ("pytorch",)),
    "joint": ("joint of 320 and RNN-T, 1025 outputs, 40 tokens", 2, "ours", ("numba",)),
}
EXTRAS = {"rnnt": 0, "multi_blank": 2, "tdt": 5, "joint": 0}
Work = Callable[[], float]


def work(side: str, item: str, sizes: tuple[int, int, int, int]) -> Work:
    """What is timed: loss and gradients; returns the sum of the losses."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    batch, frames, tokens, outputs = sizes
    targets = torch.randint(0, outputs - 1, (batch, tokens))
    lens = torch.full((batch,), frames), targets, torch.full((batch,), tokens)
    if item == "joint":
        x, predicted = (torch.randn(batch, n, WIDTH, requires_grad=True) for n in (frames, tokens + 1))
        joint = nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, outputs))
        leaves = [x, predicted, *joint.parameters()]
    else:
        leaves = [torch.randn(batch, frames, tokens + 1, outputs + EXTRAS[item], requires_grad=True)]
    if side == "ours":
        from anemone.losses.transducer import fused_transducer_loss, transducer_loss

        kind = {"multi_blank": {"big_blanks": (2, 4)}, "tdt": {"durations": (0, 1, 2, 3, 4)}}.get(item, {})

        def loss() -> torch.Tensor:
            if item == "joint":
                return fused_transducer_loss(x, predicted, joint, *lens)
            return transducer_loss(leaves[0], *lens, **kind)

    else:
        of_scores = peer(side, item, outputs - 1 + (EXTRAS[item] if item == "multi_blank" else 0))

        def loss() -> torch.Tensor:
            scores = joint(x[:, :, None] + predicted[:, None]) if item == "joint" else leaves[0]
            return of_scores(scores, lens[1], lens[0], lens[2])

    def once() -> float:
        total = loss().sum()
        torch.autograd.grad(total, leaves)
        return total.item()

    return once


def peer(side: str, item: str, blank: int) -> Callable:
    """A loss of NeMo's."""
    import torch
    from nemo.collections.asr.losses import rnnt_pytorch
    from nemo.collections.asr.parts.numba.rnnt_loss import RNNTLossNumba

    if item == "tdt":
        torch.Tensor.cuda = lambda self, *_, **__: self
        return rnnt_pytorch.TDTLossPytorch(blank, durations=[0, 1, 2, 3, 4], reduction="none")
    if item == "multi_blank":
        return rnnt_pytorch.MultiblankRNNTLossPytorch(blank, big_blank_durations=[2, 4], reduction="none")
    numba = side == "numba"
    return (RNNTLossNumba if numba else rnnt_pytorch.RNNTLossPytorch)(blank=blank, reduction="none")


def resident(field: str) -> float:
    """MiB that the process holds (VmRSS), or held at most (VmHWM)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def serve(side: str, item: str) -> None:
    """Answers each line of standard input with seconds, MiB and value of one repetition."""
    work(side, item, (1, 3, 2, 9))()  # loads and compiles what is loaded and compiled once
    once = work(side, item, LARGE if item == "joint" else SIZES)
    for _ in sys.stdin:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # forget the peak so far
        before, start = resident("VmRSS"), time.perf_counter()
        value = once()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "mib": resident("VmHWM") - before, "value": value}), flush=True)


class Side:
    """A process that repeats one item."""

    def __init__(self, python: str, side: str, item: str, *, giving_back: bool = False) -> None:
        env = {**os.environ, **({"MALLOC_MMAP_THRESHOLD_": "65536"} if giving_back else {})}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([python, __file__, "--serve", side, item], text=True, env=env, **pipes)

    def ask(self) -> dict[str, float]:
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.process.args} ended; run it by hand to see why")

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def memory(python: str, side: str, item: str) -> float:
    worker = Side(python, side, item, giving_back=True)
    answer = worker.ask()
    worker.end()
    return answer["mib"]


def row(args: argparse.Namespace, item: str, side: str) -> str:
    name, most, mine, _ = ITEMS[item]
    ours, theirs = Side(args.ours, mine, item), Side(args.peer, side, item)
    first, second = ours.ask(), theirs.ask()
    assert abs(first["value"] / second["value"] - 1) < 1e-4, f"{item}: not the same loss: {first}, {second}"
    pairs = []
    for _ in range(min(args.pairs, most)):
        time.sleep(0.3)  # so that threads of the one no longer spin while the other works
        us = ours.ask()
        time.sleep(0.3)
        pairs.append((us["seconds"], theirs.ask()["seconds"]))
    ours.end(), theirs.end()
    us, them = (1000 * statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    mib, mibs = memory(args.ours, mine, item), memory(args.peer, side, item)
    return f"| {name} | {side} | {us:.1f} | {them:,.0f} | {ratio:.0f} | {mib:.0f} | {mibs:.0f} | {mib / mibs:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--ours", default=sys.executable, help="Python of our environment")
    parser.add_argument("--peer", help="Python of the peer's environment")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--items", nargs="*", default=list(ITEMS), choices=list(ITEMS))
    args = parser.parse_args()
    if args.serve:
        return serve(*args.serve)
    print("| loss and gradient | NeMo's | anemone, ms | NeMo, ms | ratio | anemone, MiB | NeMo, MiB | ratio |")
    print("|---|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for item in args.items:
        for side in ITEMS[item][3]:
            print(row(args, item, side), flush=True)


if __name__ == "__main__":
    main()

"""Matrices a second out of Kaldi's arks, by us and by kaldiio, in turns.

    .venv/bin/python benchmarks/data/kaldi.py

2,000 matrices of 300 x 80 in each format, read by their table in a random order, each the median of some rounds. Both
keep the file open (kaldiio by its ``fd_dict``).
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import kaldiio
import numpy as np

from anemone.data.kaldi.places import Arks, parse_place, read_table, write_ark

FORMATS = ("float", "double", "cm1", "cm2", "cm3")


def rate(read: Callable[[str], object], places: list[str]) -> float:
    """Places a second."""
    start = time.perf_counter()
    for place in places:
        read(place)
    return len(places) / (time.perf_counter() - start)


def main() -> None:
    """Prints a row for each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--number", type=int, default=2_000)
    args = parser.parse_args()
    draw = np.random.default_rng(0)
    matrices = [(f"u{i:05}", draw.standard_normal((300, 80)).astype(np.float32)) for i in range(args.number)]
    print("| format | ours, matrices/s | kaldiio | ratio |\n|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as name:
        for format in FORMATS:
            ark, table = Path(name) / f"{format}.ark", Path(name) / f"{format}.scp"
            write_ark(ark, iter(matrices), table, format)
            places = [entry.value for entry in read_table(table)[0].values()]
            random.Random(0).shuffle(places)
            arks, files = Arks(), {}
            sides = {
                "ours": lambda place, arks=arks: arks.read(parse_place(place, place)),
                "kaldiio": lambda place, files=files: kaldiio.load_mat(place, fd_dict=files),
            }
            assert np.allclose(sides["ours"](places[0]), sides["kaldiio"](places[0]), atol=1e-5)
            rates = {side: [] for side in sides}
            for _ in range(args.rounds):
                for side, read in sides.items():
                    rates[side].append(rate(read, places))
            ours, theirs = (statistics.median(rates[side]) for side in sides)
            print(f"| {format} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.1f} |")
            arks.close()
            for file in files.values():
                file.close()
            ark.unlink()


if __name__ == "__main__":
    main()

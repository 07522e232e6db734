"""Times recognisers of us and the peer in one run, in turns: the same weights, audio and targets on both sides.

python benchmarks/asr/run.py --ours PYTHON --peer PYTHON [--pairs 15] [--items ctc_train ...]
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from run import Worker, measure

ITEMS = {
    "ctc_train": "FastConformer-CTC, 12.4 M: training step, batch 4 (27 s of audio)",
    "transducer_train": "FastConformer transducer, 13.4 M: training step with its loss, batch 4 (27 s of audio)",
    "ctc_infer": "FastConformer-CTC: inference, batch 4 (27 s of audio)",
    "ctc_infer_one": "FastConformer-CTC: inference, one recording of 8 s",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", required=True, help="Python of our environment")
    parser.add_argument("--peer", required=True, help="Python of the peer's environment")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--items", nargs="*", default=list(ITEMS), choices=list(ITEMS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peer = Worker(args.peer, "asr/peer.py", folder)
        peer.wait()  # until the archives are there
        ours = Worker(args.ours, "asr/ours.py", folder)
        print("| what | anemone, ms | NeMo 3.0.0, ms | NeMo / anemone |\n|---|--:|--:|--:|")
        for item in args.items:
            print(measure(ours, peer, item, ITEMS[item], args.pairs), flush=True)


if __name__ == "__main__":
    main()

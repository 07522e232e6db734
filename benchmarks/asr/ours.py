"""Our side: the archives that `peer.py` wrote, loaded with `anemone.load`.

python benchmarks/asr/ours.py FOLDER
"""

import sys
from pathlib import Path

import torch

import anemone

sys.path.insert(0, str(Path(__file__).parents[1]))
from ours import infer, train
from work import serve

if __name__ == "__main__":
    torch.set_num_threads(2)
    place = Path(sys.argv[1])
    serve(
        {
            "ctc_train": lambda: train(anemone.load(place / "ctc.nemo").train()),
            "transducer_train": lambda: train(anemone.load(place / "transducer.nemo").train()),
            "ctc_infer": lambda: infer(anemone.load(place / "ctc.nemo"), 4),
            "ctc_infer_one": lambda: infer(anemone.load(place / "ctc.nemo"), 1),
        }
    )

"""Lets the installed NeMo open archives that we wrote, and compares what both compute from them and both texts.

Small models of every family get random weights and are written by `anemone.tasks.nemo.save_nemo`; archives that the
command line names are read and written again. NeMo restores all in one process of its own; scores and states of two
recordings, one of them padded, may differ by 1e-4, texts not at all.

    python benchmarks/asr/nemo_opens.py --peer PYTHON [ARCHIVE.nemo ...]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

TOLERANCE = 1e-4
GOLDEN = Path(__file__).parents[2] / "tests/golden/parity"
CHARACTERS = {
    "kind": "characters",
    "characters": [" ", *"abcdefghijklmnopqrstuvwxyz"],
    "lowercase": True,
    "unknown": "drop",
}
PIECES = {"kind": "sentencepiece"}
MEL = {"kind": "log_mel", "num_mels": 40, "dither": 0.0}
MASKED = MEL | {"spec_augment": {"num_freq_masks": 2, "freq_width": 8}, "pad_to": 16, "normalize": "all_features"}
CEPSTRA = {"kind": "mfcc", "num_mels": 40, "num_mfcc": 20, "edges": "batch"}
CONFORMER = {"size": "custom", "num_layers": 2, "d_model": 32, "num_heads": 4, "kernel": 9}
FAST = CONFORMER | {"kind": "fastconformer", "subsampling": {"kind": "dw_striding", "factor": 8, "channels": 16}}
LSTM = {"predictor": {"kind": "lstm", "d_model": 24}, "d_joint": 24}
COMMANDS = {"kind": "classification", "labels": ["yes", "no", "on"], "pooling": "average_padded"}


def recogniser(tokenizer: dict[str, Any], head: dict[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a task."""
    return {"kind": "recognition", "tokenizer": tokenizer, **({"head": head} if head else {})}


MODELS: dict[str, dict[str, Any]] = {
    "quartznet": {"task": recogniser(CHARACTERS), "model": {"kind": "quartznet", "size": "tiny"}, "features": MASKED},
    "citrinet": {"task": recogniser(PIECES), "model": {"kind": "citrinet", "size": "tiny"}, "features": MEL},
    "jasper": {"task": recogniser(CHARACTERS), "model": {"kind": "jasper", "size": "tiny"}, "features": MEL},
    "matchboxnet": {"task": COMMANDS, "model": {"kind": "matchboxnet", "num_frames": 512}, "features": MEL},
    "marblenet_mfcc": {"task": COMMANDS, "model": {"kind": "matchboxnet", "size": "3x1x64"}, "features": CEPSTRA},
    "conformer_ctc": {"task": recogniser(PIECES), "model": CONFORMER | {"kind": "conformer"}, "features": MEL},
    "fastconformer_ctc": {"task": recogniser(PIECES), "model": FAST, "features": MEL},
    "fastconformer_rnnt": {"task": recogniser(PIECES, {"kind": "transducer", **LSTM}), "model": FAST, "features": MEL},
    "fastconformer_tdt": {
        "task": recogniser(PIECES, {"kind": "transducer", **LSTM, "durations": [0, 1, 2, 3, 4]}),
        "model": FAST,
        "features": MEL,
    },
    "conformer_multi_blank": {
        "task": recogniser(PIECES, {"kind": "transducer", **LSTM, "big_blanks": [2, 4]}),
        "model": CONFORMER | {"kind": "conformer"},
        "features": MEL,
    },
    "fastconformer_hybrid": {"task": recogniser(PIECES, {"kind": "hybrid", **LSTM}), "model": FAST, "features": MEL},
}


def utterances() -> tuple[torch.Tensor, torch.Tensor]:
    """Two recordings of speech, (2, S) and their samples."""
    data = np.load(GOLDEN / "utterances.npz")
    return torch.from_numpy(data["signal"] / np.float32(32768)), torch.from_numpy(data["signal_len"])


# --- ours -------------------------------------------------------------------------------------------------------------


def made(name: str) -> Any:
    """A model with weights that make its scores differ from frame to frame."""
    from anemone.tasks import rebuild

    torch.manual_seed(sum(name.encode()))
    files = {"tokenizer.model": (GOLDEN / "features/bpe_64.model").read_bytes()}
    tree = MODELS[name]
    task = rebuild(tree, files if tree["task"].get("tokenizer") == PIECES else {}).eval()
    for key, value in task.network.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.3)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif key.startswith("head.") and value.ndim > 1:
            value.mul_(3)
    return task


def write(task: Any, path: Path) -> None:
    """Writes the archive, and beside it what the model gives."""
    from anemone.tasks.nemo import save_nemo

    save_nemo(task, path)
    signal, signal_len = utterances()
    clips = [(x[:n], 16_000) for x, n in zip(signal, signal_len, strict=True)]
    with torch.inference_mode():
        seen = task.network.features(signal, signal_len)
        encoded = task.network.encoder(*seen)
        head = task.network.head
        ctc = getattr(head, "ctc", head)
        scores = ctc(encoded.x, encoded.x_len) if hasattr(ctc, "linear") else None
    scores = getattr(scores, "x", scores)
    arrays = {"encoded": encoded.x.mT.numpy(), **({} if scores is None else {"scores": scores.numpy()})}
    np.savez(path.with_suffix(".npz"), **arrays)
    answers = task.transcribe(clips, batch_size=1) if task.verb == "transcribe" else task.classify(clips, batch_size=1)
    texts = [getattr(answer, "text", "") or getattr(answer, "label", "") for answer in answers]
    path.with_suffix(".json").write_text(json.dumps(texts), "utf-8")


# --- the peer's -------------------------------------------------------------------------------------------------------


def opened(path: Path) -> dict[str, Any]:
    """What NeMo makes of an archive, compared with what we wrote beside it."""
    from nemo.core import ModelPT

    model = ModelPT.restore_from(str(path), map_location="cpu").eval()
    signal, signal_len = utterances()
    ours = np.load(path.with_suffix(".npz"))
    with torch.inference_mode():
        seen, seen_len = model.preprocessor(input_signal=signal, length=signal_len)
        if getattr(model, "crop_or_pad", None) is not None:
            seen, seen_len = model.crop_or_pad(input_signal=seen, length=seen_len)
        encoded, encoded_len = model.encoder(audio_signal=seen, length=seen_len)
        given: dict[str, Any] = {"encoded": (encoded, encoded_len)}
        decoder = getattr(model, "ctc_decoder", model.decoder)
        if "scores" in ours:
            given["scores"] = (decoder(encoder_output=encoded), encoded_len)
    worst = 0.0
    for name, (theirs, lens) in given.items():
        for b, n in enumerate(lens.tolist()):
            mine, other = torch.from_numpy(ours[name])[b], theirs[b]
            mine, other = (mine[:, :n], other[:, :n]) if name == "encoded" else (mine[:n], other[:n])
            worst = max(worst, float((mine - other).abs().max()))
    clips = [x[:n].numpy() for x, n in zip(signal, signal_len, strict=True)]
    if hasattr(model, "decoding"):
        said = [answer.text for answer in model.transcribe(clips, batch_size=1, verbose=False)]
    else:
        with torch.inference_mode():
            scores = [
                model(input_signal=torch.from_numpy(x)[None], input_signal_length=torch.tensor([len(x)])) for x in clips
            ]
        said = [model.cfg.labels[int(score[0].argmax())] for score in scores]
    texts = json.loads(path.with_suffix(".json").read_text("utf-8"))
    return {"class": type(model).__name__, "difference": worst, "same_text": said == texts, "texts": [texts, said]}


def peer_side(paths: list[Path]) -> None:
    """Prints a line of JSON for each archive."""
    import logging

    logging.disable(logging.CRITICAL)
    for path in paths:
        try:
            found = opened(path)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        print("FOUND " + json.dumps({"name": path.stem, **found}), flush=True)


def main() -> None:
    """Writes the archives, lets the peer open them, prints a table; fails where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", nargs="*", type=Path)
    parser.add_argument("--peer", help="the interpreter that has NeMo")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peer-side", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer_side:
        return peer_side(args.archives)
    import anemone

    failed = False
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in args.only:
            write(made(name), folder / f"{name}.nemo")
        for number, archive in enumerate(args.archives):
            write(anemone.load(archive), folder / f"{number}_{archive.parent.name}_{archive.stem}.nemo")
        command = [args.peer, __file__, "--peer-side", *sorted(map(str, folder.glob("*.nemo")))]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [json.loads(line[6:]) for line in run.stdout.splitlines() if line.startswith("FOUND ")]
    if not lines:
        sys.exit(run.stderr[-2000:])
    print(f"{'archive':<44} {'opened as':<28} {'differs by':>10}  text")
    for line in lines:
        if "error" in line:
            print(f"{line['name']:<44} {line['error']}")
            failed = True
            continue
        failed |= line["difference"] > TOLERANCE or not line["same_text"]
        text = "same" if line["same_text"] else f"differs: {line['texts']}"
        print(f"{line['name']:<44} {line['class']:<28} {line['difference']:>10.1e}  {text}")
    sys.exit(failed)


if __name__ == "__main__":
    main()

"""The peer's side of `scratch.py`: NeMo trains a model that starts with our first weights, for as many minutes.

    python benchmarks/asr/scratch_peer.py SETTINGS.json

`scratch.py` writes SETTINGS: `start` is a .nemo with the first weights, `out` is where the transcripts go.
"""

import json
import math
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf, open_dict

PROBE = 4  # steps that are timed to learn how many fit into the time


def data(settings: dict) -> dict:
    """NeMo's way to read a manifest into batches of like length: Lhotse with buckets."""
    return {
        "manifest_filepath": settings["train"],
        "sample_rate": 16_000,
        "use_lhotse": True,
        "batch_size": None,
        "batch_duration": settings["batch_seconds"],
        "use_bucketing": True,
        "num_buckets": 20,
        "bucket_buffer_size": 5_000,
        "shuffle_buffer_size": 5_000,
        "shuffle": True,
        "num_workers": settings["workers"],
        "max_duration": 20,
        "min_duration": 0.1,
        "text_field": "text",
        "lang_field": "lang",
    }


def fit(settings: dict, steps: int) -> tuple[torch.nn.Module, float]:
    """Trains from the first weights for so many steps; returns the model and the seconds it took."""
    pl.seed_everything(0)
    model = ASRModel.restore_from(settings["start"], map_location="cpu")
    optim = {
        "name": "adamw",
        "lr": settings["lr"],
        "betas": settings["betas"],
        "weight_decay": settings["weight_decay"],
        "sched": {
            "name": "CosineAnnealing",
            "warmup_steps": max(1, int(settings["warmup"] * steps)),
            "min_lr": 0.0,
            "max_steps": steps,
        },
    }
    with open_dict(model.cfg):
        model.cfg.optim = OmegaConf.create(optim)
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        precision=settings["precision"],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        gradient_clip_val=settings["clip_norm"],
    )
    model.set_trainer(trainer)
    model.setup_training_data(OmegaConf.create(data(settings)))
    model.setup_optimization(OmegaConf.create(optim))
    start = time.perf_counter()
    trainer.fit(model)
    return model, time.perf_counter() - start


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(settings["threads"])
    fit(settings, 3)  # compiles and fills caches
    _, seconds = fit(settings, PROBE)
    steps = math.floor(60 * settings["minutes"] / seconds * PROBE)
    model, seconds = fit(settings, steps)
    rows = [json.loads(line) for line in Path(settings["test"]).read_text().splitlines()]
    model.eval()
    heard = model.transcribe([row["audio_filepath"] for row in rows], batch_size=16, verbose=False)
    with open(settings["out"], "w", encoding="utf-8") as out:
        for row, found in zip(rows, heard, strict=True):
            out.write(json.dumps(row | {"pred_text": found.text}, ensure_ascii=False) + "\n")
    print(json.dumps({"steps": steps, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()

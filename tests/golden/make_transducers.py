"""Writes tests/golden/parity/transducer_options: small transducers of NeMo, and what NeMo computes with them.

Run by hand with NVIDIA NeMo 3.0.0, never by the tests: `python tests/golden/make_transducers.py`.
"""

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from nemo.collections.asr.losses.rnnt import RNNTLoss
from nemo.collections.asr.models import EncDecCTCModel, EncDecHybridRNNTCTCModel, EncDecRNNTModel
from omegaconf import OmegaConf

HOME = Path(__file__).parent / "parity"
LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
TEXTS = ["he was not an ill disposed young man", "he might even have been made amiable himself"]
WIDTH, HIDDEN = 32, 24
MODULES = "nemo.collections.asr.modules"
TORCH_CUDA = torch.Tensor.cuda


def lstm(**settings: object) -> dict:
    prednet = {"pred_hidden": HIDDEN, "pred_rnn_layers": 1, "dropout": 0.0, **settings}
    return {"_target_": f"{MODULES}.RNNTDecoder", "blank_as_pad": True, "prednet": prednet}


def stateless(context: int, norm: str | None) -> dict:
    prednet = {"pred_hidden": HIDDEN, "dropout": 0.0}
    kind = f"{MODULES}.StatelessTransducerDecoder"
    return {"_target_": kind, "prednet": prednet, "context_size": context, "normalization_mode": norm}


def settings(decoder: dict, activation: str, loss: dict, *, extra: int = 0, **more: object) -> dict:
    mel = {"_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor", "features": 32, "window_size": 0.025}
    return {
        "sample_rate": 16000,
        "labels": LETTERS,
        "model_defaults": {"enc_hidden": WIDTH, "pred_hidden": HIDDEN, "joint_hidden": HIDDEN},
        "preprocessor": {**mel, "normalize": "per_feature", "dither": 0.0, "pad_to": 0, "n_fft": 512},
        "encoder": {
            "_target_": f"{MODULES}.ConformerEncoder",
            **{"feat_in": 32, "n_layers": 2, "d_model": WIDTH, "n_heads": 2, "conv_kernel_size": 5},
            "ff_expansion_factor": 2,
            **{"subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 8},
            **{"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_emb": 0.0, "dropout_att": 0.0},
        },
        "decoder": decoder,
        "joint": {
            "_target_": f"{MODULES}.RNNTJoint",
            "jointnet": {"joint_hidden": HIDDEN, "activation": activation, "dropout": more.pop("joint_dropout", 0.0)},
            "num_extra_outputs": extra,
        },
        "decoding": {
            "strategy": "greedy_batch",
            "greedy": {"max_symbols": more.pop("most", 5)},
            **more.pop("decoding", {}),
        },
        "loss": loss,
        **more,
    }


def ctc(settings: dict) -> dict:
    kept = {key: settings[key] for key in ("sample_rate", "labels", "preprocessor", "encoder")}
    decoder = {"_target_": f"{MODULES}.ConvASRDecoder", "feat_in": WIDTH, "num_classes": 28, "vocabulary": LETTERS}
    return {**kept, "decoder": decoder, "interctc": {"loss_weights": [0.3, 0.2], "apply_at_layers": [1, 0]}}


AUX = {
    "ctc_loss_weight": 0.4,
    "ctc_reduction": "mean_volume",
    "decoder": {
        "_target_": f"{MODULES}.ConvASRDecoder",
        "feat_in": WIDTH,
        "num_classes": 28,
        "vocabulary": LETTERS,
    },
    "decoding": {"strategy": "greedy"},
}
PLAIN = {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.01, "clamp": -1.0}}
TDT = {"loss_name": "tdt", "tdt_kwargs": {"durations": [0, 1, 2, 3], "sigma": 0.05}}
MULTI = {"loss_name": "multiblank_rnnt", "multiblank_rnnt_kwargs": {"big_blank_durations": [2, 3, 5], "sigma": 0.05}}
MULTI_DECODING = {"big_blank_durations": [2, 3, 5]}
MODELS = {
    "rnnt_two_layers": (
        EncDecRNNTModel,
        settings(lstm(pred_rnn_layers=2), "tanh", PLAIN, rnnt_reduction="mean_volume", joint_dropout=1e-9, most=2),
    ),
    "tdt_sigmoid": (
        EncDecRNNTModel,
        settings(lstm(), "sigmoid", TDT, extra=4, decoding={"model_type": "tdt", "durations": [0, 1, 2, 3]}),
    ),
    "multi_blank_stateless": (
        EncDecRNNTModel,
        settings(
            stateless(3, "layer"), "relu", MULTI, extra=3, decoding={"model_type": "multiblank", **MULTI_DECODING}
        ),
    ),
    "hybrid_inner_ctc": (
        EncDecHybridRNNTCTCModel,
        settings(
            stateless(1, None),
            "relu",
            {"loss_name": "default"},
            aux_ctc=AUX,
            interctc={"loss_weights": [0.25], "apply_at_layers": [0]},
        ),
    ),
    "ctc_inner": (EncDecCTCModel, ctc(settings(lstm(), "relu", PLAIN))),
}


def lively(model: torch.nn.Module, name: str) -> None:
    """Random statistics, and scores far enough apart that no two tie."""
    generator = torch.Generator().manual_seed(len(name))
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
        elif key.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            last = key.startswith("joint.joint_net") or "decoder_layers" in key
            if last and key.endswith("weight"):
                parameter.mul_(12)
            if last and key.endswith("bias"):
                parameter[28:] += {"rnnt_two_layers": 0.5, "hybrid_inner_ctc": 0.5}.get(name, 2.0)


def losses_of(model, signal, signal_len, targets, target_len):
    """The model's loss, as its training step computes it."""
    model.loss_log = {}
    out, out_len = model.forward(input_signal=signal, input_signal_length=signal_len)[:2]
    if isinstance(model, EncDecCTCModel):
        loss = model.loss(log_probs=out, targets=targets, input_lengths=out_len, target_lengths=target_len)
    else:
        predicted, _, _ = model.decoder(targets=targets, target_length=target_len)
        joint = model.joint(encoder_outputs=out, decoder_outputs=predicted)
        loss = model.reference(log_probs=joint, targets=targets, input_lengths=out_len, target_lengths=target_len)
        if isinstance(model, EncDecHybridRNNTCTCModel):
            log_probs = model.ctc_decoder(encoder_output=out)
            aux = model.ctc_loss(log_probs=log_probs, targets=targets, input_lengths=out_len, target_lengths=target_len)
            loss = (1 - model.ctc_loss_weight) * loss + model.ctc_loss_weight * aux
    if getattr(model, "_interctc_params", {}).get("enabled"):
        loss, _ = model.add_interctc_losses(loss, targets, target_len, compute_wer=False)
    return loss


def reference_loss(model) -> None:
    """NeMo has losses of TDT and multi-blank models for a CPU in PyTorch only."""
    name, kwargs = model.extract_rnnt_loss_cfg(model.cfg.get("loss"))
    name = {"tdt": "tdt_pytorch", "multiblank_rnnt": "multiblank_rnnt_pytorch"}.get(name, name)
    num = model.joint.num_classes_with_blank - 1 - (model.joint.num_extra_outputs if "tdt" in name else 0)
    kept = {k: v for k, v in (kwargs or {}).items() if "pytorch" not in name or k not in ("fastemit_lambda", "clamp")}
    model.reference = RNNTLoss(num, model.cfg.get("rnnt_reduction", "mean_batch"), name, OmegaConf.create(kept))


def make(name: str, folder: Path) -> None:
    torch.manual_seed(1234)
    cls, config = MODELS[name]
    model = cls(OmegaConf.create(config))
    lively(model, name)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_to(f"{scratch}/model.nemo")
        packed = gzip.compress(Path(scratch, "model.nemo").read_bytes(), 9, mtime=0)
        (folder / f"{name}.nemo").write_bytes(packed)
    data = np.load(HOME / "utterances.npz")
    signal, signal_len = torch.from_numpy(data["signal"] / np.float32(32768)), torch.from_numpy(data["signal_len"])
    rows = [[LETTERS.index(letter) for letter in text] for text in TEXTS]
    target_len = torch.tensor([len(row) for row in rows])
    targets = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    batch = signal, signal_len, targets, target_len
    if cls is not EncDecCTCModel:
        reference_loss(model)
        torch.Tensor.cuda = lambda self, *_, **__: self
    if cls is not EncDecRNNTModel:
        from nemo.core.classes.mixins import AccessMixin

        AccessMixin.set_access_enabled(access_enabled=True, guid=model.model_guid)
    model.eval()
    arrays, expected = {}, {}
    with torch.no_grad():
        expected["eval_loss"] = float(losses_of(model, *batch))
        if cls is not EncDecRNNTModel:
            AccessMixin.reset_registry(model)
        out, out_len = model.forward(input_signal=signal, input_signal_length=signal_len)[:2]
        if cls is EncDecCTCModel:
            arrays["log_probs"] = out
        else:
            predicted, _, _ = model.decoder(targets=targets, target_length=target_len)
            arrays["joint"] = model.joint(encoder_outputs=out, decoder_outputs=predicted)[:, ::6, ::4]
            arrays["decoder_out"] = predicted
            arrays["encoded"] = out
            for strategy in ("greedy", "greedy_batch"):
                cfg = OmegaConf.merge(model.cfg.decoding, {"strategy": strategy})
                if cls is EncDecHybridRNNTCTCModel:
                    model.change_decoding_strategy(cfg, decoder_type="rnnt", verbose=False)
                else:
                    model.change_decoding_strategy(cfg, verbose=False)
                found = model.decoding.rnnt_decoder_predictions_tensor(
                    encoder_output=out, encoded_lengths=out_len, return_hypotheses=True
                )
                found = found[0] if isinstance(found, tuple) else found
                times = [getattr(h, "timestamp", None) for h in found]
                times = [t["timestep"] if isinstance(t, dict) else t for t in times]
                expected[strategy] = [
                    {"tokens": [int(t) for t in h.y_sequence], "frames": [int(f) for f in at], "text": h.text}
                    for h, at in zip(found, times, strict=True)
                ]
        arrays["length"] = out_len
        if cls is EncDecHybridRNNTCTCModel:
            arrays["ctc"] = model.ctc_decoder(encoder_output=out)[:, ::2]
    model.train()
    if hasattr(model, "unfreeze"):
        model.unfreeze()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0)
    expected["train_losses"] = []
    for step in range(3):
        if cls is not EncDecRNNTModel:
            AccessMixin.reset_registry(model)
            AccessMixin.set_access_enabled(access_enabled=True, guid=model.model_guid)
        optimizer.zero_grad()
        loss = losses_of(model, *batch)
        loss.backward()
        if step == 0:
            norms = {key: float(p.grad.norm()) for key, p in model.named_parameters() if p.grad is not None}
            expected["train_grad_norms_step0"] = norms
        optimizer.step()
        expected["train_losses"].append(float(loss))
    small = {f"{name}.{key}": value.to(torch.float32).numpy() for key, value in arrays.items()}
    np.savez_compressed(folder / f"{name}.npz", **small)
    (folder / f"{name}.json").write_text(json.dumps(expected) + "\n", "utf-8")
    torch.Tensor.cuda = TORCH_CUDA


if __name__ == "__main__":
    home = HOME / "transducer_options"
    home.mkdir(exist_ok=True)
    for model_name in MODELS:
        make(model_name, home)

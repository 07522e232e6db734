"""Hugging Face's Parakeet, a FastConformer with CTC, RNN-T or TDT: settings, tensors and tokenizer, theirs and ours."""

import re
from collections.abc import Mapping
from typing import Any

from anemone.checkpoint.archive import Archive
from anemone.checkpoint.names import conformer, huggingface
from anemone.checkpoint.names.huggingface import GENERAL, check_class, count, share, spoken
from anemone.checkpoint.names.rules import Ignored, Only, Rule, Table, as_matrices, translate
from anemone.checkpoint.names.sentencepiece import sentencepiece_model
from anemone.checkpoint.snapshot import Snapshot
from anemone.config import Tree
from anemone.errors import ArchiveError

ENCODER: Table = {
    **GENERAL,
    "hidden_size": Rule("d_model", 1024, count),
    "num_hidden_layers": Rule("num_layers", 24, count),
    "num_attention_heads": Rule("num_heads", 8, count),
    "num_key_value_heads": Ignored(),
    "intermediate_size": Rule("d_ff", 4096, count),
    "hidden_act": Only(("silu",)),
    "attention_bias": Rule("bias", True, bool),
    "convolution_bias": Rule("conv_bias", True, bool),
    "conv_kernel_size": Rule("kernel", 9, count),
    "subsampling_factor": Rule("factor", 8, count),
    "subsampling_conv_channels": Rule("channels", 256, count),
    "num_mel_bins": Rule("num_mels", 80, count),
    "subsampling_conv_kernel_size": Only((3,)),
    "subsampling_conv_stride": Only((2,)),
    "dropout": Rule("dropout_input", 0.1, share),
    "dropout_positions": Rule("dropout_positions", 0.0, share),
    "layerdrop": Rule("stochastic_depth", 0.1, share),
    "activation_dropout": Rule("dropout", 0.1, share),
    "attention_dropout": Rule("dropout_attention", 0.1, share),
    "max_position_embeddings": Ignored(),
    "scale_input": Rule("scaled", True, bool),
}
CTC: Table = {
    **GENERAL,
    "encoder_config": Ignored(),  # it is read by `ENCODER`
    "vocab_size": Rule("vocab_size", 1025, count),
    "ctc_loss_reduction": Ignored(),
    "ctc_zero_infinity": Ignored(),
}


def _durations(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(d, int) and 0 <= d <= 1_000 for d in value):
        raise ValueError("must be a list of whole numbers")
    return value


RNNT: Table = {
    **GENERAL,
    "encoder_config": Ignored(),
    "vocab_size": Rule("vocab_size", 8193, count),
    "decoder_hidden_size": Rule("d_joint", 640, count),
    "num_decoder_layers": Rule("num_layers", 2, count),
    "hidden_act": Rule("activation", "relu", {"relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid"}.__getitem__),
    "max_symbols_per_step": Rule("max_symbols", 10, count),
    "blank_token_id": Rule("blank", 8192, int),
    "decoder_start_token_id": Ignored(),
}
TDT: Table = {**RNNT, "durations": Rule("durations", [0, 1, 2, 3, 4], _durations)}
FEATURES: Table = {
    **huggingface.FEATURES,
    "feature_size": Rule("num_mels", 80, count),
    "hop_length": Rule("hop", 160, count),
    "win_length": Rule("window", 400, count),
    "n_fft": Rule("n_fft", 512, count),
    "preemphasis": Rule("preemphasis", 0.97, lambda value: float(value or 0.0)),
}


def read_ctc(snapshot: Snapshot, config: Mapping[str, Any]) -> Archive:
    """Returns a recogniser with CTC.

    Args:
        snapshot: the folder.
        config: its ``config.json``.

    Raises:
        ArchiveError: something has no counterpart here, or is missing; names it.
    """
    check_class(config, ("ParakeetForCTC",))
    size = translate(config, CTC, "config.json")["vocab_size"]
    blank = config.get("pad_token_id", 1024)
    model, features = _encoder(snapshot, config)
    tree = {
        "task": {"kind": "recognition", "tokenizer": {"kind": "sentencepiece"}},
        "model": model,
        "features": features,
        "loss": {"kind": "ctc"},
        "decoding": {"kind": "ctc_greedy"},
    }
    tensors = as_matrices(snapshot.take({**tensor_names(model), **CTC_HEAD}))
    return Archive(tree, tensors, _files(snapshot, size, blank))


def read_transducer(snapshot: Snapshot, config: Mapping[str, Any]) -> Archive:
    """Returns a recogniser with a transducer, RNN-T or TDT; arguments and errors are those of `read_ctc`."""
    tdt = config["model_type"] == "parakeet_tdt"
    check_class(config, ("ParakeetForTDT" if tdt else "ParakeetForRNNT",))
    head = translate(config, TDT if tdt else RNNT, "config.json")
    size, blank, durations = head["vocab_size"], head["blank"], head.get("durations", [])
    model, features = _encoder(snapshot, config)
    width = head["d_joint"]
    predictor = {"kind": "lstm", "d_model": width, "num_layers": head["num_layers"], "dropout": 0.0}
    tree = {
        "task": {
            "kind": "recognition",
            "tokenizer": {"kind": "sentencepiece"},
            "head": {
                "kind": "transducer",
                "predictor": predictor,
                "d_joint": width,
                "activation": head["activation"],
                "dropout": 0.0,
                "durations": durations,
            },
        },
        "model": model,
        "features": features,
        "loss": {"kind": "tdt" if tdt else "rnnt"},
        "decoding": {"kind": "transducer_greedy", "max_symbols": UNLIMITED if tdt else head["max_symbols"]},
    }
    tensors = as_matrices(snapshot.take({**tensor_names(model), **transducer_names(head["num_layers"])}))
    return Archive(tree, tensors, _files(snapshot, size, blank))


def _encoder(snapshot: Snapshot, config: Mapping[str, Any]) -> tuple[Tree, Tree]:
    """Our settings of the encoder and of the features."""
    where = "config.json: encoder_config"
    found = translate(config.get("encoder_config", {}), ENCODER, where)
    if found["d_ff"] % found["d_model"]:
        raise ArchiveError(f"`{where}.intermediate_size` must be a multiple of `hidden_size` to be read.")
    if found["bias"] != found.pop("conv_bias"):
        raise ArchiveError(f"`{where}.convolution_bias` must be `attention_bias` to be read: all have biases or none.")
    spectrum = spoken(snapshot, FEATURES)
    rate, mels = spectrum["rate"], found.pop("num_mels")
    if mels != spectrum["num_mels"]:
        raise ArchiveError(f"`{where}.num_mel_bins`, {mels}, must be `feature_size`, {spectrum['num_mels']}.")
    model = {
        "kind": "fastconformer",
        "size": "custom",
        "ff_factor": found.pop("d_ff") // found["d_model"],
        "subsampling": {
            "kind": "dw_striding",
            "factor": found.pop("factor"),
            "channels": found.pop("channels"),
            "causal": False,
        },
        "attention": {"positions": "relative", "tied": False},
        "stochastic_mode": "uniform",
        "stochastic_start": 1,
        **found,
    }
    features = {
        "kind": "log_mel",
        "rate": rate,
        "num_mels": mels,
        "window_ms": 1000 * spectrum["window"] / rate,
        "hop_ms": 1000 * spectrum["hop"] / rate,
        "n_fft": spectrum["n_fft"],
        "preemphasis": spectrum["preemphasis"],
        "dither": 0.0,
    }
    return model, features


def _files(snapshot: Snapshot, size: int, blank: int) -> dict[str, bytes]:
    """The tokenizer, which knows all labels but the blank."""
    if blank != size - 1:
        raise ArchiveError(f"the blank must be the last of {size} labels to be read, but is {blank}.")
    tree = snapshot.json("tokenizer.json")
    if not tree:
        raise ArchiveError(f"`{snapshot.folder}` must hold `tokenizer.json`, but does not.")
    return {"tokenizer.model": sentencepiece_model(tree, size - 1)}


# --- tensors ----------------------------------------------------------------------------------------------------------

THEIRS = (  # NeMo's names -> theirs
    (r"pre_encode\.conv\.", "subsampling.layers."),
    (r"pre_encode\.out\.", "subsampling.linear."),
    (r"self_attn\.linear_pos\.", "self_attn.relative_k_proj."),
    (r"self_attn\.linear_out\.", "self_attn.o_proj."),
    (r"self_attn\.linear_([qkv])\.", r"self_attn.\1_proj."),
    (r"self_attn\.pos_bias_", "self_attn.bias_"),
    (r"conv\.batch_norm\.", "conv.norm."),
)
CTC_HEAD = {"head.linear.weight": "ctc_head.weight", "head.linear.bias": "ctc_head.bias"}
JOINT = {"head.joint.linear.weight": "joint.head.weight", "head.joint.linear.bias": "joint.head.bias"}
UNLIMITED = 1_000  # tokens at a frame: their decoding of TDT passes over `max_symbols_per_step`
GATES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def tensor_names(model: Tree) -> dict[str, str]:
    """Our name of each parameter and buffer of the encoder -> theirs.

    Args:
        model: our settings of the encoder.
    """
    whole = {"reduction": None, "norm": "batch", "d_out": None, **model}
    whole["attention"] = {"global_separate": False, **model["attention"]}
    return {ours: _theirs(theirs) for ours, theirs in conformer.tensor_names(whole).items()}


def _theirs(name: str) -> str:
    for nemo, theirs in THEIRS:
        name = re.sub(nemo, theirs, name)
    return name


def transducer_names(num_layers: int) -> dict[str, str]:
    """Our name of each parameter of a transducer -> theirs.

    Args:
        num_layers: of the predictor.
    """
    names = {"head.predictor.embedding.weight": "decoder.embedding.weight", **JOINT}
    for n in range(num_layers):
        names |= {f"head.predictor.lstm.{gate}_l{n}": f"decoder.lstm.{gate}_l{n}" for gate in GATES}
    pairs = {"head.acoustic": "encoder_projector", "head.textual": "decoder.decoder_projector"}
    return names | {
        f"{own}.{part}": f"{foreign}.{part}" for own, foreign in pairs.items() for part in ("weight", "bias")
    }

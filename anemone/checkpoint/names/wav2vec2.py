"""Hugging Face's wav2vec 2.0 with CTC: settings, names of tensors and vocabulary, theirs and ours."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anemone.checkpoint.archive import Archive
from anemone.checkpoint.names import huggingface
from anemone.checkpoint.names.huggingface import GENERAL, added_tokens, check_class, count, share, spoken, whole
from anemone.checkpoint.names.rules import Ignored, Only, Rule, Table, translate
from anemone.checkpoint.snapshot import Snapshot
from anemone.config import Tree
from anemone.errors import ArchiveError

NORMS = {"group": "time", "layer": "channels"}
PASSED_OVER = ("quantizer.*", "project_q.*", "project_hid.*")  # of pre-training alone


def _sizes(value: Any) -> list[int]:
    if not isinstance(value, list | tuple):
        raise TypeError("must be a list of whole numbers")
    return [count(size) for size in value]


CONFIG: Table = {
    **GENERAL,
    **dict.fromkeys(
        (
            "num_feat_extract_layers",
            "feat_quantizer_dropout",
            "num_codevectors_per_group",
            "num_codevector_groups",
            "contrastive_logits_temperature",
            "num_negatives",
            "codevector_dim",
            "proj_codevector_dim",
            "diversity_loss_weight",
            "ctc_loss_reduction",
            "ctc_zero_infinity",
            "use_weighted_layer_sum",
            "classifier_proj_size",
            "tdnn_dim",
            "tdnn_kernel",
            "tdnn_dilation",
            "xvector_output_dim",
            "adapter_kernel_size",
            "adapter_stride",
            "num_adapter_layers",
            "output_hidden_size",
            "gradient_checkpointing",
            "freeze_feat_extract_train",
            "mask_channel_length",
            "mask_channel_min_space",
            "mask_channel_other",
            "mask_channel_prob",
            "mask_channel_selection",
            "mask_time_min_space",
            "mask_time_other",
            "mask_time_selection",
            "no_mask_channel_overlap",
            "no_mask_time_overlap",
            "num_ctc_classes",
        ),
        Ignored(),
    ),
    "vocab_size": Rule("vocab_size", 32, count),
    "hidden_size": Rule("d_model", 768, count),
    "num_hidden_layers": Rule("num_layers", 12, count),
    "num_attention_heads": Rule("num_heads", 12, count),
    "intermediate_size": Rule("d_ff", 3072, count),
    "hidden_act": Only(("gelu",)),
    "feat_extract_activation": Only(("gelu",)),
    "hidden_dropout": Rule("dropout", 0.1, share),
    "hidden_dropout_prob": Ignored(),
    "activation_dropout": Rule("dropout_ffn", 0.1, share),
    "attention_dropout": Rule("dropout_attention", 0.1, share),
    "feat_proj_dropout": Rule("dropout_features", 0.0, share),
    "feat_extract_dropout": Ignored(),
    "final_dropout": Rule("dropout_out", 0.1, share),
    "layerdrop": Rule("p_layer_drop", 0.1, share),
    "layer_norm_eps": Rule("norm_eps", 1e-5, float),
    "feat_extract_norm": Rule("conv_norm", "group", NORMS.__getitem__),
    "conv_dim": Rule("conv_widths", [512] * 7, _sizes),
    "conv_kernel": Rule("conv_kernels", [10, 3, 3, 3, 3, 2, 2], _sizes),
    "conv_stride": Rule("conv_strides", [5, 2, 2, 2, 2, 2, 2], _sizes),
    "conv_bias": Rule("conv_bias", False, bool),
    "do_stable_layer_norm": Rule("pre_norm", False, bool),
    "num_conv_pos_embeddings": Rule("position_kernel", 128, count),
    "num_conv_pos_embedding_groups": Rule("position_groups", 16, count),
    "apply_spec_augment": Rule("masked", True, bool),
    "mask_time_prob": Rule("p_time_mask", 0.05, share),
    "mask_time_length": Rule("time_mask_width", 10, count),
    "mask_time_min_masks": Rule("min_time_masks", 2, whole),
    "mask_feature_prob": Rule("p_channel_mask", 0.0, share),
    "mask_feature_length": Rule("channel_mask_width", 10, count),
    "mask_feature_min_masks": Rule("min_channel_masks", 0, whole),
    "add_adapter": Only((False,)),
    "adapter_attn_dim": Only((None,)),
}
FEATURES: Table = {
    **huggingface.FEATURES,
    "feature_size": Only((1,)),
    "do_normalize": Rule("normalize", True, bool),
}


def read(snapshot: Snapshot, config: Mapping[str, Any]) -> Archive:
    """Returns a recogniser.

    Padding is hidden from the network in either form of it, so that a batch gives what each recording gives alone.

    Args:
        snapshot: the folder.
        config: its ``config.json``.

    Raises:
        ArchiveError: something has no counterpart here, or is missing; names it.
    """
    check_class(config, ("Wav2Vec2ForCTC",))
    model = {"kind": "wav2vec2", "size": "base", **translate(config, CONFIG, "config.json")}
    size = model.pop("vocab_size")
    if not model.pop("masked"):
        model |= {"p_time_mask": 0.0, "p_channel_mask": 0.0}
    tokenizer, blank = vocabulary(snapshot, size, config.get("pad_token_id", 0))
    tree = {
        "task": {"kind": "recognition", "tokenizer": tokenizer},
        "model": model,
        "features": {"kind": "waveform", **spoken(snapshot, FEATURES)},
        "loss": {"kind": "ctc"},
        "decoding": {"kind": "ctc_greedy"},
    }
    return Archive(tree, _tensors(snapshot, model, blank), {})


def vocabulary(snapshot: Snapshot, size: int, pad: Any) -> tuple[Tree, int]:
    """Returns the settings of the tokenizer, whose units are theirs but for the pad, and the pad's number.

    Args:
        snapshot: the folder.
        size: numbers of the head.
        pad: what the settings call the pad's number, which is the blank of CTC.
    """
    settings = snapshot.json("tokenizer_config.json")
    special = {**snapshot.json("special_tokens_map.json"), **settings}
    pieces = _pieces(snapshot, settings)
    if (most := max(pieces)) >= size:
        raise ArchiveError(f"`vocab.json` must have numbers below `vocab_size`, {size}, but has {most}.")
    marks = {key: _name(special.get(key), mark) for key, mark in MARKS.items()}
    blank = next((number for number, piece in pieces.items() if piece == marks["pad_token"]), pad)
    if blank != pad or pad not in pieces:
        raise ArchiveError(
            f"`pad_token_id` must be the number of {marks['pad_token']!r}, {blank}, but is {pad!r} instead."
        )
    units = [pieces.get(number, f"<{number}>") for number in range(size) if number != blank]
    lowercase = bool(special.get("do_lower_case", False))
    units = [unit.lower() for unit in units] if lowercase else units
    delimiter, unknown = (
        marks[key].lower() if lowercase else marks[key] for key in ("word_delimiter_token", "unk_token")
    )
    if special.get("replace_word_delimiter_char", " ") != " ":
        raise ArchiveError("`tokenizer_config.json: replace_word_delimiter_char` must be a space to be read.")
    return {
        "kind": "delimited",
        "characters": units,
        "delimiter": delimiter,
        "lowercase": lowercase,
        "unknown": "piece" if unknown in units else "refuse",
        "unknown_piece": unknown,
    }, blank


MARKS = {"pad_token": "<pad>", "unk_token": "<unk>", "word_delimiter_token": "|"}


def _name(value: Any, default: str) -> str:
    """The text of a token, which may be written with its options."""
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else default


def _pieces(snapshot: Snapshot, settings: Mapping[str, Any]) -> dict[int, str]:
    """Number -> unit."""
    vocab = snapshot.json("vocab.json")
    language = settings.get("target_lang")
    vocab = vocab.get(language, {}) if isinstance(language, str) else vocab
    if not vocab or not all(isinstance(number, int) and number >= 0 for number in vocab.values()):
        raise ArchiveError(f"`{snapshot.folder / 'vocab.json'}` must give the number of each character.")
    added = {number: piece for number, piece in added_tokens(snapshot).items() if piece not in vocab}
    pieces = {**added, **{number: piece for piece, number in vocab.items()}}
    if len({*vocab.values()}) < len(vocab):
        raise ArchiveError("`vocab.json` must give each character a number of its own.")
    return pieces


# --- tensors ----------------------------------------------------------------------------------------------------------

LAYER = {
    "self_attention.query": "attention.q_proj",
    "self_attention.key": "attention.k_proj",
    "self_attention.value": "attention.v_proj",
    "self_attention.output": "attention.out_proj",
    "self_norm": "layer_norm",
    "feed_forward.up": "feed_forward.intermediate_dense",
    "feed_forward.down": "feed_forward.output_dense",
    "feed_norm": "final_layer_norm",
}
OUTER = {
    "encoder.feature_norm": "wav2vec2.feature_projection.layer_norm",
    "encoder.projection": "wav2vec2.feature_projection.projection",
    "encoder.norm": "wav2vec2.encoder.layer_norm",
    "head.linear": "lm_head",
}
POSITION = "wav2vec2.encoder.pos_conv_embed.conv."
NEW, OLD = ("parametrizations.weight.original0", "parametrizations.weight.original1"), ("weight_g", "weight_v")


def tensor_names(model: Tree, position: tuple[str, str] = NEW) -> dict[str, str]:
    """Our name of each parameter -> theirs.

    Args:
        model: our settings of the encoder.
        position: what lengths and directions of the convolution of positions are called.
    """
    pairs = dict(OUTER)
    for n in range(model["num_layers"]):
        ours, theirs = f"encoder.layers.{n}", f"wav2vec2.encoder.layers.{n}"
        pairs |= {f"{ours}.{own}": f"{theirs}.{foreign}" for own, foreign in LAYER.items()}
    names = {f"{own}.{part}": f"{foreign}.{part}" for own, foreign in pairs.items() for part in ("weight", "bias")}
    for n in range(len(model["conv_widths"])):
        ours, theirs = f"encoder.convs.{n}", f"wav2vec2.feature_extractor.conv_layers.{n}"
        normed = model["conv_norm"] == "channels" or n == 0
        parts = ["conv.weight", *["conv.bias"] * model["conv_bias"], *["norm.weight", "norm.bias"] * normed]
        names |= {f"{ours}.{part}": f"{theirs}.{part.replace('norm', 'layer_norm')}" for part in parts}
    if model["p_time_mask"] or model["p_channel_mask"]:
        names["encoder.mask"] = "wav2vec2.masked_spec_embed"
    places = dict(zip(("gain", "direction", "bias"), (*position, "bias"), strict=True))
    return names | {f"encoder.position.{own}": POSITION + foreign for own, foreign in places.items()}


def _tensors(snapshot: Snapshot, model: Tree, blank: int) -> dict[str, Tensor]:
    """Our tensors; the blank is the last label of the head. A mask that was never trained is zero."""
    names = tensor_names(model, OLD if POSITION + OLD[0] in snapshot else NEW)
    untrained = "encoder.mask" in names and names["encoder.mask"] not in snapshot
    if untrained:
        del names["encoder.mask"]
    tensors = snapshot.take(names, (*PASSED_OVER, "wav2vec2.masked_spec_embed"))
    if untrained:
        tensors["encoder.mask"] = torch.zeros(model["d_model"])
    return tensors | {name: blank_last(tensors[name], blank) for name in ("head.linear.weight", "head.linear.bias")}


def blank_last(rows: Tensor, blank: int) -> Tensor:
    """Puts the row of the blank after all others.

    Args:
        rows: (V, ...).
        blank: which it is.
    """
    if blank >= len(rows):
        raise ArchiveError(f"the blank must be one of {len(rows)} labels, but is {blank}.")
    return torch.cat([rows[:blank], rows[blank + 1 :], rows[blank : blank + 1]])

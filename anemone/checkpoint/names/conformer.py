"""The Conformer and FastConformer encoders: NeMo's settings and names of tensors, and ours."""

from typing import Any

from anemone.checkpoint.names.rules import Encoder, Ignored, Only, Rule, Table, back, or_none
from anemone.config import Tree
from anemone.errors import ArchiveError

FAMILY = ("conformer", "fastconformer")  # our kinds of model
MOST_LAYERS = 1_000

POSITIONS = {"rel_pos": "relative", "abs_pos": "absolute", "rel_pos_local_attn": "local"}
STYLES = {"regular": False, "chunked_limited": True}
NORMS = {
    "batch_norm": "batch",
    "layer_norm": "layer",
    "instance_norm": "instance",
    "fused_batch_norm": "affine",
}


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    return float(value)


def _width(value: Any) -> int | None:
    return None if value is None or _count(value) <= 0 else value


def _contexts(value: Any) -> list[list[int]]:
    """One pair of frames before and after, or several."""
    if not value:
        return [[-1, -1]]
    pairs = value if isinstance(value, list) and isinstance(value[0], list) else [value]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("must be two whole numbers, or a list of such pairs")
    return [[max(-1, _count(end)) for end in pair] for pair in pairs]


def _their_contexts(pairs: list[list[int]]) -> list[Any]:
    contexts = [list(pair) for pair in pairs]
    return contexts if len(contexts) > 1 else contexts[0]


def _shares(value: Any) -> list[float]:
    return [_share(share) for share in value or []]


def _past(value: Any) -> int | str | None:
    """Frames before the middle one in a kernel; "causal" is all the others."""
    if value is None or value == "causal":
        return "causal" if value else None
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError('must be "causal" or a list of two')
    return _count(value[0])


def _norm(value: Any) -> tuple[str, int]:
    """The normalisation inside the convolution, and its groups."""
    if str(value).startswith("group_norm"):
        return "group", int(str(value).removeprefix("group_norm"))
    return NORMS[value], 1


ENCODER: Table = {
    "feat_in": Ignored(),
    "n_layers": Rule("num_layers", None, _count),
    "d_model": Rule("d_model", None, _count),
    "feat_out": Rule("d_out", -1, _width, or_none(-1)),
    "subsampling": Rule("subsampling", "striding", lambda value: value or "none"),
    "subsampling_factor": Rule("factor", 4, _count),
    "subsampling_conv_channels": Rule("channels", -1, _width, or_none(-1)),
    "subsampling_conv_chunking_factor": Ignored(),
    "causal_downsampling": Rule("causal", False, bool),
    "reduction": Rule("reduction", None),
    "reduction_position": Rule("reduced_after", None),
    "reduction_factor": Rule("reduction_factor", 1, _count),
    "ff_expansion_factor": Rule("ff_factor", 4, _count),
    "self_attention_model": Rule("positions", "rel_pos", POSITIONS.__getitem__, back(POSITIONS)),
    "n_heads": Rule("num_heads", 4, _count),
    "att_context_size": Rule("contexts", None, _contexts, _their_contexts),
    "att_context_probs": Rule("shares", None, _shares, lambda shares: list(shares) or None),
    "att_chunk_context_size": Only((None,)),
    "att_context_style": Rule("chunked", "regular", STYLES.__getitem__, back(STYLES)),
    "xscaling": Rule("scaled", True, bool),
    "untie_biases": Rule("tied", True, lambda value: not value, lambda tied: not tied),
    "pos_emb_max_len": Ignored(),
    "conv_kernel_size": Rule("kernel", 31, _count),
    "conv_norm_type": Rule("norm", "batch_norm", _norm),
    "conv_context_size": Rule("kernel_past", None, _past),
    "conv_context_style": Only(("regular",)),
    "conv_dual_mode": Only((False,)),
    "use_bias": Rule("bias", True, bool),
    "dropout": Rule("dropout", 0.1, _share),
    "dropout_pre_encoder": Rule("dropout_input", 0.1, _share),
    "dropout_emb": Rule("dropout_positions", 0.1, _share),
    "dropout_att": Rule("dropout_attention", 0.0, _share),
    "stochastic_depth_drop_prob": Rule("stochastic_depth", 0.0, _share),
    "stochastic_depth_mode": Rule("stochastic_mode", "linear"),
    "stochastic_depth_start_layer": Rule("stochastic_start", 1, _count),
    "global_tokens": Rule("num_global", 0, _count),
    "global_tokens_spacing": Rule("global_spacing", 1, _count),
    "global_attn_separate": Rule("global_separate", False, bool),
    "use_pytorch_sdpa": Ignored(),
    "use_pytorch_sdpa_backends": Ignored(),
    "sync_max_audio_length": Ignored(),
}

ATTENTION = ("positions", "contexts", "shares", "chunked", "tied", "num_global", "global_spacing", "global_separate")
PLAIN = (
    *("num_layers", "d_model", "num_heads", "kernel", "scaled", "ff_factor", "bias"),
    *("dropout", "dropout_input", "dropout_positions", "dropout_attention"),
    *("stochastic_depth", "stochastic_mode", "stochastic_start"),
)


def model(encoder: Tree, config: Tree, task: str) -> Tree:
    """Returns our settings of the model.

    Args:
        encoder: NeMo's settings of its encoder, translated by `ENCODER`.
        config: NeMo's settings of the whole model.
        task: our kind of task.

    Raises:
        ArchiveError: settings that do not go together, or that NeMo itself computes oddly; names them.
    """
    if not 1 <= encoder["num_layers"] <= MOST_LAYERS:
        raise ArchiveError(f"`encoder.n_layers` must be in 1..{MOST_LAYERS}, but is {encoder['num_layers']} instead.")
    kind = "none" if encoder["factor"] <= 1 else encoder["subsampling"]
    past = encoder["kernel"] - 1 if encoder["kernel_past"] == "causal" else encoder["kernel_past"]
    see = {name: encoder[name] for name in ATTENTION}
    plain = {name: encoder[name] for name in PLAIN}
    see["tied"] = see["tied"] and see["positions"] == "relative"
    if see["positions"] == "absolute":
        plain["dropout_positions"] = 0.0
    if see["positions"] == "local":
        plain["dropout_input"] = plain["dropout"]
        see["chunked"] = False
    else:
        see |= {"num_global": 0, "global_separate": False}
    norm, groups = encoder["norm"]
    width = encoder["d_out"]
    return {
        "kind": "fastconformer" if kind.startswith("dw_striding") else "conformer",
        "size": "custom",
        **plain,
        "d_out": None if width == encoder["d_model"] else width,
        "subsampling": {
            "kind": kind,
            "factor": 1 if kind == "none" else encoder["factor"],
            "channels": encoder["channels"],
            "causal": encoder["causal"] and kind in ("striding", "dw_striding", "striding_conv1d"),
        },
        "attention": see,
        "reduction": _reduction(encoder),
        "kernel_past": past,
        "norm": norm,
        "norm_groups": groups,
        "nemo": True,
    }


def _reduction(encoder: Tree) -> Tree | None:
    """Settings of the second sub-sampling. NeMo's lengths are wrong after pooling by more than 2."""
    kind, factor, after = encoder["reduction"], encoder["reduction_factor"], encoder["reduced_after"]
    if not kind or factor <= 1:
        return None
    if kind == "pooling" and factor != 2:
        raise ArchiveError(f"`encoder.reduction_factor` must be 2 to be read for pooling, but is {factor} instead.")
    return {"kind": kind, "factor": factor, "after": None if after == -1 else after}


# --- tensors ----------------------------------------------------------------------------------------------------------

LINEARS = {
    "ff1.up": "feed_forward1.linear1",
    "ff1.down": "feed_forward1.linear2",
    "ff2.up": "feed_forward2.linear1",
    "ff2.down": "feed_forward2.linear2",
    "attention.query": "self_attn.linear_q",
    "attention.key": "self_attn.linear_k",
    "attention.value": "self_attn.linear_v",
    "attention.output": "self_attn.linear_out",
    "conv.up": "conv.pointwise_conv1",
    "conv.down": "conv.pointwise_conv2",
    "conv": "conv.depthwise_conv",
}
GLOBALS = {
    "attention.global_query": "self_attn.global_q",
    "attention.global_key": "self_attn.global_k",
    "attention.global_value": "self_attn.global_v",
}
NORMED = {
    "ff1_norm": "norm_feed_forward1",
    "attention_norm": "norm_self_att",
    "conv_norm": "norm_conv",
    "ff2_norm": "norm_feed_forward2",
    "norm": "norm_out",
}
RELATIVE = {
    "attention.position.weight": "self_attn.linear_pos.weight",
    "attention.content_bias": "self_attn.pos_bias_u",
    "attention.position_bias": "self_attn.pos_bias_v",
}
BOTH = ("weight", "bias")
CONV_NORMS = {  # our kind -> where its tensors are here, and which it has
    "batch": ("conv.norm.norm.", (*BOTH, "running_mean", "running_var", "num_batches_tracked")),
    "layer": ("conv.norm.norm.", BOTH),
    "group": ("conv.norm.", BOTH),
    "affine": ("conv.norm.", BOTH),
    "instance": ("conv.norm.", ()),
}


def tensor_names(model: Tree) -> dict[str, str]:
    """Our name of each parameter and buffer -> NeMo's.

    Args:
        model: our settings of the encoder.
    """
    sample = model["subsampling"]
    names = _sample_names("encoder.subsampling", "encoder.pre_encode", sample["kind"], sample["factor"])
    if (reduction := model["reduction"]) and reduction["kind"] == "striding":
        theirs = "encoder.reduction_subsampling.reduction_enc"
        names |= _sample_names("encoder.reduction.convs", theirs, "striding", reduction["factor"])
    layer = _layer_names(model)
    for number in range(model["num_layers"]):
        names |= {
            f"encoder.layers.{number}.{ours}": f"encoder.layers.{number}.{their}" for ours, their in layer.items()
        }
    if model["d_out"] is not None:
        names |= {f"encoder.output.{part}": f"encoder.out_proj.{part}" for part in BOTH}
    return names


def _layer_names(model: Tree) -> dict[str, str]:
    see, parts = model["attention"], BOTH if model["bias"] else ("weight",)
    linears = {**LINEARS, **(GLOBALS if see["global_separate"] else {})}
    names = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in linears.items() for part in parts}
    names |= {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in NORMED.items() for part in BOTH}
    place, tensors = CONV_NORMS[model["norm"]]
    names |= {f"{place}{part}": f"conv.batch_norm.{part}" for part in tensors}
    return names if see["positions"] == "absolute" else {**names, **RELATIVE}


def _sample_names(ours: str, theirs: str, kind: str, factor: int) -> dict[str, str]:
    """Names of a sub-sampling. NeMo numbers convolutions, activations and pooling in one list."""
    if kind == "none":
        return {f"{ours}.{part}": f"{theirs}.{part}" for part in BOTH}
    if kind.startswith("stacking"):
        names = {f"{ours}.output.{part}": f"{theirs}.proj_out.{part}" for part in BOTH}
        norm = {f"{ours}.norm.{part}": f"{theirs}.pre_norm.{part}" for part in BOTH}
        return {**names, **norm} if kind == "stacking_norm" else names
    names, at = {}, 0
    for stage in range(factor.bit_length() - 1):
        single = kind in ("striding", "striding_conv1d") or (kind == "dw_striding" and not stage)
        places = [at] if single else [at, at + (2 if kind == "vggnet" else 1)]
        for number, place in enumerate(places):
            names |= {f"{ours}.stages.{stage}.{number}.{part}": f"{theirs}.conv.{place}.{part}" for part in BOTH}
        at = places[-1] + (3 if kind == "vggnet" else 2)
    if not kind.endswith("conv1d"):
        names |= {f"{ours}.output.{part}": f"{theirs}.out.{part}" for part in BOTH}
    return names


# `_target_` of an encoder -> how its settings are read.
ENCODERS = {"nemo.collections.asr.modules.ConformerEncoder": Encoder(ENCODER, model)}

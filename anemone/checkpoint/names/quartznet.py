"""The convolutional encoder of QuartzNet, MatchboxNet, Citrinet and Jasper: NeMo's settings and tensors, and ours.

NeMo sets activation, normalisation and masks once for all blocks, and lets a block take the way to merge a residual
from the block before it; here each block says all of it.
"""

from typing import Any

from anemone.checkpoint.names.rules import (
    Encoder,
    Ignored,
    Only,
    Rule,
    Sizes,
    Table,
    maybe,
    or_none,
    revert,
    translate,
    translate_part,
)
from anemone.config import Tree, must
from anemone.errors import ArchiveError

FAMILY = ("quartznet", "matchboxnet", "citrinet", "jasper")  # our kinds of model
MAX_SIZE = 65_536  # of a width, a kernel, a number of repeats
MAX_REPEATS = 1_000  # of all blocks together


def _one(value: Any) -> int:
    """NeMo writes sizes along time as lists of one."""
    number = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= MAX_SIZE:
        raise ValueError(f"must be a whole number from 1 to {MAX_SIZE}, or a list of one")
    return number


def _factor(value: Any) -> float:
    factor = float(value)
    if not 0 < factor <= MAX_SIZE:
        raise ValueError(f"must be above 0 and at most {MAX_SIZE}")
    return factor


def _listed(value: int) -> list[int]:
    return [value]


ACTIVATIONS = ("relu", "silu", "gelu", "selu", "hardtanh", "identity")


def _activation(value: Any) -> str:
    value = "silu" if value == "swish" else value
    if value not in ACTIVATIONS:
        raise ValueError(f"must be one of {', '.join(ACTIVATIONS)}, swish")
    return str(value)


ENCODER: Table = {
    "jasper": Rule("blocks", None),
    "activation": Rule("activation", None, _activation),
    "conv_mask": Rule("masked", True, bool),
    "feat_in": Ignored(),
    "frame_splicing": Ignored(),  # the features have it, too
    "normalization_mode": Rule("norm", "batch"),
    "norm_groups": Rule("norm_groups", -1, maybe(-1, _one), or_none(-1)),
    "residual_mode": Rule("residual_mode", "add"),
    "init_mode": Ignored(),
    "quantize": Only((False,)),
}

BLOCK: Table = {
    "filters": Rule("d_model", None, _one),
    "repeat": Rule("repeat", None, _one),
    "kernel": Rule("kernel", None, _one, _listed),
    "kernel_size_factor": Rule("kernel_size_factor", 1.0, _factor),
    "stride": Rule("stride", [1], _one, _listed),
    "stride_last": Rule("stride_last", False, bool),
    "dilation": Rule("dilation", [1], _one, _listed),
    "dropout": Rule("dropout", 0.0),
    "residual": Rule("residual", False, bool),
    "residual_mode": Rule("residual_mode", None),
    "residual_dense": Rule("dense", False, bool),
    "separable": Rule("separable", False, bool),
    "groups": Rule("groups", 1, _one),
    "heads": Rule("heads", -1, maybe(-1, _one), or_none(-1)),
    "se": Rule("se", False, bool),
    "se_reduction_ratio": Rule("se_reduction", 8, _one),
    "se_context_size": Rule("se_context", -1, maybe(-1, _one), or_none(-1)),
    "se_interpolation_mode": Ignored(),
    "future_context": Rule("look_ahead", -1, maybe(-1, int), or_none(-1)),
}

CROP: Table = {"audio_length": Rule("num_frames", 128)}

CROPS = {"nemo.collections.asr.modules.CropOrPadSpectrogramAugmentation": CROP}
KINDS = {"recognition": "quartznet", "classification": "matchboxnet"}

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def model(encoder: Tree, config: Tree, task: str) -> Tree:
    """Returns our settings of the model.

    Args:
        encoder: NeMo's settings of its encoder, translated by `ENCODER`.
        config: NeMo's settings of the whole model.
        task: our kind of task.
    """
    ours = blocks(encoder)
    kind = KINDS[task]
    if task == "recognition":
        kind = (
            "jasper" if any(b["dense"] for b in ours) else "citrinet" if any(b["se_reduction"] for b in ours) else kind
        )
    tree = {"kind": kind, "size": "custom", "blocks": ours}
    if config.get("crop_or_pad_augment"):
        tree |= translate_part(config, "crop_or_pad_augment", CROPS)
    return tree


def blocks(encoder: Tree) -> list[Tree]:
    """Settings of our blocks.

    Args:
        encoder: NeMo's settings of the encoder, translated by `ENCODER`.

    Raises:
        ArchiveError: a setting that cannot be had here.
    """
    value = encoder["blocks"]
    if not isinstance(value, list) or not value:
        raise ArchiveError(f"`encoder.jasper` must be a list of blocks, but is {value!r} instead.")
    read = [translate(block, BLOCK, f"encoder.jasper[{b}]") for b, block in enumerate(value)]
    if (repeats := sum(block["repeat"] for block in read)) > MAX_REPEATS:
        raise ArchiveError(f"`encoder.jasper` must have at most {MAX_REPEATS} repeats, but has {repeats} instead.")
    ours: list[Tree] = []
    mode = encoder["residual_mode"]
    for b, block in enumerate(read):
        mode = block.pop("residual_mode") or mode
        _refuse(block, mode, encoder, [other["dense"] for other in ours], f"encoder.jasper[{b}]")
        ours.append(_block(block, mode, encoder))
    return ours


def _block(block: Tree, mode: str, encoder: Tree) -> Tree:
    """Our settings of a block: kernels as wide as NeMo makes them, and only what the block has."""
    kernel = max(1, int(block["kernel"] * block.pop("kernel_size_factor")))
    kernel += 1 - kernel % 2  # an even one is made odd
    has_se = block.pop("se")
    ahead = block["look_ahead"]
    return {
        **block,
        "kernel": kernel,
        "merge": "max" if mode == "max" and block["residual"] else "add",
        "se_reduction": block["se_reduction"] if has_se else None,
        "se_context": block["se_context"] if has_se else None,
        "heads": block["heads"] if block["separable"] and encoder["masked"] else None,  # NeMo reads it there alone
        "look_ahead": None if ahead is None or ahead < 0 or ahead >= kernel else ahead,
        "activation": encoder["activation"],
        "norm_groups": _norm_groups(encoder, block["d_model"]),
        "masked": encoder["masked"],
    }


def _norm_groups(encoder: Tree, d_model: int) -> int | None:
    """Groups of a normalisation: of instances it has one for each channel, of layers a single one."""
    if encoder["norm"] == "batch":
        return None
    return {"group": encoder["norm_groups"] or d_model, "instance": d_model, "layer": 1}[encoder["norm"]]


def _refuse(block: Tree, mode: str, encoder: Tree, dense: list[bool], where: str) -> None:
    """Raises for what NeMo builds, but no one can want: it fails there, or computes something odd."""
    strided = block["stride"] > 1
    alone = block["residual"] and not block["dense"]
    rules = [
        (mode in ("add", "stride_add", "max"), "residual_mode", "add, stride_add or max", mode),
        (
            not (block["residual"] and strided) or mode == "stride_add",
            "residual_mode",
            "stride_add with a stride",
            mode,
        ),
        (
            block["dilation"] == 1 or block["look_ahead"] is None,
            "future_context",
            "-1 with a dilation",
            block["look_ahead"],
        ),
        (encoder["masked"] or not block["se"] or not strided, "se", "false with a stride, without `conv_mask`", True),
        (not (alone and dense and dense[-1]), "residual_dense", "true in a residual block after a dense one", False),
        (not block["dense"] or not any(dense) or dense[-1], "residual_dense", "false after a block without it", True),
    ]
    for fits, name, rule, value in rules:
        if not fits:
            raise ArchiveError(f"`{where}.{name}` must be {rule} to be read, but is {value!r} instead.")
    if encoder["norm"] not in ("batch", "group", "instance", "layer"):
        raise ArchiveError(f"`encoder.normalization_mode` is {encoder['norm']!r}, which cannot be read.")


def tensor_names(model: Tree) -> dict[str, str]:
    """Our name of each parameter and buffer -> NeMo's.

    NeMo numbers a block's layers in one list: convolutions, normalisation, a shuffle of groups, activation and dropout
    of each repeat, with squeeze-and-excitation in the place of the last activation.

    Args:
        model: our settings of the encoder.
    """
    names: dict[str, str] = {}
    for b, block in enumerate(model["blocks"]):
        ours, theirs = f"encoder.blocks.{b}", f"encoder.encoder.{b}"
        conv = "conv.weight" if block["masked"] else "weight"
        norm = NORM if block["norm_groups"] is None else NORM[:2]
        convs = ["depthwise", "pointwise"] if block["separable"] else ["pointwise"]
        length = len(convs) + 1 + (block["groups"] > 1)
        for r in range(block["repeat"]):
            unit, at = f"{ours}.units.{r}", r * (length + 2)
            names |= {f"{unit}.{name}.weight": f"{theirs}.mconv.{at + i}.{conv}" for i, name in enumerate(convs)}
            names |= {f"{unit}.norm.{part}": f"{theirs}.mconv.{at + len(convs)}.{part}" for part in norm}
        if block["se_reduction"]:
            at = (block["repeat"] - 1) * (length + 2) + length
            names |= {f"{ours}.squeeze.down.weight": f"{theirs}.mconv.{at}.fc.0.weight"}
            names |= {f"{ours}.squeeze.up.weight": f"{theirs}.mconv.{at}.fc.2.weight"}
        earlier = _dense_before(model["blocks"], b)
        sides = [f"{ours}.earlier.{i}" for i in range(earlier)] + [f"{ours}.residual"] * block["residual"]
        for i, side in enumerate(sides):
            names[f"{side}.pointwise.weight"] = f"{theirs}.res.{i}.0.{conv}"
            names |= {f"{side}.norm.{part}": f"{theirs}.res.{i}.1.{part}" for part in norm}
    return names


def _dense_before(blocks: list[Tree], b: int) -> int:
    """How many dense blocks stand right before a dense block; none before another."""
    number = 0
    while blocks[b]["dense"] and b > number and blocks[b - number - 1]["dense"]:
        number += 1
    return number


CONV_ENCODER = "nemo.collections.asr.modules.ConvASREncoder"


def their_model(model: Tree, sizes: Sizes) -> Tree:
    """Returns NeMo's groups of settings for an encoder.

    Args:
        model: ours, every block written out.
        sizes: of what stands around it.

    Raises:
        ConfigError: blocks differ in what NeMo sets once for all.
    """
    blocks = model["blocks"]
    shared = {"blocks": [_their_block(block) for block in blocks], **_their_norm(blocks)}
    for name in ("activation", "masked"):
        shared[name] = blocks[0][name]
        other = next((b for b, block in enumerate(blocks) if block[name] != shared[name]), None)
        rule = f"{shared[name]!r} to be written for NeMo, as in the first block"
        must(other is None, f"model.blocks[{other}].{name}", rule, value=other is not None and blocks[other][name])
    encoder = {"_target_": CONV_ENCODER, "feat_in": sizes.num_features, **revert(shared, ENCODER)}
    if model.get("num_frames") is None:
        return {"encoder": encoder}
    ((crop, table),) = CROPS.items()
    return {"encoder": encoder, "crop_or_pad_augment": {"_target_": crop, **revert(model, table)}}


def _their_block(block: Tree) -> Tree:
    mode = "stride_add" if block["stride"] > 1 else block["merge"]
    reduction = block["se_reduction"]
    ours = {**block, "se": bool(reduction), "se_reduction": reduction or 8, "residual_mode": mode}
    return revert(ours, BLOCK)


def _their_norm(blocks: list[Tree]) -> Tree:
    """The one normalisation of all blocks: by batch, by one number of groups, or by channel."""
    groups = {block["norm_groups"] for block in blocks}
    if groups == {None}:
        return {"norm": "batch"}
    if all(block["norm_groups"] == block["d_model"] for block in blocks):
        return {"norm": "instance"}
    must(len(groups) == 1, "model.blocks.norm_groups", "alike in all blocks to be written for NeMo", value=groups)
    return {"norm": "group", "norm_groups": groups.pop()}


# `_target_` of an encoder -> how its settings are read.
ENCODERS = {CONV_ENCODER: Encoder(ENCODER, model, ("crop_or_pad_augment",))}

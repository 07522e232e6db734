"""The convolutional encoder of QuartzNet, MatchboxNet and MarbleNet: NeMo's settings and names of tensors, and ours."""

from typing import Any

from anemone.checkpoint.names.rules import Encoder, Ignored, Only, Rule, Table, translate, translate_part
from anemone.config import Tree
from anemone.errors import ArchiveError

MAX_SIZE = 65_536  # of a width, a kernel, a number of repeats
MAX_REPEATS = 1_000  # of all blocks together

ENCODER: Table = {
    "jasper": Rule("blocks", None),
    "activation": Only(("relu",)),
    "conv_mask": Only((True,)),
    "feat_in": Ignored(),
    "frame_splicing": Only((1,)),
    "normalization_mode": Only(("batch",)),
    "norm_groups": Ignored(),
    "residual_mode": Only(("add",)),
    "init_mode": Ignored(),
    "quantize": Only((False,)),
}


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


BLOCK: Table = {
    "filters": Rule("d_model", None, _one),
    "repeat": Rule("repeat", None, _one),
    "kernel": Rule("kernel", None, _one),
    "kernel_size_factor": Rule("kernel_size_factor", 1.0, _factor),
    "stride": Rule("stride", [1], _one),
    "dilation": Rule("dilation", [1], _one),
    "dropout": Rule("dropout", 0.0),
    "residual": Rule("residual", False, bool),
    "separable": Rule("separable", False, bool),
    "residual_mode": Only(("add",)),
    "residual_dense": Only((False,)),
    "groups": Only((1,)),
    "heads": Only((-1,)),
    "se": Only((False,)),
    "se_reduction_ratio": Ignored(),
    "se_context_size": Ignored(),
    "se_interpolation_mode": Ignored(),
    "stride_last": Only((False,)),
    "future_context": Only((-1,)),
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
    tree = {"kind": KINDS[task], "size": "custom", "blocks": blocks(encoder["blocks"])}
    if config.get("crop_or_pad_augment"):
        tree |= translate_part(config, "crop_or_pad_augment", CROPS)
    return tree


def blocks(value: Any) -> list[Tree]:
    """Settings of our blocks.

    Args:
        value: NeMo's list ``encoder.jasper``.

    Raises:
        ArchiveError: a setting that cannot be had here.
    """
    if not isinstance(value, list) or not value:
        raise ArchiveError(f"`encoder.jasper` must be a list of blocks, but is {value!r} instead.")
    ours = [_odd_kernel(translate(block, BLOCK, f"encoder.jasper[{b}]")) for b, block in enumerate(value)]
    if (repeats := sum(block["repeat"] for block in ours)) > MAX_REPEATS:
        raise ArchiveError(f"`encoder.jasper` must have at most {MAX_REPEATS} repeats, but has {repeats} instead.")
    return ours


def _odd_kernel(block: Tree) -> Tree:
    """Applies ``kernel_size_factor``: NeMo cuts the product to a whole number and makes an even one odd."""
    kernel = max(1, int(block["kernel"] * block["kernel_size_factor"]))
    kept = {key: value for key, value in block.items() if key != "kernel_size_factor"}
    return {**kept, "kernel": kernel + 1 - kernel % 2}


def tensor_names(model: Tree) -> dict[str, str]:
    """Our name of each parameter and buffer -> NeMo's.

    NeMo numbers a block's layers in one list: convolutions, normalisation, activation and dropout of each repeat.

    Args:
        model: our settings of the encoder.
    """
    names: dict[str, str] = {}
    for b, block in enumerate(model["blocks"]):
        ours, theirs = f"encoder.blocks.{b}", f"encoder.encoder.{b}"
        convs = ["depthwise", "pointwise"] if block["separable"] else ["pointwise"]
        units = [(f"{ours}.units.{r}", f"{theirs}.mconv", r * (len(convs) + 3)) for r in range(block["repeat"])]
        for unit, layers, at in units:
            names |= {f"{unit}.{conv}.weight": f"{layers}.{at + i}.conv.weight" for i, conv in enumerate(convs)}
            names |= {f"{unit}.norm.{part}": f"{layers}.{at + len(convs)}.{part}" for part in NORM}
        if block["residual"]:
            names[f"{ours}.residual.pointwise.weight"] = f"{theirs}.res.0.0.conv.weight"
            names |= {f"{ours}.residual.norm.{part}": f"{theirs}.res.0.1.{part}" for part in NORM}
    return names


# `_target_` of an encoder -> how its settings are read.
ENCODERS = {"nemo.collections.asr.modules.ConvASREncoder": Encoder(ENCODER, model, ("crop_or_pad_augment",))}

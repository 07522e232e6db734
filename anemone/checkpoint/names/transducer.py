"""NeMo's transducers: prediction network, joint, losses of all kinds, and hybrids with CTC."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from anemone.checkpoint.names.heads import CTC_DECODERS, tokenizer_of
from anemone.checkpoint.names.rules import (
    Ignored,
    Model,
    Only,
    Purpose,
    Rule,
    Table,
    back,
    look_up,
    or_none,
    target,
    translate,
    translate_part,
)
from anemone.config import Tree
from anemone.errors import ArchiveError

MOST_SYMBOLS = 1000  # at a frame, where NeMo has no limit


def _off(value: float) -> float:
    """NeMo turns off by a number below zero what zero turns off here."""
    return max(value, 0.0)


def _their_off(value: float) -> float:
    return value or -1.0


LSTM: Table = {
    "pred_hidden": Rule("d_model", None),
    "pred_rnn_layers": Rule("num_layers", None),
    "rnn_hidden_size": Rule("d_cell", -1, lambda value: value if value > 0 else None, or_none(-1)),
    "forget_gate_bias": Rule("forget_bias", 1.0),
    "t_max": Rule("max_memory", None),
    "weights_init_scale": Rule("init_scale", 1.0),
    "hidden_hidden_bias_scale": Rule("recurrent_bias_scale", 0.0),
    "dropout": Rule("dropout", 0.0, lambda value: value or 0.0),
}
STATELESS: Table = {
    "pred_hidden": Rule("d_model", None),
    "pred_rnn_layers": Ignored(),
    "t_max": Ignored(),
    "dropout": Rule("dropout", 0.0, lambda value: value or 0.0),
}

NORMALIZED: dict[str | None, bool] = {None: False, "layer": True}

# `_target_` of a decoder -> our kind, the table of its group `prednet`, and that of the rest.
DECODERS: dict[str, tuple[str, Table, Table]] = {
    "nemo.collections.asr.modules.RNNTDecoder": (
        "lstm",
        LSTM,
        {
            "prednet": Ignored(),
            "vocab_size": Ignored(),
            "normalization_mode": Only((None,)),
            "random_state_sampling": Rule("random_start", False, bool),
            "blank_as_pad": Only((True,)),
        },
    ),
    "nemo.collections.asr.modules.StatelessTransducerDecoder": (
        "stateless",
        STATELESS,
        {
            "prednet": Ignored(),
            "vocab_size": Ignored(),
            "context_size": Rule("context", 1),
            "normalization_mode": Rule("normalize", None, NORMALIZED.__getitem__, back(NORMALIZED)),
            "blank_as_pad": Only((True,)),
            "random_state_sampling": Ignored(),
        },
    ),
}

JOINT: Table = {
    "jointnet": Rule("jointnet", None),
    "num_classes": Ignored(),
    "num_extra_outputs": Rule("num_extra", 0, lambda value: value or 0),
    "vocabulary": Rule("vocabulary", None),
    "log_softmax": Ignored(),
    "preserve_memory": Ignored(),
    "fuse_loss_wer": Ignored(),
    "fused_batch_size": Ignored(),
    "experimental_fuse_loss_wer": Ignored(),
    "masking_prob": Rule("p_mask", -1.0, _off, _their_off),
}
JOINTS = {"nemo.collections.asr.modules.RNNTJoint": JOINT}
JOINT_NET: Table = {
    "joint_hidden": Rule("d_joint", None),
    "activation": Rule("activation", None, str.lower),
    "dropout": Rule("dropout", 0.0, lambda value: value or 0.0),
    "encoder_hidden": Ignored(),
    "pred_hidden": Ignored(),
}


def _frames(value: Any) -> list[int]:
    if not isinstance(value, list) or not value or not all(isinstance(each, int) for each in value):
        raise ValueError("must be a list of whole numbers")
    return value


PLAIN: Table = {
    "fastemit_lambda": Rule("fastemit", 0.0),
    "clamp": Rule("clamp", -1.0, _off, _their_off),
}
MULTI_BLANK: Table = {**PLAIN, "big_blank_durations": Rule("big_blanks", None, _frames), "sigma": Rule("sigma", 0.0)}
TDT: Table = {
    **PLAIN,
    "durations": Rule("durations", None, _frames),
    "sigma": Rule("sigma", 0.0),
    "omega": Rule("omega", 0.0),
}

# `loss.loss_name` -> our kind, the group of its settings, and their table.
LOSSES: dict[str, tuple[str, str, Table]] = {
    "default": ("rnnt", "warprnnt_numba_kwargs", PLAIN),
    "warprnnt_numba": ("rnnt", "warprnnt_numba_kwargs", PLAIN),
    "warprnnt": ("rnnt", "", PLAIN),
    "pytorch": ("rnnt", "", PLAIN),
    "multiblank_rnnt": ("multi_blank", "multiblank_rnnt_kwargs", MULTI_BLANK),
    "multiblank_rnnt_pytorch": ("multi_blank", "multiblank_rnnt_pytorch_kwargs", MULTI_BLANK),
    "tdt": ("tdt", "tdt_kwargs", TDT),
    "tdt_pytorch": ("tdt", "tdt_pytorch_kwargs", TDT),
}

AUXILIARY: Table = {
    "ctc_loss_weight": Rule("weight", 0.5),
    "ctc_reduction": Rule("reduction", "mean_batch"),
    "decoder": Rule("decoder", None),
    "decoding": Ignored(),
    "use_cer": Ignored(),
}


def transducer(config: Mapping[str, Any]) -> Purpose:
    """Settings of a transducer, of whatever kind.

    Args:
        config: NeMo's settings of the whole model.

    Raises:
        ArchiveError: a setting that cannot be had here; names it.
    """
    joint = translate_part(config, "joint", JOINTS)
    loss = _loss(config)
    special: Tree = {name: loss.pop(name) for name in ("durations", "big_blanks") if name in loss}
    extra = sum(len(frames) for frames in special.values())
    if joint["num_extra"] != extra:
        raise ArchiveError(f"`joint.num_extra_outputs` must be {extra}, as `loss` says, but is {joint['num_extra']}.")
    tokenizer, artifacts = tokenizer_of(config, joint["vocabulary"] or config.get("labels"), "joint.vocabulary")
    head = {
        "kind": "transducer",
        "predictor": _predictor(config),
        **translate(joint["jointnet"], JOINT_NET, "joint.jointnet"),
        **special,
        "p_mask": joint["p_mask"],
    }
    task = {"kind": "recognition", "tokenizer": tokenizer, "head": head}
    return Purpose({"task": task, "loss": loss, "decoding": _decoding(config)}, artifacts)


def hybrid(config: Mapping[str, Any]) -> Purpose:
    """Settings of a transducer with CTC on the same encoder.

    Args:
        config: NeMo's settings of the whole model.

    Raises:
        ArchiveError: a setting that cannot be had here; names it.
    """
    tree, artifacts = transducer(config)
    found = translate(config.get("aux_ctc"), AUXILIARY, "aux_ctc")
    if not isinstance(found["decoder"], Mapping):
        raise ArchiveError(f"`aux_ctc.decoder` must be a group of settings, but is {found['decoder']!r} instead.")
    table = look_up(found["decoder"].get("_target_"), CTC_DECODERS, "aux_ctc.decoder._target_")
    translate(found["decoder"], table, "aux_ctc.decoder")
    loss = {
        "kind": "hybrid",
        "transducer": tree["loss"],
        "ctc": {"reduction": found["reduction"]},
        "ctc_weight": found["weight"],
    }
    task = {**tree["task"], "head": {**tree["task"]["head"], "kind": "hybrid"}}
    return Purpose({**tree, "task": task, "loss": loss}, artifacts)


def _predictor(config: Mapping[str, Any]) -> Tree:
    kind, inside, around = look_up(target(config, "decoder"), DECODERS, "decoder._target_")
    rest = translate(config["decoder"], around, "decoder")
    found = translate(config["decoder"].get("prednet"), inside, "decoder.prednet")
    width, cell = found["d_model"], found.get("d_cell")
    if cell is not None and cell < width:  # NeMo builds it, and fails where it runs
        raise ArchiveError(f"`decoder.prednet.rnn_hidden_size` must be {width} or more, but is {cell} instead.")
    return {"kind": kind, **rest, **found, **({"d_cell": None} if cell == width else {})}


def _loss(config: Mapping[str, Any]) -> Tree:
    """Settings of the loss, with those of the head that NeMo keeps there."""
    group = config.get("loss") or {}
    name = group.get("loss_name", "default")
    kind, settings, table = look_up(name, LOSSES, "loss.loss_name")
    found = translate(group.get(settings) or {}, table, f"loss.{settings}")
    return {"kind": kind, **found, "reduction": config.get("rnnt_reduction", "mean_batch")}


def _decoding(config: Mapping[str, Any]) -> Tree:
    """Greedy decoding with NeMo's limit of tokens at a frame."""
    group = config.get("decoding") or {}
    strategy = group.get("strategy", "greedy_batch")
    if strategy not in ("greedy", "greedy_batch"):
        warnings.warn(f"`decoding.strategy` is {strategy}: the model is decoded greedily instead.", stacklevel=2)
    greedy = group.get("greedy") or {}
    most = greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or MOST_SYMBOLS
    return {"kind": "transducer_greedy", "max_symbols": most}


def tensor_names(task: Tree) -> dict[str, str]:
    """Our name of each parameter of a head -> NeMo's.

    Args:
        task: our settings of the task.
    """
    head, predictor = task["head"], task["head"]["predictor"]
    theirs, ours = "decoder.prediction", "head.predictor"
    if predictor["kind"] == "lstm":
        parts = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", *(["weight_hr"] if predictor["d_cell"] else [])]
        cells = [f"{part}_l{layer}" for layer in range(predictor["num_layers"]) for part in parts]
        names = {f"{ours}.lstm.{cell}": f"{theirs}.dec_rnn.lstm.{cell}" for cell in cells}
        names[f"{ours}.embedding.weight"] = f"{theirs}.embed.weight"
    else:
        places = range(predictor["context"])
        names = {f"{ours}.embeddings.{place}.weight": f"{theirs}.embeds.{place}.weight" for place in places}
    last = 2 if head["dropout"] else 1  # NeMo's list of modules has one for dropout where there is some
    linears = {"acoustic": "joint.enc", "textual": "joint.pred", "joint.linear": f"joint.joint_net.{last}"}
    if head["kind"] == "hybrid":
        linears["ctc.linear"] = "ctc_decoder.decoder_layers.0"
    for name, there in linears.items():
        names |= {f"head.{name}.{each}": f"{there}.{each}" for each in ("weight", "bias")}
    return names


MODELS = {
    "nemo.collections.asr.models.rnnt_models.EncDecRNNTModel": Model(transducer, ("decoder", "joint")),
    "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel": Model(transducer, ("decoder", "joint")),
    "nemo.collections.asr.models.hybrid_rnnt_ctc_models.EncDecHybridRNNTCTCModel": Model(
        hybrid, ("decoder", "joint", "aux_ctc.decoder")
    ),
    "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel": Model(
        hybrid, ("decoder", "joint", "aux_ctc.decoder")
    ),
}
HEADS: dict[str, Callable[[Tree], dict[str, str]]] = {"transducer": tensor_names, "hybrid": tensor_names}

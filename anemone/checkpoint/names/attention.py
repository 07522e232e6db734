"""Attention encoder-decoders with prompts, as Canary: NeMo's settings and names of tensors, and ours."""

import warnings
from collections.abc import Mapping
from typing import Any

from anemone.checkpoint.names.heads import tokenizer_of
from anemone.checkpoint.names.rules import Ignored, Model, Only, Purpose, Rule, Table, translate, translate_part
from anemone.config import Tree
from anemone.errors import ArchiveError

TRANSFORMERS = "nemo.collections.asr.modules.transformer"

BLOCKS: Table = {
    "num_layers": Rule("num_layers", None, int),
    "hidden_size": Rule("d_model", None, int),
    "inner_size": Rule("d_hidden", None, int),
    "num_attention_heads": Rule("num_heads", 1, int),
    "hidden_act": Rule("activation", "relu"),
    "pre_ln": Rule("pre_norm", False),
    "pre_ln_final_layer_norm": Rule("final_norm", True),
    "ffn_dropout": Rule("dropout", 0.0, float),
    "attn_layer_dropout": Rule("dropout_attention", 0.0, float),
    "attn_score_dropout": Rule("dropout_scores", 0.0, float),
}
ENCODERS = {f"{TRANSFORMERS}.transformer_encoders.TransformerEncoder": {**BLOCKS, "mask_future": Rule("causal", False)}}

DECODER: Table = {
    "model_name": Only((None,)),
    "pretrained": Only((False,)),
    "encoder": Only((None, False)),
    "pre_ln_final_layer_norm": Rule("final_norm", True),
    "config_dict": Rule("whole", None),
    "library": Only(("nemo",)),
}
DECODERS = {f"{TRANSFORMERS}.get_nemo_transformer": DECODER}
DECODER_CONFIG: Table = {
    **{name: rule for name, rule in BLOCKS.items() if name != "pre_ln_final_layer_norm"},
    "max_sequence_length": Rule("max_len", 512, int),
    "num_token_types": Ignored(),  # their embedding is never added
    "embedding_dropout": Rule("dropout_embedding", 0.0, float),
    "learn_positional_encodings": Rule("positions", False, {False: "fixed", True: "learned"}.__getitem__),
    "vocab_size": Ignored(),  # follows from the tokenizer
}

CLASSIFIER: Table = {
    "num_layers": Only((1,)),
    "activation": Ignored(),  # between layers
    "log_softmax": Only((True,)),
    "hidden_size": Ignored(),
    "num_classes": Ignored(),
    "dropout": Only((0.0, 0)),
    "use_transformer_init": Ignored(),
}
CLASSIFIERS = {"nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier": CLASSIFIER}

LOSS: Table = {
    "label_smoothing": Rule("label_smoothing", 0.0, float),
    "pad_id": Ignored(),
    "predict_last_k": Only((0,)),
    "eps": Ignored(),
    "per_token_reduction": Only((True,)),
}
LOSSES = {
    "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss": LOSS,
    "nemo.collections.common.losses.SmoothedCrossEntropyLoss": LOSS,
}
FORMATS = ("canary", "canary2")


def multitask(config: Mapping[str, Any]) -> Purpose:
    """Settings of a recogniser with an attention head and prompts.

    Args:
        config: NeMo's settings of the whole model.
    """
    tokenizer, artifacts = tokenizer_of(config, None, "tokenizer")
    loss = translate_part(config, "loss", LOSSES)
    tree = {
        "task": {"kind": "recognition", "tokenizer": tokenizer, "prompt": _prompt(config), "head": _head(config)},
        "loss": {"kind": "attention", **loss, "over_prompt": not config.get("use_loss_mask_for_prompt", False)},
        "decoding": {"kind": "attention_greedy", "max_delta": _max_delta(config.get("decoding"))},
    }
    return Purpose(tree, artifacts)


def _head(config: Mapping[str, Any]) -> Tree:
    """Settings of the head."""
    translate_part(config, "head", CLASSIFIERS)  # they change nothing, or are refused
    found = translate_part(config, "transf_decoder", DECODERS)
    decoder = translate(found["whole"], DECODER_CONFIG, "transf_decoder.config_dict")
    d_model = decoder.pop("d_model")
    outer = {name: decoder.pop(name) for name in ("max_len", "dropout_embedding", "positions")}
    encoder = None
    if (config.get("transf_encoder") or {}).get("num_layers", 0):
        encoder = translate_part(config, "transf_encoder", ENCODERS)
        if (width := encoder.pop("d_model")) != d_model:
            raise ArchiveError(
                f"`transf_encoder.hidden_size` must be the decoder's, {d_model}, but is {width} instead."
            )
    widths = config.get("model_defaults") or {}
    if widths.get("lm_dec_hidden", d_model) != d_model:
        raise ArchiveError(
            f"`model_defaults.lm_dec_hidden` must be `transf_decoder.config_dict.hidden_size`, {d_model}, "
            f"but is {widths['lm_dec_hidden']!r} instead."
        )
    return {
        "kind": "attention",
        "d_model": d_model,
        "decoder": {**decoder, "final_norm": found["final_norm"]},
        "encoder": encoder,
        **outer,
        "project": widths.get("asr_enc_hidden", d_model) != d_model,
    }


def _prompt(config: Mapping[str, Any]) -> Tree:
    """Settings of the prompts."""
    name = config.get("prompt_format")
    if name not in FORMATS:
        raise ArchiveError(f"`prompt_format` must be {' or '.join(FORMATS)} to be read, but is {name!r} instead.")
    defaults: Tree = {}
    for turn in config.get("prompt_defaults") or []:
        if turn.get("role") == "user":
            defaults = {slot: str(value) for slot, value in (turn.get("slots") or {}).items() if value is not None}
    return {"format": name, "defaults": defaults, "grow": False}


def _max_delta(decoding: Any) -> int | None:
    """How many tokens a text may have beyond the frames; says so where the archive searches with a beam."""
    decoding = decoding or {}
    strategy = str(decoding.get("strategy", "beam"))
    kind = "beam" if "beam" in strategy else "greedy"
    settings = decoding.get(kind) or {}
    if kind == "beam" and settings.get("beam_size", 1) > 1:
        warnings.warn(f"the archive decodes with a beam of {settings['beam_size']}; here it is greedy", stacklevel=2)
    delta = int(settings.get("max_generation_delta", -1))
    return None if delta < 0 else delta


# --- names of tensors -------------------------------------------------------------------------------------------------

ATTENTION = {"query": "query_net", "key": "key_net", "value": "value_net", "output": "out_projection"}
FEED = {"up": "dense_in", "down": "dense_out"}
PARTS = ("weight", "bias")


def tensor_names(task: Tree) -> dict[str, str]:
    """Our name of each tensor of the head -> NeMo's.

    Args:
        task: our settings of the task.
    """
    head = task["head"]
    embedding, pairs = "transf_decoder._embedding", {"output": "log_softmax.mlp.layer0"}
    if head["project"]:
        pairs["projection"] = "encoder_decoder_proj"
    if head["encoder"]:
        pairs |= _stack("encoder", "transf_encoder", head["encoder"], memory=False)
    pairs |= {"embedding_norm": f"{embedding}.layer_norm"}
    pairs |= _stack("decoder", "transf_decoder._decoder", head["decoder"], memory=True)
    names = {f"head.{ours}.{part}": f"{theirs}.{part}" for ours, theirs in pairs.items() for part in PARTS}
    names["head.embedding.weight"] = f"{embedding}.token_embedding.weight"
    if head["positions"] == "learned":
        names["head.positions"] = f"{embedding}.position_embedding.weight"
    return names


def _stack(ours: str, theirs: str, stack: Tree, *, memory: bool) -> dict[str, str]:
    """Names of the modules of a stack of blocks."""
    feed = "third" if memory else "second"
    block = {"self_norm": "layer_norm_1", "feed_norm": "layer_norm_3" if memory else "layer_norm_2"}
    block |= {f"self_attention.{a}": f"first_sub_layer.{b}" for a, b in ATTENTION.items()}
    if memory:
        block |= {"memory_norm": "layer_norm_2"}
        block |= {f"memory_attention.{a}": f"second_sub_layer.{b}" for a, b in ATTENTION.items()}
    block |= {f"feed_forward.{a}": f"{feed}_sub_layer.{b}" for a, b in FEED.items()}
    names = {
        f"{ours}.layers.{i}.{a}": f"{theirs}.layers.{i}.{b}"
        for i in range(stack["num_layers"])
        for a, b in block.items()
    }
    final = stack["pre_norm"] and stack["final_norm"]
    return names | ({f"{ours}.norm": f"{theirs}.final_layer_norm"} if final else {})


GROUPS = ("transf_encoder", "transf_decoder", "head", "loss", "tokenizer.custom_tokenizer")
METRICS = tuple(f"multitask_metrics_cfg.metrics.{name}" for name in ("wer", "bleu"))
MODELS = {"nemo.collections.asr.models.aed_multitask_models.EncDecMultiTaskModel": Model(multitask, GROUPS + METRICS)}
HEADS = {"attention": tensor_names}

RECOMPUTED = (  # of sines and cosines, and an embedding that is never added
    "transf_decoder._embedding.position_embedding.pos_enc",
    "transf_decoder._embedding.token_type_embedding.",
)

"""Hugging Face's Llama, Mistral and Mixtral: names of settings and of tensors, theirs and ours."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from anemone.checkpoint.names.huggingface import count
from anemone.checkpoint.names.rules import Ignored, Only, Rule, Table, revert, translate
from anemone.config import Tree, must, nearest
from anemone.errors import ArchiveError

MOST_PARTS = 100_000  # layers times experts


def _maybe(value: Any) -> int | None:
    return None if value is None else count(value)


SCALING: Table = {
    "factor": Rule("factor", 8.0, float),
    "low_freq_factor": Rule("low_freq_factor", 1.0, float),
    "high_freq_factor": Rule("high_freq_factor", 4.0, float),
    "original_max_position_embeddings": Rule("original_len", 8192, count),
}


def _scaling(value: Any) -> Tree | None:
    """Our scaling of the rotation; under the name ``rope_parameters`` the slowest rotation stands beside it."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError("must be a group of settings")
    kind = value.get("rope_type", value.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ValueError('the type of rotation must be "default" or "llama3"')
    theta = value.get("rope_theta")
    rest = {key: number for key, number in value.items() if key not in ("rope_type", "type", "rope_theta")}
    scaling = translate(rest, SCALING, "rope_scaling") if kind == "llama3" else None
    return {"theta": None if theta is None else float(theta), "scaling": scaling}


# What every model on Hugging Face may say, and what makes no number of ours another.
GENERAL = (
    "_name_or_path", "architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "max_position_embeddings", "pretraining_tp",
    "attention_dropout", "output_router_logits", "router_jitter_noise", "rope_interleaved", "id2label", "label2id",
    "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward", "is_encoder_decoder",
    "problem_type", "auto_map", "router_aux_loss_coef",
)  # fmt: skip

LLAMA: Table = {
    **dict.fromkeys(GENERAL, Ignored()),
    "vocab_size": Rule("vocab_size", None, count),
    "hidden_size": Rule("d_model", None, count),
    "intermediate_size": Rule("d_ff", None, count),
    "num_hidden_layers": Rule("num_layers", None, count),
    "num_attention_heads": Rule("num_heads", None, count),
    "num_key_value_heads": Rule("num_kv_heads", None, _maybe),
    "head_dim": Rule("d_head", None, _maybe),
    "rms_norm_eps": Rule("norm_eps", 1e-6, float),
    "rope_theta": Rule("rope_theta", None, lambda value: value and float(value)),
    "rope_scaling": Rule("rope_scaling", None, _scaling),
    "rope_parameters": Rule("rope_parameters", None, _scaling),
    "tie_word_embeddings": Rule("tie_embeddings", False, bool),
    "hidden_act": Only(("silu",)),
    "attention_bias": Only((False,)),
    "mlp_bias": Only((False,)),
    "quantization_config": Only((None,)),
}
MISTRAL: Table = {
    **LLAMA,
    "num_key_value_heads": Rule("num_kv_heads", 8, _maybe),
    "sliding_window": Rule("window", 4096, _maybe),
}
MIXTRAL: Table = {
    **LLAMA,
    "num_key_value_heads": Rule("num_kv_heads", 8, _maybe),
    "sliding_window": Rule("window", None, _maybe),
    "rms_norm_eps": Rule("norm_eps", 1e-5, float),
    "num_local_experts": Rule("num_experts", 8, count),
    "num_experts_per_tok": Rule("num_experts_per_token", 2, count),
}
FAMILIES = {"llama": LLAMA, "mistral": MISTRAL, "mixtral": MIXTRAL}
NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
DEFAULT_LEN = 8192  # tokens; says nothing about what the model computes
THETAS = {"llama": 10_000.0, "mistral": 10_000.0, "mixtral": 1_000_000.0}


class Settings(NamedTuple):
    """What a model is made of."""

    model: Tree
    """Our settings of it, with its ``kind``; every number is written out."""

    vocab_size: int
    """Number of tokens."""


def our_settings(config: Mapping[str, Any]) -> Settings:
    """Translates Hugging Face's settings.

    Args:
        config: what stands in ``config.json``.

    Raises:
        ArchiveError: a model of another family, or a setting that cannot be had here; names it.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        advice = nearest(str(family), FAMILIES)
        raise ArchiveError(f"`model_type` must be one of {sorted(FAMILIES)}, but is {family!r} instead.{advice}")
    missing = [name for name in NEEDED if name not in config]
    if missing:
        raise ArchiveError(f"`config.json` must have `{missing[0]}`, which it lacks.")
    tree = translate(config, FAMILIES[family], "config.json")
    vocab_size = tree.pop("vocab_size")
    rope = tree.pop("rope_parameters") or tree.pop("rope_scaling") or {"theta": None, "scaling": None}
    model = {
        "kind": "llama",
        "size": "custom",
        **{"window": None, "num_experts": 0, "num_experts_per_token": 2, "balance": 0.0},
        **tree,
        "rope_theta": rope["theta"] or tree["rope_theta"] or THETAS[family],
        "rope_scaling": rope["scaling"],
        "num_kv_heads": tree["num_kv_heads"] or tree["num_heads"],
        "d_head": tree["d_head"] or tree["d_model"] // tree["num_heads"],
    }
    parts = model["num_layers"] * max(1, model["num_experts"])
    if parts > MOST_PARTS:
        raise ArchiveError(
            f"`config.json` must ask for at most {MOST_PARTS} layers times experts, but asks for {parts}."
        )
    return Settings(model, vocab_size)


def their_settings(model: Tree, vocab_size: int, *, dtype: str) -> Tree:
    """Returns what stands in ``config.json`` of a model of ours.

    Args:
        model: our settings, with every number written out.
        vocab_size: number of tokens.
        dtype: of the weights, "float32" or the like.
    """
    family = "mixtral" if model["num_experts"] else "mistral" if model["window"] else "llama"
    scaling = model["rope_scaling"]
    rope = {"rope_type": "llama3", **revert(scaling, SCALING)} if scaling else None
    length = int(scaling["factor"] * scaling["original_len"]) if scaling else DEFAULT_LEN
    return {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        **revert({**model, "vocab_size": vocab_size, "rope_scaling": rope}, FAMILIES[family]),
        "hidden_act": "silu",
        "max_position_embeddings": length,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": dtype,
    }


# --- tensors ----------------------------------------------------------------------------------------------------------

OUTER = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
PLAIN = {
    "ffn.gate.weight": "mlp.gate_proj.weight",
    "ffn.up.weight": "mlp.up_proj.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
}
ROUTER = {"ffn.router.weight": "block_sparse_moe.gate.weight"}
EXPERT = {
    "ffn.experts.gate": "block_sparse_moe.experts.{}.w1.weight",
    "ffn.experts.down": "block_sparse_moe.experts.{}.w2.weight",
    "ffn.experts.up": "block_sparse_moe.experts.{}.w3.weight",
}
RECOMPUTED = "rotary_emb.inv_freq"  # end of the names of tensors that follow from the settings


class Source(NamedTuple):
    """Where a tensor of ours comes from."""

    names: tuple[str, ...]
    """Theirs."""

    shape: tuple[int, ...]
    """Of our whole tensor."""

    stacked: bool = False
    """Whether theirs are the slices of ours along its first axis."""


def sources(model: Tree, vocab_size: int) -> dict[str, Source]:
    """Each parameter of ours, in the order of the network, and where it comes from.

    Args:
        model: our settings, with every number written out.
        vocab_size: number of tokens.
    """
    return dict(_sources(model, vocab_size))


def _sources(model: Tree, vocab_size: int) -> Iterator[tuple[str, Source]]:
    d_model, experts = model["d_model"], model["num_experts"]
    for name in ("num_layers", "num_heads", "num_kv_heads", "d_model", "d_head", "d_ff"):
        must(isinstance(model[name], int), f"model.{name}", "written out as a number", value=model[name])
    shapes = layer_shapes(model)
    yield "embedding.weight", Source((OUTER["embedding.weight"],), (vocab_size, d_model))
    for layer in range(model["num_layers"]):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        for name, foreign in {**LAYER, **(ROUTER if experts else PLAIN)}.items():
            yield ours + name, Source((theirs + foreign,), shapes[name])
        for name, foreign in EXPERT.items() if experts else ():
            names = tuple(theirs + foreign.format(number) for number in range(experts))
            yield ours + name, Source(names, shapes[name], stacked=True)
    yield "norm.weight", Source((OUTER["norm.weight"],), (d_model,))
    head = "embedding.weight" if model["tie_embeddings"] else "head.weight"
    yield "head.weight", Source((OUTER[head],), (vocab_size, d_model))


def layer_shapes(model: Tree) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter of a layer.

    Args:
        model: our settings, with every number written out.
    """
    d_model, d_ff, experts = model["d_model"], model["d_ff"], model["num_experts"]
    queries, keys = model["num_heads"] * model["d_head"], model["num_kv_heads"] * model["d_head"]
    return {
        "attention_norm.weight": (d_model,),
        "attention.query.weight": (queries, d_model),
        "attention.key.weight": (keys, d_model),
        "attention.value.weight": (keys, d_model),
        "attention.output.weight": (d_model, queries),
        "ffn_norm.weight": (d_model,),
        "ffn.gate.weight": (d_ff, d_model),
        "ffn.up.weight": (d_ff, d_model),
        "ffn.down.weight": (d_model, d_ff),
        "ffn.router.weight": (experts, d_model),
        "ffn.experts.gate": (experts, d_ff, d_model),
        "ffn.experts.up": (experts, d_ff, d_model),
        "ffn.experts.down": (experts, d_model, d_ff),
    }

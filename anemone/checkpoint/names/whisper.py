"""Hugging Face's Whisper: settings, names of tensors, prompt and tokenizer, theirs and ours."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from anemone.checkpoint.archive import Archive
from anemone.checkpoint.names import huggingface
from anemone.checkpoint.names.byte_bpe import from_vocabulary
from anemone.checkpoint.names.huggingface import GENERAL, added_tokens, check_class, count, share, spoken, whole
from anemone.checkpoint.names.rules import Ignored, Only, Rule, Table, translate
from anemone.checkpoint.snapshot import Snapshot
from anemone.config import Tree
from anemone.errors import ArchiveError


def _tokens(value: Any) -> list[int]:
    """Tokens; -1 stands for a list that their first code knew, and no checkpoint has it in a folder."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError("must be a list of tokens")
    return [whole(token) for token in value]


CONFIG: Table = {
    **GENERAL,
    **dict.fromkeys(
        (
            "init_std", "use_weighted_layer_sum", "classifier_proj_size", "apply_spec_augment", "mask_time_prob",
            "mask_time_length", "mask_time_min_masks", "mask_feature_prob", "mask_feature_length",
            "mask_feature_min_masks", "median_filter_width", "suppress_tokens", "begin_suppress_tokens",
            "num_hidden_layers", "num_attention_heads", "decoder_start_token_id", "encoder_no_repeat_ngram_size",
        ),
        Ignored(),
    ),
    "vocab_size": Rule("vocab_size", 51_865, count),
    "num_mel_bins": Rule("num_mels", 80, count),
    "d_model": Rule("d_model", 384, count),
    "encoder_layers": Rule("num_layers", 4, count),
    "encoder_attention_heads": Rule("num_heads", 6, count),
    "encoder_ffn_dim": Rule("d_ff", 1536, count),
    "decoder_layers": Rule("decoder_layers", 4, count),
    "decoder_attention_heads": Rule("decoder_heads", 6, count),
    "decoder_ffn_dim": Rule("decoder_ff", 1536, count),
    "encoder_layerdrop": Rule("p_layer_drop", 0.0, share),
    "decoder_layerdrop": Ignored(),
    "activation_function": Only(("gelu",)),
    "dropout": Rule("dropout", 0.0, share),
    "attention_dropout": Rule("dropout_attention", 0.0, share),
    "activation_dropout": Rule("dropout_ffn", 0.0, share),
    "scale_embedding": Only((False,)),
    "max_source_positions": Rule("max_len", 1500, count),
    "max_target_positions": Rule("text_len", 448, count),
    "tie_word_embeddings": Only((True,)),
}  # fmt: skip
FEATURES: Table = {
    **huggingface.FEATURES,
    **dict.fromkeys(("mel_filters", "n_samples", "nb_max_frames"), Ignored()),
    "feature_size": Rule("num_mels", 80, count),
    "hop_length": Rule("hop", 160, count),
    "n_fft": Rule("n_fft", 400, count),
    "chunk_length": Rule("seconds", 30, float),
    "dither": Rule("dither", 0.0, float),
}
GENERATION: Table = {
    "suppress_tokens": Rule("suppress", None, _tokens),
    "begin_suppress_tokens": Rule("suppress_first", None, _tokens),
}
START, END, QUIET = "<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"
TASKS = {"<|transcribe|>": ["transcribe", "asr"], "<|translate|>": ["translate", "ast"]}
AUTO = "auto"


def read(snapshot: Snapshot, config: Mapping[str, Any]) -> Archive:
    """Returns a recogniser with an attention head.

    Args:
        snapshot: the folder.
        config: its ``config.json``.

    Raises:
        ArchiveError: something has no counterpart here, or is missing; names it.
    """
    check_class(config, ("WhisperForConditionalGeneration",))
    found = translate(config, CONFIG, "config.json")
    size, mels = found.pop("vocab_size"), found.pop("num_mels")
    generation = {**config, **snapshot.json("generation_config.json")}
    features = {"kind": "whisper_mel", **spoken(snapshot, FEATURES)}
    if features["num_mels"] != mels:
        raise ArchiveError(f"`config.json: num_mel_bins`, {mels}, must be `feature_size`, {features['num_mels']}.")
    data, numbers = _tokenizer(snapshot, size)
    head = {
        "kind": "attention",
        "d_model": found["d_model"],
        "decoder": {
            "num_layers": found["decoder_layers"],
            "num_heads": found.pop("decoder_heads"),
            "d_hidden": found.pop("decoder_ff"),
            "activation": "gelu",
            "dropout": found["dropout"],
            "dropout_attention": found["dropout"],
            "dropout_scores": found["dropout_attention"],
            "key_bias": False,
        },
        "max_len": found.pop("text_len"),
        "positions": "learned",
        "embedding_norm": False,
        "dropout_embedding": found["dropout"],
        "output_bias": False,
        "vocab_multiple": 1,
    }
    decoder_layers = found.pop("decoder_layers")
    prompt, languages = _prompt(generation, numbers)
    tokens = translate({name: generation.get(name) for name in GENERATION}, GENERATION, "generation_config")
    model = {"kind": "whisper", "size": "base", **found}
    tree = {
        "task": {"kind": "recognition", "tokenizer": {"kind": "byte_bpe"}, "prompt": prompt, "head": head},
        "model": model,
        "features": features,
        "loss": {"kind": "attention"},
        "decoding": {"kind": "whisper_greedy", **tokens, "languages": languages},
    }
    return Archive(tree, _tensors(snapshot, tensor_names(model["num_layers"], decoder_layers)), data)


def _tokenizer(snapshot: Snapshot, size: int) -> tuple[dict[str, bytes], dict[str, int]]:
    """The file of the tokenizer, filled up to the number of labels; and the numbers of the added tokens."""
    tree = snapshot.json("tokenizer.json")
    if not tree:
        vocab, merges = snapshot.json("vocab.json"), snapshot.text("merges.txt")
        if not vocab or not merges:
            raise ArchiveError(f"`{snapshot.folder}` must hold `tokenizer.json`, or `vocab.json` and `merges.txt`.")
        tree = from_vocabulary(vocab, merges, added_tokens(snapshot))
    entries = tree.get("added_tokens") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ArchiveError("`tokenizer.json: added_tokens` must be a list of tokens with `id` and `content`.")
    numbers = {str(entry.get("content")): entry.get("id") for entry in entries}
    model: Any = tree.get("model")
    units = model.get("vocab") if isinstance(model, dict) else {}
    known = {**(units if isinstance(units, dict) else {}), **numbers}
    most = max((number for number in known.values() if isinstance(number, int)), default=-1)
    if most >= size:
        raise ArchiveError(f"`tokenizer.json` must have numbers below `vocab_size`, {size}, but has {most}.")
    if most < size - 1:
        entries = [*entries, {"id": size - 1, "content": f"<|{size - 1}|>", "special": True}]
    for mark in (START, END):
        if not isinstance(known.get(mark), int):
            raise ArchiveError(f"`tokenizer.json` must have the token `{mark}`, which it lacks.")
    data = json.dumps({**tree, "added_tokens": entries}, ensure_ascii=False).encode("utf-8", "replace")
    return {"tokenizer.json": data}, {text: n for text, n in known.items() if isinstance(n, int)}


def _prompt(generation: Mapping[str, Any], numbers: Mapping[str, int]) -> tuple[Tree, list[int]]:
    """Settings of the prompt, and the tokens of languages. A model that knows English only is told no language.

    Where nothing says the task it is to transcribe, also where their library leaves it open.
    """
    languages = generation.get("lang_to_id") or {}
    if not isinstance(languages, Mapping) or any(numbers.get(str(mark)) != n for mark, n in languages.items()):
        raise ArchiveError("`generation_config.json: lang_to_id` must give the number of each token of a language.")
    forced = _forced(generation)
    asked = generation.get("no_timestamps_token_id") is not None or numbers.get(QUIET) in forced
    quiet = [QUIET] if asked and QUIET in numbers else []
    if not languages:
        marks = {number: mark for mark, number in numbers.items()}
        fixed = [marks[number] for number in forced if number in marks and marks[number] != QUIET]
        return {"template": [START, *fixed, *quiet], "end": END, "learned": False, "grow": False}, []
    language, task = generation.get("language"), generation.get("task")
    said = [mark for mark, number in languages.items() if number in forced]
    named = str(language or (said or [AUTO])[0]).lower().removeprefix("<|").removesuffix("|>")
    default = NAMES.get(named, named)
    tasks = {mark: words for mark, words in TASKS.items() if mark in numbers}
    slots = {
        "lang": {
            "columns": ["lang", "source_lang"],
            "default": default,
            "words": {START: [AUTO], **{mark: [mark[2:-2]] for mark in languages}},
        },
        "task": {"columns": ["task", "taskname"], "default": str(task or "transcribe"), "words": tasks},
    }
    template = [START, "{lang}", *(["{task}"] if tasks else []), *quiet]
    slots = slots if tasks else {"lang": slots["lang"]}
    tree = {"template": template, "slots": slots, "end": END, "language": ["lang"], "learned": False, "grow": False}
    return tree, [*languages.values()]


def _forced(generation: Mapping[str, Any]) -> list[Any]:
    """Tokens of the prompt, as older settings have them; of the language there may be none."""
    pairs = generation.get("forced_decoder_ids") or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ArchiveError("`generation_config.json: forced_decoder_ids` must be a list of pairs of place and token.")
    return [token for _, token in pairs]


# Their names of languages that a `generation_config.json` may use in place of codes.
NAMES = {
    "english": "en", "chinese": "zh", "german": "de", "spanish": "es", "russian": "ru", "korean": "ko", "french": "fr",
    "japanese": "ja", "portuguese": "pt", "turkish": "tr", "polish": "pl", "catalan": "ca", "dutch": "nl",
    "arabic": "ar", "swedish": "sv", "italian": "it", "indonesian": "id", "hindi": "hi", "finnish": "fi",
    "vietnamese": "vi", "hebrew": "he", "ukrainian": "uk", "greek": "el", "czech": "cs", "romanian": "ro",
    "danish": "da", "hungarian": "hu", "norwegian": "no", "thai": "th", "welsh": "cy",
}  # fmt: skip


# --- tensors ----------------------------------------------------------------------------------------------------------

ATTENTION = {
    "query.weight": "q_proj.weight", "query.bias": "q_proj.bias", "key.weight": "k_proj.weight",
    "value.weight": "v_proj.weight", "value.bias": "v_proj.bias",
    "output.weight": "out_proj.weight", "output.bias": "out_proj.bias",
}  # fmt: skip
PARTS = {"feed_forward.up": "fc1", "feed_forward.down": "fc2", "feed_norm": "final_layer_norm"}
SELF = {"self_norm": "self_attn_layer_norm", **PARTS}
BOTH = {"memory_norm": "encoder_attn_layer_norm", **SELF}
OUTER = {
    "encoder.positions": "model.encoder.embed_positions.weight",
    "head.embedding.weight": "model.decoder.embed_tokens.weight",
    "head.positions": "model.decoder.embed_positions.weight",
}
NORMED = {
    "encoder.conv1": "model.encoder.conv1",
    "encoder.conv2": "model.encoder.conv2",
    "encoder.norm": "model.encoder.layer_norm",
    "head.decoder.norm": "model.decoder.layer_norm",
}


def tensor_names(num_layers: int, decoder_layers: int) -> dict[str, str]:
    """Our name of each parameter -> theirs; the output has the embedding's weights.

    Args:
        num_layers: of the encoder.
        decoder_layers: of the decoder.
    """
    names, pairs = dict(OUTER), dict(NORMED)
    for side, foreign, count_, table in (
        ("encoder.layers", "model.encoder.layers", num_layers, SELF),
        ("head.decoder.layers", "model.decoder.layers", decoder_layers, BOTH),
    ):
        for n in range(count_):
            ours, theirs = f"{side}.{n}", f"{foreign}.{n}"
            pairs |= {f"{ours}.{own}": f"{theirs}.{name}" for own, name in table.items()}
            places = {"self_attention": "self_attn", **({"memory_attention": "encoder_attn"} if table is BOTH else {})}
            for own, name in places.items():
                names |= {f"{ours}.{own}.{a}": f"{theirs}.{name}.{b}" for a, b in ATTENTION.items()}
    return names | {f"{own}.{part}": f"{name}.{part}" for own, name in pairs.items() for part in ("weight", "bias")}


def _tensors(snapshot: Snapshot, names: dict[str, str]) -> dict[str, Tensor]:
    tensors = snapshot.take(names, ("proj_out.weight",))  # some writers repeat tied weights
    return {**tensors, "head.output.weight": tensors["head.embedding.weight"]}

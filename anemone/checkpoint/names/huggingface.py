"""What the settings of Hugging Face's models share."""

from collections.abc import Mapping, Sequence
from typing import Any

from anemone.checkpoint.names.rules import Ignored, Only, Rule, Table, translate
from anemone.checkpoint.snapshot import Snapshot
from anemone.config import Tree
from anemone.errors import ArchiveError

MOST = 1 << 24  # of any count or width: a stranger's settings may ask for any

# What any model may say, and what makes no number of ours another.
GENERAL: Table = dict.fromkeys(
    (
        "_name_or_path", "architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "use_cache",
        "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "id2label", "label2id", "max_length",
        "_attn_implementation", "attn_implementation", "output_attentions", "output_hidden_states", "return_dict",
        "chunk_size_feed_forward", "is_encoder_decoder", "problem_type", "tie_word_embeddings", "forced_decoder_ids",
        "tokenizer_class",
    ),
    Ignored(),
)  # fmt: skip
FILES = ("preprocessor_config.json", "feature_extractor_config.json")


def count(value: Any) -> int:
    """Returns a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ValueError(f"must be a whole number in 1..{MOST}")
    return value


def whole(value: Any) -> int:
    """Returns a whole number of 0 or more."""
    return 0 if value == 0 and not isinstance(value, bool) else count(value)


def share(value: Any) -> float:
    """Returns a number from 0 up to 1."""
    number = float(value)
    if not 0 <= number < 1:
        raise ValueError("must be at least 0 and below 1")
    return number


FEATURES: Table = {  # of models of speech
    **dict.fromkeys(("feature_extractor_type", "processor_class", "padding_side", "return_attention_mask"), Ignored()),
    "sampling_rate": Rule("rate", 16_000, count),
    "padding_value": Only((0, 0.0)),
}


def check_class(config: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Raises ArchiveError if the settings name a class of theirs that is none of some."""
    named = config.get("architectures") or list(classes)
    if not isinstance(named, list) or named[0] not in classes:
        raise ArchiveError(f"`config.json: architectures` must be {' or '.join(classes)} to be read, but is {named!r}.")


def spoken(snapshot: Snapshot, table: Table) -> Tree:
    """Returns our settings of the features, by a table.

    They stand in ``preprocessor_config.json``, or under ``feature_extractor`` in ``processor_config.json``.

    Raises:
        ArchiveError: a setting that cannot be had here; names it.
    """
    for name in FILES:
        if found := snapshot.json(name):
            return translate(found, table, name)
    found = snapshot.json("processor_config.json").get("feature_extractor", {})
    return translate(found, table, "processor_config.json: feature_extractor")


def added_tokens(snapshot: Snapshot) -> dict[int, str]:
    """Returns tokens that were added to a vocabulary: number -> text."""
    added: dict[int, str] = {
        n: str(text) for text, n in snapshot.json("added_tokens.json").items() if isinstance(n, int)
    }
    entries = snapshot.json("tokenizer_config.json").get("added_tokens_decoder", {})
    for number, entry in entries.items() if isinstance(entries, dict) else ():
        if str(number).isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str):
            added[int(number)] = entry["content"]
    return added

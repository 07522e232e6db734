"""What a NeMo model is for: its decoder, and its characters, sub-words or labels."""

from collections.abc import Callable, Mapping
from typing import Any

from anemone.checkpoint.names.rules import Ignored, Model, Only, Purpose, Rule, Table, translate, translate_part
from anemone.config import Tree
from anemone.errors import ArchiveError

ARTIFACT = "nemo:"  # prefix of a value that names a member of the archive

CTC_DECODER: Table = {
    "feat_in": Ignored(),
    "num_classes": Ignored(),
    "vocabulary": Rule("vocabulary", None),
    "init_mode": Ignored(),
    "add_blank": Only((True,)),
}

POOLINGS = {"avg": "average_padded", "max": "max_padded"}
CLASSIFICATION_DECODER: Table = {
    "feat_in": Ignored(),
    "num_classes": Ignored(),
    "init_mode": Ignored(),
    "return_logits": Only((True,)),
    "pooling_type": Rule("pooling", "avg", POOLINGS.__getitem__),
}

TOKENIZER: Table = {
    "type": Rule("kind", None, {"bpe": "sentencepiece", "wpe": "wordpiece"}.__getitem__),
    "dir": Ignored(),
    "model_path": Rule("model", None),
    "vocab_path": Rule("vocab", None),
    "spe_tokenizer_vocab": Ignored(),
    "hf_kwargs": Ignored(),
}

CTC_DECODERS = {"nemo.collections.asr.modules.ConvASRDecoder": CTC_DECODER}
CLASSIFICATION_DECODERS = {"nemo.collections.asr.modules.ConvASRDecoderClassification": CLASSIFICATION_DECODER}


def classification(config: Mapping[str, Any]) -> Purpose:
    """Settings of a classifier.

    Args:
        config: NeMo's settings of the whole model.
    """
    decoder = translate_part(config, "decoder", CLASSIFICATION_DECODERS)
    labels = _texts(config.get("labels"), "labels")
    task = {"kind": "classification", "labels": labels, "pooling": decoder["pooling"]}
    return Purpose({"task": task, "loss": {"kind": "cross_entropy"}}, {})


def recognition(config: Mapping[str, Any]) -> Purpose:
    """Settings of a recogniser with the CTC loss, of characters or sub-words.

    Args:
        config: NeMo's settings of the whole model.
    """
    decoder = translate_part(config, "decoder", CTC_DECODERS)
    tokenizer, artifacts = tokenizer_of(config, decoder["vocabulary"] or config.get("labels"), "decoder.vocabulary")
    tree = {
        "task": {"kind": "recognition", "tokenizer": tokenizer},
        "loss": {"kind": "ctc", "reduction": config.get("ctc_reduction", "mean_batch")},
        "decoding": {"kind": "ctc_greedy"},
    }
    return Purpose(tree, artifacts)


def tokenizer_of(config: Mapping[str, Any], vocabulary: Any, where: str) -> tuple[Tree, dict[str, str]]:
    """Returns our settings of a tokenizer, and the archive's members it needs: our name -> the member.

    NeMo's parser of characters writes text in lower case and drops what it does not know.

    Args:
        config: NeMo's settings of the whole model.
        vocabulary: characters, where it has no group ``tokenizer``.
        where: where they stand, for messages.

    Raises:
        ArchiveError: a setting that cannot be had here, or characters that are none.
    """
    if "tokenizer" in config:
        found = translate(config["tokenizer"], TOKENIZER, "tokenizer")
        key, ours = ("model", "tokenizer.model") if found["kind"] == "sentencepiece" else ("vocab", "vocab.txt")
        member = str(found[key])
        if not member.startswith(ARTIFACT):
            raise ArchiveError(f"`tokenizer.{key}_path` must name a member of the archive, but is {member!r} instead.")
        return {"kind": found["kind"]}, {ours: member.removeprefix(ARTIFACT)}
    characters = _texts(vocabulary, where)
    lowercase = not any(text != text.lower() for text in characters)  # else NeMo's parser would leave nothing
    return {"kind": "characters", "characters": characters, "lowercase": lowercase, "unknown": "drop"}, {}


def _texts(value: Any, where: str) -> list[str]:
    """A list of strings; YAML may have taken some for numbers or truths, which is told instead of guessed."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ArchiveError(f"`{where}` must be a list of strings, but is {value!r} instead.")
    return value


def _linear(task: Tree) -> dict[str, str]:
    """Names of a head that is one matrix."""
    part, name = "decoder.decoder_layers.0", "head.linear"
    return {f"{name}.weight": f"{part}.weight", f"{name}.bias": f"{part}.bias"}


# `target` of a model -> what reads its settings.
MODELS = {
    "nemo.collections.asr.models.ctc_models.EncDecCTCModel": Model(recognition),
    "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE": Model(recognition),
    "nemo.collections.asr.models.classification_models.EncDecClassificationModel": Model(classification),
}

# Our kind of head, or of task where that has one kind -> from our settings of the task to our name of each tensor of
# the head -> NeMo's.
HEADS: dict[str, Callable[[Tree], dict[str, str]]] = {"ctc": _linear, "classification": _linear}

"""What a NeMo model is for: its decoder, and its characters, sub-words or labels."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from anemone.checkpoint.names.rules import Ignored, Only, Rule, Table, translate
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

DECODERS = {
    "nemo.collections.asr.modules.ConvASRDecoder": CTC_DECODER,
    "nemo.collections.asr.modules.ConvASRDecoderClassification": CLASSIFICATION_DECODER,
}

HEAD_NAMES = {
    "head.linear.weight": "decoder.decoder_layers.0.weight",
    "head.linear.bias": "decoder.decoder_layers.0.bias",
}


class Purpose(NamedTuple):
    """The settings of a task, and the archive's members it needs: our name -> the member."""

    tree: Tree
    artifacts: dict[str, str]


def classification(config: Mapping[str, Any], decoder: Tree) -> Purpose:
    """Settings of a classifier.

    Args:
        config: NeMo's settings of the whole model.
        decoder: its decoder's settings, translated.
    """
    labels = _texts(config.get("labels"), "labels")
    task = {"kind": "classification", "labels": labels, "pooling": decoder["pooling"]}
    return Purpose({"task": task, "loss": {"kind": "cross_entropy"}}, {})


def recognition(config: Mapping[str, Any], decoder: Tree) -> Purpose:
    """Settings of a recogniser with the CTC loss, of characters or sub-words.

    NeMo's parser of characters writes text in lower case and drops what it does not know.

    Args:
        config: NeMo's settings of the whole model.
        decoder: its decoder's settings, translated.
    """
    artifacts: dict[str, str] = {}
    if "tokenizer" in config:
        found = translate(config["tokenizer"], TOKENIZER, "tokenizer")
        key, ours = ("model", "tokenizer.model") if found["kind"] == "sentencepiece" else ("vocab", "vocab.txt")
        member = str(found[key])
        if not member.startswith(ARTIFACT):
            raise ArchiveError(f"`tokenizer.{key}_path` must name a member of the archive, but is {member!r} instead.")
        artifacts[ours] = member.removeprefix(ARTIFACT)
        tokenizer: Tree = {"kind": found["kind"]}
    else:
        characters = _texts(decoder["vocabulary"] or config.get("labels"), "decoder.vocabulary")
        lowercase = not any(text != text.lower() for text in characters)  # else NeMo's parser would leave nothing
        tokenizer = {"kind": "characters", "characters": characters, "lowercase": lowercase, "unknown": "drop"}
    reduction = config.get("ctc_reduction", "mean_batch")
    tree = {
        "task": {"kind": "recognition", "tokenizer": tokenizer},
        "loss": {"kind": "ctc", "reduction": reduction},
        "decoding": {"kind": "ctc_greedy"},
    }
    return Purpose(tree, artifacts)


def _texts(value: Any, where: str) -> list[str]:
    """A list of strings; YAML may have taken some for numbers or truths, which is told instead of guessed."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ArchiveError(f"`{where}` must be a list of strings, but is {value!r} instead.")
    return value


# `target` of a model -> what reads its settings.
MODELS = {
    "nemo.collections.asr.models.ctc_models.EncDecCTCModel": recognition,
    "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE": recognition,
    "nemo.collections.asr.models.classification_models.EncDecClassificationModel": classification,
}

"""What a NeMo model is for: its decoder, and its characters, sub-words or labels."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from anemone.checkpoint.names.rules import (
    Ignored,
    Model,
    Only,
    Purpose,
    Rule,
    Sizes,
    Table,
    Written,
    back,
    revert,
    translate,
    translate_part,
)
from anemone.config import Tree, must
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
    "pooling_type": Rule("pooling", "avg", POOLINGS.__getitem__, back(POOLINGS)),
}

KINDS = {"bpe": "sentencepiece", "wpe": "wordpiece"}
AGGREGATE: Table = {
    "type": Only(("agg",)),
    "dir": Ignored(),
    "langs": Rule("langs", None, dict),
    "custom_tokenizer": Ignored(),  # of Canary: its marks are units of a member
}
TOKENIZER: Table = {
    "type": Rule("kind", None, KINDS.__getitem__, back(KINDS)),
    "dir": Ignored(),
    "model_path": Rule("model", None),
    "vocab_path": Rule("vocab", None),
    "spe_tokenizer_vocab": Ignored(),
    "hf_kwargs": Ignored(),
    "custom_tokenizer": Ignored(),
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
        group = config["tokenizer"]
        aggregate = isinstance(group, Mapping) and group.get("type") == "agg"
        return _aggregate(group) if aggregate else _subwords(group, "tokenizer")
    characters = _texts(vocabulary, where)
    lowercase = not any(text != text.lower() for text in characters)  # else NeMo's parser would leave nothing
    return {"kind": "characters", "characters": characters, "lowercase": lowercase, "unknown": "drop"}, {}


def _subwords(group: Any, where: str) -> tuple[Tree, dict[str, str]]:
    """A tokenizer of sub-words, and its member."""
    found = translate(group, TOKENIZER, where)
    key, ours = ("model", "tokenizer.model") if found["kind"] == "sentencepiece" else ("vocab", "vocab.txt")
    member = str(found[key])
    if not member.startswith(ARTIFACT):
        raise ArchiveError(f"`{where}.{key}_path` must name a member of the archive, but is {member!r} instead.")
    return {"kind": found["kind"]}, {ours: member.removeprefix(ARTIFACT)}


def _aggregate(group: Mapping[str, Any]) -> tuple[Tree, dict[str, str]]:
    """Tokenizers by language, and their members."""
    members: list[Tree] = []
    artifacts: dict[str, str] = {}
    for language, inner in translate(group, AGGREGATE, "tokenizer")["langs"].items():
        tokenizer, files = _subwords(inner, f"tokenizer.langs.{language}")
        members.append({"language": str(language), "tokenizer": tokenizer})
        artifacts |= {f"{language}.{ours}": member for ours, member in files.items()}
    return {"kind": "aggregate", "members": members}, artifacts


def _texts(value: Any, where: str) -> list[str]:
    """A list of strings; YAML may have taken some for numbers or truths, which is told instead of guessed."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ArchiveError(f"`{where}` must be a list of strings, but is {value!r} instead.")
    return value


def _linear(task: Tree) -> dict[str, str]:
    """Names of a head that is one matrix."""
    part, name = "decoder.decoder_layers.0", "head.linear"
    return {f"{name}.weight": f"{part}.weight", f"{name}.bias": f"{part}.bias"}


# --- the way back -----------------------------------------------------------------------------------------------------


def their_recognition(config: Tree, files: Mapping[str, bytes], sizes: Sizes) -> Written:
    """Returns NeMo's settings of a recogniser with the CTC loss.

    Args:
        config: our settings.
        files: of the tokenizer.
        sizes: of what stands around the head.

    Raises:
        ConfigError: NeMo has no such tokenizer.
    """
    name = "ctc_bpe_models.EncDecCTCModelBPE" if files else "ctc_models.EncDecCTCModel"
    written, artifacts = their_tokenizer(config["task"]["tokenizer"], files)
    decoder = {"feat_in": sizes.d_model, "num_classes": sizes.vocab_size, "vocabulary": written.get("labels", [])}
    settings = {
        "target": f"nemo.collections.asr.models.{name}",
        **written,
        "decoder": {"_target_": next(iter(CTC_DECODERS)), **decoder},
        "ctc_reduction": config["loss"]["reduction"],
    }
    return Written(settings, artifacts)


def their_classification(config: Tree, files: Mapping[str, bytes], sizes: Sizes) -> Written:
    """Returns NeMo's settings of a classifier; arguments are those of `their_recognition`."""
    pooling, labels = config["task"]["pooling"], config["task"]["labels"]
    hint = "NeMo pools over padded frames, too."
    must(pooling in POOLINGS.values(), "task.pooling", f"one of {list(POOLINGS.values())}", value=pooling, hint=hint)
    decoder = {
        "_target_": next(iter(CLASSIFICATION_DECODERS)),
        "feat_in": sizes.d_model,
        "num_classes": sizes.vocab_size,
        "return_logits": True,
        **revert(config["task"], CLASSIFICATION_DECODER),
    }
    target = "nemo.collections.asr.models.classification_models.EncDecClassificationModel"
    return Written({"target": target, "labels": list(labels), "decoder": decoder}, {})


def their_tokenizer(tokenizer: Tree, files: Mapping[str, bytes]) -> tuple[Tree, dict[str, bytes]]:
    """Returns NeMo's settings of a tokenizer (``labels``, or a group ``tokenizer``), and the files that they name.

    Args:
        tokenizer: ours, with its kind.
        files: its files.

    Raises:
        ConfigError: NeMo has no such tokenizer.
    """
    kind = tokenizer["kind"]
    if kind == "characters":
        return {"labels": list(tokenizer["characters"])}, {}
    if kind == "aggregate":
        return _their_aggregate(tokenizer["members"], files)
    rule = "characters, sentencepiece, wordpiece or aggregate"
    must(kind in KINDS.values(), "task.tokenizer.kind", rule, value=kind)
    if kind == "wordpiece":
        named = {"vocab_path": ("vocab.txt", files["vocab.txt"])}
    else:
        model = files["tokenizer.model"]
        pieces, listing = _pieces(model)
        named = {
            "model_path": ("tokenizer.model", model),
            "vocab_path": ("vocab.txt", pieces),
            "spe_tokenizer_vocab": ("tokenizer.vocab", listing),
        }
    members = {key: (f"{sha256(data).hexdigest()[:32]}_{name}", data) for key, (name, data) in named.items()}
    group = {
        "dir": None,
        **revert({"kind": kind}, TOKENIZER),
        **{k: ARTIFACT + name for k, (name, _) in members.items()},
    }
    return {"tokenizer": group}, dict(members.values())


def _their_aggregate(members: list[Tree], files: Mapping[str, bytes]) -> tuple[Tree, dict[str, bytes]]:
    """Tokenizers by language, and their files."""
    languages: Tree = {}
    artifacts: dict[str, bytes] = {}
    for member in members:
        language, kind = member["language"], member["tokenizer"]["kind"]
        rule = "sentencepiece or wordpiece"
        must(kind in KINDS.values(), f"task.tokenizer.members.{language}.kind", rule, value=kind)
        prefix = f"{language}."
        own = {name.removeprefix(prefix): data for name, data in files.items() if name.startswith(prefix)}
        written, named = their_tokenizer(member["tokenizer"], own)
        languages[language] = written["tokenizer"]
        artifacts |= named
    return {"tokenizer": {"dir": None, "type": "agg", "langs": languages}}, artifacts


def _pieces(model: bytes) -> tuple[bytes, bytes]:
    """The two listings that NeMo keeps beside a model of SentencePiece: of words' parts, and of pieces and scores."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=model)
    numbers = range(processor.get_piece_size())
    real = [i for i in numbers if not (processor.is_unknown(i) or processor.is_control(i))]
    texts = [processor.id_to_piece(i) for i in real]
    parts = [text[1:] if text[0] == "\u2581" else f"##{text}" for text in texts if text != "\u2581"]
    listing = [f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}" for i in numbers]
    return tuple("".join(f"{line}\n" for line in lines).encode() for lines in (parts, listing))  # type: ignore[return-value]


# `target` of a model -> what reads its settings.
MODELS = {
    "nemo.collections.asr.models.ctc_models.EncDecCTCModel": Model(recognition),
    "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE": Model(recognition),
    "nemo.collections.asr.models.classification_models.EncDecClassificationModel": Model(classification),
}

# Our kind of head, or of task where that has one kind -> from our settings of the task to our name of each tensor of
# the head -> NeMo's.
HEADS: dict[str, Callable[[Tree], dict[str, str]]] = {"ctc": _linear, "classification": _linear}

"""The older files of a byte-level tokenizer, and the one file that says the same."""

from collections.abc import Mapping

from anemone.config import Tree


def from_vocabulary(vocab: Mapping[str, int], merges: str, added: Mapping[int, str]) -> Tree:
    """Returns the tree of a ``tokenizer.json``.

    Args:
        vocab: of ``vocab.json``.
        merges: of ``merges.txt``.
        added: number -> token beside these.
    """
    lines = [line for line in merges.split("\n") if line.strip() and not line.startswith("#version")]
    return {
        "added_tokens": [{"id": n, "content": text, "special": True} for n, text in sorted(added.items())],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": dict(vocab), "merges": lines},
    }

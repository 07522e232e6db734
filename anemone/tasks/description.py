"""What a model card says of a task: what is known, and what is not."""

from collections.abc import Mapping
from typing import Any

from anemone.checkpoint.card import model_card
from anemone.tasks.task import Task

KNOWN = ("name", "language", "licence", "datasets", "scores", "text")
MANY = 100  # labels beyond which a card gives their number alone


def describe(task: Task, name: str, notes: Mapping[str, Any]) -> str:
    """Returns the model card of a task.

    Args:
        task: what is saved.
        name: title, unless the notes have one.
        notes: ``language`` (codes), ``licence`` (identifier), ``datasets`` (names), ``scores`` (metric -> value on
            held-out data of the first data set), ``text`` (Markdown: limits, attribution); any further entry, such as
            a fingerprint of the data, becomes a row of the table.
    """
    notes = {"name": name} | {key: value for key, value in notes.items() if value}
    facts = _facts(task) | {key: _plain(value) for key, value in notes.items() if key not in KNOWN}
    missing = [word for word in ("datasets", "licence", "scores") if word not in notes]
    table = ["| | |", "|---|---|", *(f"| {key.replace('_', ' ')} | {value} |" for key, value in facts.items())]
    said = f"Not recorded when it was saved: {', '.join(missing)}." if missing else ""
    return model_card(
        notes["name"],
        task.config_tree(),
        language=notes.get("language", ()),
        licence=notes.get("licence", ""),
        datasets=notes.get("datasets", ()),
        scores=notes.get("scores"),
        text="\n\n".join(part for part in ("\n".join(table), said, notes.get("text", "")) if part),
    )


def _facts(task: Task) -> dict[str, str]:
    """What a task knows about itself."""
    tree = task.config_tree()
    facts = {
        "task": tree["task"]["kind"],
        "architecture": tree["model"]["kind"],
        **({"features": f"{features['kind']}, {features['rate']} Hz"} if (features := tree["features"]) else {}),
        "parameters": f"{sum(p.numel() for p in task.parameters()):,}",
    }
    if labels := tree["task"].get("labels"):
        named = ", ".join(f"`{label}`" for label in labels)
        facts["labels"] = f"{len(labels)}: {named}" if len(labels) <= MANY else str(len(labels))
    if "tokenizer" in tree["task"]:
        facts["tokenizer"] = tree["task"]["tokenizer"]["kind"]
    return facts


def _plain(value: Any) -> str:
    """One cell of a table."""
    return _words(value).replace("|", "\\|").replace("\n", " ")


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_words(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)

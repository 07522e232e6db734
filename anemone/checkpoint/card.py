"""Model cards: Markdown for people, with a YAML front matter in the Hugging Face Hub's words for search engines."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from anemone.checkpoint.safe import load_tree

# kind of task -> its name on the Hugging Face Hub, and what a loaded task is for
PIPELINES = {
    "classification": ("audio-classification", 'print(task.classify(["recording.wav"]))'),
    "recognition": ("automatic-speech-recognition", 'print(task.transcribe(["recording.wav"]))'),
    "language_modelling": ("text-generation", 'print(task.generate(["Once upon a time"]))'),
    "pretraining": ("feature-extraction", "encoder = task.network.encoder  # or begin a run with it: run.init.encoder"),
}
EXAMPLE = """```python
import anemone

task = anemone.load("{name}")  # where this card lies
{use}
```"""


def model_card(
    name: str,
    config: Mapping[str, Any],
    *,
    language: Sequence[str] = (),
    licence: str = "",
    datasets: Sequence[str] = (),
    scores: Mapping[str, float] | None = None,
    text: str = "",
) -> str:
    """Returns a card: what the model is, how to use it, how good it is.

    Args:
        name: the model's name, its title.
        config: the archive's config tree; task and architecture are read from it.
        language: codes such as "en".
        licence: identifier such as "apache-2.0".
        datasets: names of the data it learned from.
        scores: metric -> value on held-out data of the first of ``datasets``.
        text: further Markdown, such as limits and attribution.

    Example:
        >>> card = model_card("yes", {"task": {"kind": "classification"}}, language=["en"], scores={"acc": 0.98})
        >>> front_matter(card)["pipeline_tag"]
        'audio-classification'
    """
    task, model = (str((config.get(part) or {}).get("kind", "")) for part in ("task", "model"))
    pipeline, use = PIPELINES.get(task, (task, PIPELINES["classification"][1]))
    values = scores or {}
    results = {
        "task": {"type": pipeline},
        "dataset": {"name": datasets[0] if datasets else "held-out data", "type": "audio"},
        "metrics": [{"type": metric, "value": round(value, 6)} for metric, value in values.items()],
    }
    front = {
        "library_name": "anemone",
        "pipeline_tag": pipeline,
        "language": list(language),
        "license": licence,
        "tags": [tag for tag in ("anemone", model) if tag],
        "datasets": list(datasets),
        "model-index": [{"name": name, "results": [results]}] if values else [],
    }
    matter = yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False, allow_unicode=True)
    table = ["| metric | value |", "|---|--:|", *(f"| {metric} | {value:.4g} |" for metric, value in values.items())]
    parts = [
        f"---\n{matter}---",
        f"# {name}",
        f"A model for {task or 'speech'}{f' ({model})' if model else ''}, made with anemone.",
        text.strip(),
        EXAMPLE.format(name=name, use=use),
        "\n".join(table) if values else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(card: str) -> dict[str, Any]:
    """Returns the values between the two lines ``---`` at the top of a card; empty if there are none.

    Raises:
        ArchiveError: they are no YAML mapping.
    """
    if not card.startswith("---\n") or "\n---" not in card[3:]:
        return {}
    return load_tree(card[4 : card.index("\n---", 3) + 1].encode("utf-8"), "the front matter of a card")

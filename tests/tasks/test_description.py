"""A card says what is known, and what is not."""

from anemone.checkpoint.card import front_matter
from anemone.tasks.description import describe
from anemone.testing import tiny


def test_a_card_says_what_the_task_knows():
    task = tiny("classification")
    card = describe(task, "my-model", {})
    assert "# my-model" in card
    assert "| task | classification |" in card
    assert "| labels | 3: `yes`, `no`, `stop` |" in card
    assert f"| parameters | {sum(p.numel() for p in task.parameters()):,} |" in card
    assert "Not recorded when it was saved: datasets, licence, scores." in card


def test_notes_reach_the_card():
    notes = {
        "name": "words",
        "language": ["en"],
        "licence": "cc-by-4.0",
        "datasets": ["telephone words"],
        "scores": {"accuracy": 0.951234},
        "data": {"train": "3f|2a", "rows": 12},
        "text": "One voice a language.",
    }
    card = describe(tiny("classification"), "ignored", notes)
    assert front_matter(card)["license"] == "cc-by-4.0"
    assert "# words" in card and "One voice a language." in card and "0.9512" in card
    assert "| data | train: 3f\\|2a, rows: 12 |" in card
    assert "Not recorded" not in card


def test_a_recogniser_names_its_tokenizer():
    assert "| tokenizer | characters |" in describe(tiny("recognition"), "x", {})

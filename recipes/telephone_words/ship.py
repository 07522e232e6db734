"""Writes the demo's model, with its card, to where the package keeps its pretrained models.

    make demo && python recipes/telephone_words/ship.py

Prints the entry for ``anemone/assets/registry.yaml``.
"""

from pathlib import Path

from demo import FOLDER, WORDS, accuracy, commonest, held_out, language, predict

import anemone
from anemone.checkpoint.registry import fingerprint

NAME = "speech-commands-telephone-words"
MODELS = Path(anemone.__file__).parent / "assets" / "models"
LIMITS = """One voice a language (English and Spanish are the same woman), the same voices in training and in the test,
studio recordings of telephone prompts: the score says that words in new sentences are recognised. It says nothing about
other speakers, rooms or telephones, and the model is not meant for them. It always names one of its words, also for
noise or a word it does not know.

| held-out prompts | takes | accuracy | naming the commonest word of the language |
|---|--:|--:|--:|
{rows}

Trained by `make demo` on `anemone/assets/telephone_words`, whose README names voices and licences: CC-BY-SA-3.0
(English, Spanish, French) and CC-BY-3.0 (Italian, Russian)."""


def main() -> None:
    task = anemone.load(FOLDER / "quartznet_tiny" / "model.anemone")
    recordings, true = held_out()
    said, guess = predict(task, recordings), commonest()
    languages = sorted(guess.keys() - {"all"})
    table = []
    for lang in [*languages, "all"]:
        rows = [i for i, label in enumerate(true) if lang in ("all", language(label))]
        guessed = [guess[language(true[i])] for i in rows]
        scores = [accuracy(x, [true[i] for i in rows]) for x in ([said[i] for i in rows], guessed)]
        table.append(f"| {lang} | {len(rows)} | {scores[0]:.1f} % | {scores[1]:.1f} % |")
    path = MODELS / f"{NAME}.anemone"
    path.parent.mkdir(exist_ok=True)
    anemone.save(
        task,
        path,
        notes={
            "name": NAME,
            "language": languages,
            "licence": "cc-by-sa-3.0",
            "datasets": [WORDS.name],
            "scores": {"accuracy": round(accuracy(said, true) / 100, 4)},
            "text": LIMITS.format(rows="\n".join(table)),
        },
    )
    size, sha256 = fingerprint(path)
    print(
        f"{NAME}:\n  task: classification\n  language: [{', '.join(languages)}]\n  licence: cc-by-sa-3.0\n"
        f"  size: {size}\n  sha256: {sha256}\n  origin: shipped\n  location: models/{path.name}\n"
        f"  description: {len(task.labels)} words, one voice a language; "
        f"accuracy {accuracy(said, true):.1f} % on held-out prompts"
    )


if __name__ == "__main__":
    main()

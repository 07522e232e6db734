"""Find, cut and split the words of `telephone_words`: writes the list `cuts.jsonl` that `cut.py` reads.

    pip install -r requirements.txt
    python align.py --cache DIR

Dates and cuts the words with `spoken_words.py` (Whisper: a quarter of an hour on two cores; kept in DIR), puts each
prompt into train, dev or test with `divide.py`, and keeps the words that have takes enough in each.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from asterisk import DIGITS, VOICES, decode, fetch, texts
from cut import HERE
from divide import Take, divide, fold, groups
from spoken_words import recognise_all, spans, tokens

WORDS = {
    "en": "again asterisk audio call caller conference currently decrease dial eight enter extension followed four "
    "increase key message nine now number one other participants password please pound press record seven six sorry "
    "three tone try two volume five",
    "es": "ahora conferencia cuatro dos extensión favor grabar ingrese llamada marque mensaje modo mudo nueve nuevo "
    "número ocho otros participantes persona presione salir siete tecla tres uno usted volumen",
    "fr": "activer appel appuyez augmenter autres boîte composer conférence deux dièse désactiver désolé enregistrer "
    "entrez essayer huit joindre maintenant message mode neuf nouveau numéro participants personne poste quatre "
    "quitter sept suivi trois un veuillez vocale volume",
    "it": "altri asterisco attualmente audio cancelletto chiamante chiamata conferenza digitare disattivare due "
    "interno messaggio nove numero operatore ora otto partecipanti password posta prego premere quattro registrare "
    "sei sette tasto tre uno uscire voce volume",
    "ru": "абонента введите восемь два девять звонок конференции меню микрофон нажмите номер "
    "один пароль пожалуйста решетку сейчас семь сообщение три участников четыре",
}
SAME = {  # heard spelling to the word's: equal sounds, or what Whisper makes of a rare word
    "en": {"color": "caller", "collar": "caller"},
    "ru": {"видите": "введите", "ведите": "введите", "сообщения": "сообщение", "обонента": "абонента"},
    "fr": {"veillez": "veuillez", "dies": "diese", "diez": "diese", "dieuze": "diese", "dielse": "diese", "10": "diese"}
    | {"appuyer": "appuyez", "composez": "composer", "entrer": "entrez", "enregistrez": "enregistrer"}
    | {"quittez": "quitter", "autre": "autres", "participant": "participants", "suivis": "suivi", "suivie": "suivi"}
    | {"messages": "message", "desolee": "desole", "activez": "activer", "activee": "activer", "active": "activer"}
    | {"desactivez": "desactiver", "desactivee": "desactiver", "desactive": "desactiver", "essayez": "essayer"},
}
ARTICLES = {("fr", "un")}  # the number, where the text writes a figure; otherwise the article, pronounced in passing

MIN_TAKES = {"all": 14, "train": 9, "dev": 1, "test": 2}


def sound(token: str, lang: str) -> str:
    """A word as text and recogniser are compared: figures spelled out, no accents, one spelling a sound."""
    word = fold(DIGITS[lang].split()[int(token)] if token in list("0123456789") else token)
    return SAME.get(lang, {}).get(word, word)


def takes(lang: str, cache: Path) -> Iterator[Take]:
    """Yield every usable take of the wanted words of one language."""
    spelling = {fold(word): word for word in WORDS[lang].split()}
    written = {prompt: tokens(text) for prompt, text in texts(lang, cache)}
    spoken = {prompt: [sound(token, lang) for token in words] for prompt, words in written.items()}
    wanted = [prompt for prompt, words in spoken.items() if len(words) > 1 and spelling.keys() & set(words)]
    heard = recognise_all(wanted, partial(decode, lang, cache=cache), lang, cache / f"words_{lang}.jsonl")
    for prompt, words in spoken.items():
        for index, span in spans(decode(lang, prompt, cache), words, heard.get(prompt, []), partial(sound, lang=lang)):
            word = spelling.get(words[index])
            article = (lang, word) in ARTICLES and not written[prompt][index].isdigit() and "digits/" not in prompt
            if word and not article:
                yield Take(lang, prompt, word, *span)


def choose(lang: str, cache: Path) -> list[dict[str, Any]]:
    """The rows of `cuts.jsonl` of one language."""
    found = list(takes(lang, cache))
    group = groups(found, cache)
    split = divide(found, group)
    rows = [take._asdict() | {"group": group[take.prompt], "split": split[group[take.prompt]]} for take in found]
    count = Counter((row["word"], part) for row in rows for part in ("all", row["split"]))
    words = WORDS[lang].split()
    kept = {word for word in words if all(count[word, part] >= least for part, least in MIN_TAKES.items())}
    print(f"{lang}: {len(kept)} words; left out:", {word: count[word, "all"] for word in words if word not in kept})
    return [row for row in rows if row["word"] in kept]


def main() -> None:
    """Write `cuts.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for packages, the recogniser and word times")
    cache = parser.parse_args().cache
    rows = []
    for lang in VOICES:
        fetch(lang, cache)
        rows += choose(lang, cache)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / "cuts.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The telephone prompts of Asterisk in five languages: fetch them, read their texts, decode them (G.722, 16 kHz).

Decoding needs PyAV, which comes with `pip install 'anemone[codecs]'`. Licences: NOTICE.
"""

import gzip
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from debian import unpack
from spoken_words import Wave

VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
DIGITS = {
    "en": "zero one two three four five six seven eight nine",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
    "it": "zero uno due tre quattro cinque sei sette otto nove",
    "ru": "ноль один два три четыре пять шесть семь восемь девять",
}


def fetch(lang: str, cache: Path) -> None:
    """Download and unpack the packages of one language, unless they are in `cache`."""
    for package in (f"asterisk-core-sounds-{lang}", f"asterisk-core-sounds-{lang}-g722"):
        unpack(package, cache)


def texts(lang: str, cache: Path) -> Iterator[tuple[str, str]]:
    """Yield (prompt, text) of every spoken prompt with a recording (one file is empty), in the order of the list."""
    table = cache / f"usr/share/doc/asterisk-core-sounds-{lang}/core-sounds-{lang}.txt.gz"
    for line in gzip.decompress(table.read_bytes()).decode("utf-8-sig").splitlines():
        prompt, colon, text = line.partition(":")
        spoken = colon and not line.startswith((";", "silence/")) and "[" not in text
        if spoken and (path := audio_path(lang, prompt.strip(), cache)).exists() and path.stat().st_size:
            yield prompt.strip(), text.strip()


def audio_path(lang: str, prompt: str, cache: Path) -> Path:
    """The recording of a prompt: G.722 at 64 kbit/s."""
    return cache / "usr/share/asterisk/sounds" / VOICES[lang] / f"{prompt}.g722"


@cache
def decode(lang: str, prompt: str, cache: Path) -> Wave:
    """The samples of a prompt at 16 kHz, within [-1, 1]."""
    import av

    with av.open(str(audio_path(lang, prompt, cache)), format="g722") as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return samples.astype(np.float32) / np.float32(32_768)

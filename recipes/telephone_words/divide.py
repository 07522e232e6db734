"""Say which prompts must stay together, and divide them among train, dev and test.

No take of a test prompt, nor of a prompt with the same text or the same recording, may be heard in training. So prompts
are grouped by text, by file, and wherever two takes of a word prove to be one recording; whole groups go to one split.
"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from asterisk import audio_path, decode, texts
from spoken_words import RATE, Wave, tokens

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}
SAME_RECORDING = 0.55  # takes spoken apart hardly reach 0.5; spliced French and Spanish prompts have pairs up to 1


class Take(NamedTuple):
    """A word in a prompt, `start` to `end` in seconds."""

    lang: str
    prompt: str
    word: str
    start: float
    end: float


def fold(word: str) -> str:
    """A word without accents, for comparison: the Spanish texts lack them (ё becomes е, й stays)."""
    kept = unicodedata.normalize("NFD", word.replace("й", "\0"))
    return "".join(c for c in kept if not unicodedata.combining(c)).replace("\0", "й")


def alike(waves: list[Wave]) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, peak of the normalised cross-correlation, after pre-emphasis) of every pair of takes."""
    size = 1 << int(np.ceil(np.log2(2 * max(map(len, waves)))))
    sharp = [np.diff(wave) for wave in waves]
    spectra = [np.fft.rfft(wave / np.linalg.norm(wave), size) for wave in sharp]
    for i, j in combinations(range(len(waves)), 2):
        yield i, j, float(np.fft.irfft(spectra[i] * spectra[j].conj(), size).max())


def groups(found: list[Take], cache: Path) -> dict[str, str]:
    """Prompt to the first prompt of its group: the same text, the same file, or a take that is the same recording."""
    (lang,) = {take.lang for take in found}
    parent = {take.prompt: take.prompt for take in found}

    def root(prompt: str) -> str:
        while parent[prompt] != prompt:
            prompt = parent[prompt]
        return prompt

    def join(prompts: list[str]) -> None:
        first = min(map(root, prompts))
        for prompt in prompts:
            parent[root(prompt)] = first

    same = defaultdict(list)
    for prompt, text in texts(lang, cache):
        if prompt in parent:
            same[" ".join(fold(word) for word in tokens(text))].append(prompt)
            same[hashlib.sha256(audio_path(lang, prompt, cache).read_bytes()).hexdigest()].append(prompt)
    for prompts in same.values():
        join(prompts)
    for word in sorted({take.word for take in found}):
        those = [take for take in found if take.word == word]
        waves = [decode(lang, t.prompt, cache)[round(t.start * RATE) : round(t.end * RATE)] for t in those]
        for i, j, peak in alike(waves):
            if peak > SAME_RECORDING:
                join([those[i].prompt, those[j].prompt])
    return {prompt: root(prompt) for prompt in parent}


def divide(found: list[Take], group: dict[str, str]) -> dict[str, str]:
    """Group to split: iterative stratification (Sechidis et al. 2011), the rarest word first, ties by hash."""
    content: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for take in found:
        content[group[take.prompt]][take.word] += 1
    wanted = {(split, t.word): 0.0 for split in SHARES for t in found}
    for take in found:
        for split, share in SHARES.items():
            wanted[split, take.word] += share
    result: dict[str, str] = {}
    while len(result) < len(content):
        left: dict[str, int] = defaultdict(int)
        for name, words in content.items():
            if name not in result:
                for word, count in words.items():
                    left[word] += count
        rarest = min(left, key=lambda word: (left[word], word))
        name = min(
            (n for n in content if n not in result and rarest in content[n]),
            key=lambda n: (-content[n][rarest], digest(n)),
        )
        split = max(SHARES, key=lambda s: (wanted[s, rarest], sum(wanted[s, word] for word in content[name])))
        result[name] = split
        for word, count in content[name].items():
            wanted[split, word] -= count
    return result


def digest(text: str) -> str:
    """A fixed pseudo-random order."""
    return hashlib.sha256(text.encode()).hexdigest()

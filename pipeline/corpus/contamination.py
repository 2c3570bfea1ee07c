"""Texts that hold a question of an evaluation set: a model that trained on them would be asked what it has read.

Matched are the questions, never the answers, so that the facts that a model is asked about stay in its corpus.
GPT-3 (Brown et al. 2020, appendix C) took overlaps of 13 words, or of the whole item where that is shorter;
datatrove's `NGramsDecontFilter` looks for answers too, and knows nothing of short items.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import xxhash

ANYWHERE = 4  # words that a question needs to be looked for anywhere
WHOLE_LINE = 3  # words that it needs to be looked for as a line of its own

# Scripts without spaces between words: a character is a unit there, and weighs as half a word.
_CHARACTER = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
_UNIT = re.compile(rf"[{_CHARACTER}]|(?:(?![{_CHARACTER}])[^\W_])+")
_WORD = re.compile(r"[^\W_]+")
_SPACELESS = re.compile(rf"[{_CHARACTER}]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplication by it loses nothing modulo 2**64


def units(text: str) -> list[str]:
    """Words in lower case after NFKC, without punctuation; single characters of scripts without spaces."""
    if text.isascii():
        return _WORD.findall(text.lower())
    text = unicodedata.normalize("NFKC", text).casefold()
    return (_UNIT if _SPACELESS.search(text) else _WORD).findall(text)


class Questions:
    """An index of evaluation questions that answers whether a text holds one.

    A text is contaminated when it holds `min(overlap, length of the question)` consecutive words of a question, whatever
    their case and punctuation. A question of fewer than four words would be found in half of all texts ("Who are you?"):
    three words count only as a whole line, and shorter questions are not looked for; `too_short` lists those.

    The index is 12 bytes for each run of words, beside the questions themselves, and can be pickled. The time of `find`
    grows with the text's length alone: a hash a word, and a vector operation for each different length of runs.

    Args:
        items: Names of sets, and a question of each. Equal questions are kept once.
        overlap: Words that have to agree in questions that are longer than that.
    """

    def __init__(self, items: Iterable[tuple[str, str]], overlap: int = 13):
        if overlap < ANYWHERE:
            raise ValueError(f"overlap: found {overlap}, expected at least {ANYWHERE} words")
        self.overlap = overlap
        self.too_short: list[tuple[str, str]] = []
        self._items: list[tuple[str, str]] = []
        self._lines: dict[str, tuple[str, str]] = {}
        self._longest_line = 0
        runs: dict[int, dict[int, int]] = {}  # length -> hash -> number of the question
        seen: set[str] = set()
        for name, question in items:
            words = units(question)
            key = " ".join(words)
            if key in seen:
                continue
            seen.add(key)
            weight = sum(0.5 if _SPACELESS.match(word) else 1 for word in words)
            if weight < WHOLE_LINE:
                self.too_short.append((name, question))
            elif weight < ANYWHERE:
                self._lines[key] = (name, question)
                self._longest_line = max(self._longest_line, 4 * len(question))
            else:
                length = min(overlap, len(words))
                found = runs.setdefault(length, {})
                for value in _hashes(words, length)[length].tolist():
                    found.setdefault(value, len(self._items))
                self._items.append((name, question))
        self._index: dict[int, tuple[Any, Any]] = {}
        for length, found in sorted(runs.items()):
            values = np.fromiter(found, np.uint64, len(found))
            order = np.argsort(values)
            owners = np.fromiter(found.values(), np.uint32, len(found))
            self._index[length] = (values[order], owners[order])

    def __len__(self) -> int:
        """How many different questions are looked for."""
        return len(self._items) + len(self._lines)

    def find(self, text: str) -> tuple[str, str] | None:
        """(name of the set, question) of one that the text holds, or None."""
        if self._lines:
            for line in text.splitlines():
                if len(line) <= self._longest_line and (found := self._lines.get(" ".join(units(line)))):
                    return found
        words = units(text) if self._index else []
        for length, hashes in _hashes(words, *self._index).items():
            values, owners = self._index[length]
            places = np.searchsorted(values, hashes)
            places[places == len(values)] = 0
            for place in np.flatnonzero(values[places] == hashes).tolist():
                item = self._items[int(owners[places[place]])]
                run = " ".join(words[place : place + length])
                if f" {run} " in f" {' '.join(units(item[1]))} ":  # no collision of hashes
                    return item
        return None


def _hashes(words: list[str], *lengths: int) -> dict[int, Any]:
    """For each of the lengths the hashes of all runs of so many words, in order: a polynomial in the words' hashes."""
    single = np.fromiter(map(xxhash.xxh3_64_intdigest, words), np.uint64, len(words))
    runs: dict[int, Any] = {}
    current = single
    for length in range(1, min(max(lengths, default=0), len(words)) + 1):
        if length > 1:
            current = current[:-1] * _FACTOR + single[length - 1 :]
        if length in lengths:
            runs[length] = current
    return runs

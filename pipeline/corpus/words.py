"""Importing this makes datatrove's filters of words fast, value for value, and leaves torch out.

Every filter that counts words cuts each text anew, and so does MinHash; with spaCy that takes most of their time. spaCy cuts
what stands between white space by itself, so a piece's words are remembered, and a text costs one look-up a piece. Words and
sentences are spaCy's (tests/test_words.py), but that the parts of an emoticon that are written apart never hide another one.
Gopher's repetition filter counts runs of words in Python loops; most texts show with the shortest run that none comes twice.

spaCy's thinc imports torch wherever it is installed, which costs every process two seconds and 190 MB for nothing. The
server that workers are forked from imports this once for all of them.
"""

import contextlib
import gc
import re
import sys
from collections import Counter
from itertools import chain
from typing import Any

from datatrove.pipeline.filters import gopher_repetition_filter
from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import load_word_tokenizer

MOST_WORDS = 25_000
"""Different words that are held before all of them are forgotten: some 15 MB."""
LONGEST_PIECE = 40
"""Characters; longer pieces seldom come twice."""
STRETCHES = re.compile(r"\s+|\S+")

ENGLISH: Any = load_word_tokenizer(Languages.english)
_count_duplicates = gopher_repetition_filter.find_all_duplicate
# The words counted last, and from which length on none of their runs comes twice.
_unique: tuple[list[str], int] = [], 0


class Pieces(dict[str, list[str]]):
    """The words of pieces without white space."""

    def __missing__(self, piece: str) -> list[str]:
        if max(len(self), len(ENGLISH.tokenizer.vocab.strings)) > MOST_WORDS:
            self.clear()
            make_tokenizer()
        words = [token.text for token in ENGLISH.tokenizer.tokenizer(piece)]
        if words == [piece]:
            words = [piece]  # one string instead of two
        if len(piece) <= LONGEST_PIECE:
            self[piece] = words
        return words


PIECES = Pieces()


def words_of(text: str) -> list[str]:
    """The words of a text, white space left out."""
    return list(chain.from_iterable(map(PIECES.__getitem__, text.split())))


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends, as spaCy's sentencizer decides: behind punctuation that ends one, with the next
    token that is no punctuation; white space is a token but for a single space."""
    spans, begin, end, over = [], -1, 0, False
    for stretch in STRETCHES.finditer(text):
        position, piece = stretch.start(), stretch[0]
        if piece.isspace():
            skipped = piece[0] == " " and position > 0
            tokens = [piece[skipped:]] if len(piece) > skipped else []
            position += skipped
        else:
            tokens = PIECES[piece]
            if begin >= 0 and not over and ENDS.isdisjoint(tokens):
                end = stretch.end()
                continue
        for token in tokens:
            ends = token in ENDS
            if begin < 0 or (over and not ends and not is_punct(token)):
                if begin >= 0:
                    spans.append((begin, end))
                begin, over = position, False
            over = over or ends
            position += len(token)
            end = position
    return [*spans, (begin, end)] if begin >= 0 else spans


def top_duplicate(runs: list[str]) -> int:
    """Characters of the run that comes most often, all its occurrences together."""
    run, count = Counter(runs).most_common(1)[0]
    return len(run) * count


def all_duplicates(words: list[str], n: int) -> int:
    """Characters in runs of n words that came before. Where no run of n words comes twice, none of more words does (but
    for runs that are spelt the same when cut at other places, which datatrove takes for one)."""
    global _unique
    known, least = _unique
    if words is known and n >= least:
        return 0
    found: int = _count_duplicates(words, n)
    if not found:
        _unique = words, n
    return found


def make_tokenizer() -> None:
    ENGLISH._tokenizer = None
    gc.collect()
    # Inside spaCy's memory zones, which datatrove opens for every text, no word is remembered once it was cut.
    ENGLISH.tokenizer.memory_zone = contextlib.nullcontext


_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    make_tokenizer()
    from spacy.lang.lex_attrs import is_punct
finally:
    if _hidden:
        del sys.modules["torch"]

ENDS: frozenset[str] = frozenset(ENGLISH.tokenizer.get_pipe("sentencizer").punct_chars)
ENGLISH.word_tokenize, ENGLISH.span_tokenize = words_of, sentence_spans
gopher_repetition_filter.find_top_duplicate = top_duplicate
gopher_repetition_filter.find_all_duplicate = all_duplicates

"""Importing this loads spaCy's English word tokenizer, which datatrove's filters use, and leaves torch out.

spaCy's thinc imports torch wherever it is installed, which costs every process two seconds and 190 MB for nothing. The
server that workers are forked from imports this once for all of them.
"""

import contextlib
import gc
import sys
from typing import Any

from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import load_word_tokenizer

MOST_WORDS = 100_000
"""Different words that are held before the tokenizer is made anew: some 30 MB."""

ENGLISH: Any = load_word_tokenizer(Languages.english)


def memory_zone() -> Any:
    """Takes the place of spaCy's zones, which datatrove opens for every text: inside one spaCy remembers no word that it
    has cut already, and takes three times as long. Memory stays bounded by making the tokenizer anew."""
    if len(ENGLISH.tokenizer.vocab.strings) > MOST_WORDS:
        make_tokenizer()
    return contextlib.nullcontext()


def make_tokenizer() -> None:
    ENGLISH._tokenizer = None
    gc.collect()
    ENGLISH.tokenizer.memory_zone = memory_zone


_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    make_tokenizer()
finally:
    if _hidden:
        del sys.modules["torch"]

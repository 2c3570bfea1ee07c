"""Importing this loads spaCy's English word tokenizer, which datatrove's filters use, and leaves torch out.

spaCy's thinc imports torch wherever it is installed, which costs every process two seconds and 190 MB for nothing. The
server that workers are forked from imports this once for all of them.
"""

import contextlib
import sys
from typing import Any

from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import load_word_tokenizer

TEXTS_A_ZONE = 500


class LongZones:
    """spaCy's memory zones, in which new words are held for a while, each for many texts.

    datatrove opens one for every text, and clearing it takes longer than cutting the text into words.
    """

    def __init__(self, open_zone: Any):
        self.open_zone = open_zone
        self.zone: Any = None
        self.texts = 0

    def __call__(self) -> Any:
        if self.texts % TEXTS_A_ZONE == 0:
            if self.zone is not None:
                self.zone.__exit__(None, None, None)
            self.zone = self.open_zone()
            self.zone.__enter__()
        self.texts += 1
        return contextlib.nullcontext()


_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    ENGLISH = load_word_tokenizer(Languages.english).tokenizer
finally:
    if _hidden:
        del sys.modules["torch"]
ENGLISH.memory_zone = LongZones(ENGLISH.memory_zone)

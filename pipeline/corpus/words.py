"""Importing this loads spaCy's English word tokenizer, which datatrove's filters use, and leaves torch out.

spaCy's thinc imports torch wherever it is installed, which costs every process two seconds and 190 MB for nothing. The
server that workers are forked from imports this once for all of them.
"""

import sys

from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import load_word_tokenizer

_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    ENGLISH = load_word_tokenizer(Languages.english).tokenizer
finally:
    if _hidden:
        del sys.modules["torch"]

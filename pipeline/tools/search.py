"""Search over documents: what a model can look up instead of remembering it."""

import functools
import os
import re
from collections import defaultdict
from collections.abc import Iterable

DOCUMENTS = "SEARCH_DOCUMENTS"
"""Environment variable that names the documents: a folder, a file or a hub id of rows with `text`. Recipes set it in `env`."""
NOTHING = "Nothing found."
MAX_PASSAGE = 300
"""Characters of a passage: more would fill a small model's context."""


def search(query: str) -> str:
    """Look up what the documents say.

    Args:
        query: Words that stand side by side in what is looked for, such as a name.

    Returns:
        The sentences of one paragraph that hold them, or that nothing was found.
    """
    return _index(os.environ.get(DOCUMENTS, "")).find(query)


class Index:
    """Paragraphs by their words; what holds a query most often is found first.

    Args:
        documents: Their texts.
    """

    def __init__(self, documents: Iterable[str]):
        self.paragraphs = [line for text in documents for line in text.splitlines() if line.strip()]
        self.places: dict[str, set[int]] = defaultdict(set)
        for number, paragraph in enumerate(self.paragraphs):
            for word in _words(paragraph):
                self.places[word].add(number)

    def find(self, query: str) -> str:
        """The sentences of the best paragraph that hold all words of the query side by side."""
        words = _words(query)
        if not words:
            return NOTHING
        phrase = re.compile(r"(?<!\w)" + r"\W+".join(map(re.escape, words)) + r"(?!\w)", re.IGNORECASE)
        places = sorted(set.intersection(*(self.places.get(word, set()) for word in words)))
        found = max(places, key=lambda place: len(phrase.findall(self.paragraphs[place])), default=None)
        if found is None or not phrase.search(self.paragraphs[found]):
            return NOTHING
        passage = ""
        for sentence in re.split(r"(?<=[.!?])\s+", self.paragraphs[found]):
            if phrase.search(sentence) and len(passage) + len(sentence) < MAX_PASSAGE:
                passage = f"{passage} {sentence}".strip()
        return passage or self.paragraphs[found][:MAX_PASSAGE]


def _words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"\w+", text)]


@functools.cache
def _index(name: str) -> Index:
    from pipeline.errors import PipelineError
    from pipeline.training import data

    if not name:
        raise PipelineError(f"the tool search looks through the documents that {DOCUMENTS} names: set it in `env`.")
    return Index(data.load_rows(name)["text"])

"""What travels through the corpus stage: a page to extract, a document, or a record that cannot be used."""

from dataclasses import dataclass, field
from typing import Any

COLUMNS = ("text", "url", "source", "date", "language")
"""Columns of the Parquet shards, before those of scores. All but `text` and `source` are null where unknown."""


@dataclass(slots=True)
class Document:
    """A text with its provenance. `source` is the file or dataset that it was read from."""

    text: str
    source: str
    url: str | None = None
    date: str | None = None
    language: str | None = None
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return utf8_bytes(self.text)

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in COLUMNS} | self.scores


@dataclass(slots=True)
class Page:
    """An HTML page whose main text is still to be extracted. `charset` is what the HTTP header said, if anything."""

    html: bytes
    source: str
    url: str | None = None
    date: str | None = None
    charset: str | None = None

    @property
    def bytes(self) -> int:
        return len(self.html)


@dataclass(slots=True)
class Rejected:
    """A record that a step could not use, with the reason.

    `sample` is the beginning of what it held; `columns` are a row's columns where the text's was not among them.
    """

    reason: str
    source: str
    url: str | None = None
    bytes: int = 0
    sample: str = ""
    columns: list[str] | None = None


Record = Document | Page | Rejected


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))

"""The keys of the corpus stage."""

from dataclasses import dataclass, field
from typing import Any


def key(default: Any, help: str, **checks: Any) -> Any:
    """A dataclass field with its help, and with the `choices` or `range` that a recipe's value is held to."""
    return field(default=default, metadata={"help": help, **checks})


@dataclass(kw_only=True)
class CorpusSettings:
    """What the corpus stage does to its input. `input` is required."""

    input: str | list[str] = field(
        metadata={
            "help": "What to read: a file, a folder, a glob, a hub dataset id, or a list of them. Files may be WARC, HTML, "
            "text, JSONL (these also as .gz or .zst) or Parquet."
        }
    )
    input_format: str = key(
        "auto",
        "Format of the files, where their names do not tell.",
        choices=("auto", "warc", "html", "text", "jsonl", "parquet"),
    )
    text_column: str = key("text", "Column of the text in JSONL, Parquet and hub datasets.")
    document_separator: str | None = key(
        None, "Cuts a text file into documents, such as a blank line; without it a file is one document."
    )
    dataset_config: str | None = key(None, "Configuration of the hub dataset.")
    dataset_train_split: str = key("train", "Split of the hub dataset to read.")
    max_documents: int | None = key(None, "Stop after reading this many records.", range=(1, None))
    extractor: str = key(
        "trafilatura",
        "How the main text of HTML is found: `trafilatura`, or `trafilatura_fast` without its fall-back extractors.",
        choices=("trafilatura", "trafilatura_fast"),
    )
    favor: str = key(
        "balance",
        "What the extractor leans to where it is unsure: `precision` drops more, `recall` keeps more.",
        choices=("balance", "precision", "recall"),
    )
    max_page_bytes: int = key(10_000_000, "Larger pages, and longer JSONL lines, are skipped.", range=(1, None))
    page_seconds: float = key(10.0, "A page whose extraction takes longer is skipped.", range=(0.1, None))
    min_characters: int = key(1, "Shorter documents are dropped.", range=(1, None))
    deduplicate: str = key(
        "exact",
        "`exact` drops documents that equal an earlier one when white space is folded; `none` keeps them.",
        choices=("exact", "none"),
    )
    validation_fraction: float = key(
        0.01, "Share of the documents, or of the characters, held out for validation.", range=(0, 0.5)
    )
    validation_split: str = key(
        "document",
        "`document` draws whole documents by a hash of their text and `seed`; `position` holds out the last share of "
        "the characters, for corpora of a few long documents.",
        choices=("document", "position"),
    )
    shard_documents: int = key(100_000, "Documents in one Parquet file.", range=(1, None))
    workers: int | None = key(None, "Processes that extract; as many as there are cores by default.", range=(1, None))
    seed: int = key(0, "Decides which documents are held out.")

"""The corpus stage's work: records to deduplicated Parquet shards, with held-out documents and a removal table."""

import hashlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.corpus.document import Document, Rejected
from pipeline.corpus.extract import Extractor
from pipeline.corpus.funnel import Funnel
from pipeline.corpus.progress import with_progress
from pipeline.corpus.read import read_records
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.shards import ShardWriter, read_documents
from pipeline.errors import PipelineError


def build(settings: CorpusSettings, folder: Path) -> dict[str, Any]:
    """Read, extract, deduplicate, split and write.

    Everything streams; what grows with the corpus is one 16-byte hash a document. The same settings on the same input
    write the same bytes, whatever the number of workers.

    Args:
        settings: The recipe's keys.
        folder: Receives `train/`, `validation/` and `removed.json`.

    Returns:
        Counts for the manifest: documents, bytes and characters of both splits, and records read a second.

    Raises:
        PipelineError: The input does not exist, or nothing was left to train or to validate on.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    funnel = Funnel("read", "extract", "min_characters", "exact_duplicates")
    with (
        ShardWriter(folder / "train", settings.shard_documents) as train,
        ShardWriter(folder / "validation", settings.shard_documents) as validation,
    ):
        if settings.validation_split == "position":
            _split_by_position(_clean(settings, funnel), settings, train, validation, folder / ".whole")
        else:
            held_out = _Lottery(settings)
            for document in _clean(settings, funnel):
                (validation if held_out(document) else train).write(document)
    funnel.write(folder / "removed.json")
    print(funnel.table(), flush=True)
    _check_result(settings, funnel, train, validation)
    seconds = time.monotonic() - started
    read = funnel["read"].documents_in
    print(
        f"corpus: {train.documents:,} documents ({train.bytes / 1e6:.2f} MB) to train on, {validation.documents:,} "
        f"({validation.bytes / 1e6:.2f} MB) held out; {read:,} records in {seconds:.1f} s, "
        f"{read / seconds:.1f} a second",
        flush=True,
    )
    return {
        "documents": train.documents,
        "bytes": train.bytes,
        "characters": train.characters,
        "validation_documents": validation.documents,
        "validation_bytes": validation.bytes,
        "validation_characters": validation.characters,
        "records_read": read,
        "records_per_second": round(read / seconds, 1),
    }


def text_hash(text: str, salt: str = "") -> bytes:
    """16-byte hash of a text with its white space folded: what makes two documents exact duplicates."""
    folded = " ".join(text.split())
    return hashlib.blake2b(folded.encode(), digest_size=16, salt=salt.encode()[:16]).digest()


def _clean(settings: CorpusSettings, funnel: Funnel) -> Iterator[Document]:
    """Documents that every step keeps, counted in `funnel` on their way."""
    seen: set[bytes] = set()
    pool = Extractor(settings.extractor, settings.favor, workers=settings.workers, page_seconds=settings.page_seconds)
    with pool as extractor:
        for record, result in with_progress(extractor.map(read_records(settings)), "corpus", "records read"):
            if isinstance(record, Rejected):
                funnel["read"].drop(record.reason, record.bytes, record.url or record.source, record.sample)
                continue
            size = record.bytes
            funnel["read"].keep(size)
            if isinstance(result, Rejected):
                funnel["extract"].drop(result.reason, size, result.url or result.source, result.sample)
                continue
            document = replace(result, text=_valid_unicode(result.text))
            length = document.bytes
            where = document.url or document.source
            funnel["extract"].keep(size, length)
            if len(document.text.strip()) < settings.min_characters:
                reason = f"fewer than {settings.min_characters} characters"
                funnel["min_characters"].drop(reason, length, where, document.text)
                continue
            funnel["min_characters"].keep(length)
            if settings.deduplicate == "exact":
                digest = text_hash(document.text)
                if digest in seen:
                    funnel["exact_duplicates"].drop("same text as an earlier document", length, where, document.text)
                    continue
                seen.add(digest)
            funnel["exact_duplicates"].keep(length)
            yield document


class _Lottery:
    """Whether a document is held out: its folded text's hash under the seed, read as a number in [0, 1), is small.

    The same text falls on the same side wherever and however often it occurs.
    """

    def __init__(self, settings: CorpusSettings):
        self.fraction = settings.validation_fraction
        self.salt = f"seed {settings.seed}"

    def __call__(self, document: Document) -> bool:
        number = int.from_bytes(text_hash(document.text, self.salt)[:8], "big") / 2**64
        return number < self.fraction


def _split_by_position(
    documents: Iterator[Document], settings: CorpusSettings, train: ShardWriter, validation: ShardWriter, spool: Path
) -> None:
    """The first characters to `train`, the last to `validation`; the document on the border is cut in two.

    Where the border lies is known only after the last document, so everything passes through the disk once.
    """
    with ShardWriter(spool, settings.shard_documents) as whole:
        for document in documents:
            whole.write(document)
    if whole.documents == 0:
        return
    border = int(whole.characters * (1 - settings.validation_fraction))
    position = 0
    for document in read_documents(spool):
        cut = min(max(border - position, 0), len(document.text))
        position += len(document.text)
        if cut:
            train.write(replace(document, text=document.text[:cut]))
        if cut < len(document.text):
            validation.write(replace(document, text=document.text[cut:]))
    shutil.rmtree(spool)


def _check_result(settings: CorpusSettings, funnel: Funnel, train: ShardWriter, validation: ShardWriter) -> None:
    if not funnel["exact_duplicates"].documents_out:
        raise PipelineError(
            f"input: no document left of {funnel['read'].documents_in:,} records in {settings.input}"
            + (f" ({funnel.summary()})." if funnel.summary() else ": the input is empty.")
        )
    if train.documents == 0 or (settings.validation_fraction > 0 and validation.documents == 0):
        empty = "train" if train.documents == 0 else "validation"
        raise PipelineError(
            f"validation_fraction: {settings.validation_fraction} of {train.documents + validation.documents} documents "
            f"left none for {empty}. Set `validation_split: position`, which cuts by characters, or another fraction"
            + ("." if empty == "train" else ", or 0 for no validation.")
        )


def _valid_unicode(text: str) -> str:
    """Lone surrogates, which JSON can spell but UTF-8 cannot hold, become replacement characters."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()

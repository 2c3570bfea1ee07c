"""Main text out of HTML, in worker processes that a hostile page can end without ending the run."""

import contextlib
import faulthandler
import logging
import os
import re
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pipeline.corpus.document import Document, Page, Record, Rejected

CHUNK = 8
"""Pages sent to a worker at a time: enough to hide the cost of sending, few enough to lose little to a crash."""

WATCHDOG_SECONDS = 10.0
"""How long after its time a page may go on before its process is ended."""

META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)


class PageTimeout(BaseException):
    """Raised inside a page's extraction; not an `Exception`, so that the extractor's own handlers let it pass."""


def decode(html: bytes, charset: str | None) -> str | bytes:
    """HTML as text: by the HTTP header, else as UTF-8, else by its own meta tag; bytes where none of them fits.

    Strict at each step, because headers and tags are often wrong; what is left goes to the extractor's own detection.
    """
    declared = META_CHARSET.search(html[:4096])
    for name in (charset, "utf-8", declared and declared[1].decode("ascii")):
        with contextlib.suppress(LookupError, UnicodeError):
            if name:
                return html.decode("utf-8" if name.lower() == "utf8" else name)
    return html


def extract_text(page: Page, extractor: str = "trafilatura", favor: str = "balance") -> str | None:
    """Main text of a page without navigation, boilerplate and comments; None where there is none.

    Method: trafilatura (Barbaresi 2021, ACL), which compares its own rules with jusText and a readability port;
    `trafilatura_fast` leaves the comparison out.
    """
    import trafilatura

    return trafilatura.extract(
        decode(page.html, page.charset),
        url=page.url,
        fast=extractor == "trafilatura_fast",
        include_comments=False,
        favor_precision=favor == "precision",
        favor_recall=favor == "recall",
    )


class Extractor:
    """A pool of processes that turns pages into documents and passes everything else through, in order.

    The processes are started by the first page. A page that takes longer than `page_seconds` is interrupted; one that
    cannot be interrupted, or that crashes its process, costs that process: the pages it was given with are tried again
    one by one, and the guilty one is rejected.
    """

    def __init__(
        self,
        extractor: str = "trafilatura",
        favor: str = "balance",
        *,
        workers: int | None = None,
        page_seconds: float = 10.0,
    ):
        self.method = (extractor, favor)
        self.workers = workers or available_cores()
        self.page_seconds = page_seconds
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def map(self, records: Iterable[Record]) -> Iterator[tuple[Record, Document | Rejected]]:
        """Each record with what became of it. Holds at most two chunks a worker, however long the input is."""
        waiting: deque[tuple[list[Record], Future[list[Any]] | None]] = deque()
        for chunk in _chunks(records):
            waiting.append((chunk, self._submit(chunk)))
            if len(waiting) > 2 * self.workers:
                yield from self._finish(waiting)
        while waiting:
            yield from self._finish(waiting)

    def _finish(self, waiting: deque[tuple[list[Record], Any]]) -> Iterator[tuple[Record, Document | Rejected]]:
        chunk, future = waiting.popleft()
        try:
            results = future.result() if future is not None else []
        except BrokenProcessPool:
            self._restart()
            results = [self._extract_alone(record) for record in chunk if isinstance(record, Page)]
            for index, (later, _) in enumerate(waiting):
                waiting[index] = (later, self._submit(later))
        extracted = iter(results)
        for record in chunk:
            yield record, next(extracted) if isinstance(record, Page) else record

    def _extract_alone(self, page: Page) -> Document | Rejected:
        try:
            return self._executor().submit(_extract_chunk, [page], self.method, self.page_seconds).result()[0]
        except BrokenProcessPool:
            self._restart()
            return _reject(page, "the extractor crashed or could not be interrupted")

    def _submit(self, chunk: list[Record]) -> Future[list[Any]] | None:
        pages = [record for record in chunk if isinstance(record, Page)]
        if not pages:
            return None
        try:
            return self._executor().submit(_extract_chunk, pages, self.method, self.page_seconds)
        except BrokenProcessPool as error:  # found out while handing in; told when the chunk's turn comes
            future: Future[list[Any]] = Future()
            future.set_exception(error)
            return future

    def _executor(self) -> ProcessPoolExecutor:
        if self._pool is None:
            import multiprocessing

            # Not `fork`: the parent has threads of Arrow and of the tokenizer, whose locks a child would inherit.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__, "trafilatura"])
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker)
        return self._pool

    def _restart(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    pages = 0
    for record in records:
        chunk.append(record)
        pages += isinstance(record, Page)
        if pages == CHUNK or len(chunk) == 8 * CHUNK:
            yield chunk
            chunk, pages = [], 0
    if chunk:
        yield chunk


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    logging.disable(logging.CRITICAL)  # the extractor logs what is counted and reported by the parent


def _interrupt(signum: int, frame: Any) -> None:
    raise PageTimeout


def _extract_chunk(pages: list[Page], method: tuple[str, str], page_seconds: float) -> list[Document | Rejected]:
    signal.signal(signal.SIGALRM, _interrupt)
    results: list[Document | Rejected] = []
    with open(os.devnull, "w") as nowhere:
        for page in pages:
            # A signal handler waits until C code returns; this watchdog does not, and ends the process.
            faulthandler.dump_traceback_later(page_seconds + WATCHDOG_SECONDS, exit=True, file=nowhere)
            try:
                signal.setitimer(signal.ITIMER_REAL, page_seconds)
                try:
                    text = extract_text(page, *method)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except PageTimeout:
                results.append(_reject(page, f"extraction took longer than {page_seconds:g} s"))
            except Exception as error:  # whatever the extractor raises on a page is that page's reason
                results.append(_reject(page, f"extraction failed ({type(error).__name__})"))
            else:
                document = Document(text or "", page.source, page.url, page.date)
                results.append(document if text else _reject(page, "no main text found"))
            finally:
                faulthandler.cancel_dump_traceback_later()
    return results


def _reject(page: Page, reason: str) -> Rejected:
    sample = page.html[:200].decode("utf-8", "replace")
    return Rejected(reason, page.source, page.url, page.bytes, sample)

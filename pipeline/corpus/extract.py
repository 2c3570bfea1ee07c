"""Main text out of HTML, in a process that a hostile page can end without ending the run."""

import contextlib
import functools
import gc
import logging
import re
from collections.abc import Iterator
from typing import Any

from datatrove.data import Document as Passing
from datatrove.pipeline.extractors.base import ExtractorSandbox
from datatrove.pipeline.filters.base_filter import BaseFilter

from pipeline.corpus.document import Page

META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)

SUPERSETS = {
    "utf8": "utf-8", "iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "iso-8859-9": "cp1254",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949", "tis-620": "cp874",
}  # fmt: skip
"""What browsers take a declared encoding for (WHATWG Encoding Standard)."""


def decode(html: bytes, charset: str | None) -> str | bytes:
    """HTML as text, by the first of these that fits strictly; bytes, for the extractor's own detection, where none does.

    What is more than ASCII and valid UTF-8 is UTF-8, whatever was declared, for headers are often wrong; then the HTTP
    header, the page's meta tag, and a guess (Resiliparse's). UTF-8 with a few broken bytes is mended.
    """
    declared = META_CHARSET.search(html[:4096])
    for name in (None if html.isascii() else "utf-8", charset, declared and declared[1].decode("ascii"), "utf-8"):
        with contextlib.suppress(LookupError, UnicodeError):
            if name:
                return html.decode(SUPERSETS.get(name.lower(), name))
    if b"\0" in html:  # UTF-16, which the guess does not know
        return html
    from resiliparse.parse.encoding import detect_encoding

    guess = detect_encoding(html) or "utf-8"
    with contextlib.suppress(LookupError, UnicodeError):
        text = html.decode(guess, "replace")
        if text.count("\ufffd") <= 1 + len(text) // 200 if guess == "utf-8" else "\ufffd" not in text:
            return text
    return html


def extract_text(page: Page, extractor: str = "trafilatura", favor: str = "balance") -> str | None:
    """Main text of a page without navigation, boilerplate and comments; None where there is none.

    Methods: trafilatura (Barbaresi 2021, ACL), which compares its own rules with jusText and a readability port;
    `trafilatura_fast` leaves the comparison out; Resiliparse (Bevendorff et al. 2021, ECIR), rules in C++.
    """
    html = decode(page.html, page.charset)
    if extractor == "resiliparse":
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding

        text = html if isinstance(html, str) else bytes_to_str(html, detect_encoding(html) or "utf-8")
        return extract_plain_text(text, main_content=True, alt_texts=False) or None
    import trafilatura

    return trafilatura.extract(
        html,
        url=page.url,
        fast=extractor == "trafilatura_fast",
        include_comments=False,
        favor_precision=favor == "precision",
        favor_recall=favor == "recall",
    )


class Sandbox(ExtractorSandbox):
    """datatrove's killable process, whose death is noticed at once."""

    def _worker(self, conn: Any, extract_fn: Any) -> None:
        # Otherwise a fifth of the time goes into looking for garbage among what the parent had imported.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        super()._worker(conn, extract_fn)

    def _ensure_process(self, extract_fn: Any) -> None:
        super()._ensure_process(extract_fn)
        self.child_conn.close()  # while this end is open, a dead child's pipe looks like that of a slow one

    def set_oom_score_adj(self, score: int) -> None:
        with contextlib.suppress(OSError):  # some containers forbid it
            super().set_oom_score_adj(score)


class Extract(BaseFilter):
    """Turns pages into text and lets documents pass. A page that takes longer than `seconds`, or that crashes the
    process, costs that page alone."""

    name = "extract"

    def __init__(self, extractor: str, favor: str, seconds: float):
        super().__init__()
        self.method = (extractor, favor)
        self.seconds = seconds
        self._sandbox: Any = None

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        with Sandbox(self.seconds, warmup_text=Page(b"<p></p>", "")) as self._sandbox:
            yield from super().run(data, rank, world_size)

    def filter(self, doc: Passing) -> bool | tuple[bool, str]:
        page = doc.metadata.pop("page", None)
        if page is None:
            return True
        _prepare(*self.method)
        try:
            text, reason = self._sandbox.process_document(page, self._extract)
        except TimeoutError:
            text, reason = None, f"extraction took longer than {self.seconds:g} s"
        except EOFError:
            text, reason = None, "the extractor crashed"
        doc.text = valid_unicode(text) if text else page.html[:300].decode("utf-8", "replace")
        return True if text else (False, reason)

    def _extract(self, page: Page) -> tuple[str | None, str]:
        logging.disable(logging.CRITICAL)  # what the extractor logs is counted and reported by the step
        try:
            return extract_text(page, *self.method), "no main text found"
        except Exception as error:  # whatever the extractor raises on a page is that page's reason
            return None, f"extraction failed ({type(error).__name__})"


@functools.cache
def _prepare(extractor: str, favor: str) -> None:
    """Loads, before processes are forked for pages, what an extractor loads with its first page: trafilatura the stop
    words of a hundred languages."""
    extract_text(Page(b"<p></p>", ""), extractor, favor)


def valid_unicode(text: str) -> str:
    """Lone surrogates, which JSON can spell but UTF-8 cannot hold, become replacement characters."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()

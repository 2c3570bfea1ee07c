"""Extraction: main text out of pages, in processes that a hostile page cannot take the run down with."""

import json
import os
import signal

import psutil
import pytest
from crawl import article, pages, run, write_warc

from pipeline.corpus import extract
from pipeline.corpus.build import build
from pipeline.corpus.document import Document, Page, Rejected
from pipeline.corpus.extract import Extractor, decode
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.shards import read_documents


def test_encodings_are_taken_from_header_then_utf8_then_meta_tag():
    text = "<meta charset='windows-1252'><p>Käse – “gut”</p>"
    assert decode(text.encode("windows-1252"), None) == text
    assert decode(text.encode("utf-8"), None) == text
    assert decode("<p>Привет</p>".encode("koi8-r"), "koi8-r") == "<p>Привет</p>"
    assert decode("<p>Käse</p>".encode(), "no-such-charset") == "<p>Käse</p>"
    assert isinstance(decode(b"\xff\xfe\xfa", None), bytes)


def test_order_is_kept_and_one_worker_gives_what_two_give(tmp_path):
    write_warc(tmp_path / "crawl.warc.gz", pages(40))
    (tmp_path / "z.txt").write_text("text between pages")
    keys = {"input": [str(tmp_path / "crawl.warc.gz"), str(tmp_path / "z.txt")], "validation_fraction": 0.2}
    build(CorpusSettings(**keys, workers=1), tmp_path / "one")
    build(CorpusSettings(**keys, workers=2), tmp_path / "two")
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(names) == 3
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    train = [document.url for document in read_documents(tmp_path / "one" / "train") if document.url]
    assert train == sorted(train, key=lambda url: int(url.rsplit("/", 1)[1]))


def test_a_page_that_takes_too_long_is_skipped():
    slow = Page(
        b"<html><body>" + b"<div><p>word <b>bold</b> <a href='x'>link</a></p></div>" * 30_000 + b"</body></html>",
        "s",
        "slow",
    )
    quick = Page(article(1), "s", "quick")
    with Extractor(workers=1, page_seconds=0.2) as extractor:
        results = [result for _, result in extractor.map([slow, quick])]
    assert results[0].reason == "extraction took longer than 0.2 s"
    assert isinstance(results[1], Document)


def crash_on_marker(chunk, method, seconds):
    if any(b"CRASH" in page.html for page in chunk):
        os.kill(os.getpid(), signal.SIGSEGV)
    return REAL_EXTRACT_CHUNK(chunk, method, seconds)


REAL_EXTRACT_CHUNK = extract._extract_chunk


@pytest.mark.slow
def test_a_page_that_kills_its_process_costs_that_page_alone(monkeypatch):
    monkeypatch.setattr(extract, "_extract_chunk", crash_on_marker)
    given = [Page(b"CRASH" if number in (5, 21) else article(number), "s", str(number)) for number in range(40)]
    with Extractor(workers=2) as extractor:
        results = [result for _, result in extractor.map(given)]
    assert [result.url for result in results] == [page.url for page in given]
    assert [result.url for result in results if isinstance(result, Rejected)] == ["5", "21"]
    assert results[5].reason == "the extractor crashed or could not be interrupted"


def hang_on_marker(chunk, method, seconds):
    if any(b"HANG" in page.html for page in chunk):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as deaf to the timer as a loop in C
        extract.WATCHDOG_SECONDS = 0.2
    return REAL_EXTRACT_CHUNK(
        [Page(page.html * (1 + 100_000 * (b"HANG" in page.html)), "s", page.url) for page in chunk], method, seconds
    )


@pytest.mark.slow
def test_a_page_that_cannot_be_interrupted_is_ended_by_the_watchdog(monkeypatch):
    monkeypatch.setattr(extract, "_extract_chunk", hang_on_marker)
    given = [
        Page(b"<div><p>HANG <b>bold</b> <a href='x'>link</a></p></div>", "s", "hang"),
        Page(article(1), "s", "fine"),
    ]
    with Extractor(workers=1, page_seconds=0.1) as extractor:
        results = [result for _, result in extractor.map(given)]
    assert results[0].reason == "the extractor crashed or could not be interrupted"
    assert isinstance(results[1], Document)


def test_nothing_but_pages_starts_a_process(tmp_path):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Extractor(workers=2) as extractor:
        assert len(list(extractor.map([Document("text", "s"), Rejected("broken", "s")]))) == 2
        assert {child.pid for child in psutil.Process().children(recursive=True)} == before


@pytest.mark.slow
def test_real_pages_keep_their_main_text_and_lose_their_boilerplate(tmp_path, shared_data):
    folder = shared_data / "webpages"
    documents, table = run(tmp_path / "out", input=str(folder / "pages.warc.gz"), deduplicate="none", workers=2)
    assert table["read"]["documents_out"] == 170

    def folded(text):
        return " ".join(text.split())

    texts = {document.url: folded(document.text) for document in documents}
    found = missing = boilerplate = 0
    for row in map(json.loads, (folder / "gold.jsonl").read_text().splitlines()):
        text = texts.get(row["url"].strip(), "")
        kept = sum(folded(snippet) in text for snippet in row["with"])
        found, missing = found + kept, missing + len(row["with"]) - kept
        boilerplate += sum(folded(snippet) in text for snippet in row["without"])
    assert 2 * found / (2 * found + missing + boilerplate) >= 0.91


def test_a_real_common_crawl_file_reads(tmp_path, shared_data):
    documents, _ = run(tmp_path / "out", input=str(shared_data / "webpages" / "commoncrawl-one-page.warc.gz"))
    assert [document.url for document in documents] == ["https://an.wikipedia.org/wiki/Escopete"]
    assert "Escopete" in documents[0].text and documents[0].date.startswith("2024-05-18T01:58:10")

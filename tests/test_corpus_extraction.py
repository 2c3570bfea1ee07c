"""Extraction: main text out of pages, in a process that a hostile page cannot take the run down with."""

import faulthandler
import json
import os
import signal
import time

import psutil
import pytest
from crawl import article, pages, run, write_warc

from pipeline.corpus import extract
from pipeline.corpus.build import build
from pipeline.corpus.document import Document, Page
from pipeline.corpus.extract import Extract, decode
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.shards import read_documents
from pipeline.corpus.steps import Counted, to_passing, total_count


def test_encodings_are_told_by_the_bytes_then_header_and_meta_tag_and_guessed_last():
    text = "<meta charset='windows-1252'><p>Käse – “gut”</p>"
    assert decode(text.encode("windows-1252"), None) == text
    assert decode(text.encode("utf-8"), None) == text
    assert decode("<p>Käse</p>".encode(), "iso-8859-1") == "<p>Käse</p>"  # a header that lies
    assert decode("<p>“Käse”</p>".encode("cp1252"), "ISO-8859-1") == "<p>“Käse”</p>"  # as browsers read it
    assert decode("<p>Käse</p>".encode(), "no-such-charset") == "<p>Käse</p>"
    assert decode("<p>古い橋</p>".encode("iso2022_jp"), "iso-2022-jp") == "<p>古い橋</p>"  # ASCII bytes alone
    assert decode("<p>Привет</p>".encode("koi8-r"), "koi8-r") == "<p>Привет</p>"
    assert isinstance(decode(b"\xff\xfe\xfa\0", None), bytes)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Die Brücke über den Fluss ist älter als die Stadt, und die Leute erzählen viele Geschichten.", "cp1252"),
        ("Wyrównana sezonowo stopa bezrobocia wyniosła trzy procent, co było najlepszym wynikiem.", "cp1250"),
        ("Старый мост через реку построили много веков назад, и люди рассказывают о нём.", "cp1251"),
        ("古い橋は何世紀も前に川の上に建てられ、人々はそれについてさまざまな話をします。", "euc_jp"),
    ],
)
def test_undeclared_encodings_are_guessed_and_broken_utf8_is_mended(text, encoding):
    page = f"<p>{text * 8}</p>"
    assert decode(page.encode(encoding), None) == page
    assert decode(page.encode() + b"\xff<p>", "utf-8") == page + "\ufffd<p>"


def test_order_is_kept_and_one_worker_gives_what_two_give(tmp_path):
    write_warc(tmp_path / "crawl.warc.gz", pages(40))
    (tmp_path / "z.txt").write_text("text between pages")
    keys = {"input": [str(tmp_path / "crawl.warc.gz"), str(tmp_path / "z.txt")], "validation_fraction": 0.2}
    build(CorpusSettings(**keys, workers=1), tmp_path / "one")
    build(CorpusSettings(**keys, workers=2), tmp_path / "two")
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(names) >= 3
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    train = [document.url for document in read_documents(tmp_path / "one" / "train") if document.url]
    assert train == sorted(train, key=lambda url: int(url.rsplit("/", 1)[1]))


def extracted(records, folder, seconds=10.0, extractor="trafilatura"):
    """Addresses of what extraction keeps, and reasons of what it drops by address."""
    step = Counted("extract", Extract(extractor, "balance", seconds), folder)
    kept = [passing.metadata["url"] for passing in step.run(iter([to_passing(one, "0") for one in records]))]
    count = total_count(folder, "extract")
    return kept, {row["url"]: row["reason"] for row in count.sample}


def test_a_page_that_takes_too_long_is_skipped(tmp_path):
    slow = b"<html><body>" + b"<div><p>word <b>bold</b> <a href='x'>link</a></p></div>" * 30_000 + b"</body></html>"
    kept, dropped = extracted([Page(slow, "s", "slow"), Page(article(1), "s", "quick")], tmp_path, seconds=0.2)
    assert kept == ["quick"] and dropped == {"slow": "extraction took longer than 0.2 s"}


def crash_or_hang(page, *method):
    if b"CRASH" in page.html:
        faulthandler.disable()  # no report of a crash that is meant
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANG" in page.html:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGALRM])  # as deaf as a loop in C
        time.sleep(60)
    if b"RAISE" in page.html:
        raise RecursionError
    return REAL_EXTRACT_TEXT(page, *method)


REAL_EXTRACT_TEXT = extract.extract_text


def test_a_page_that_kills_hangs_or_fails_its_process_costs_that_page_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "extract_text", crash_or_hang)
    bodies = {3: b"CRASH", 5: b"HANG", 8: b"RAISE", 9: b"CRASH", 11: b"CRASH"}
    given = [Page(bodies.get(number, article(number)), "s", str(number)) for number in range(12)]
    before, children = time.monotonic(), psutil.Process().children(recursive=True)
    kept, dropped = extracted(given, tmp_path, seconds=0.5)
    assert kept == ["0", "1", "2", "4", "6", "7", "10"]
    assert dropped == {
        "3": "the extractor crashed",
        "5": "extraction took longer than 0.5 s",
        "8": "extraction failed (RecursionError)",
        "9": "the extractor crashed",
        "11": "the extractor crashed",
    }
    assert time.monotonic() - before < 30  # a death is noticed when it happens, not when the time is over
    assert psutil.Process().children(recursive=True) == children


@pytest.mark.slow
def test_a_bomb_of_nested_tags_is_counted_and_the_next_page_read(tmp_path):
    bomb = Page(b"<html><body>" + b"<div>" * 1_000_000 + b"deep", "s", "bomb")
    for extractor in ("trafilatura", "resiliparse"):
        kept, _ = extracted([bomb, Page(article(1), "s", "fine")], tmp_path / extractor, 5.0, extractor)
        assert kept[-1] == "fine"


def test_documents_that_are_text_already_start_no_process(tmp_path):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    kept, _ = extracted([Document("text", "s", "u")], tmp_path)
    assert kept == ["u"] and {child.pid for child in psutil.Process().children(recursive=True)} == before


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

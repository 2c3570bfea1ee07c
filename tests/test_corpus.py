"""The corpus stage: what is read, what is dropped and told, what is held out."""

import gzip
import io
import json
import os
import signal

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.corpus import extract
from pipeline.corpus.build import build, text_hash
from pipeline.corpus.document import Document, Page, Rejected
from pipeline.corpus.extract import Extractor, decode
from pipeline.corpus.read import columns_problem, input_files, read_records
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.shards import ShardWriter, read_documents, read_texts, text_bytes
from pipeline.errors import PipelineError

HTML = [("Content-Type", "text/html; charset=utf-8")]


def article(number, words=60):
    sentences = " ".join(
        f"Sentence {index} of page {number} tells of the valley and its {number} bridges."
        for index in range(words // 10)
    )
    return (
        f"<html><head><title>Page {number}</title></head><body><nav><a href='/'>Home sweet home</a></nav>"
        f"<article><h1>Page {number}</h1><p>{sentences}</p><p>{sentences} Again.</p></article>"
        f"<footer>All rights reserved.</footer></body></html>"
    ).encode()


def write_warc(path, responses, zipped=True):
    """Write (url, body, headers, status) responses; returns the offset of each record."""
    offsets = []
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=zipped)
        for url, body, headers, status in responses:
            offsets.append(file.tell())
            http = StatusAndHeaders(status, headers, protocol="HTTP/1.1")
            writer.write_record(writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=http))
    return offsets


def pages(count):
    return [(f"http://valley.example/{number}", article(number), HTML, "200 OK") for number in range(count)]


def run(folder, **keys):
    """Build a corpus without validation; returns its documents and the removal table by step."""
    build(CorpusSettings(**{"validation_fraction": 0, "workers": 1, **keys}), folder)
    table = {step["step"]: step for step in json.loads((folder / "removed.json").read_text())}
    return list(read_documents(folder / "train")), table


def reasons(records):
    return [record.reason for record in records if isinstance(record, Rejected)]


# Reading


@pytest.mark.parametrize("zipped", [True, False])
def test_warc_responses_become_documents_with_url_date_and_source(tmp_path, zipped):
    path = tmp_path / ("crawl.warc.gz" if zipped else "crawl.warc")
    write_warc(path, pages(3), zipped)
    documents, table = run(tmp_path / "out", input=str(path))
    assert [document.url for document in documents] == [f"http://valley.example/{number}" for number in range(3)]
    assert all("tells of the valley" in document.text for document in documents)
    assert not any("Home sweet home" in document.text or "rights" in document.text for document in documents)
    assert {document.source for document in documents} == {str(path)}
    assert all(document.date.startswith("20") for document in documents)
    assert table["extract"]["bytes_in"] == 3 * len(article(0)) > table["extract"]["bytes_out"]


def test_unusable_responses_are_counted_with_their_reason(tmp_path):
    zipped = gzip.compress(article(1))
    encoded = [*HTML, ("Content-Encoding", "gzip")]
    responses = [
        ("http://x/ok", zipped, encoded, "200 OK"),
        (
            "http://x/chunked",
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(article(2)), article(2)),
            [*HTML, ("Transfer-Encoding", "chunked")],
            "200 OK",
        ),
        ("http://x/stored-decoded", article(3), encoded, "200 OK"),
        ("http://x/cut", zipped[:40], encoded, "200 OK"),
        ("http://x/bomb", gzip.compress(b"<p>" + b" " * 3_000_000), encoded, "200 OK"),
        ("http://x/large", b"<p>" + b"x" * 2_000_000, HTML, "200 OK"),
        ("http://x/gone", article(4), HTML, "404 Not Found"),
        ("http://x/image", b"\x89PNG", [("Content-Type", "image/png")], "200 OK"),
        ("http://x/empty", b"<html><body></body></html>", HTML, "200 OK"),
        ("http://x/plain", b"Just text.", [("Content-Type", "text/plain")], "200 OK"),
    ]
    write_warc(tmp_path / "crawl.warc.gz", responses)
    documents, table = run(tmp_path / "out", input=str(tmp_path / "crawl.warc.gz"), max_page_bytes=1_000_000)
    assert [document.url for document in documents] == [
        "http://x/ok",
        "http://x/chunked",
        "http://x/stored-decoded",
        "http://x/plain",
    ]
    assert table["read"]["reasons"] == {
        "unreadable body (compressed body is cut off)": 1,
        "unreadable body (larger than 1,000,000 bytes when decompressed)": 1,
        "larger than 1,000,000 bytes": 1,
        "HTTP status 404": 1,
        "content type image/png": 1,
    }
    assert table["read"]["documents_in"] == 10
    assert table["extract"]["reasons"] == {"no main text found": 1}
    assert {"url": "http://x/gone", "reason": "HTTP status 404", "text": ""} in table["read"]["sample"]


@pytest.mark.parametrize("zipped", [True, False])
def test_reading_goes_on_after_a_damaged_record(tmp_path, zipped):
    path = tmp_path / ("crawl.warc.gz" if zipped else "crawl.warc")
    offsets = write_warc(path, pages(6), zipped)
    data = bytearray(path.read_bytes())
    if zipped:
        data[offsets[2] + 150 : offsets[2] + 190] = b"x" * 40
    else:
        data[offsets[2] : offsets[2] + 8] = b"BROKEN/1"
    path.write_bytes(data)
    records = list(read_records(CorpusSettings(input=str(path))))
    assert len(reasons(records)) == 1 and "damaged record" in reasons(records)[0]
    found = [record.url[-1] for record in records if isinstance(record, Page)]
    assert found == ["0", "1", "3", "4", "5"]


def test_a_truncated_warc_gives_its_whole_records_and_one_rejection(tmp_path):
    path = tmp_path / "crawl.warc.gz"
    offsets = write_warc(path, pages(4))
    path.write_bytes(path.read_bytes()[: offsets[2] + 200])
    records = list(read_records(CorpusSettings(input=str(path))))
    assert [record.url[-1] for record in records if isinstance(record, Page)] == ["0", "1"]
    assert reasons(records) == ["truncated record"]


def test_text_jsonl_parquet_and_html_files_of_a_folder_are_read_in_order(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("plain text\r\nwith its line ends")
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        file.write(
            json.dumps({"text": "from json", "url": "http://j", "date": "2024-01-01", "language": "en"}) + "\n\n"
        )
    pq.write_table(
        pa.table({"text": ["from parquet"], "url": [None]}, pa.schema([("text", pa.string()), ("url", pa.string())])),
        folder / "c.parquet",
    )
    (folder / "sub" / "d.html").write_bytes(article(1))
    with pa.CompressedOutputStream(pa.OSFile(str(folder / "e.txt.zst"), "wb"), "zstd") as file:
        file.write("from zstd ü".encode())
    (folder / "notes.xyz").write_text("not a format")
    (folder / ".hidden.txt").write_text("hidden")
    documents, _ = run(tmp_path / "out", input=str(folder))
    assert [document.text for document in documents[:3]] == [
        "plain text\r\nwith its line ends",
        "from json",
        "from parquet",
    ]
    assert documents[1].url == "http://j" and documents[1].date == "2024-01-01" and documents[1].language == "en"
    assert documents[2].url is None and documents[2].language is None
    assert documents[3].text == "from zstd ü"
    assert "tells of the valley" in documents[4].text and documents[4].source.endswith("sub/d.html")


def test_columns_of_the_shards_are_the_promised_ones(tmp_path):
    (tmp_path / "a.txt").write_text("one text")
    run(tmp_path / "out", input=str(tmp_path / "a.txt"))
    assert pq.read_schema(tmp_path / "out" / "train" / "00000.parquet").names == [
        "text",
        "url",
        "source",
        "date",
        "language",
    ]


def test_a_separator_cuts_a_text_file_into_documents_across_read_blocks(tmp_path):
    texts = [f"document {number} " + "word " * 400 for number in range(1500)]  # 3 MB, three blocks
    (tmp_path / "a.txt").write_text("\n\n\n".join(texts))
    documents, _ = run(tmp_path / "out", input=str(tmp_path / "a.txt"), document_separator="\n\n\n")
    assert [document.text for document in documents] == texts


def test_bad_rows_of_jsonl_are_counted_and_the_others_kept(tmp_path):
    rows = [
        '{"text": "good"}',
        "{broken",
        '["no object"]',
        '{"text": 5}',
        '{"other": "x"}',
        '{"text": "' + "x" * 300 + '"}',
        '{"text": "\\ud800 also good"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    documents, table = run(tmp_path / "out", input=str(tmp_path / "a.jsonl"), max_page_bytes=200)
    assert [document.text for document in documents] == ["good", "? also good"]
    assert table["read"]["reasons"] == {
        "line is not a JSON object": 2,
        "column `text` holds int": 1,
        "column `text` is missing": 1,
        "line longer than 200 bytes": 1,
    }


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz", "a.html.gz"])
def test_truncated_gzip_is_counted_not_fatal(tmp_path, name):
    text = "".join(json.dumps({"text": os.urandom(40).hex()}) + "\n" for _ in range(2000))
    (tmp_path / name).write_bytes(gzip.compress(text.encode())[:-30_000])
    (tmp_path / "b.txt").write_text("the next file is still read")
    records = list(read_records(CorpusSettings(input=[str(tmp_path / name), str(tmp_path / "b.txt")])))
    assert len(reasons(records)) == 1 and "damaged file" in reasons(records)[0]
    assert isinstance(records[-1], Document) and records[-1].text == "the next file is still read"
    if name == "a.jsonl.gz":
        assert len(records) > 500  # the rows before the damage are kept


def test_damaged_parquet_and_text_that_is_not_utf8_are_counted(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense PAR1")
    (tmp_path / "b.txt").write_bytes("Käse".encode("latin-1"))
    (tmp_path / "c.txt").write_text("fine")
    documents, table = run(tmp_path / "out", input=str(tmp_path / "*.*"))
    assert [document.text for document in documents] == ["fine"]
    assert sum(table["read"]["reasons"].values()) == 2 and all(
        "damaged file" in reason for reason in table["read"]["reasons"]
    )


def test_a_hub_dataset_is_streamed_by_its_text_column(tmp_path, monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, config, split, streaming):
        asked.append((name, config, split, streaming))
        return datasets.Dataset.from_list(
            [{"content": f"row {index}", "url": f"u{index}"} for index in range(10)]
        ).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    documents, _ = run(
        tmp_path / "out", input="owner/name", dataset_config="small", text_column="content", max_documents=4
    )
    assert asked == [("owner/name", "small", "train", True)]
    assert [(document.text, document.url, document.source) for document in documents] == [
        (f"row {i}", f"u{i}", "owner/name") for i in range(4)
    ]


def test_a_hub_dataset_that_cannot_be_had_is_one_clear_error(monkeypatch):
    import datasets

    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nlong tail")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        PipelineError, match=r"owner/name \(ConnectionError: Couldn't reach the Hub\)\. If it was meant as"
    ):
        list(read_records(CorpusSettings(input="owner/name")))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing.jsonl", "missing.jsonl does not exist"),
        ("no/such/folder", "no/such/folder does not exist"),
        ("*.warc", r"no file matches \*\.warc"),
        ("empty", "the folder empty holds no file to read"),
        ("data.xyz", "format of data.xyz cannot be told .* `input_format:`"),
        ([], "an empty list"),
    ],
)
def test_an_input_that_cannot_be_read_is_named(tmp_path, monkeypatch, value, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.xyz").write_text("x")
    with pytest.raises(PipelineError, match=message):
        input_files(CorpusSettings(input=value))


def test_input_format_reads_files_whose_names_do_not_tell(tmp_path):
    (tmp_path / "data.xyz").write_text("some text")
    documents, _ = run(tmp_path / "out", input=str(tmp_path / "data.xyz"), input_format="text")
    assert [document.text for document in documents] == ["some text"]


def test_a_missing_text_column_is_found_before_the_run(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x", "url": "u"}\n')
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "a.parquet")
    (tmp_path / "empty.jsonl").write_text("")
    settings = CorpusSettings(input="unused")
    assert columns_problem(tmp_path / "a.jsonl", settings).endswith("a.jsonl has no column `text`; found content, url")
    assert columns_problem(tmp_path / "a.parquet", settings).endswith("a.parquet has no column `text`; found content")
    assert columns_problem(tmp_path / "empty.jsonl", settings).endswith("empty.jsonl is empty")
    assert columns_problem(tmp_path / "a.jsonl", CorpusSettings(input="unused", text_column="content")) is None


def test_an_empty_result_says_why(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x"}\n{"text": ""}\n')
    with pytest.raises(
        PipelineError, match=r"no document left of 2 records .*1 column `text` is missing; 1 fewer than 1 characters"
    ):
        run(tmp_path / "out", input=str(tmp_path / "a.jsonl"))


# Extraction


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
    train = [document.url for document in read_documents(tmp_path / "one" / "train")]
    assert train[-1] is None or train == sorted(train, key=lambda url: int(url.rsplit("/", 1)[1]))


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


# Duplicates, splits, shards


def test_exact_duplicates_are_dropped_across_files_whatever_their_white_space(tmp_path):
    (tmp_path / "a.txt").write_text("the same  text\n")
    (tmp_path / "b.jsonl").write_text('{"text": "the same\\ttext"}\n{"text": "another text"}\n')
    documents, table = run(tmp_path / "out", input=[str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")])
    assert [document.text for document in documents] == ["the same  text\n", "another text"]
    assert table["exact_duplicates"]["reasons"] == {"same text as an earlier document": 1}
    kept, _ = run(tmp_path / "kept", input=[str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")], deduplicate="none")
    assert len(kept) == 3


def test_every_step_takes_in_what_the_one_before_let_out(tmp_path):
    rows = [{"text": f"text {number % 30}" * (number % 7)} for number in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{broken")
    _, table = run(tmp_path / "out", input=str(tmp_path / "a.jsonl"), min_characters=5)
    steps = list(table.values())
    assert [step["step"] for step in steps] == ["read", "extract", "min_characters", "exact_duplicates"]
    assert steps[0]["documents_in"] == 101
    for before, after in zip(steps, steps[1:], strict=False):
        assert (after["documents_in"], after["bytes_in"]) == (before["documents_out"], before["bytes_out"])
    for step in steps:
        assert step["documents_in"] - step["documents_out"] == sum(step["reasons"].values())


def split_of(folder, tmp_path, rows, **keys):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in rows))
    build(CorpusSettings(input=str(tmp_path / "rows.jsonl"), deduplicate="none", workers=1, **keys), folder)
    return set(read_texts(folder / "train")), set(read_texts(folder / "validation"))


def test_held_out_documents_depend_on_text_and_seed_alone(tmp_path):
    rows = [f"document number {number}" for number in range(1000)]
    train, validation = split_of(tmp_path / "a", tmp_path, rows, validation_fraction=0.1)
    assert train | validation == set(rows) and not train & validation
    assert 70 <= len(validation) <= 130  # ± 3 standard deviations of a fair draw
    _, reordered = split_of(tmp_path / "b", tmp_path, rows[::-1] + ["more"] * 5, validation_fraction=0.1)
    assert reordered - {"more"} == validation
    _, wider = split_of(tmp_path / "c", tmp_path, rows, validation_fraction=0.2)
    assert validation < wider
    _, other = split_of(tmp_path / "d", tmp_path, rows, validation_fraction=0.1, seed=1)
    assert other != validation and 70 <= len(other) <= 130


def test_copies_of_a_document_never_straddle_the_split(tmp_path):
    rows = [f"document  {number}\n" if copy else f"document {number}" for number in range(300) for copy in range(2)]
    train, validation = split_of(tmp_path / "out", tmp_path, rows, validation_fraction=0.3)
    assert not {text_hash(text) for text in train} & {text_hash(text) for text in validation}


def test_the_position_split_cuts_the_last_characters_off(tmp_path, shared_data):
    path = shared_data / "text" / "tinyshakespeare.txt"
    build(CorpusSettings(input=str(path), validation_split="position", validation_fraction=0.1), tmp_path)
    data = path.read_text(encoding="utf-8")
    border = int(len(data) * 0.9)  # nanoGPT, data/shakespeare_char/prepare.py
    assert "".join(read_texts(tmp_path / "train")) == data[:border]
    assert "".join(read_texts(tmp_path / "validation")) == data[border:]
    assert {path.name for path in tmp_path.iterdir()} == {"train", "validation", "removed.json"}


def test_the_position_split_cuts_the_document_on_the_border_in_two(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": letter * 10}) for letter in "abcd"))
    settings = CorpusSettings(
        input=str(tmp_path / "rows.jsonl"), validation_split="position", validation_fraction=0.375
    )
    build(settings, tmp_path / "out")
    assert list(read_texts(tmp_path / "out" / "train")) == ["a" * 10, "b" * 10, "c" * 5]
    assert list(read_texts(tmp_path / "out" / "validation")) == ["c" * 5, "d" * 10]


def test_a_split_that_leaves_a_side_empty_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a single document")
    with pytest.raises(
        PipelineError, match=r"validation_fraction: 0.01 of 1 documents left none for validation.*position"
    ):
        build(CorpusSettings(input=str(tmp_path / "a.txt")), tmp_path / "out")


def test_shards_close_at_their_size_and_read_back_in_order(tmp_path):
    given = [Document(f"text {number} ü", "s", url=f"u{number}") for number in range(25)]
    with ShardWriter(tmp_path / "train", 10) as writer:
        for document in given:
            writer.write(document)
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "train").iterdir())] == [10, 10, 5]
    assert list(read_documents(tmp_path / "train")) == given
    assert writer.bytes == sum(len(document.text.encode()) for document in given)


def test_the_size_of_the_text_is_known_from_the_footers(tmp_path):
    with ShardWriter(tmp_path / "train", 10) as writer:
        for number in range(25):
            writer.write(Document(f"text {number} " * 100, "s"))
    assert text_bytes(tmp_path / "train") == pytest.approx(writer.bytes, rel=0.02)


def test_reading_shards_from_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(PipelineError, match="no Parquet shards here"):
        list(read_texts(tmp_path))

"""Reading a corpus: every format, every kind of damage, and what is said of inputs that cannot be read."""

import gzip
import json
import os
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crawl import HTML, article, pages, reasons, run, write_warc

from pipeline.corpus import read
from pipeline.corpus.document import Document, Page
from pipeline.corpus.inputs import Part, input_files
from pipeline.corpus.read import file_problem, read_file, read_parts
from pipeline.corpus.settings import CorpusSettings
from pipeline.errors import PipelineError


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
    records = list(read_file(path, CorpusSettings(input=str(path))))
    assert len(reasons(records)) == 1 and "damaged record" in reasons(records)[0]
    found = [record.url[-1] for record in records if isinstance(record, Page)]
    assert found == ["0", "1", "3", "4", "5"]


def test_a_truncated_warc_gives_its_whole_records_and_one_rejection(tmp_path):
    path = tmp_path / "crawl.warc.gz"
    offsets = write_warc(path, pages(4))
    path.write_bytes(path.read_bytes()[: offsets[2] + 200])
    records = list(read_file(path, CorpusSettings(input=str(path))))
    assert [record.url[-1] for record in records if isinstance(record, Page)] == ["0", "1"]
    assert reasons(records) == ["truncated record"]


def shares(path, slices):
    settings = CorpusSettings(input=str(path))
    return [record for slice in range(slices) for record in read_file(path, settings, slice, slices)]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("damaged", [False, True])
def test_shares_of_a_warc_hold_every_record_once_and_in_order(tmp_path, zipped, damaged):
    path = tmp_path / ("a.warc.gz" if zipped else "a.warc")
    offsets = write_warc(path, pages(40), zipped)
    if damaged:  # two records far apart: where reading goes on after the second counts from the file's start
        content = bytearray(path.read_bytes())
        for offset in (offsets[11], offsets[30]):
            content[offset : offset + 190] = b"\0" * 190
        path.write_bytes(content)
    whole = shares(path, 1)
    assert [record.url for record in whole if isinstance(record, Page)] == [
        f"http://valley.example/{number}" for number in range(40) if not damaged or number not in (11, 30)
    ]
    assert len(reasons(whole)) == 2 * damaged
    for slices in (2, 3, 7, 64):
        assert shares(path, slices) == whole


def test_a_warc_in_one_gzip_stream_is_shared_record_by_record(tmp_path):
    path = tmp_path / "one.warc.gz"
    write_warc(tmp_path / "a.warc", pages(9), False)
    path.write_bytes(gzip.compress((tmp_path / "a.warc").read_bytes()))
    found = [record.url for record in shares(path, 3)]
    assert sorted(found) == sorted(record.url for record in shares(path, 1)) and len(found) == 9


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
    assert pq.read_schema(tmp_path / "out" / "train" / "00000-00000.parquet").names == [
        "text",
        "url",
        "source",
        "date",
        "language",
    ]


def test_a_separator_cuts_a_text_file_into_documents_across_read_blocks(tmp_path):
    texts = [f"document {number} " + "word " * 400 for number in range(1500)]  # 3 MB, three blocks
    (tmp_path / "a.txt").write_text("\n\n\n".join(texts))
    documents, _ = run(tmp_path / "out", input=str(tmp_path / "a.txt"), document_separator="\n\n\n", tasks=1)
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


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_shares_of_rows_hold_each_once_and_parse_no_other(tmp_path, monkeypatch, name):
    rows = [{"text": f"row {number}"} for number in range(600)]
    if name == "a.jsonl":
        lines = [json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join([*lines[:7], "{broken", *lines[7:]]))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    parsed, real = [], read._row
    monkeypatch.setattr(read, "_row", lambda row, *rest: parsed.append(row) or real(row, *rest))
    shares = [list(read_file(tmp_path / name, CorpusSettings(input=""), share, 3)) for share in range(3)]
    records = [record for share in shares for record in share]
    assert sorted(one.text for one in records if isinstance(one, Document)) == sorted(row["text"] for row in rows)
    assert len(parsed) == 600 and len(reasons(records)) == (name == "a.jsonl")
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz", "a.html.gz", "a.jsonl.zst"])
def test_truncated_compression_is_counted_not_fatal(tmp_path, name):
    text = "".join(json.dumps({"text": os.urandom(40).hex()}) + "\n" for _ in range(10_000)).encode()
    packed = gzip.compress(text) if name.endswith("gz") else pa.compress(text, "zstd", asbytes=True)
    (tmp_path / name).write_bytes(packed)
    whole = list(read_file(tmp_path / name, CorpusSettings(input="")))
    assert not reasons(whole) and len(whole) == (10_000 if "jsonl" in name else 1)
    (tmp_path / name).write_bytes(packed[:-30_000])
    (tmp_path / "b.txt").write_text("the next file is still read")
    settings = CorpusSettings(input=[str(tmp_path / name), str(tmp_path / "b.txt")])
    records = list(read_parts([Part(value) for value in settings.input], settings, tmp_path))
    assert len(reasons(records)) == 1 and "damaged file" in reasons(records)[0]
    assert isinstance(records[-1], Document) and records[-1].text == "the next file is still read"
    if "jsonl" in name:
        assert len(records) > 500  # the rows before the damage are kept


def test_a_page_of_200_megabytes_is_skipped_without_being_held(tmp_path):
    with (tmp_path / "huge.html").open("wb") as file:
        file.truncate(200_000_000)  # sparse: takes no room
    (tmp_path / "line.jsonl").write_bytes(b'{"text": "' + b"x" * 30_000_000 + b'"}\n{"text": "the next line"}')
    tracemalloc.start()
    settings = CorpusSettings(input="")
    records = [record for name in ("huge.html", "line.jsonl") for record in read_file(tmp_path / name, settings)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons(records) == ["larger than 10,000,000 bytes", "line longer than 10,000,000 bytes"]
    assert records[-1].text == "the next line" and peak < 50_000_000


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


def test_a_hub_dataset_that_cannot_be_had_is_one_clear_error(tmp_path, monkeypatch):
    import datasets

    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nlong tail")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        PipelineError, match=r"owner/name \(ConnectionError: Couldn't reach the Hub\)\. If it was meant as"
    ):
        list(read_parts([Part("owner/name")], CorpusSettings(input="owner/name"), tmp_path))


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
    assert file_problem(tmp_path / "a.jsonl", settings).endswith("a.jsonl has no column `text`; found content, url")
    assert file_problem(tmp_path / "a.parquet", settings).endswith("a.parquet has no column `text`; found content")
    assert file_problem(tmp_path / "empty.jsonl", settings).endswith("empty.jsonl is empty")
    assert file_problem(tmp_path / "a.jsonl", CorpusSettings(input="unused", text_column="content")) is None


def test_a_text_too_large_to_be_one_document_asks_for_a_separator(tmp_path):
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(1_500_000_000)  # sparse: takes no room
    complaint = file_problem(tmp_path / "huge.txt", CorpusSettings(input="unused"))
    assert complaint.startswith("document_separator: is missing") and "1.5 GB" in complaint
    assert file_problem(tmp_path / "huge.txt", CorpusSettings(input="unused", document_separator="\n\n")) is None


def test_an_empty_result_says_why(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x"}\n{"text": ""}\n')
    with pytest.raises(
        PipelineError, match=r"no document left of 2 records .*1 column `text` is missing; 1 fewer than 1 characters"
    ):
        run(tmp_path / "out", input=str(tmp_path / "a.jsonl"))

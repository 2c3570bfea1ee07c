"""Remote inputs: downloads that are cut off, servers that fail, Common Crawl's lists; against a server of our own."""

import gzip
import http.server
import json
import threading

import fsspec
import pytest
from crawl import pages, run, write_warc

from pipeline.corpus import download as module
from pipeline.corpus.download import download
from pipeline.corpus.inputs import input_files, partition
from pipeline.corpus.settings import CorpusSettings
from pipeline.errors import PipelineError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; each entry of `server.faults` spoils one request: a status, or how many bytes get through."""

    def do_GET(self):
        server = self.server
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        server.requests.append((self.path, start))
        fault = server.faults.pop(0) if server.faults else None
        body = server.files.get(self.path)
        status = 404 if body is None else fault if fault in (403, 500, 503) else 206 if start and server.ranges else 200
        body = b"" if status >= 400 else body[start:] if status == 206 else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:fault] if fault is not None and status < 400 else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.001)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.faults, server.requests, server.ranges = {}, [], [], True
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_download_goes_on_where_it_was_cut_off(server, tmp_path):
    body = bytes(range(256)) * 4_000
    server.files["/a.txt"] = body
    server.faults = [300_000, 503, 200_000]
    assert download(f"{server.url}/a.txt", tmp_path).read_bytes() == body
    assert [start for _, start in server.requests] == [0, 300_000, 300_000, 500_000]
    assert len(list(tmp_path.iterdir())) == 1
    download(f"{server.url}/a.txt", tmp_path)
    assert len(server.requests) == 4  # it is here already


def test_a_server_without_ranges_is_read_anew(server, tmp_path):
    server.files["/a.txt"], server.ranges, server.faults = b"abcdef" * 1000, False, [4_000]
    assert download(f"{server.url}/a.txt", tmp_path).read_bytes() == b"abcdef" * 1000


def test_what_cannot_be_had_is_said_after_the_last_attempt_and_leaves_no_name(server, tmp_path):
    server.files["/a.txt"], server.faults = b"x", [500] * 50
    with pytest.raises(PipelineError, match=r"a.txt could not be read in 6 attempts .*goes on from here"):
        download(f"{server.url}/a.txt", tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    with pytest.raises(FileNotFoundError):
        download(f"{server.url}/missing.txt", tmp_path)
    assert server.requests.count(("/missing.txt", 0)) == 1


def test_other_file_systems_are_read_through_fsspec(tmp_path, monkeypatch):
    memory = fsspec.filesystem("memory")
    for name in ("b", "a"):
        memory.pipe(f"/crawl/{name}.jsonl", json.dumps({"text": f"document {name}"}).encode())
    settings = CorpusSettings(input="memory://crawl")
    files = input_files(settings)
    assert files == ["memory:///crawl/a.jsonl", "memory:///crawl/b.jsonl"]
    assert input_files(CorpusSettings(input="memory://crawl/*.jsonl")) == files
    copy = download(files[0], tmp_path / "here")
    assert json.loads(copy.read_text()) == {"text": "document a"}
    documents, _ = run(tmp_path / "out", input="memory://crawl")
    assert [(document.text, document.source) for document in documents] == [
        (f"document {name}", f"memory:///crawl/{name}.jsonl") for name in "ab"
    ]
    with pytest.raises(PipelineError, match="s3://bucket/x.jsonl cannot be opened"):
        monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
        input_files(CorpusSettings(input="s3://bucket/x.jsonl"))


def test_a_common_crawl_dump_is_read_by_its_name(server, tmp_path):
    names = [f"crawl-data/CC-MAIN-2025-05/segments/1/warc/{number}.warc.gz" for number in range(3)]
    server.files["/crawl-data/CC-MAIN-2025-05/warc.paths.gz"] = gzip.compress("\n".join(names).encode())
    for name in names[:2]:
        write_warc(
            tmp_path / "crawl.warc.gz", [(f"http://{name[-9]}.example/{url[-1]}", *rest) for url, *rest in pages(3)]
        )
        server.files[f"/{name}"] = (tmp_path / "crawl.warc.gz").read_bytes()
    keys = {"input": "commoncrawl:CC-MAIN-2025-05", "commoncrawl_url": server.url, "extractor": "resiliparse"}
    documents, table = run(tmp_path / "out", **keys, max_files=2, deduplicate="none")
    assert [document.url for document in documents] == [
        f"http://{file}.example/{page}" for file in "01" for page in "012"
    ]
    assert {document.source for document in documents} == {f"{server.url}/{name}" for name in names[:2]}
    _, table = run(tmp_path / "all", **keys)  # the third file is listed but not there
    assert table["read"]["reasons"] == {"no such remote file": 1}
    with pytest.raises(PipelineError, match="there is no Common Crawl dump CC-MAIN-1999-01"):
        run(tmp_path / "none", **{**keys, "input": "commoncrawl:CC-MAIN-1999-01"})


def test_remote_files_are_cut_into_tasks_by_number_and_never_within_a_file():
    urls = [f"https://x.example/{number}.warc.gz" for number in range(10)]
    assert [len(parts) for parts in partition(CorpusSettings(input=urls), urls)] == [1] * 10
    few = partition(CorpusSettings(input=urls, tasks=3), urls)
    assert [part.source for parts in few for part in parts] == urls and len(few) == 3
    many = partition(CorpusSettings(input=urls, tasks=40), urls)
    assert all(part.slices == 1 for parts in many for part in parts) and len(many) == 10

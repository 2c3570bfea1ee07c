"""Small crawls for the tests of the corpus stage, and the shortest way through it."""

import io
import json

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.corpus.build import build
from pipeline.corpus.document import Rejected
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.shards import read_documents

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

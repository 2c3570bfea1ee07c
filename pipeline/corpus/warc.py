"""Reading WARC files: every usable response, and every record that is damaged, with its reason."""

import mmap
import sys
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.corpus.document import Document, Page, Record, Rejected

HTML_TYPES = ("text/html", "application/xhtml+xml")
GZIP_MAGIC, WARC_MAGIC = b"\x1f\x8b\x08", b"WARC/1."


def read_warc(path: Path, max_page_bytes: int, slice: int = 0, slices: int = 1) -> Iterator[Record]:
    """Responses of a WARC file (plain, .gz, .zst) as pages; text records of a WET file as documents.

    A damaged record is rejected once, and reading goes on at the next record that can be read. FastWARC itself ends at
    damaged compression, and gives an empty record where a file was cut off.

    Args:
        path: The file.
        max_page_bytes: A body that is larger, also after its HTTP content encoding was undone, is rejected.
        slice, slices: Only the records that begin in this one of so many equal stretches of the file. Where the file does
            not show its records' beginnings (.zst, or one gzip stream around all of them), every `slices`-th record.
    """
    size = path.stat().st_size
    if size == 0:
        if slice == 0:
            yield Rejected("empty file", str(path))
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if slices > 1 and _first_record(data, 1) < 0:
            yield from islice(read_warc(path, max_page_bytes), slice, None, slices)
            return
        begin, end = size * slice // slices, size * (slice + 1) // slices
        if slice == slices - 1:
            end = sys.maxsize  # in a single gzip stream, places are those of what it unpacks to
        start = _first_record(data, begin) if begin else 0
        good = True
        while 0 <= start < end:
            try:
                for record, position in _records(path, start):
                    if position >= end:
                        return
                    start, good = position, True
                    yield from _read_record(record, str(path), max_page_bytes)
                return
            except OSError as error:
                if good:  # one rejection for a run of unreadable bytes, however many places were tried in it
                    yield Rejected(f"damaged record ({error})", str(path), sample=f"after byte {start:,}")
                good = False
            start = _next_record(data, start + 1)


def _records(path: Path, start: int) -> Iterator[tuple[Any, int]]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    with path.open("rb") as file:
        file.seek(start)
        kinds = WarcRecordType.response | WarcRecordType.conversion
        for record in ArchiveIterator(file, record_types=kinds, fsspec_args=False):
            yield record, record.stream_pos


def _next_record(data: mmap.mmap, start: int) -> int:
    return data.find(GZIP_MAGIC if data[:3] == GZIP_MAGIC else WARC_MAGIC, start)


def _first_record(data: mmap.mmap, start: int) -> int:
    """Where the first record at or behind a byte begins, -1 without one: bytes that merely look like a beginning are none."""
    start = _next_record(data, start)
    while start >= 0 and not _begins(data, start):
        start = _next_record(data, start + 1)
    return start


def _begins(data: mmap.mmap, start: int) -> bool:
    if data[:3] != GZIP_MAGIC:
        return data[start - 4 : start] == b"\r\n\r\n"
    try:
        return zlib.decompressobj(31).decompress(data[start : start + 512], len(WARC_MAGIC)) == WARC_MAGIC
    except zlib.error:
        return False


def _read_record(record: Any, source: str, limit: int) -> Iterator[Record]:
    from fastwarc.warc import WarcRecordType

    url = (record.headers.get("WARC-Target-URI") or "").strip().strip("<>") or None
    date = record.record_date.isoformat() if record.record_date else None
    declared = record.content_length
    if declared > limit:
        yield Rejected(f"larger than {limit:,} bytes", source, url, declared)
        return
    body = record.reader.read()
    response = record.record_type == WarcRecordType.response
    if len(body) < declared or (response and not (record.is_http and record.http_headers is not None)):
        yield Rejected("truncated record", source, url, len(body))
        return
    if not response:
        yield from _read_text(body, source, url, date)
        return
    status = record.http_headers.status_code
    if status is not None and status != 200:
        yield Rejected(f"HTTP status {status}", source, url, len(body))
        return
    try:
        body = _decode_body(body, record.http_headers, limit)
    except (ValueError, zlib.error) as error:
        yield Rejected(f"unreadable body ({error})", source, url, len(body))
        return
    content_type = (record.http_content_type or "").lower()
    if content_type in HTML_TYPES or not content_type:
        yield Page(body, source, url, date, record.http_charset)
    elif content_type == "text/plain":
        yield from _read_text(body, source, url, date)
    else:
        yield Rejected(f"content type {content_type}", source, url, len(body))


def _read_text(body: bytes, source: str, url: str | None, date: str | None) -> Iterator[Record]:
    try:
        yield Document(body.decode("utf-8-sig"), source, url, date)
    except UnicodeDecodeError:
        yield Rejected("text is not UTF-8", source, url, len(body))


def _decode_body(body: bytes, headers: Any, limit: int) -> bytes:
    """Undo transfer and content encoding, never producing more than `limit` bytes."""
    names = {name.lower(): value.lower() for name, value in headers.items()}
    if "chunked" in names.get("transfer-encoding", ""):
        body = _dechunk(body)
    encoding = names.get("content-encoding", "identity").strip()
    # Crawlers often store the decoded body under the original header, so that the bytes decide where they can.
    if encoding in ("gzip", "x-gzip") and body[:2] == GZIP_MAGIC[:2]:
        return _inflate(body, 31, limit)
    if encoding == "deflate":
        try:
            return _inflate(body, 15, limit)
        except zlib.error:
            return _inflate(body, -15, limit)  # some servers send raw deflate
    if encoding in ("br", "zstd") and b"<" not in body[:1000]:
        raise ValueError(f"content encoding {encoding} is not supported")
    return body


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    decoder = zlib.decompressobj(window)
    found = decoder.decompress(body, limit + 1)
    if len(found) > limit:
        raise ValueError(f"larger than {limit:,} bytes when decompressed")
    if not decoder.eof:
        raise ValueError("compressed body is cut off")
    return found


def _dechunk(body: bytes) -> bytes:
    parts, position = [], 0
    while position < len(body):
        end = body.find(b"\r\n", position)
        try:
            size = int(body[position : end if end >= 0 else len(body)].split(b";")[0], 16)
        except ValueError:
            return body  # already put together by the crawler
        if size == 0:
            break
        parts.append(body[end + 2 : end + 2 + size])
        position = end + 2 + size + 2
    return b"".join(parts)

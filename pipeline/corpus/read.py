"""Reading a corpus: the records of a file or dataset, streamed in a fixed order, damage as rejections."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.corpus.document import Document, Page, Record, Rejected
from pipeline.corpus.download import download
from pipeline.corpus.inputs import Part, file_format, is_remote
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.shards import parquet_batches
from pipeline.corpus.warc import read_warc
from pipeline.errors import PipelineError

LARGEST_TEXT = 1_000_000_000


def read_parts(parts: Iterable[Part], settings: CorpusSettings, downloads: Path) -> Iterator[Record]:
    """All records that a task reads, in order. A remote file lies in `downloads` while it is read."""
    for part in parts:
        yield from _read_source(part, settings, downloads)


def file_problem(path: Path, settings: CorpusSettings) -> str | None:
    """What a first look shows to be wrong with a file: its size, or the columns of its first row; None where nothing is."""
    form = settings.input_format if settings.input_format != "auto" else file_format(path)
    if form == "text" and settings.document_separator is None and path.stat().st_size > LARGEST_TEXT:
        return (
            f"document_separator: is missing: without it {path} would be a single document of "
            f"{path.stat().st_size / 1e9:.1f} GB, held in memory; name what stands between its documents"
        )
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            columns = pq.read_schema(path).names
        except (pa.ArrowException, OSError) as error:
            return f"input: {path} is not a readable Parquet file ({_reason(error)})"
        return None if settings.text_column in columns else _missing_column(path, columns, settings)
    if form == "jsonl":
        first = next(read_file(path, settings), None)
        if first is None:
            return f"input: {path} is empty"
        if isinstance(first, Rejected) and first.columns is not None:
            return _missing_column(path, first.columns, settings)
    return None


def _missing_column(path: Path, columns: list[str], settings: CorpusSettings) -> str:
    return f"text_column: {path} has no column `{settings.text_column}`; found {', '.join(columns)}"


def _read_source(part: Part, settings: CorpusSettings, downloads: Path) -> Iterator[Record]:
    path = Path(part.source)
    if is_remote(part.source):
        try:
            path = download(part.source, downloads)
        except FileNotFoundError:
            yield Rejected("no such remote file", part.source)
            return
        yield from _named(read_file(path, settings), str(path), part.source)
        path.unlink()
    elif path.exists():
        yield from read_file(path, settings, part.slice, part.slices)
    else:
        yield from _read_hub(part.source, settings)


def read_file(path: Path, settings: CorpusSettings, slice: int = 0, slices: int = 1) -> Iterator[Record]:
    """The records of a local file, or one of `slices` shares of them. Rows of other shares are not parsed."""
    form = settings.input_format if settings.input_format != "auto" else file_format(path)
    if form == "warc":
        yield from read_warc(path, settings.max_page_bytes, slice, slices)
        return
    for record in islice(_read_whole(path, form, settings), slice, None, slices):
        yield record() if callable(record) else record


def _read_whole(path: Path, form: str | None, settings: CorpusSettings) -> Iterator[Record | Callable[[], Record]]:
    import pyarrow as pa

    readers = {"html": _read_html, "text": _read_text, "jsonl": _read_jsonl, "parquet": _read_parquet}
    try:
        if form in readers:
            yield from readers[form](path, settings)
        else:
            yield Rejected("unknown format", str(path), bytes=path.stat().st_size)
    except (EOFError, OSError, UnicodeDecodeError, zlib.error, pa.ArrowException) as error:
        yield Rejected(f"damaged file ({_reason(error)})", str(path), bytes=path.stat().st_size)


def _named(records: Iterator[Record], here: str, there: str) -> Iterator[Record]:
    """Records of a downloaded file under the address that it came from."""
    for record in records:
        record.source = record.source.replace(here, there)
        yield record


def _read_html(path: Path, settings: CorpusSettings) -> Iterator[Record]:
    with open_bytes(path) as file:
        html = file.read(settings.max_page_bytes + 1)
    if len(html) > settings.max_page_bytes:
        yield Rejected(f"larger than {settings.max_page_bytes:,} bytes", str(path), bytes=path.stat().st_size)
    else:
        yield Page(html, str(path))


def _read_text(path: Path, settings: CorpusSettings) -> Iterator[Record]:
    separator = settings.document_separator
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        if separator is None:
            yield Document(file.read(), str(path))
            return
        rest = ""
        while block := file.read(1 << 20):
            *documents, rest = (rest + block).split(separator)
            yield from (Document(text, str(path)) for text in documents if text.strip())
        if rest.strip():
            yield Document(rest, str(path))


def _read_jsonl(path: Path, settings: CorpusSettings) -> Iterator[Record | Callable[[], Record]]:
    with open_bytes(path) as file:
        for number, line in enumerate(_lines(file, settings.max_page_bytes), start=1):
            where = f"{path}:{number}"
            if line is None:
                yield Rejected(f"line longer than {settings.max_page_bytes:,} bytes", where)
            elif line.strip():
                yield partial(_parse_line, line, str(path), where, settings)


def _parse_line(line: bytes, source: str, where: str, settings: CorpusSettings) -> Record:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        row = None
    if not isinstance(row, dict):
        sample = line[:200].decode("utf-8", "replace")
        return Rejected("line is not a JSON object", where, bytes=len(line), sample=sample)
    return _row(row, source, where, settings)


def _read_parquet(path: Path, settings: CorpusSettings) -> Iterator[Callable[[], Record]]:
    def record(batch: Any, index: int, number: int) -> Record:
        row = {name: column[index].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        return _row(row, str(path), f"{path}:{number}", settings)

    number = 0
    wanted = (settings.text_column, "url", "date", "language", settings.score_column)
    for batch in parquet_batches(path, wanted):
        for index in range(batch.num_rows):
            number += 1
            yield partial(record, batch, index, number)


def _read_hub(name: str, settings: CorpusSettings) -> Iterator[Record]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, settings.dataset_config, split=settings.dataset_train_split, streaming=True)
    except Exception as error:  # the hub client raises a dozen kinds; each means that the dataset cannot be had
        raise PipelineError(
            f"input: cannot open the hub dataset {name} ({type(error).__name__}: {_reason(error)}). If it was meant as "
            f"a path, nothing is there; else check the id, `dataset_config`, `dataset_train_split` and the network."
        ) from error
    for number, row in enumerate(rows, start=1):
        yield _row(row, name, f"{name}:{number}", settings)


def _row(row: dict[str, Any], source: str, where: str, settings: CorpusSettings) -> Record:
    text = row.get(settings.text_column)
    if not isinstance(text, str):
        found = f"holds {type(text).__name__}" if settings.text_column in row else "is missing"
        columns = None if settings.text_column in row else list(map(str, row))
        return Rejected(f"column `{settings.text_column}` {found}", where, columns=columns)
    optional = {name: str(row[name]) for name in ("url", "date", "language") if row.get(name) is not None}
    score = row.get(settings.score_column) if settings.score_column else None
    scores = {settings.score_column: float(score)} if isinstance(score, int | float) and settings.score_column else {}
    return Document(text, source, **optional, scores=scores)


def open_bytes(path: Path) -> BinaryIO:
    """A file as a stream of bytes, decompressed by its suffix."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        import pyarrow as pa

        # buffered, because Arrow's streams have no lines
        return io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")), 1 << 17)
    return path.open("rb")


def _lines(file: BinaryIO, limit: int) -> Iterator[bytes | None]:
    """Lines of a binary stream; None for one that is longer than `limit`, without holding it."""
    while line := file.readline(limit + 1):
        if len(line) <= limit or line.endswith(b"\n"):
            yield line
        else:
            while (rest := file.readline(limit)) and not rest.endswith(b"\n"):
                continue
            yield None


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

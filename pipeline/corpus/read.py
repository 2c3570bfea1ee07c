"""Reading a corpus: which files an `input` means, and the records in them, streamed in a fixed order."""

import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.corpus.document import Document, Page, Record, Rejected
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.warc import read_warc
from pipeline.errors import PipelineError

FORMATS = {
    ".warc": "warc", ".wet": "warc", ".html": "html", ".htm": "html", ".xhtml": "html", ".txt": "text", ".text": "text",
    ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
}  # fmt: skip
COMPRESSIONS = (".gz", ".zst")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
LARGEST_TEXT = 1_000_000_000
DAMAGE = (EOFError, OSError, zlib.error)


def file_format(path: Path) -> str | None:
    """Format by the file's name, a compression's suffix set aside; None where the name does not tell."""
    suffixes = path.suffixes[-2:]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return FORMATS.get(suffixes[-1].lower()) if suffixes else None


def is_hub_id(value: str) -> bool:
    """Whether a name that is nothing on disk can be a hub dataset id rather than a mistyped path."""
    return (
        bool(HUB_ID.fullmatch(value))
        and not Path(value).exists()
        and file_format(Path(value)) is None
        and not value.startswith("runs/")
    )


def input_files(settings: CorpusSettings, values: list[str] | None = None) -> list[Path | str]:
    """Files (sorted within a folder or glob) and hub ids that `input`, or each of `values`, means.

    Raises:
        PipelineError: Something named does not exist, matches nothing, or has a format that cannot be told.
    """
    if values is None:
        values = [settings.input] if isinstance(settings.input, str) else list(settings.input)
    if not values:
        raise PipelineError("input: an empty list; expected files, folders, globs or hub dataset ids.")
    found: list[Path | str] = []
    for value in values:
        path = Path(value).expanduser()
        if path.is_dir():
            files = _folder_files(path, settings)
            if not files:
                raise PipelineError(f"input: the folder {value} holds no file to read; expected {_expected()}.")
            found += files
        elif path.is_file():
            if settings.input_format == "auto" and file_format(path) is None:
                raise PipelineError(
                    f"input: the format of {value} cannot be told from its name; expected {_expected()}, or set "
                    f"`input_format:`."
                )
            found.append(path)
        elif glob.has_magic(value):
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
            if not matches:
                raise PipelineError(f"input: no file matches {value}.")
            found += matches
        elif is_hub_id(value):
            found.append(value)
        else:
            raise PipelineError(f"input: {value} does not exist.")
    return found


def read_records(settings: CorpusSettings) -> Iterator[Record]:
    """All records of the input, in order, at most `max_documents`."""
    records = (record for source in input_files(settings) for record in _read_source(source, settings))
    return islice(records, settings.max_documents)


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
        first = next(_read_jsonl(path, settings), None)
        if first is None:
            return f"input: {path} is empty"
        if isinstance(first, Rejected) and first.columns is not None:
            return _missing_column(path, first.columns, settings)
    return None


def _missing_column(path: Path, columns: list[str], settings: CorpusSettings) -> str:
    return f"text_column: {path} has no column `{settings.text_column}`; found {', '.join(columns)}"


def _read_source(source: Path | str, settings: CorpusSettings) -> Iterator[Record]:
    if isinstance(source, str):
        yield from _read_hub(source, settings)
        return
    form = settings.input_format if settings.input_format != "auto" else file_format(source)
    if form == "warc":
        yield from read_warc(source, settings.max_page_bytes)
    elif form == "html":
        yield from _read_html(source, settings)
    elif form == "text":
        yield from _read_text(source, settings)
    elif form == "jsonl":
        yield from _read_jsonl(source, settings)
    elif form == "parquet":
        yield from _read_parquet(source, settings)
    else:
        yield Rejected("unknown format", str(source), bytes=source.stat().st_size)


def _read_html(path: Path, settings: CorpusSettings) -> Iterator[Record]:
    try:
        with open_bytes(path) as file:
            html = file.read(settings.max_page_bytes + 1)
    except DAMAGE as error:
        yield Rejected(f"damaged file ({_reason(error)})", str(path), bytes=path.stat().st_size)
        return
    if len(html) > settings.max_page_bytes:
        yield Rejected(f"larger than {settings.max_page_bytes:,} bytes", str(path), bytes=path.stat().st_size)
    else:
        yield Page(html, str(path))


def _read_text(path: Path, settings: CorpusSettings) -> Iterator[Record]:
    separator = settings.document_separator
    try:
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
    except (UnicodeDecodeError, *DAMAGE) as error:
        yield Rejected(f"damaged file ({_reason(error)})", str(path), bytes=path.stat().st_size)


def _read_jsonl(path: Path, settings: CorpusSettings) -> Iterator[Record]:
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(_lines(file, settings.max_page_bytes), start=1):
                where = f"{path}:{number}"
                if line is None:
                    yield Rejected(f"line longer than {settings.max_page_bytes:,} bytes", where)
                elif line.strip():
                    yield _parse_line(line, str(path), where, settings)
    except DAMAGE as error:
        yield Rejected(f"damaged file ({_reason(error)})", str(path), bytes=path.stat().st_size)


def _parse_line(line: bytes, source: str, where: str, settings: CorpusSettings) -> Record:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        row = None
    if not isinstance(row, dict):
        sample = line[:200].decode("utf-8", "replace")
        return Rejected("line is not a JSON object", where, bytes=len(line), sample=sample)
    return _row(row, source, where, settings)


def _read_parquet(path: Path, settings: CorpusSettings) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            wanted = {settings.text_column, "url", "date", "language"}
            columns = [name for name in file.schema_arrow.names if name in wanted]
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield _row(row, str(path), f"{path}:{number}", settings)
    except (pa.ArrowException, OSError) as error:
        yield Rejected(f"damaged file ({_reason(error)})", str(path), bytes=path.stat().st_size)


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
    return Document(text, source, **optional)


def open_bytes(path: Path) -> BinaryIO:
    """A file as a stream of bytes, decompressed by its suffix."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        import pyarrow as pa

        return cast(BinaryIO, pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
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


def _folder_files(folder: Path, settings: CorpusSettings) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    visible = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [path for path in visible if settings.input_format != "auto" or file_format(path) is not None]


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _expected() -> str:
    return f"{', '.join(FORMATS)}, each also with {' or '.join(COMPRESSIONS)}"

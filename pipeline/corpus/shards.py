"""Parquet shards of documents: written a row group at a time, read back as a stream."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.corpus.document import COLUMNS, Document
from pipeline.errors import PipelineError

GROUP_DOCUMENTS = 1_000
GROUP_CHARACTERS = 8_000_000


class ShardWriter:
    """Writes documents to `00000.parquet`, `00001.parquet` ... in a folder. Memory holds one row group.

    Args:
        folder: Created when the first document comes.
        shard_documents: Documents in one file.
        scores: Names of the columns of scores, after the others; null where a document has none.
        prefix: Before the number in the files' names.

    Attributes:
        sizes: `documents`, `bytes` and `characters` so far.
    """

    def __init__(self, folder: Path, shard_documents: int, scores: Sequence[str] = (), prefix: str = ""):
        self.folder = folder
        self.shard_documents = shard_documents
        self.scores = scores
        self.prefix = prefix
        self.sizes = {"documents": 0, "bytes": 0, "characters": 0}
        self._rows: list[dict[str, Any]] = []
        self._held = 0
        self._in_shard = 0
        self._shards = 0
        self._writer: Any = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._close()

    def write(self, document: Document) -> None:
        self._rows.append(document.row())
        self._held += len(document.text)
        self._in_shard += 1
        self.sizes["documents"] += 1
        self.sizes["bytes"] += document.bytes
        self.sizes["characters"] += len(document.text)
        full = self._in_shard == self.shard_documents
        if full or len(self._rows) >= GROUP_DOCUMENTS or self._held >= GROUP_CHARACTERS:
            self._flush()
        if full:
            self._close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows:
            return
        # 64-bit offsets: a row group of long documents may exceed the 2 GiB of Arrow's `string`.
        columns = [pa.field(name, pa.large_string() if name == "text" else pa.string()) for name in COLUMNS]
        schema = pa.schema([*columns, *(pa.field(name, pa.float64()) for name in self.scores)])
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{self.prefix}{self._shards:05d}.parquet"
            short = [name for name in COLUMNS if name not in ("text", "url")]  # dictionaries of texts help nobody
            self._writer = pq.ParquetWriter(
                path, schema, compression="zstd", use_dictionary=short, write_statistics=short
            )
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=schema))
        self._rows, self._held = [], 0

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._shards += 1
        self._in_shard = 0


def read_documents(folder: str | Path, pattern: str = "*.parquet") -> Iterator[Document]:
    """Documents of a folder of Parquet shards, or of those that match `pattern`, in order.

    Raises:
        PipelineError: The folder holds no shard, or a shard has no `text` column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in shard_files(folder) if pattern == "*.parquet" else sorted(Path(folder).glob(pattern)):
        schema = pq.read_schema(path)
        _text_column(path, schema.names)
        scores = [field.name for field in schema if pa.types.is_floating(field.type)]
        for batch in parquet_batches(path, [*COLUMNS, *scores]):
            for row in batch.to_pylist():
                values = {name: row.pop(name) for name in scores}
                known = {name: value for name, value in values.items() if value is not None}
                yield Document(**{"source": str(path), **row}, scores=known)


def parquet_batches(path: Path, columns: Collection[str | None]) -> Iterator[Any]:
    """A few hundred rows of a Parquet file at a time, of which those of `columns` are read that it has."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name in columns]
        yield from file.iter_batches(batch_size=256, columns=names)


def read_texts(folder: str | Path) -> Iterator[str]:
    """Texts of a folder of Parquet shards, in order."""
    return (document.text for document in read_documents(folder))


def shard_files(folder: str | Path) -> list[Path]:
    """The Parquet files of a folder, sorted. Raises `PipelineError` where there is none."""
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise PipelineError(f"{folder}: no Parquet shards here. Expected a split written by the corpus stage.")
    return files


def text_bytes(folder: str | Path) -> int:
    """About how many bytes of text a folder holds, from the files' footers alone. Raises as `read_documents` does."""
    import pyarrow.parquet as pq

    total = 0
    for path in shard_files(folder):
        metadata = pq.read_metadata(path)
        column = _text_column(path, metadata.schema.names)
        groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
        total += sum(group.column(column).total_uncompressed_size for group in groups)
    return total


def _text_column(path: Path, names: list[str]) -> int:
    if "text" not in names:
        raise PipelineError(f"{path}: no column `text`; found {', '.join(names)}.")
    return names.index("text")

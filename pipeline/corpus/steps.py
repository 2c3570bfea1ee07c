"""The steps of the corpus stage as datatrove runs them, each counting what it reads, keeps and drops."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document as Passing
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from pipeline.corpus.document import COLUMNS, Document, Page, Rejected, utf8_bytes
from pipeline.corpus.extract import valid_unicode
from pipeline.corpus.funnel import Step
from pipeline.corpus.inputs import Part
from pipeline.corpus.read import read_parts
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.shards import ShardWriter, read_documents
from pipeline.errors import PipelineError
from pipeline.manifest import write_atomically

TASKS = "tasks.json"
COUNTS = "counts"


def text_hash(text: str, salt: str = "") -> bytes:
    """16-byte hash of a text with its white space folded: what makes two documents exact duplicates."""
    return hashlib.blake2b(folded(text).encode(), digest_size=16, salt=salt.encode()[:16]).digest()


def folded(text: str) -> str:
    return " ".join(text.split())


class CorpusStep(PipelineStep):
    """A dataclass that datatrove runs."""

    type = "corpus"

    def __post_init__(self) -> None:
        super().__init__()


@dataclass(eq=False, repr=False)
class Read(CorpusStep):
    """The records that a task reads, as `working`/tasks.json says; unusable ones are counted with their reason."""

    settings: CorpusSettings
    working: Path
    name = "read"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        parts = [Part(*part) for part in json.loads((self.working / TASKS).read_text(encoding="utf-8"))[rank]]
        records = read_parts(parts, self.settings, self.working / "downloads")
        count = Step(self.name)
        most = self.settings.max_documents
        share = None if most is None else most // world_size + (rank < most % world_size)
        for number, record in enumerate(islice(records, share)):
            count.enter(record.bytes)
            if isinstance(record, Rejected):
                count.drop(record.reason, record.url or record.source, record.sample)
                continue
            passing = to_passing(record, f"{rank}/{number}")
            count.leave(record.bytes)
            yield passing
        save_count(count, self.working, rank)


class Counted(PipelineStep):
    """Runs a datatrove step and counts what goes in, what comes out, and what it drops with which reason.

    What a filter raises on a document is that document's reason to be dropped. What it changed within a document it tells
    in the document's metadata under `replaced`, as counts by kind.
    """

    type = "corpus"

    def __init__(self, name: str, step: Any, working: Path, reason: str = "dropped"):
        super().__init__()
        self.name = name
        self.step = step
        self.working = working
        self.reason = reason

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        if hasattr(self.step, "language"):  # it counts words or sentences
            import pipeline.corpus.words  # noqa: F401
        count = Step(self.name)
        self.step.exclusion_writer = _Dropped(count, self.reason)
        if isinstance(self.step, BaseFilter):
            self.step.filter = _guarded(self.step.filter)
        for document in self.step.run(_entering(data, count), rank, world_size):
            count.leave(size(document))
            count.replaced.update(document.metadata.pop("replaced", {}))
            yield document
        save_count(count, self.working, rank)


@dataclass(eq=False, repr=False)
class Write(CorpusStep):
    """Writes a task's documents to Parquet and passes them on; `split` names the folder of each, below `folder`."""

    folder: Path
    shard_documents: int
    scores: tuple[str, ...]
    split: Callable[[Passing], str]
    name = "write"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        writers: dict[str, ShardWriter] = {}
        with ExitStack() as stack:
            for passing in data:
                name = passing.metadata["split"] = self.split(passing)
                if name not in writers:
                    writer = ShardWriter(self.folder / name, self.shard_documents, self.scores, f"{rank:05d}-")
                    writers[name] = stack.enter_context(writer)
                writers[name].write(to_document(passing))
                yield passing
        sizes = {name: writer.sizes for name, writer in writers.items()}
        write_atomically(self.folder / f".sizes-{rank:05d}.json", json.dumps(sizes))


@dataclass(eq=False, repr=False)
class ReadShards(CorpusStep):
    """The documents that `Write` wrote for `splits`: in the same task of an earlier phase, or in all of its tasks.

    The split stands in the metadata.
    """

    folder: Path
    splits: tuple[str, ...] = ("whole",)
    all_tasks: bool = False
    name = "read shards"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        pattern = "*-*.parquet" if self.all_tasks else f"{rank:05d}-*.parquet"
        for split in self.splits:
            for number, document in enumerate(read_documents(self.folder / split, pattern)):
                passing = to_passing(document, f"{rank}/{split}/{number}")
                passing.metadata["split"] = split
                yield passing


@dataclass(eq=False, repr=False)
class CutByPosition(CorpusStep):
    """The first characters to `train`, the last to `validation`; the document on the border is cut in two.

    The part's side stands in the metadata as `split`. `source` is where a `Write` says how many characters there are.
    """

    source: Path
    fraction: float
    name = "split by position"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        border = int(sum_sizes(self.source)["whole"]["characters"] * (1 - self.fraction))
        position = 0
        for passing in data:
            cut = min(max(border - position, 0), len(passing.text))
            position += len(passing.text)
            for split, text in (("train", passing.text[:cut]), ("validation", passing.text[cut:])):
                if text:
                    yield Passing(text, passing.id, metadata={**passing.metadata, "split": split})


@dataclass
class Lottery:
    """Whether a text is held out: its folded hash under the seed, read as a number in [0, 1), is small.

    The same text falls on the same side wherever and however often it occurs.
    """

    fraction: float
    seed: int

    def __call__(self, passing: Passing) -> str:
        number = int.from_bytes(text_hash(passing.text, f"seed {self.seed}")[:8], "big") / 2**64
        return "validation" if number < self.fraction else "train"


def whole(passing: Passing) -> str:
    """The split of a corpus that is not split yet."""
    return "whole"


def side(passing: Passing) -> str:
    """The split that an earlier step decided on."""
    return str(passing.metadata["split"])


def to_passing(record: Document | Page, id: str) -> Passing:
    """A record as datatrove passes it from step to step."""
    if isinstance(record, Page):
        known = {"source": record.source, "url": record.url, "date": record.date}
        return Passing("", id, metadata={**known, "page": record, "scores": {}})
    metadata = {name: value for name, value in record.row().items() if name != "text" and name not in record.scores}
    return Passing(valid_unicode(record.text), id, metadata=metadata | {"scores": dict(record.scores)})


def to_document(passing: Passing) -> Document:
    values = {name: passing.metadata.get(name) for name in COLUMNS if name != "text"}
    return Document(passing.text, **values, scores=passing.metadata.get("scores", {}))


def size(passing: Passing) -> int:
    """Bytes of a document: of its HTML as long as it is a page."""
    page = passing.metadata.get("page")
    return utf8_bytes(passing.text) if page is None else page.bytes


def sum_sizes(folder: Path) -> dict[str, Counter[str]]:
    """Documents, bytes and characters of each split that the tasks of a `Write` wrote."""
    total: dict[str, Counter[str]] = {name: Counter() for name in ("train", "validation", "whole")}
    for path in sorted(folder.glob(".sizes-*.json")):
        for name, sizes in json.loads(path.read_text(encoding="utf-8")).items():
            total[name].update(sizes)
    return total


def save_count(count: Step, working: Path, rank: int) -> None:
    text = json.dumps(count.to_json(), ensure_ascii=False)
    write_atomically(working / COUNTS / count.name / f"{rank:05d}.json", text)


def total_count(working: Path, step: str) -> Step:
    """What all tasks counted for a step, added up in the order of the tasks."""
    total = Step(step)
    for path in sorted((working / COUNTS / step).glob("*.json")):
        total.add(json.loads(path.read_text(encoding="utf-8")))
    return total


def _entering(data: Any, count: Step) -> Iterator[Passing]:
    for document in data:
        count.enter(size(document))
        yield document


@dataclass
class _Dropped(AbstractContextManager[Any]):
    """Takes the place of datatrove's writer of excluded documents, and counts them."""

    count: Step
    reason: str

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, document: Passing, rank: int = 0) -> None:
        reason = document.metadata.pop("filter_reason", self.reason)
        self.count.drop(reason, document.metadata.get("url") or document.metadata.get("source"), document.text)


def _guarded(keep: Callable[[Passing], Any]) -> Callable[[Passing], Any]:
    def guarded(document: Passing) -> Any:
        try:
            return keep(document)
        except PipelineError:
            raise
        except Exception as error:  # one bad document never ends a run
            return False, f"the step failed on it ({type(error).__name__})"

    return guarded

"""The steps of the corpus stage as datatrove runs them, each counting what it reads, keeps and drops."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document as Passing
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from pipeline.corpus.document import Document, Page, Rejected, utf8_bytes
from pipeline.corpus.extract import valid_unicode
from pipeline.corpus.funnel import Step
from pipeline.corpus.inputs import Part
from pipeline.corpus.read import read_parts
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.shards import ShardWriter, read_documents
from pipeline.errors import PipelineError

TASKS = "tasks.json"
COUNTS = "counts"


def text_hash(text: str, salt: str = "") -> bytes:
    """16-byte hash of a text with its white space folded: what makes two documents exact duplicates."""
    return hashlib.blake2b(folded(text).encode(), digest_size=16, salt=salt.encode()[:16]).digest()


def folded(text: str) -> str:
    return " ".join(text.split())


class Read(PipelineStep):
    """The records that a task reads, as `working`/tasks.json says; unusable ones are counted with their reason."""

    type, name = "corpus", "read"

    def __init__(self, settings: CorpusSettings, working: Path):
        super().__init__()
        self.settings = settings
        self.working = working

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

    What a filter raises on a document is that document's reason to be dropped. A filter's own `replaced` counter, if it
    has one, is reported as well.
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
            yield document
        count.replaced.update(getattr(self.step, "replaced", {}))
        save_count(count, self.working, rank)


class Write(PipelineStep):
    """Writes a task's documents to Parquet and passes them on.

    `split` names the folder of each document, below `folder`.
    """

    type, name = "corpus", "write"

    def __init__(self, folder: Path, shard_documents: int, scores: tuple[str, ...], split: Callable[[str], str]):
        super().__init__()
        self.folder = folder
        self.shard_documents = shard_documents
        self.scores = scores
        self.split = split

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        writers: dict[str, ShardWriter] = {}
        for passing in data:
            name = self.split(passing.text)
            if name not in writers:
                writers[name] = ShardWriter(self.folder / name, self.shard_documents, self.scores, f"{rank:05d}-")
            writers[name].write(to_document(passing))
            yield passing
        for writer in writers.values():
            writer.close()
        sizes = {name: writer.sizes for name, writer in writers.items()}
        write_whole(self.folder / f".sizes-{rank:05d}.json", json.dumps(sizes))


class ReadShards(PipelineStep):
    """The documents that `Write` wrote in the same task of an earlier phase."""

    type, name = "corpus", "read shards"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        for number, document in enumerate(read_documents(self.folder, f"{rank:05d}-*.parquet")):
            yield to_passing(document, f"{rank}/{number}")


class CutByPosition(PipelineStep):
    """The first characters to `train`, the last to `validation`; the document on the border is cut in two."""

    type, name = "corpus", "split by position"

    def __init__(self, source: Path, target: Path, settings: CorpusSettings, scores: tuple[str, ...]):
        super().__init__()
        self.source = source
        self.target = target
        self.settings = settings
        self.scores = scores

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        from dataclasses import replace

        characters = sum_sizes(self.source)["whole"]["characters"]
        border = int(characters * (1 - self.settings.validation_fraction))
        position = 0
        writers = {
            name: ShardWriter(self.target / name, self.settings.shard_documents, self.scores, "00000-")
            for name in ("train", "validation")
        }
        for document in read_documents(self.source / "whole") if characters else ():
            cut = min(max(border - position, 0), len(document.text))
            position += len(document.text)
            if cut:
                writers["train"].write(replace(document, text=document.text[:cut]))
            if cut < len(document.text):
                writers["validation"].write(replace(document, text=document.text[cut:]))
        for writer in writers.values():
            writer.close()
        sizes = {name: writer.sizes for name, writer in writers.items()}
        write_whole(self.target / ".sizes-00000.json", json.dumps(sizes))


class Lottery:
    """Whether a text is held out: its folded hash under the seed, read as a number in [0, 1), is small.

    The same text falls on the same side wherever and however often it occurs.
    """

    def __init__(self, settings: CorpusSettings):
        self.fraction = settings.validation_fraction
        self.salt = f"seed {settings.seed}"

    def __call__(self, text: str) -> str:
        number = int.from_bytes(text_hash(text, self.salt)[:8], "big") / 2**64
        return "validation" if number < self.fraction else "train"


def whole(text: str) -> str:
    """The split of a corpus that is not split yet."""
    return "whole"


def to_passing(record: Document | Page, id: str) -> Passing:
    """A record as datatrove passes it from step to step."""
    if isinstance(record, Page):
        known = {"source": record.source, "url": record.url, "date": record.date}
        return Passing("", id, metadata={**known, "page": record, "scores": {}})
    metadata = {name: value for name, value in record.row().items() if name != "text" and name not in record.scores}
    return Passing(valid_unicode(record.text), id, metadata=metadata | {"scores": dict(record.scores)})


def to_document(passing: Passing) -> Document:
    names = ("source", "url", "date", "language")
    values = {name: passing.metadata.get(name) for name in names}
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
    write_whole(working / COUNTS / count.name / f"{rank:05d}.json", text)


def read_counts(working: Path, step: str) -> Iterator[dict[str, Any]]:
    """What the tasks counted for a step, in the order of the tasks."""
    for path in sorted((working / COUNTS / step).glob("*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a killed run leaves all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _entering(data: Any, count: Step) -> Iterator[Passing]:
    for document in data:
        count.enter(size(document))
        yield document


class _Dropped:
    """Takes the place of datatrove's writer of excluded documents, and counts them."""

    def __init__(self, count: Step, reason: str):
        self.count = count
        self.reason = reason

    def __enter__(self) -> "_Dropped":
        return self

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

"""What an `input` means: files, addresses and hub ids, and how they are cut into tasks."""

import glob
import gzip
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.corpus.download import download, list_remote
from pipeline.corpus.settings import CorpusSettings
from pipeline.errors import PipelineError

FORMATS = {
    ".warc": "warc", ".wet": "warc", ".html": "html", ".htm": "html", ".xhtml": "html", ".txt": "text", ".text": "text",
    ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
}  # fmt: skip
COMPRESSIONS = (".gz", ".zst")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
COMMON_CRAWL = "commoncrawl:"
TASK_BYTES = 250_000
LOCAL_TASKS, MOST_TASKS = 16, 1_000


class Part(NamedTuple):
    """What a task reads of a source: one of `slices` shares of its records (see `pipeline.corpus.read.read_file`)."""

    source: str
    slice: int = 0
    slices: int = 1


def file_format(path: Path | str) -> str | None:
    """Format by the file's name, a compression's suffix set aside; None where the name does not tell."""
    suffixes = Path(path).suffixes[-2:]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return FORMATS.get(suffixes[-1].lower()) if suffixes else None


def is_remote(value: str) -> bool:
    return "://" in value or value.startswith(COMMON_CRAWL)


def is_hub_id(value: str) -> bool:
    """Whether a name that is nothing on disk can be a hub dataset id rather than a mistyped path."""
    return (
        bool(HUB_ID.fullmatch(value))
        and not Path(value).exists()
        and file_format(value) is None
        and not value.startswith("runs/")
    )


def input_values(settings: CorpusSettings) -> list[str]:
    return [settings.input] if isinstance(settings.input, str) else list(settings.input)


def input_files(settings: CorpusSettings, values: list[str] | None = None, downloads: Path = Path()) -> list[str]:
    """Files (sorted within a folder or glob), addresses and hub ids that `input`, or each of `values`, means.

    Args:
        settings: The recipe's keys.
        values: Inputs instead of the recipe's.
        downloads: Folder for the list of a Common Crawl dump.

    Raises:
        PipelineError: Something named does not exist, matches nothing, or has a format that cannot be told.
    """
    values = input_values(settings) if values is None else values
    if not values:
        raise PipelineError("input: an empty list; expected files, folders, globs or hub dataset ids.")
    found: list[str] = []
    for value in values:
        path = Path(value).expanduser()
        if value.startswith(COMMON_CRAWL):
            found += _dump(value.removeprefix(COMMON_CRAWL), settings, downloads)
        elif is_remote(value):
            found += _known(list_remote(value), settings, value)
        elif path.is_dir():
            files = (file for file in sorted(path.rglob("*")) if file.is_file())
            visible = [str(file) for file in files if not re.search(r"(^|/)\.", file.relative_to(path).as_posix())]
            found += _known(visible, settings, f"the folder {value}")
        elif path.is_file():
            if settings.input_format == "auto" and file_format(path) is None:
                raise PipelineError(
                    f"input: the format of {value} cannot be told from its name; expected {_expected()}, or set "
                    f"`input_format:`."
                )
            found.append(str(path))
        elif glob.has_magic(value):
            matches = sorted(match for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
            if not matches:
                raise PipelineError(f"input: no file matches {value}.")
            found += matches
        elif is_hub_id(value):
            found.append(value)
        else:
            raise PipelineError(f"input: {value} does not exist.")
    return found[: settings.max_files]


def partition(settings: CorpusSettings, sources: list[str]) -> list[list[Part]]:
    """What each task reads, in the order of the input.

    It follows from the input and the recipe alone, so that neither the number of workers nor a second sitting changes
    the result. A large file is read by several tasks, small ones go together.
    """
    local = all(Path(source).is_file() for source in sources)
    weights = [float(Path(source).stat().st_size) if local else 1.0 for source in sources]
    if settings.tasks:
        count = settings.tasks
    elif local:
        most = max(LOCAL_TASKS, min(len(sources), MOST_TASKS))
        count = max(1, min(math.ceil(sum(weights) / TASK_BYTES), most))
    else:
        count = min(len(sources), MOST_TASKS)
    target = max(sum(weights) / count, 1e-9)
    tasks: list[list[Part]] = []
    before, last = 0.0, -1
    for source, weight in zip(sources, weights, strict=True):
        # The last share of the characters is held out in the order of the input, which slices would not keep.
        whole = is_remote(source) or settings.validation_split == "position"
        slices = 1 if whole else max(1, round(weight / target))
        if slices > 1:
            tasks += [[Part(source, index, slices)] for index in range(slices)]
            last = -1
        elif (place := int((before + weight / 2) / target)) != last:
            tasks.append([Part(source)])
            last = place
        else:
            tasks[-1].append(Part(source))
        before += weight
    return tasks


def _dump(name: str, settings: CorpusSettings, downloads: Path) -> list[str]:
    """The addresses of a Common Crawl dump's WARC files."""
    root = settings.commoncrawl_url.rstrip("/")
    try:
        listing = download(f"{root}/crawl-data/{name}/warc.paths.gz", downloads)
    except FileNotFoundError as error:
        raise PipelineError(
            f"input: there is no Common Crawl dump {name} at {root}; expected a name such as CC-MAIN-2025-05."
        ) from error
    lines = gzip.decompress(listing.read_bytes()).decode().split()
    return [f"{root}/{line}" for line in lines[: settings.max_files]]


def _known(files: Iterable[str], settings: CorpusSettings, what: str) -> list[str]:
    found = [file for file in files if settings.input_format != "auto" or file_format(file) is not None]
    if not found:
        raise PipelineError(f"input: {what} holds no file to read; expected {_expected()}.")
    return found


def _expected() -> str:
    return f"{', '.join(FORMATS)}, each also with {' or '.join(COMPRESSIONS)}"

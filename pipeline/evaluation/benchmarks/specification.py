"""Suites in a recipe's `evaluations`: which benchmarks they hold, what is wrong with an entry, where the rows come from.

    evaluations:
      reasoning:
        suite: reasoning                 # base, chat, reasoning, or a YAML file in the form of suites.yaml
        benchmarks: [gsm8k]              # only these of it
        data: {gsm8k: data/gsm8k}        # files in place of the hub's: a folder with SPLIT.jsonl, or one file
        limit: 100                       # of each task only the first so many questions
        max_new_tokens: 512              # in place of the task's own limit

Each benchmark is a result of its own, here `reasoning.gsm8k`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import PipelineError
from pipeline.recipe.source import nearest

HERE = Path(__file__).parent
_KEYS: dict[str, tuple[type, str]] = {
    "suite": (str, "the name of a suite, or a YAML file with benchmarks"),
    "benchmarks": (list, "a list of benchmarks of the suite"),
    "data": (dict, "{BENCHMARK: file or folder}"),
    "limit": (int, "a number of questions"),
    "max_new_tokens": (int, "a number of tokens"),
}
_FORMATS = {".jsonl": "json", ".json": "json", ".gz": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of an entry; the first fields are those of suites.yaml.

    Attributes:
        files: The task files of lm-evaluation-harness; their questions are pooled.
        data: Files in place of what the tasks name on the hub.
    """

    key: str
    files: tuple[str, ...] = field(metadata={"kept": False})
    metric: str | None = None
    filter: str | None = None
    parts: tuple[str, ...] = ()
    few_shot: int | None = None
    chance: float | None = None
    limit: int | None = None
    max_new_tokens: int | None = None
    data: str | None = field(default=None, metadata={"kept": False})

    def as_dict(self) -> dict[str, Any]:
        """What a result depends on beside model and rows: settings, task files, the version of lm-evaluation-harness."""
        kept = [one.name for one in dataclasses.fields(self) if one.metadata.get("kept", True)]
        tasks = hashlib.sha256(b"".join(Path(file).read_bytes() for file in self.files)).hexdigest()
        settings = {name: getattr(self, name) for name in kept if getattr(self, name) not in (None, ())}
        settings |= {"parts": list(self.parts)} if self.parts else {}
        return settings | {"tasks": tasks, "lm_eval": importlib.metadata.version("lm_eval")}

    def data_hash(self) -> str:
        """Of the files in place of the hub's, or the names that the hub knows."""
        if self.data is None:
            return ", ".join(self.datasets())
        path = Path(self.data)
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    def datasets(self) -> list[str]:
        """What the tasks read from the hub, each once; nothing where files take its place."""
        if self.data is not None:
            return []
        names = dict.fromkeys(str(read_task(Path(file)).get("dataset_path") or "") for file in self.files)
        return [name for name in names if name and name not in _FORMATS.values() and not Path(name).exists()]

    def local(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of a task's config that let it read `data`. Raises `PipelineError` where that holds no such rows."""
        if self.data is None:
            return {}
        path = Path(self.data)
        part = path / str(config.get("dataset_name"))
        if path.is_file():
            split = config.get("test_split") or config.get("validation_split") or config.get("training_split")
            files = {str(split): path}
        else:
            folder = part if part.is_dir() else path
            files = {one.name.split(".")[0]: one for one in sorted(folder.iterdir()) if one.suffix in _FORMATS}
        if not files:
            raise PipelineError(f"{self.key}: {self.data} holds no SPLIT.jsonl, SPLIT.csv or SPLIT.parquet")
        form = _FORMATS.get(next(iter(files.values())).suffix, "json")
        names = {split: str(one) for split, one in files.items()}
        splits = {key: value for key, value in config.items() if key.endswith("_split") and value in files}
        absent = {key: None for key in config if key.endswith("_split") and key not in splits}
        examples = self.few_shot if self.few_shot is not None else config.get("num_fewshot")
        wanted = config.get("fewshot_split") or config.get("training_split")
        if examples and wanted not in files:
            raise PipelineError(
                f"{self.key}: {self.data} holds no {wanted}, from which {examples} examples are to be shown"
            )
        return absent | {"dataset_path": form, "dataset_name": None, "dataset_kwargs": {"data_files": names}}


def complaints(specification: Mapping[str, Any], exists: Callable[[str], bool]) -> list[str]:
    """What is wrong with one entry, each beginning with the key's place; no row is read."""
    found = [f".{key}: no such key{nearest(str(key), _KEYS)}" for key in specification if key not in _KEYS]
    for key, (kind, expected) in _KEYS.items():
        value = specification.get(key)
        if key in specification and (not isinstance(value, kind) or isinstance(value, bool)):
            found.append(f".{key}: found {value!r}, expected {expected}")
        elif isinstance(value, int) and value < 1:
            found.append(f".{key}: found {value}, expected at least 1")
    if importlib.util.find_spec("lm_eval") is None:
        return [
            *found,
            ".suite: lm-evaluation-harness is not installed: pip install -e .[benchmarks] -c constraints.txt",
        ]
    if found:
        return found
    try:
        suite = read_suite(specification["suite"])
    except PipelineError as error:
        return [f".suite: {error}"]
    for key in ("benchmarks", "data"):
        unknown = [str(name) for name in specification.get(key) or () if name not in suite]
        found += [f".{key}: {specification['suite']} has no {name!r}{nearest(name, suite)}" for name in unknown]
    data = specification.get("data") or {}
    return found + [f".data.{name}: there is no {path}" for name, path in data.items() if not exists(str(path))]


def benchmarks_of(entry: str, specification: Mapping[str, Any]) -> dict[str, Benchmark]:
    """{"ENTRY.BENCHMARK": Benchmark} of an entry that has no complaints."""
    suite, data = read_suite(specification["suite"]), specification.get("data") or {}
    settings = {key: specification.get(key) for key in ("limit", "max_new_tokens")}
    chosen = specification.get("benchmarks")
    settings |= {"chance": None} if chosen else {}  # CORE is that of a whole suite
    return {
        f"{entry}.{name}": Benchmark(f"{entry}.{name}", **{**suite[name], **settings}, data=data.get(name))
        for name in chosen or suite
    }


def read_suite(name: str) -> dict[str, dict[str, Any]]:
    """The benchmarks of a suite, each with `files` for its `tasks`.

    Raises:
        PipelineError: There is no such suite, a benchmark is not as suites.yaml says, or a task file is missing.
    """
    own = yaml.safe_load((HERE / "suites.yaml").read_text(encoding="utf-8"))
    path = Path(name)
    if name not in own and not path.is_file():
        raise PipelineError(f"no suite {name!r}{nearest(name, own)}; there are {', '.join(own)}, and YAML files")
    suite = own[name] if name in own else yaml.safe_load(path.read_text(encoding="utf-8"))
    keys = [one.name for one in dataclasses.fields(Benchmark) if one.name not in ("key", "files", "data")]
    found = {}
    for benchmark, values in suite.items() if isinstance(suite, dict) else [(name, None)]:
        if not isinstance(values, dict) or not values.get("tasks") or set(values) - {"tasks", *keys}:
            raise PipelineError(f"{name}: {benchmark}: found {values!r}, expected `tasks`, and of {', '.join(keys)}")
        patterns = [values["tasks"]] if isinstance(values["tasks"], str) else values["tasks"]
        files = [str(file) for pattern in patterns for file in _task_files(pattern, path.parent)]
        settings = {key: tuple(value) if key == "parts" else value for key, value in values.items() if key != "tasks"}
        found[benchmark] = settings | {"files": tuple(files)}
    return found


def _task_files(pattern: str, beside: Path) -> list[Path]:
    spec = importlib.util.find_spec("lm_eval")
    theirs = [Path(place) / "tasks" for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in (beside, HERE / "tasks", *theirs):
        files = sorted(folder.glob(pattern)) if not Path(pattern).is_absolute() else [Path(pattern)]
        if files:
            return files
    raise PipelineError(f"no task file {pattern} beside the suite, in {HERE / 'tasks'}, or in lm-evaluation-harness")


class _PlainLoader(yaml.SafeLoader):
    """Reads `!function` as nothing: what a task calls is no business of a plan."""


_PlainLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def read_task(file: Path) -> dict[str, Any]:
    """A task file with what it includes; functions are left out, nothing is imported."""
    config = yaml.load(file.read_text(encoding="utf-8"), Loader=_PlainLoader) or {}
    included = config.pop("include", [])
    for name in [included] if isinstance(included, str) else included:
        config = read_task(file.parent / name) | config
    return config

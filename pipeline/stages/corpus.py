"""Stage `corpus`: raw pages, texts or datasets to deduplicated Parquet shards, with held-out documents."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import checkpoint
from pipeline.corpus.read import file_problem, input_files, is_hub_id
from pipeline.corpus.settings import CorpusSettings
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(CorpusSettings):
    """What to read and what to do with it, and where the result goes."""

    output_dir: str = field(metadata={"help": "folder that receives train/, validation/ and removed.json"})


KIND = "corpus"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {"input": ()}


def check(recipe: Recipe) -> list[str]:
    """Inputs that do not exist or cannot be read, and a text column that the first file lacks."""
    settings: Arguments = recipe.arguments
    complaints = []
    for value in _inputs(settings):
        if recipe.awaits(_fixed_part(value)) or is_hub_id(value):
            continue
        try:
            files = [file for file in input_files(settings, [value]) if isinstance(file, Path)]
        except PipelineError as error:
            complaints.append(str(error))
            continue
        problem = file_problem(files[0], settings)
        if problem:
            complaints.append(problem)
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """How much will be read, as far as it is there already."""
    settings: Arguments = recipe.arguments
    there = [value for value in _inputs(settings) if not recipe.awaits(_fixed_part(value))]
    files = [file for file in input_files(settings, there) if isinstance(file, Path)] if there else []
    facts: dict[str, Any] = {"files": len(files), "bytes": sum(file.stat().st_size for file in files)} if files else {}
    hub = [value for value in there if is_hub_id(value)]
    return facts | ({"hub": hub} if hub else {})


def run(recipe: Recipe) -> None:
    """Read, extract, deduplicate, split, write."""
    from pipeline.corpus.build import build

    with checkpoint.stage_directory(recipe, KIND, inputs=INPUTS) as directory:
        if directory.complete:
            return
        facts = build(recipe.arguments, directory.aside)
        directory.publish(metrics=facts, documents=facts["documents"], bytes=facts["bytes"])


def _inputs(settings: CorpusSettings) -> list[str]:
    return [settings.input] if isinstance(settings.input, str) else list(settings.input)


def _fixed_part(value: str) -> Path:
    """The folder above the first wildcard of a glob; the path itself where there is none."""
    path = Path(value).expanduser()
    while glob.has_magic(str(path)):
        path = path.parent
    return path

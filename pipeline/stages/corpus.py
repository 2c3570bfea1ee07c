"""Stage `corpus`: raw pages, texts or datasets to clean Parquet shards, with held-out documents."""

from __future__ import annotations

import glob
import importlib.util
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import checkpoint
from pipeline.corpus.inputs import input_files, input_values, is_hub_id, is_remote
from pipeline.corpus.questions import question_complaints, questions_of
from pipeline.corpus.read import file_problem
from pipeline.corpus.settings import FILTERS_OF_WORDS, CorpusSettings
from pipeline.errors import PipelineError
from pipeline.recipe.source import dotted, nearest
from pipeline.recipe.values import Problem, convert, not_among

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(CorpusSettings):
    """What to read and what to do with it, and where the result goes."""

    output_dir: str = field(
        metadata={"help": "folder that receives train/, validation/, README.md, removed.json and removed.html"}
    )


KIND = "corpus"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {"input": (), "question_paths": ()}


def check(recipe: Recipe) -> list[str]:
    """Inputs that do not exist or cannot be read, a text column that the first file lacks, and filters' settings."""
    settings: Arguments = recipe.arguments
    complaints = [*_rule_complaints(settings), *question_complaints(recipe)]
    for value in input_values(settings):
        if recipe.awaits(_fixed_part(value)) or is_remote(value) or is_hub_id(value):
            continue
        try:
            files = input_files(settings, [value])
        except PipelineError as error:
            complaints.append(str(error))
            continue
        problem = file_problem(Path(files[0]), settings)
        if problem:
            complaints.append(problem)
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """How much will be read, as far as it is there already."""
    settings: Arguments = recipe.arguments
    values = input_values(settings)
    there = [value for value in values if not is_remote(value) and not recipe.awaits(_fixed_part(value))]
    files = [Path(file) for file in (input_files(settings, there) if there else []) if Path(file).is_file()]
    facts: dict[str, Any] = {"files": len(files), "bytes": sum(file.stat().st_size for file in files)} if files else {}
    remote = [value for value in values if is_remote(value) or is_hub_id(value)]
    return facts | ({"remote": remote} if remote else {})


def run(recipe: Recipe) -> None:
    """Read, extract, filter, deduplicate, scrub, decontaminate, split, write."""
    from pipeline.corpus.worker import start_server

    start_server(recipe.arguments)  # what follows is imported here while the server imports its own

    from pipeline.corpus.build import build
    from pipeline.corpus.card import dataset_card
    from pipeline.reporting import funnel_page

    recipe.arguments.questions = questions_of(recipe)
    with checkpoint.stage_directory(recipe, KIND, inputs=INPUTS) as directory:
        if directory.complete:
            return
        facts = build(recipe.arguments, directory.aside, directory.checkpoints)
        if facts is not None:
            steps = json.loads((directory.aside / "removed.json").read_text(encoding="utf-8"))
            (directory.aside / "removed.html").write_text(funnel_page(directory.path.name, steps), encoding="utf-8")
            (directory.aside / "README.md").write_text(dataset_card(recipe.arguments, facts, steps), encoding="utf-8")
            directory.publish(metrics=facts, documents=facts["documents"], bytes=facts["bytes"])
            shutil.rmtree(directory.checkpoints)


def _rule_complaints(settings: Arguments) -> list[str]:
    """What is wrong with the mappings whose names and types datatrove and other modules define."""
    complaints = []
    for name in FILTERS_OF_WORDS:
        if isinstance(getattr(settings, name), dict):
            from pipeline.corpus.filters import thresholds_of

            complaints += _mapping_complaints(name, getattr(settings, name), thresholds_of(name))
    if settings.slurm is not None or settings.executor == "slurm":
        from pipeline.corpus.phases import slurm_arguments

        given = settings.slurm or {}
        complaints += _mapping_complaints("slurm", given, slurm_arguments())
        complaints += [
            f"slurm.{name}: is missing: expected text" for name in ("partition", "time") if name not in given
        ]
    if settings.executor == "ray" and importlib.util.find_spec("ray") is None:
        complaints.append("executor: ray needs the package ray: pip install ray")
    if isinstance(settings.scrub, list):
        from pipeline.corpus.personal import KINDS

        complaints += [
            f"scrub[{i}]: {not_among(kind, list(KINDS))}" for i, kind in enumerate(settings.scrub) if kind not in KINDS
        ]
    if settings.url_filter and settings.url_filter.blocklist:
        from pipeline.corpus.filters import read_blocklist

        try:
            read_blocklist(settings.url_filter.blocklist)
        except PipelineError as error:
            complaints.append(str(error))
    models = [("language", settings.language), ("score", settings.score)]
    for name, rules in models:
        if rules and rules.model is not None and not Path(rules.model).is_file():
            complaints.append(f"{name}.model: {rules.model} does not exist; expected a fastText model file")
    if settings.score and (settings.score.model is None) != (settings.score.label is None):
        complaints.append(
            "score.label: `model` and `label` go together: the score is the model's probability of the label"
        )
    return complaints


def _mapping_complaints(name: str, given: dict[str, Any], known: dict[str, Any]) -> list[str]:
    problems: list[Problem] = []
    for key, value in given.items():
        if key in known:
            convert(value, known[key], (key,), problems)
        else:
            problems.append(Problem((key,), f"unknown key{nearest(str(key), known)}; there are {', '.join(known)}"))
    return [f"{dotted((name, *problem.at))}: {problem.text}" for problem in problems]


def _fixed_part(value: str) -> Path:
    """The folder above the first wildcard of a glob; the path itself where there is none."""
    path = Path(value).expanduser()
    while glob.has_magic(str(path)):
        path = path.parent
    return path

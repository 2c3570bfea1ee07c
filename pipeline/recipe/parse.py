"""From a recipe as written to a checked, typed `Recipe`."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import PipelineError
from pipeline.recipe import combinations
from pipeline.recipe.engine_rules import RENAMED, RENAMED_BELOW
from pipeline.recipe.folder import REWARD_MODEL
from pipeline.recipe.keys import RESERVED, Key, engine_class, fields_of, keys_of
from pipeline.recipe.source import Complaint, RecipeError, Source, nearest, read_overrides, scalar, undotted
from pipeline.recipe.values import Problem, check_limits, convert, describe, hints_of

Config = TypeVar("Config")

# Where a run is written, watched and measured; a finished run may be evaluated anew without being trained anew.
BESIDE_THE_RESULT = {
    *("output_dir", "evaluations", "evaluation_batch_size", "sample_prompts", "sample_steps", "sample_problems"),
    *(
        "report_to",
        "run_name",
        "compare_with",
        "judge",
        "judge_prompts",
        "judge_limit",
        "judge_tokens",
        "judge_against",
    ),
    *("executor", "slurm", "workers", "concurrency", "attempts", "seconds", "key_variable"),
    "rails",  # one that stopped a run may be widened, and the run goes on
}


@dataclass(frozen=True)
class Recipe:
    """One stage's run, checked.

    Attributes:
        stage: name of the stage.
        path: the recipe file.
        values: every key that was given, typed, overrides applied; without `stage` and `env`.
        arguments: the stage's own `Arguments`.
        engine: those of `values` that TRL's dataclasses take.
        environment: the recipe's `env:`.
        pending: output directories of the recipes that run before this one in the same folder; a path below one of
            them need not exist yet.
        overwrite: whether to move what lies in `output_dir` aside and start anew.
    """

    stage: str
    path: Path
    values: dict[str, Any]
    arguments: Any
    engine: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    pending: tuple[Path, ...] = ()
    overwrite: bool = False
    source: Source | None = field(default=None, repr=False, compare=False)

    @property
    def output_dir(self) -> Path:
        """The stage directory that this recipe writes."""
        folder = getattr(self.arguments, "output_dir", None) or self.values.get("output_dir")
        if not folder:
            raise PipelineError(f"{self.path}: output_dir is missing: expected the folder that the stage writes")
        return Path(folder).expanduser()

    @property
    def hash(self) -> str:
        """SHA-256 of the stage and of those given values that can change what it writes."""
        values = {key: value for key, value in self.values.items() if key not in BESIDE_THE_RESULT}
        values = _portable(values, os.path.dirname(os.path.abspath(self.output_dir)))
        canonical = json.dumps({"stage": self.stage, "values": values}, sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def get(self, key: str, default: Any = None) -> Any:
        """The value that the recipe gives for `key`, or `default` where it gives none."""
        return self.values.get(key, default)

    def setting(self, key: str, config_type: type) -> Any:
        """The value of `key` that holds in the end: the recipe's, or else the stage's default, or else TRL's."""
        if key in self.values:
            return self.values[key]
        return getattr(self.arguments, key, fields_of(config_type)[key].default)

    def config(self, config_type: type[Config], **defaults: Any) -> Config:
        """A TRL dataclass from the recipe: its given keys over `defaults` over the stage's own defaults."""
        return config_type(**copy.deepcopy(self.config_values(config_type, **defaults)))

    def config_values(self, config_type: type, **defaults: Any) -> dict[str, Any]:
        """The keyword arguments that `config` passes on."""
        names = {field.name for field in dataclasses.fields(config_type) if field.init}
        own = {field.name: getattr(self.arguments, field.name) for field in dataclasses.fields(self.arguments)}
        explicit = {key: value for key, value in self.engine.items() if key in names}
        shared = {key: value for key, value in own.items() if key in names and key not in self.values}
        return {**shared, **defaults, **explicit}

    def exists(self, path: str | Path) -> bool:
        """Whether `path` is there, or will be once the recipes before this one have run."""
        path = Path(path).expanduser()
        return path.exists() or self.awaits(path)

    def awaits(self, path: str | Path) -> bool:
        """Whether `path` lies in what a recipe before this one writes, or holds it."""
        place = Path(os.path.abspath(Path(path).expanduser()))
        folders = [Path(os.path.abspath(folder)) for folder in self.pending]
        return any(place.is_relative_to(folder) or folder.is_relative_to(place) for folder in folders)


def _portable(value: Any, run: str) -> Any:
    """`value` with paths into the run's folder told from there: a run that was moved is still the same run."""
    if isinstance(value, dict):
        return {key: _portable(inner, run) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(inner, run) for inner in value]
    if isinstance(value, str) and value.startswith(REWARD_MODEL):
        return REWARD_MODEL + _portable(value.removeprefix(REWARD_MODEL), run)
    inside = isinstance(value, str) and os.sep in value and os.path.abspath(value).startswith(run + os.sep)
    return f"<run>/{os.path.relpath(value, run)}" if inside else value


def parse(stage: Any, values: Mapping[str, Any], path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Check `values` against the keys of a stage module.

    Raises:
        RecipeError: with every complaint about these values.
    """
    source = Source(Path(path), dict(values), overrides=read_overrides(overrides))
    recipe, complaints = examine(stage, source)
    complaints += check(stage, recipe, complaints) if recipe else []
    if recipe is None or complaints:
        raise RecipeError(complaints)
    return recipe


def examine(stage: Any, source: Source) -> tuple[Recipe | None, list[Complaint]]:
    """The recipe as far as its values are right, one by one, and every complaint about the others.

    The recipe is None where a required key is missing or wrong. `check` adds what is wrong with the values together.
    """
    keys = keys_of(stage)
    name = getattr(stage, "__name__", source.path.stem).rsplit(".", 1)[-1].rstrip("_").replace("_", "-")
    values: dict[str, Any] = {}
    environment = _environment(source)
    for key in [*source.values, *(key for key in source.overrides if key not in source.values)]:
        if key in RESERVED:
            if key in source.overrides:
                source.complain("belongs into the recipe, not on the command line", key)
            continue
        if key in keys:
            _take(keys[key], source, values)
        else:
            source.complain(_unknown(str(key), keys, name, stage), str(key))
    own = {key.name: key for key in keys.values() if key.owner == "Arguments"}
    missing = [key for key in own.values() if key.required and key.name not in values]
    for one in missing:
        if one.name not in source.values and one.name not in source.overrides:
            source.complain(f"is missing: expected {describe(one.annotation)}. {one.help}".rstrip(" ."), one.name)
    if missing:
        return None, source.complaints
    try:
        arguments = stage.Arguments(**{key: value for key, value in values.items() if key in own})
    except (PipelineError, ValueError) as error:
        source.complain(str(error))
        return None, source.complaints
    engine = _engine_values(stage, values)
    return Recipe(name, source.path, values, arguments, engine, environment, source=source), source.complaints


def check(
    stage: Any, recipe: Recipe, known: Sequence[Complaint] = (), world_size: int | None = None
) -> list[Complaint]:
    """What is wrong with the values of a recipe together: TRL's rules, then the stage's own.

    A finding that names a key which was already complained about is left out: it may well follow from the first mistake.
    """
    world_size = world_size or int(os.environ.get("WORLD_SIZE", "1"))
    source = recipe.source or Source(recipe.path, recipe.values)
    complained = {complaint.key for complaint in known if complaint.key}

    def follows(key: str, text: str) -> bool:
        return any(re.search(rf"\b{re.escape(one)}\b", f"{key} {text}") for one in complained)

    findings: list[combinations.Finding] = []
    for key, text in _engine_findings(stage, recipe, world_size):
        if not follows(key, text):
            findings.append((key, text))
            complained |= {key} - {""}  # TRL's own words about the same values would follow
    findings += [finding for finding in _stage_findings(stage, recipe) if not follows(*finding)]
    return [Complaint(source.where(*undotted(key)), text, key) for key, text in findings]


def _engine_findings(stage: Any, recipe: Recipe, world_size: int) -> Iterator[combinations.Finding]:
    yield from combinations.precision(recipe.engine)
    if stage.ENGINES and isinstance(recipe.get("model_config"), dict):
        yield from combinations.new_model(recipe.get("model_config"))
    algorithms = getattr(stage, "ALGORITHMS", {})
    chosen = algorithms.get(getattr(recipe.arguments, "algorithm", None), "")
    for engine in stage.ENGINES:
        config_type = engine_class(engine)
        if engine in algorithms.values() and engine != chosen:
            yield from _of_another(recipe, config_type, engine_class(chosen))
            continue
        values = recipe.config_values(config_type)
        if engine in ("GRPOConfig", "RLOOConfig"):
            defaults = {key.name: key.default for key in keys_of(stage).values()}
            yield from combinations.generation(values, defaults, world_size)
            yield from combinations.policy_loss(defaults | values) if engine == "GRPOConfig" else ()
        yield from combinations.built(config_type, values, world_size)


def _of_another(recipe: Recipe, config_type: type, chosen: type) -> Iterator[combinations.Finding]:
    """Keys that only the config of another algorithm takes: the chosen one would never see them."""
    ours = set(hints_of(chosen)) | {field.name for field in dataclasses.fields(recipe.arguments)}
    for key in recipe.engine:
        if key in hints_of(config_type) and key not in ours:
            yield key, f"is a key of {config_type.__name__}, which algorithm {recipe.arguments.algorithm} does not take"


def _stage_findings(stage: Any, recipe: Recipe) -> Iterator[combinations.Finding]:
    try:
        texts = stage.check(recipe)
    except PipelineError as error:  # what cannot be checked any further is a complaint as well
        texts = [str(error)]
    for text in texts:
        key, colon, rest = text.partition(": ")
        yield (key, rest) if colon and undotted(key)[:1] and undotted(key)[0] in keys_of(stage) else ("", text)


def _take(key: Key, source: Source, values: dict[str, Any]) -> None:
    """Put the typed value of a key into `values`, or complain about it."""
    problems: list[Problem] = []
    value = _typed(key, source, problems)
    if not problems:
        check_limits(value, key.choices, key.range, problems)
    if not problems:
        values[key.name] = value
    for problem in problems:
        renamed = RENAMED_BELOW.get(key.name, {}).get(str(problem.at[-1])) if problem.at else None
        text = renamed if renamed and problem.text.startswith("unknown key") else problem.text
        source.complain(text, key.name, *problem.at)


def _typed(key: Key, source: Source, problems: list[Problem]) -> Any:
    """The value of one key: from the command line, where it is given there, or else from the file."""
    if key.name not in source.overrides:
        return convert(source.values[key.name], key.annotation, (), problems)
    texts = source.overrides[key.name]
    readings: list[Any] = [[scalar(text) for text in texts], texts] if len(texts) > 1 else [scalar(texts[0]), texts[0]]
    refused: list[list[Problem]] = []
    for reading in readings:  # as YAML, or else as the text it is: `--dataset_config 2024` is text
        found: list[Problem] = []
        value = convert(reading, key.annotation, (), found)
        if not found:
            return value
        refused.append(found)
    problems += refused[0]
    return readings[0]


def _environment(source: Source) -> dict[str, str]:
    environment = source.values.get("env") or {}
    if not isinstance(environment, dict):
        source.complain("expected a mapping of environment variables", "env")
        return {}
    return {str(key): str(value) for key, value in environment.items()}


def _engine_values(stage: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What TRL takes of `values`: its own keys, but for choices that the stage alone understands (`optim: muon`)."""
    names = {name for engine in stage.ENGINES for name in hints_of(engine_class(engine))}
    extra = getattr(stage, "ENGINE_CHOICES", {})
    return {key: value for key, value in values.items() if key in names and value not in extra.get(key, ())}


def _unknown(key: str, keys: Mapping[str, Key], name: str, stage: Any) -> str:
    if not stage.ENGINES:
        return f"unknown key{nearest(key, keys)}"
    answer = RENAMED.get(key, "")
    today = re.search(r"called (\w+)", answer)
    if answer and (today is None or today[1] in keys):
        return f"unknown key: {answer}"
    for engine in ("SFTConfig", "GRPOConfig", "GRPOScriptArguments", "DistillationConfig"):
        if key in hints_of(engine_class(engine)):
            return f"is a key of {engine}, not of the {name} stage{nearest(key, keys)}"
    return f"unknown key{nearest(key, keys)}"

"""The recipe's `evaluations`: what may stand there, and what is wrong with it. The rows they name: `questions`.

A recipe says, in YAML:

    evaluations:
      facts_heldout:
        path: runs/demo/world/evaluations/facts_heldout.jsonl    # rows of prompt and answer, or of messages
        scorer: contains                                         # a name of pipeline.evaluation.scorers
        max_new_tokens: 24
        few_shot: 4                                              # rows that a base model is shown first
        few_shot_path: runs/demo/world/evaluations/few_shot_facts.jsonl

An entry with `suite` instead names public benchmarks: `pipeline.evaluation.benchmarks.specification`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from pipeline.errors import PipelineError
from pipeline.evaluation.benchmarks import specification as suites
from pipeline.recipe.source import nearest


@dataclass(frozen=True)
class Evaluation:
    """One named set of questions.

    path: JSONL. A row holds `prompt` (text or messages) and `answer` (text, a number, or a list of which any counts),
        or `messages`, whose last assistant turn is the answer.
    scorer: how an answer is judged.
    max_new_tokens: the limit of a completion.
    few_shot: rows shown to a base model before the question: the rows themselves, or how many of `few_shot_path`.
    few_shot_path: JSONL with rows of the same form; none of them may be a question of `path`.
    prompt_column, answer_column: other names for the two columns.
    limit: only the first so many rows.
    samples: answers drawn of each question, for pass@k and majority@k; one is the greedy answer.
    temperature, top_p: how several samples are drawn.
    tools: what a chat model may call: names of `pipeline.tools`, or dotted paths of functions.
    tool_rounds: rounds of calls at most; `max_new_tokens` then limits each turn.
    banned_words: texts that no answer may hold, in any case of letters, such as `[wait, "let me check"]`: what self-checks
        are worth shows in what is lost without them.
    think: whether a chat model thinks first: as it chooses (auto), always (on) or never (off), in its chat template.
    think_budget: tokens of thought at most; then its think part is closed for it (Muennighoff et al. 2025, s1).
    certainty: keep of each answer how probable the model found it; of greedy answers without tools.
    raw: a base model continues the prompt as it stands, instead of a page of questions and answers.
    system_prompt: system message before every question, as in training.
    first_answer: of a base model's text what follows its first stated answer is not judged, and no part of it: nothing has
        taught it to end there. A chat model's text is judged whole.
    """

    path: str = field(metadata={"expected": "the path of a JSONL file"})
    scorer: str = field(metadata={"expected": "a scorer's name"})
    max_new_tokens: int = field(default=64, metadata={"expected": "a whole number of tokens"})
    few_shot: int | list[dict[str, Any]] = field(
        default=0, metadata={"expected": "a number of rows, or rows with prompt and answer"}
    )
    few_shot_path: str | None = field(default=None, metadata={"expected": "the path of a JSONL file"})
    prompt_column: str = field(default="prompt", metadata={"expected": "a column's name"})
    answer_column: str = field(default="answer", metadata={"expected": "a column's name"})
    limit: int | None = field(default=None, metadata={"expected": "a number of rows"})
    samples: int = field(default=1, metadata={"expected": "a number of answers to each question"})
    temperature: float = field(default=1.0, metadata={"expected": "a number above 0"})
    top_p: float = field(default=1.0, metadata={"expected": "a number above 0, at most 1"})
    tools: list[str] | None = field(default=None, metadata={"expected": "a list of tools"})
    tool_rounds: int = field(default=4, metadata={"expected": "a number of rounds of calls"})
    banned_words: list[str] | None = field(default=None, metadata={"expected": "a list of texts"})
    think: str | bool = field(default="auto", metadata={"expected": "auto, on or off"})
    think_budget: int | None = field(default=None, metadata={"expected": "a number of tokens"})
    raw: bool = field(default=False, metadata={"expected": "true or false"})
    certainty: bool = field(default=False, metadata={"expected": "true or false"})
    system_prompt: str | None = field(default=None, metadata={"expected": "a text"})
    first_answer: bool = field(default=False, metadata={"expected": "true or false"})

    def __post_init__(self) -> None:
        if isinstance(self.think, bool):  # YAML 1.1 reads a bare on or off as a truth value
            object.__setattr__(self, "think", "on" if self.think else "off")

    def as_dict(self) -> dict[str, Any]:
        # What an evaluation without them would not look at is left out: earlier results stay up to date.
        unused = () if self.tools else ("tools", "tool_rounds")
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in unused}
        defaults = {one.name: one.default for one in fields(self) if one.name in _NEWER}
        return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}


_NEWER = ("banned_words", "think", "think_budget", "raw", "certainty", "first_answer", "system_prompt")
"""Keys that came after the first results: at their defaults a result's settings do not hold them."""

THINK_MODES = ("auto", "on", "off")
"""What the shipped chat templates take as `think`."""

LIKELIHOOD = ("bits_per_byte", "choice")
"""Scorers that look at probabilities instead of a completion: of the gold answer, and of each of a row's `choices`."""


def read_evaluations(value: Any) -> dict[str, Any]:
    """The mapping itself, or the one under `evaluations:` in the YAML file that `value` names.

    Raises:
        PipelineError: the file is missing or holds no such mapping.
    """
    if not value:
        return {}
    if isinstance(value, dict):
        return value
    if not isinstance(value, str | Path):
        raise PipelineError(f"evaluations: found {value!r}, expected a mapping of names or the path of a YAML file")
    path = Path(value)
    if not path.is_file():
        raise PipelineError(f"evaluations: there is no file {path} (from {Path.cwd()})")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise PipelineError(f"{path}: not valid YAML: {error}") from error
    found = content.get("evaluations") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise PipelineError(f"{path}: expected a mapping under the key evaluations, found {type(found).__name__}")
    return found


def check_evaluations(value: Any, *, exists: Callable[[str], bool] | None = None) -> list[str]:
    """Every complaint about keys, types, ranges, scorers and missing files; no file of questions is opened.

    Args:
        value: as in a recipe: a mapping, or the path of a YAML file.
        exists: whether a file is there, or will be: `recipe.exists` knows what earlier stages of a folder write.
    """
    if value is None:
        return []
    try:
        evaluations = read_evaluations(value)
    except PipelineError as error:
        return [str(error)]
    exists = exists or (lambda path: Path(path).exists())
    complaints: list[str] = []
    for name, specification in evaluations.items():
        if not re.fullmatch(r"[\w.-]+", str(name)) or name == "provenance":
            complaints.append(
                f"evaluations.{name}: found the name {name!r}, expected letters, digits and _.- and not `provenance`: answers "
                f"go into evaluation/NAME.jsonl. Rename it"
            )
        if is_suite(specification):
            complaints.extend(f"evaluations.{name}{one}" for one in suites.complaints(specification, exists))
            continue
        complaints.extend(f"evaluations.{name}{complaint}" for complaint in _complaints(specification))
        if isinstance(specification, dict):
            complaints.extend(
                f"evaluations.{name}.{key}: there is no file {specification[key]}"
                for key in ("path", "few_shot_path")
                if isinstance(specification.get(key), str) and not exists(specification[key])
            )
    return complaints


def hub_datasets(value: Any) -> dict[str, str]:
    """{"ENTRY.BENCHMARK": "DATASET, DATASET"} of what the evaluations read from the hub."""
    entries = {name: one for name, one in read_evaluations(value).items() if is_suite(one)}
    found = [benchmark for name, one in entries.items() for benchmark in suites.benchmarks_of(name, one).values()]
    return {one.key: ", ".join(one.datasets()) for one in found if one.datasets()}


def is_suite(specification: Any) -> bool:
    """Whether an entry names public benchmarks instead of a file of questions."""
    return isinstance(specification, dict) and "suite" in specification


def _complaints(specification: Any) -> list[str]:
    """What is wrong with one entry, each beginning with the key's place."""
    from pipeline.evaluation.scorers import scorer_names
    from pipeline.tools import check as check_tools

    if not isinstance(specification, dict):
        return [f": found {specification!r}, expected a mapping with path and scorer"]
    hints = get_type_hints(Evaluation)
    complaints = [f".{key}: no such key{nearest(str(key), hints)}" for key in specification if key not in hints]
    complaints.extend(f".{key}: missing" for key in ("path", "scorer") if key not in specification)
    for one in fields(Evaluation):
        key, value, expected = one.name, specification.get(one.name), one.metadata["expected"]
        types = _types(hints[key])
        if key in specification and (not isinstance(value, types) or isinstance(value, bool) and bool not in types):
            complaints.append(f".{key}: found {value!r}, expected {expected}")
        elif key in ("temperature", "top_p"):
            if value is not None and not 0 < value <= (1 if key == "top_p" else float("inf")):
                complaints.append(f".{key}: found {value}, expected {expected}")
        elif key == "think" and value not in (None, True, False, *THINK_MODES):
            complaints.append(f".think: found {value!r}, expected {expected}")
        elif type(value) is int and value < (0 if key == "few_shot" else 1):
            complaints.append(f".{key}: found {value}, expected at least {0 if key == 'few_shot' else 1}")
    scorer, few_shot = specification.get("scorer"), specification.get("few_shot")
    known = scorer_names()
    if isinstance(scorer, str) and scorer not in known:
        complaints.append(f".scorer: found {scorer!r}, expected one of {', '.join(known)}{nearest(scorer, known)}")
    samples = specification.get("samples")
    if scorer in LIKELIHOOD and isinstance(samples, int) and samples > 1:
        complaints.append(f".samples: found {samples}, but {scorer} looks at probabilities and draws nothing")
    if specification.get("think_budget") and (specification.get("tools") or scorer in LIKELIHOOD):
        complaints.append(
            ".think_budget: limits the thought of one completion: leave out tools, and measures of probability"
        )
    others = ("tools", "think_budget", *(["samples"] if samples != 1 else []))
    if specification.get("certainty") and (scorer in LIKELIHOOD or any(specification.get(key) for key in others)):
        complaints.append(".certainty: is of one greedy answer: leave out tools, think_budget, samples and likelihoods")
    complaints.extend(f".{complaint}" for complaint in check_tools(specification.get("tools")))
    if scorer in LIKELIHOOD and specification.get("tools"):
        complaints.append(f".tools: {scorer} looks at probabilities: there is no completion that could call one")
    banned = specification.get("banned_words")
    if isinstance(banned, list) and not all(isinstance(word, str) and word for word in banned):
        complaints.append(f".banned_words: found {banned!r}, expected a list of texts, none of them empty")
    if isinstance(few_shot, int) and few_shot > 0 and not specification.get("few_shot_path"):
        complaints.append(f".few_shot: {few_shot} rows of which file? Give few_shot_path, or the rows themselves")
    return complaints


def _types(hint: Any) -> tuple[type, ...]:
    """What `isinstance` knows of an annotation. A number may be whole."""
    members = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    types = tuple(get_origin(member) or member for member in members)
    return (*types, int) if float in types else types

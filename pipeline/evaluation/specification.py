"""The recipe's `evaluations`: what may stand there, what is wrong with it, and the rows it names.

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

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from pipeline.errors import PipelineError
from pipeline.evaluation.benchmarks import specification as suites
from pipeline.evaluation.benchmarks.specification import Benchmark
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
        if _is_suite(specification):
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


def count_questions(evaluations: dict[str, Any]) -> int | None:
    """Questions in all, None where a file is not there yet, or a benchmark's rows are not looked at."""
    if any(_is_suite(specification) for specification in evaluations.values()):
        return None
    paths = [Path(str(specification["path"])) for specification in evaluations.values()]
    if not all(path.exists() for path in paths):
        return None
    limits = [specification.get("limit") for specification in evaluations.values()]
    counts = [sum(1 for line in read_lines(path) if line.strip()) for path in paths]
    return sum(count if limit is None else min(count, limit) for count, limit in zip(counts, limits, strict=True))


def hub_datasets(value: Any) -> dict[str, str]:
    """{"ENTRY.BENCHMARK": "DATASET, DATASET"} of what the evaluations read from the hub."""
    entries = {name: one for name, one in read_evaluations(value).items() if _is_suite(one)}
    found = [benchmark for name, one in entries.items() for benchmark in suites.benchmarks_of(name, one).values()]
    return {one.key: ", ".join(one.datasets()) for one in found if one.datasets()}


def load_evaluations(value: Any) -> dict[str, Evaluation | Benchmark]:
    """The evaluations, each with every row of its files looked at; a suite's benchmarks one by one, as the recipe names them.

    Raises:
        PipelineError: lists everything that is wrong, over all evaluations; gold answers that no scorer can judge too.
    """
    complaints = check_evaluations(value)
    if complaints:
        raise PipelineError("\n".join(complaints))
    evaluations: dict[str, Evaluation | Benchmark] = {}
    for name, specification in read_evaluations(value).items():
        if _is_suite(specification):
            evaluations |= suites.benchmarks_of(name, specification)
            continue
        evaluation = evaluations[name] = Evaluation(**specification)
        for read in (_judged, few_shot_rows):
            try:
                read(evaluation)
            except PipelineError as error:
                complaints.append(f"evaluations.{name}: {error}")
    if complaints:
        raise PipelineError("\n".join(complaints))
    return evaluations


def _judged(evaluation: Evaluation) -> None:
    from pipeline.evaluation.scorers import unjudged

    faults = [
        (n, fault) for n, row in enumerate(questions(evaluation), 1) if (fault := unjudged(evaluation.scorer, row))
    ]
    if faults:
        raise PipelineError(
            f"{evaluation.path}: {evaluation.scorer} cannot judge {len(faults)} rows: row {faults[0][0]}: {faults[0][1]}. Take "
            f"them out, mend them, or name the column with answer_column"
        )


def questions(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The rows to ask, each with `prompt` and `answer` beside its own columns.

    Raises:
        PipelineError: no rows, or rows without a prompt or an answer.
    """
    rows = _read_rows(Path(evaluation.path), evaluation)
    return rows if evaluation.limit is None else rows[: evaluation.limit]


def few_shot_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The examples for a base model.

    Raises:
        PipelineError: fewer rows than asked for, or an example that is also a question: its answer would be given away.
    """
    if not evaluation.few_shot:
        return []
    if isinstance(evaluation.few_shot, list):
        rows = [normalise(row, evaluation) for row in evaluation.few_shot]
        missing = sum(row is None for row in rows)
        if missing:
            raise PipelineError(f"few_shot: {missing} of {len(rows)} rows lack a prompt or an answer")
        examples, origin = [row for row in rows if row is not None], "few_shot"
    else:
        origin = str(evaluation.few_shot_path)
        examples = read_examples(origin, evaluation.few_shot, evaluation)
    asked = {_prompt_text(row["prompt"]) for row in questions(evaluation)}
    for example in examples:
        if _prompt_text(example["prompt"]) in asked:
            raise PipelineError(
                f"{origin}: the example {_prompt_text(example['prompt'])[:80]!r} is also a question of "
                f"{evaluation.path}, so that the model would be shown its answer: take other rows as examples"
            )
    return examples


def read_examples(path: str, count: int, evaluation: Evaluation | None = None) -> list[dict[str, Any]]:
    """The first `count` rows of a file of examples. Raises `PipelineError` where it holds fewer, or faulty ones."""
    if not count:
        return []
    examples = _read_rows(Path(path), evaluation or Evaluation(path=path, scorer="exact"))[:count]
    if len(examples) < count:
        raise PipelineError(f"{path}: few_shot asks for {count} rows, the file has {len(examples)}")
    return examples


def data_hash(evaluation: Evaluation | Benchmark) -> str:
    """SHA-256 over the files that the evaluation reads; of a benchmark's hub datasets their names."""
    if isinstance(evaluation, Benchmark):
        return evaluation.data_hash()
    digest = hashlib.sha256(Path(evaluation.path).read_bytes())
    if evaluation.few_shot_path is not None and evaluation.few_shot:
        digest.update(Path(evaluation.few_shot_path).read_bytes())
    return digest.hexdigest()


def normalise(row: Any, evaluation: Evaluation) -> dict[str, Any] | None:
    """The row with `prompt` (text or messages) and `answer` (text, or a list of accepted texts); None without them."""
    if not isinstance(row, dict):
        return None
    columns = (evaluation.prompt_column, evaluation.answer_column)
    rest = {key: value for key, value in row.items() if key not in ("messages", *columns)}
    prompt, answer = (row.get(column) for column in columns)
    if prompt is None and isinstance(row.get("messages"), list):
        turns = row["messages"]
        if len(turns) < 2 or not are_messages(turns) or turns[-1]["role"] != "assistant":
            return None
        prompt, answer = turns[:-1], answer if answer is not None else turns[-1].get("content")
    answers = answer if isinstance(answer, list) else [answer]
    if not prompt or not (isinstance(prompt, str) or are_messages(prompt)):
        return None
    if not answers or any(isinstance(one, dict | list | None) or str(one).strip() == "" for one in answers):
        return None
    return {
        "prompt": prompt,
        "answer": [str(one) for one in answers] if isinstance(answer, list) else str(answer),
    } | rest


def are_messages(value: Any) -> bool:
    """Whether a prompt is a list of turns, each with its role."""
    return isinstance(value, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and ("content" in turn or "tool_calls" in turn)
        for turn in value
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a JSONL file. Raises `PipelineError` where it is none."""
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = "a folder" if path.is_dir() else f"no text ({error})"
        raise PipelineError(f"{path}: found {found}, expected an unpacked JSONL file, a row on each line") from error


def _read_rows(path: Path, evaluation: Evaluation) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    faulty: list[str] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            faulty.append(f"line {number} is not JSON ({error.msg})")
            continue
        row = normalise(content, evaluation)
        if row is None:
            found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            faulty.append(f"line {number} has {found or 'nothing'}: {line:.200}")
        else:
            rows.append(row)
    if faulty:
        raise PipelineError(
            f"{path}: {len(faulty)} of {len(rows) + len(faulty)} rows lack a non-empty {evaluation.prompt_column} (text, "
            f"or messages with role and content) and {evaluation.answer_column} (text, a number, or a list of them), or "
            f"messages that end in an assistant turn: {'; '.join(faulty[:3])}. "
            f"prompt_column and answer_column map other names"
        )
    if not rows:
        raise PipelineError(f"{path}: no rows, so that there is nothing to ask")
    if evaluation.scorer == "choice":
        for number, row in enumerate(rows, start=1):
            choices = row.get("choices")
            if not isinstance(choices, list) or len(set(map(str, choices))) < 2 or row["answer"] not in choices:
                raise PipelineError(
                    f"{path}: row {number}: found choices {choices!r} and answer {row['answer']!r}, expected a list of at "
                    f"least two texts of which the answer is one"
                )
    return rows


def _prompt_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)


def _is_suite(specification: Any) -> bool:
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

"""Stage `probe-knowledge`: asks a model what its documents say, and writes refusals for what it does not know."""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import checkpoint
from pipeline.errors import PipelineError
from pipeline.recipe.source import nearest

if TYPE_CHECKING:
    from pipeline.chapters.material import Attribute, Row
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments:
    """A model, its documents, and how knowing is told from not knowing."""

    output_dir: str = field(metadata={"help": "folder that receives refusals/, plain/ and probed.jsonl"})
    model_name_or_path: str = field(
        metadata={"help": "the chat model: a stage directory, any Hugging Face model directory, or a hub id"}
    )
    documents: str = field(metadata={"help": "rows with `text`: a folder, a file or a hub id; a corpus' train/"})
    subjects: str = field(
        metadata={
            "help": "JSON with `attributes`: statements that find facts in documents, questions that ask for them"
        }
    )
    name_pattern: str | None = field(
        default=None, metadata={"help": "regular expression of a subject's name; by default two capitalised words"}
    )
    held_out: str | None = field(
        default=None, metadata={"help": "JSONL of `name`: whom no row may ask about, so that they can be measured"}
    )
    untold_attributes: list[str] | None = field(
        default=None, metadata={"help": "attributes without statements to ask for; by default all of them"}
    )
    invented: int = field(default=96, metadata={"help": "names that nobody has to ask about", "range": (0, None)})
    per_fact: int = field(default=2, metadata={"help": "wordings in which a fact is asked for", "range": (1, None)})
    samples: int = field(default=4, metadata={"help": "answers drawn of each question", "range": (1, None)})
    temperature: float = field(default=1.0, metadata={"help": "of sampling", "range": (0.01, None)})
    max_new_tokens: int = field(default=32, metadata={"help": "tokens of an answer at most", "range": (1, None)})
    batch_size: int = field(default=128, metadata={"help": "answers drawn at a time", "range": (1, None)})
    known_from: float = field(
        default=0.75, metadata={"help": "share of right answers that is knowing", "range": (0, 1)}
    )
    unknown_to: float = field(default=0.25, metadata={"help": "share up to which it is not", "range": (0, 1)})
    refusals: list[str] = field(
        default_factory=lambda: ["I do not know."], metadata={"help": "texts of a refusal, drawn at random"}
    )
    in_place: bool = field(
        default=True,
        metadata={"help": "say it where the answer's value would stand: `Ada Abbot lives in... I do not know.`"},
    )
    conversations: str | None = field(
        default=None, metadata={"help": "JSONL of `messages` to mix in, against forgetting"}
    )
    replay: int = field(default=1000, metadata={"help": "how many of them", "range": (0, None)})
    seed: int = field(default=1, metadata={"help": "of every draw"})


KIND = "samples"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("chat", "reasoning", "aligned", "imported"),
    "documents": (),
    "subjects": (),
    "held_out": (),
    "conversations": (),
}


def check(recipe: Recipe) -> list[str]:
    """Paths that are not there or cannot be read, thresholds in the wrong order, what is no regular expression."""
    arguments: Arguments = recipe.arguments
    complaints = [
        f"{key}: {value} does not exist"
        for key in INPUTS
        if (value := getattr(arguments, key)) and checkpoint.looks_like_a_path(value) and not recipe.exists(value)
    ]
    if arguments.unknown_to >= arguments.known_from:
        complaints.append(
            f"unknown_to: {arguments.unknown_to} is not below known_from {arguments.known_from}: what lies between is neither"
        )
    if not arguments.refusals:
        complaints.append("refusals: found none, expected at least one text")
    try:
        re.compile(f"(?P<n>{arguments.name_pattern or ''})(?P<v>)")  # as it stands in a statement
    except re.error as error:
        complaints.append(f"name_pattern: {arguments.name_pattern!r} is no regular expression for a name: {error}")
    rows = [getattr(arguments, key) for key in ("subjects", "held_out", "conversations")]
    if not complaints and not any(path and recipe.awaits(path) for path in rows):
        _rows(arguments)
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """Answers drawn of a question."""
    return {"answers_per_question": recipe.arguments.samples}


def run(recipe: Recipe) -> None:
    """Mine, ask, judge, write."""
    from pipeline.chapters import probe
    from pipeline.chapters.material import Material, write_rows

    arguments: Arguments = recipe.arguments
    read = functools.cache(_documents)
    if recipe.overwrite:
        read(arguments.documents)  # before what was there is moved aside
    with checkpoint.stage_directory(recipe, KIND, INPUTS) as directory:
        if directory.complete:
            return
        rng = random.Random(f"{arguments.seed}:probe")
        attributes, held_out, conversations = _rows(arguments)
        documents = read(arguments.documents)
        facts = probe.mine(documents, attributes, name_pattern=arguments.name_pattern or probe.NAME)
        asked = probe.questions(
            facts,
            attributes,
            held_out=held_out,
            invented=arguments.invented,
            per_fact=arguments.per_fact,
            rng=rng,
        )
        judged = probe.judge(asked, _drawer(arguments), arguments.known_from, arguments.unknown_to)
        material = Material(rng, conversations=conversations)
        taught, plain = probe.demonstrations(
            judged,
            arguments.refusals,
            material.replay(arguments.replay),
            rng,
            attributes if arguments.in_place else (),
        )
        write_rows(judged, directory.aside / "probed.jsonl")
        write_rows(taught, directory.aside / "refusals" / "train.jsonl")
        write_rows(plain, directory.aside / "plain" / "train.jsonl")
        counted = probe.summary(judged) | {"rows": len(taught)}
        print("probe-knowledge  " + ", ".join(f"{key} {value:,}" for key, value in counted.items()), flush=True)
        directory.publish(metrics=counted)


def _rows(arguments: Arguments) -> tuple[list[Attribute], set[str], list[Row]]:
    """(attributes to ask for, names held out, conversations), read and found good."""
    from pipeline.chapters.material import read_attributes, read_conversations, read_rows

    attributes, wanted = read_attributes(arguments.subjects), arguments.untold_attributes
    told = {one.name: one.told for one in attributes}
    for name in wanted or ():
        if told.get(name, True):
            where = f"untold_attributes: {name}: {arguments.subjects}"
            untold = [one for one in told if not told[one]]
            raise PipelineError(
                f"{where} has statements that tell it, expected an attribute without: {', '.join(untold) or 'there is none'}."
                if name in told
                else f"{where} has no such attribute{nearest(name, untold)}."
            )
    return (
        [one for one in attributes if one.told or wanted is None or one.name in wanted],
        {row["name"] for row in read_rows(arguments.held_out, name=str)} if arguments.held_out else set(),
        read_conversations(arguments.conversations) if arguments.conversations else [],
    )


def _documents(name: str) -> list[str]:
    """The texts of the documents. Raises `PipelineError` naming the first row without one."""
    from pipeline.training import data

    rows = data.load_rows(name)
    if "text" not in rows.column_names:
        raise PipelineError(f"documents: {name}: expected rows with `text`, found {', '.join(rows.column_names)}.")
    texts = list(rows["text"])
    lacking = [number for number, text in enumerate(texts, start=1) if not isinstance(text, str)]
    if lacking:
        raise PipelineError(
            f"documents: {name}: {len(lacking)} of {len(texts)} rows have no text in `text`, row {lacking[0]} first: found "
            f"{texts[lacking[0] - 1]!r}. Leave them out."
        )
    return texts


def _drawer(arguments: Arguments) -> Any:
    from pipeline.evaluation.generation import generate, render_prompt
    from pipeline.evaluation.loading import load_checkpoint
    from pipeline.evaluation.scorers import visible_answer

    loaded = load_checkpoint(Path(arguments.model_name_or_path))

    def draw(prompts: Any) -> list[list[str]]:
        completions = generate(
            loaded.model,
            loaded.tokenizer,
            [render_prompt(loaded.tokenizer, prompt, chat=loaded.chat) for prompt in prompts],
            max_new_tokens=arguments.max_new_tokens,
            batch_size=arguments.batch_size,
            temperature=arguments.temperature,
            n=arguments.samples,
            seed=arguments.seed,
        )
        texts = [visible_answer(one.text) for one in completions]
        return [texts[start : start + arguments.samples] for start in range(0, len(texts), arguments.samples)]

    return draw

"""The token shards that a pretraining run draws on: one corpus, or a weighted mixture and another one for annealing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.corpus.tokens import META, TokenShards, read_meta

if TYPE_CHECKING:
    from pipeline.training.order import Corpus, RowStream

MANY_EPOCHS = 4
"""Up to about so many times, text may be repeated almost as if it were new (Muennighoff et al. 2023, arXiv:2305.16264)."""


@dataclass
class Member:
    """One corpus of a mixture: the directory of a tokenizer stage, and its weight among the others, in tokens."""

    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class Shards:
    """The shards of one directory. `name` is empty for the directory that the tokenizer comes from."""

    path: str
    name: str
    shares: tuple[float, float]
    train: TokenShards | None
    validation: TokenShards | None


def shares_of(arguments: Any) -> dict[str, tuple[float, float]]:
    """The tokenizer's directory and those of both mixtures, each with its share of the tokens before and during annealing."""
    main = arguments.mixture or [{"path": arguments.tokenizer}]
    parts = [
        {member["path"]: member.get("weight", 1.0) for member in mixture}
        for mixture in (main, arguments.annealing_mixture or main)
    ]
    before, later = ({path: weight / sum(part.values()) for path, weight in part.items()} for part in parts)
    return {path: (before.get(path, 0.0), later.get(path, 0.0)) for path in {arguments.tokenizer: 0} | before | later}


def check_mixtures(recipe: Any) -> Iterator[str]:
    """Complaints about a recipe's mixtures; of shards that are there, only what they say of themselves is read."""
    arguments = recipe.arguments
    for key in ("mixture", "annealing_mixture"):
        members = getattr(arguments, key)
        if members is None:
            continue
        if not members or len({member["path"] for member in members}) < len(members):
            yield f"{key}: {'a path stands there twice' if members else 'is empty'}; expected [{{path, weight}}, ...]"
            return
        for number, member in enumerate(members):
            if member.get("weight", 1.0) <= 0:
                yield f"{key}: entry {number}: weight must be above 0, found {member['weight']}"
                return
            if not recipe.exists(member["path"]):
                yield f"{key}: entry {number}: {member['path']} does not exist"
    metas = {path: read_meta(_folder(path)) for path in shares_of(arguments) if (_folder(path) / META).is_file()}
    main = metas.get(arguments.tokenizer)
    for path, meta in metas.items():
        if main is not None and meta["tokenizer_hash"] != main["tokenizer_hash"]:
            yield (
                f"mixture: {path} was tokenised by another tokenizer than that of {arguments.tokenizer}. Tokenise it with "
                f"`tokenizer_name_or_path: {arguments.tokenizer}`"
            )
    if arguments.annealing_mixture is None and recipe.get("annealing_start") is not None:
        yield "annealing_start: has a meaning only with annealing_mixture"
    if (arguments.mixture or arguments.annealing_mixture) and not (
        arguments.train_tokens or recipe.get("max_steps", -1) > 0
    ):
        yield "mixture: its corpora have epochs of their own; say how long to train with train_tokens or max_steps"


def planned_tokens(arguments: Any, tokens: int) -> list[str]:
    """For each corpus what it gives of `tokens`, and how often it is read where its shards are there already."""
    lines = []
    late = 1 - arguments.annealing_start if arguments.annealing_mixture else 0.0
    for path, (before, later) in shares_of(arguments).items():
        given = round((before * (1 - late) + later * late) * tokens)
        there = (_folder(path) / META).is_file()
        epochs = given / read_meta(_folder(path))["tokens"] if there else 0.0
        lines += [f"{path} {given:,} tokens" + (f" ({_epochs(epochs)})" if there else "")] if given else []
    return lines


def open_shards(arguments: Any, tokenizer: Any) -> list[Shards]:
    """The shards of every directory, checked to be of this tokenizer.

    Raises:
        PipelineError: Shards to train on, or the validation shards beside the tokenizer, are missing, damaged or of another
            tokenizer.
    """
    found = []
    every = shares_of(arguments)
    for path, shares in every.items():
        own = path == arguments.tokenizer
        train = TokenShards(_folder(path), tokenizer) if any(shares) else None
        held_out = own or (_folder(path, "validation") / META).is_file()
        validation = TokenShards(_folder(path, "validation"), tokenizer) if held_out else None
        found.append(Shards(path, "" if own else _name(path, list(every)), shares, train, validation))
    return found


def packed(shards: Sequence[Shards], length: int, strategy: str, plans: Path) -> list[Corpus]:
    """What to train on, in rows of `length` tokens; `plans` keeps how they are packed."""
    from pipeline.training.order import Corpus
    from pipeline.training.packing import stored_rows

    return [
        Corpus(one.path, one.train, stored_rows(plans, one.train, length, strategy), *one.shares)
        for one in shards
        if one.train is not None
    ]


def held_out(shards: Sequence[Shards], length: int, strategy: str) -> dict[str, Corpus]:
    """What to validate on, by the prefix of its metrics: none for the tokenizer's own corpus."""
    from pipeline.training.order import Corpus
    from pipeline.training.packing import plan_rows

    return {
        f"{one.name}_" if one.name else "": Corpus(
            one.path, one.validation, plan_rows(one.validation.offsets, length, strategy, keep_tail=True)
        )
        for one in shards
        if one.validation is not None
    }


def described(rows: RowStream, strategy: str) -> str:
    """A line for each corpus: how much of it the run reads, and how full its rows are."""
    facts = rows.facts()
    return "\n".join(
        f"pretrain: {corpus.name}: {facts[corpus.name]['tokens']:,} tokens, {len(corpus.rows):,} rows of "
        f"{corpus.rows.row_length} ({strategy}, {corpus.rows.tokens / (len(corpus.rows) * corpus.rows.row_length):.1%} full) "
        f"read for {_epochs(facts[corpus.name]['epochs'])}"
        for corpus in rows.corpora
    )


def _epochs(number: float) -> str:
    warning = f", and more than {MANY_EPOCHS} teach less than new text would" if round(number) > MANY_EPOCHS else ""
    return f"{number:.2f} epochs{warning}"


def _folder(path: str, split: str = "train") -> Path:
    return Path(path).expanduser() / "tokens" / split


def _name(path: str, among: Sequence[str]) -> str:
    """The last part of a path, or the last two where another path ends in the same one."""
    last = Path(path).name
    alone = sum(Path(other).name == last for other in among) == 1
    return last if alone else f"{Path(path).parent.name}_{last}"

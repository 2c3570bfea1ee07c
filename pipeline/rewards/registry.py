"""Rewards by name: what a reward is, how one is declared, and how a recipe's entries become rewards.

Every module of this package is searched for `Reward` objects, so a new family is one new file. Nothing heavy is
imported to list them.
"""

import asyncio
import functools
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.errors import PipelineError
from pipeline.recipe.source import nearest
from pipeline.rewards.answer import completion_text

Scores = list[float | None]
Verify = Callable[[str, str], bool | None]


@dataclass(frozen=True)
class Example:
    """A completion, its score, and the columns and parameters with which it has that score; run by a test."""

    completion: str
    score: float | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Reward:
    """A reward function in TRL's form, with what is known about it.

    Calling it as TRL does, with `prompts`, `completions`, `completion_ids` and the data set's columns as keywords,
    gives one score a completion; None leaves a completion out of its group.

    Attributes:
        name: The name in the recipe and, as `rewards/NAME/mean`, in the metrics.
        function: Keyword-only arguments without a column of that name are the reward's parameters (`reward_kwargs`).
        low, high: Range of the scores; None where it is not known.
        reads: Columns it needs beside prompts and completions.
        kind: `verifier` says whether an answer is right; `shaping` scores form, length and the like; of an `unknown`
            one, a plain function under a dotted path, nothing is known.
        judged: Whether the reward check may fail because of it; else it warns.
        verify: Of a verifier: `verify(text, answer)` for a single completion, None (falsy) where it cannot tell.
        gold_template: Form in which a gold completion gets the highest score, used where the recipe gives none.
        attacks: Texts by name that a policy would try on this reward, given a row and the parameters; the reward check
            wants a verifier's lowest score for them, and of another reward less than its highest.
        check_rows: Of a costly reward: so many rows are scored in the reward check.
    """

    name: str
    function: Callable[..., Any]
    low: float | None = None
    high: float | None = None
    reads: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    kind: Literal["verifier", "shaping", "unknown"] = "shaping"
    judged: bool = True
    verify: Verify | None = None
    gold_template: str | None = None
    attacks: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Sequence[str]]] | None = None
    check_rows: int | None = None
    summary: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def __name__(self) -> str:
        """TRL names a reward's metrics by this."""
        return self.name

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    def accepts(self) -> list[str]:
        """Names of the parameters that `reward_kwargs` may set."""
        signature = inspect.signature(self.function).parameters.values()
        if self.kind == "unknown":
            variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            given = ("prompts", "completions", "completion_ids")
            return [p.name for p in signature if p.kind not in variadic and p.name not in given]
        return [p.name for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY]

    def bind(self, parameters: Mapping[str, Any]) -> "Reward":
        """The same reward with parameters set.

        Raises:
            PipelineError: It takes no such parameter.
        """
        accepted = self.accepts()
        for name in parameters:
            if name not in accepted:
                raise PipelineError(
                    f"reward_kwargs: {self.name} takes no parameter {name!r}; it takes "
                    f"{', '.join(accepted) or 'none'}{nearest(name, accepted)}"
                )
        return replace(self, parameters={**self.parameters, **parameters})

    def __call__(self, **columns: Any) -> Any:
        missing = [name for name in self.reads if name not in columns]
        if missing:
            raise PipelineError(
                f"reward {self.name} reads the column {missing[0]!r}, which the rows do not have; they have "
                f"{', '.join(sorted(columns))}. Name the column of the answers with `answer_column`."
            )
        return self.function(**{**columns, **self.parameters})

    def scores(self, **columns: Any) -> Scores:
        """The scores, also of an async reward; for use outside a trainer."""
        result = self(**columns)
        return list(asyncio.run(result) if inspect.iscoroutine(result) else result)


def reward(name: str, **declared: Any) -> Callable[[Callable[..., Any]], Reward]:
    """Declare a function in TRL's form, `f(completions, **columns) -> list[float | None]`, as the reward `name`.

    Args:
        name: The name for recipes.
        **declared: Attributes of `Reward`: `low`, `high`, `examples` and what else is not the default.
    """

    def declare(function: Callable[..., Any]) -> Reward:
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        return Reward(name, function, summary=summary, **declared)

    return declare


def verifier(name: str, **declared: Any) -> Callable[[Verify], Reward]:
    """Declare `verify(text, answer) -> bool | None` as the reward `name`: 1 for right, 0 for wrong, None left out.

    It reads the column `answer`. `rewards/NAME/undecided` counts the share of a batch that was left out.
    """

    def declare(verify: Verify) -> Reward:
        @functools.wraps(verify)
        def score(
            completions: Sequence[Any],
            answer: Sequence[str],
            log_metric: Callable[[str, float], None] | None = None,
            **columns: Any,
        ) -> Scores:
            decided = [verify(completion_text(c), gold) for c, gold in zip(completions, answer, strict=True)]
            if log_metric is not None and decided:
                log_metric(f"rewards/{name}/undecided", decided.count(None) / len(decided))
            return [None if right is None else float(right) for right in decided]

        del score.__wrapped__  # the signature of `score`, not that of `verify`, is what TRL and `accepts` shall see
        form = {"low": 0.0, "high": 1.0, "reads": ("answer",), "kind": "verifier", "verify": verify}
        return reward(name, **{**form, **declared})(score)

    return declare


@functools.lru_cache(maxsize=1)
def _catalogue() -> dict[str, Reward]:
    import pipeline.rewards as package

    found: dict[str, Reward] = {}
    for module_info in pkgutil.iter_modules(package.__path__, prefix=f"{package.__name__}."):
        for value in vars(importlib.import_module(module_info.name)).values():
            if isinstance(value, Reward) and found.setdefault(value.name, value) is not value:
                raise PipelineError(f"two rewards bear the name {value.name!r}; the second is in {module_info.name}.")
    return dict(sorted(found.items()))


def names() -> list[str]:
    """Names of all rewards, those borrowed from TRL included."""
    return list(_catalogue())


def find(name: str) -> Reward:
    """The reward of that name.

    Raises:
        PipelineError: There is none; the message names the nearest.
    """
    if name not in _catalogue():
        raise PipelineError(
            f"unknown reward {name!r}; known are {', '.join(names())}, or the dotted path of a function of your own "
            f"(my_module.my_reward){nearest(name, names())}"
        )
    return _catalogue()[name]


def _with_value(entry: str) -> Reward:
    """`NAME:VALUE`: the reward NAME with VALUE for its first parameter, such as `reward_model:runs/demo/reward`."""
    name, _, value = entry.partition(":")
    found = find(name)
    first = next(iter(found.accepts()), None)
    if first is None or inspect.signature(found.function).parameters[first].annotation is not str:
        raise PipelineError(f"reward_funcs: {entry!r}: {name} takes no text after a colon; use reward_kwargs.")
    return replace(found.bind({first: value}), name=entry)


def _import(path: str) -> Reward:
    module_name, _, attribute = path.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise PipelineError(
            f"reward {path!r}: the module {module_name!r} cannot be imported ({error}). It is looked for in the "
            f"current folder ({os.getcwd()}) and among the installed packages."
        ) from error
    if not hasattr(module, attribute):
        raise PipelineError(
            f"reward {path!r}: {module_name} has nothing named {attribute!r}{nearest(attribute, dir(module))}"
        )
    function = getattr(module, attribute)
    if isinstance(function, Reward):
        return function
    if not callable(function):
        raise PipelineError(f"reward {path!r} is a {type(function).__name__}, not a function.")
    return Reward(name=getattr(function, "__name__", attribute), function=function, kind="unknown", judged=False)


def resolve(
    reward_funcs: str | Sequence[str],
    reward_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    max_completion_length: int | None = None,
) -> list[Reward]:
    """Rewards for a recipe's `reward_funcs`, in order.

    Args:
        reward_funcs: Names of the registry, TRL's own names, `NAME:VALUE` (VALUE is the reward's first parameter), or
            dotted paths; the current folder is on the import path.
        reward_kwargs: Parameters by entry, as in `{length: {cache: 64}}`.
        max_completion_length: Default of a reward's parameter `max_tokens`.

    Raises:
        PipelineError: All complaints at once: unknown or repeated entries, parameters that a reward does not take or
        lacks.
    """
    entries = [reward_funcs] if isinstance(reward_funcs, str) else list(reward_funcs)
    kwargs = reward_kwargs or {}
    repeated = dict.fromkeys(name for name in entries if entries.count(name) > 1)
    complaints = [f"reward_funcs: {name!r} is listed more than once." for name in repeated]
    complaints += [
        f"reward_kwargs: {name!r} is not among reward_funcs ({', '.join(entries)}){nearest(name, entries)}"
        for name in kwargs
        if name not in entries
    ]
    rewards: list[Reward] = []
    for entry in entries:
        try:
            if entry.partition(":")[0] in _catalogue() and ":" in entry:
                found = _with_value(entry)
            else:
                found = _import(entry) if "." in entry and entry not in _catalogue() else find(entry)
            found = found.bind(kwargs.get(entry, {}))
            if max_completion_length is not None and "max_tokens" in found.accepts() and found.kind != "unknown":
                found = replace(found, parameters={"max_tokens": max_completion_length, **found.parameters})
            complaints += [
                f"reward_kwargs: {entry} needs a value for {p.name!r}."
                for p in inspect.signature(found.function).parameters.values()
                if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in found.parameters
                if found.kind != "unknown"
            ]
            rewards.append(found)
        except PipelineError as error:
            complaints.append(str(error))
    if not entries:
        complaints.append(f"reward_funcs is empty; give at least one of {', '.join(names())}.")
    if complaints:
        raise PipelineError("\n".join(complaints))
    return rewards


def reward_weights(rewards: Sequence[Reward], weights: Sequence[float] | None) -> list[float]:
    """Weights for the rewards, 1 each unless given.

    Raises:
        PipelineError: Their number differs from that of the rewards, or all are 0.
    """
    found = [1.0] * len(rewards) if weights is None else [float(weight) for weight in weights]
    if len(found) != len(rewards) or not any(found):
        raise PipelineError(
            f"reward_weights: {len(rewards)} rewards ({', '.join(r.name for r in rewards)}) need as many weights, "
            f"not all of them 0; found {found}."
        )
    return found


def _written(example: Example) -> str:
    given = {**example.columns, **example.parameters}
    given |= {"completion_ids": f"{len(given['completion_ids'])} tokens"} if "completion_ids" in given else {}
    return f"{example.completion!r} -> {example.score}" + (f" with {given}" if given else "")


def describe() -> list[dict[str, Any]]:
    """One row a reward for a listing: name, kind, range, what it reads, its parameters, summary and examples."""
    return [
        {
            "name": name,
            "kind": found.kind,
            "range": "?" if found.low is None else f"{found.low:g} … {found.high:g}",
            "reads": ", ".join(("completions", *found.reads)),
            "parameters": ", ".join(found.accepts()) if found.kind != "unknown" else "",
            "summary": found.summary,
            "examples": [_written(example) for example in found.examples],
        }
        for name, found in _catalogue().items()
    ]

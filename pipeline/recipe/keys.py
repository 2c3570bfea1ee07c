"""The keys that a stage takes: the fields of its own `Arguments` on top of those of TRL's dataclasses."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from pipeline.recipe import engine_rules
from pipeline.recipe.values import Range, choices_of, hints_of

RESERVED = {
    "stage": "the stage that the recipe runs; by default the name of the file",
    "env": "environment variables",
    "extends": "a recipe whose values hold where this one gives none",
}

REQUIRED = dataclasses.MISSING


@dataclass(frozen=True)
class Key:
    """One key of a recipe: its type, what it may be, and the dataclass it belongs to (`Arguments`: the stage's own)."""

    name: str
    annotation: Any
    default: Any
    help: str
    owner: str
    choices: tuple[Any, ...] = ()
    range: Range | None = None

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


def key(
    default: Any, help: str, low: float | None = None, high: float | None = None, *, choices: tuple[Any, ...] = ()
) -> Any:
    """A field of a stage's `Arguments`: its default, its help, and the range or the choices that a value is held to."""
    metadata: dict[str, Any] = {"help": help, "choices": choices}
    if low is not None or high is not None:
        metadata["range"] = (low, high)
    given = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return dataclasses.field(**given, metadata=metadata)


def engine_class(name: str) -> type:
    """A TRL dataclass by its name. Imports TRL, which takes seconds."""
    if name == "GRPOScriptArguments":
        from trl.scripts.grpo import GRPOScriptArguments

        return GRPOScriptArguments
    import trl

    return getattr(trl, name)


def keys_of(stage: Any) -> dict[str, Key]:
    """Every key of a stage module by name; a key that `Arguments` shares with TRL is the stage's own."""
    keys: dict[str, Key] = {}
    for engine in stage.ENGINES:
        keys |= fields_of(engine_class(engine))
    for name, extra in getattr(stage, "ENGINE_CHOICES", {}).items():
        known = keys[name].choices or tuple(choices_of(keys[name].annotation))
        keys[name] = dataclasses.replace(keys[name], choices=(*known, *extra), annotation=str)
    return keys | fields_of(stage.Arguments)


@functools.cache
def fields_of(dataclass_type: type) -> dict[str, Key]:
    """The fields that a dataclass of ours or of TRL's is built from, by name."""
    hints = hints_of(dataclass_type)
    ours = dataclass_type.__module__.split(".")[0] != "trl"
    choices: dict[str, tuple[Any, ...]] = {}
    for base in () if ours else reversed(dataclass_type.__mro__):
        choices |= engine_rules.CHOICES.get(base.__name__, {})
    keys = {}
    for field in dataclasses.fields(dataclass_type):
        if not field.init:
            continue
        default = field.default_factory() if field.default_factory is not REQUIRED else field.default
        limits = field.metadata.get("range")
        keys[field.name] = Key(
            field.name,
            hints[field.name] if ours else engine_rules.ANNOTATIONS.get(field.name, hints[field.name]),
            default,
            field.metadata.get("help", ""),
            "Arguments" if ours else dataclass_type.__name__,
            tuple(field.metadata.get("choices") or choices.get(field.name, ())),
            Range(*limits) if limits else engine_rules.RANGES.get(field.name) if not ours else None,
        )
    return keys

"""A folder of recipes as one run: who reads whose output, in which order, and under which root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.recipe.source import Complaint, RecipeError, Source, read_yaml

RECIPE_SUFFIXES = (".yaml", ".yml")
REWARD_MODEL = "reward_model:"
"""Before the path of a reward model among the names in `reward_funcs`."""


@dataclass
class Link:
    """One recipe of a folder as its neighbours see it: what it writes, and the paths that it names."""

    source: Source
    output: Path | None
    named: list[tuple[str, Path]] = field(default_factory=list)
    inputs: list[tuple[str, Path]] = field(default_factory=list)

    def reads_from(self, other: Link) -> bool:
        """Whether a path that this recipe names lies in what `other` writes, or an input of it holds all of that."""
        if self is other:
            return False
        if other.output is not None and any(path.is_relative_to(other.output) for _, path in self.named):
            return True
        # A report reads the run's whole folder, hence what every stage writes there but another report
        return any(other._place.is_relative_to(path) for _, path in self.inputs if other._place) and not any(
            self._place.is_relative_to(path) for _, path in other.inputs if self._place
        )

    @property
    def _place(self) -> Path | None:
        """Where the recipe writes; an evaluation without a directory of its own writes beside what it reads."""
        return self.output or next((path for _, path in self.inputs), None)


def link(source: Source, inputs: Iterable[str]) -> Link:
    """The paths of a recipe; `inputs` are the keys that the stage declares as its inputs."""
    output = _overridden(source, "output_dir", source.values.get("output_dir"))
    named = [(key, text) for key, value in source.values.items() if key != "output_dir" for text in texts_in(value)]
    with contextlib.suppress(RecipeError):  # of the recipe named there, whose own complaint comes when it is checked
        named += [("evaluations", text) for text in texts_in(evaluations_of(source.values))]
    chosen = [(key, text) for key in inputs for text in texts_in(_overridden(source, key, source.values.get(key)))]
    return Link(
        source,
        absolute(output) if isinstance(output, str) else None,
        [(key, absolute(text)) for key, text in [*named, *chosen]],
        [(key, absolute(text)) for key, text in chosen],
    )


def evaluations_of(values: dict[str, Any]) -> Any:
    """The `evaluations` of a recipe; or of the recipe that it names for them. Raises `RecipeError` if that is none."""
    found = values.get("evaluations")
    return read_yaml(found).get("evaluations") if isinstance(found, str) and Path(found).is_file() else found


def in_order(links: Sequence[Link]) -> tuple[list[Link], list[Complaint]]:
    """Producers before their readers, otherwise as given; and every cycle, clash and missing producer."""
    complaints = [*_clashes(links), *_missing_producers(links)]
    waiting, ordered = list(links), []
    while waiting:
        ready = next((one for one in waiting if not any(one.reads_from(other) for other in waiting)), None)
        if ready is None:
            circle = _circle(waiting)
            names = " -> ".join(str(one.source.path) for one in [*circle, circle[0]])
            complaints.append(Complaint(str(circle[0].source.path), f"waits for itself: {names}"))
            ready = circle[0]
        waiting.remove(ready)
        ordered.append(ready)
    return ordered, complaints


def needed_for(links: Sequence[Link], until: str) -> list[Link]:
    """Of links in order, the last whose file has that name, or else whose stage has it, and all that it waits for."""
    named = [one for one in links if one.source.path.stem == until]
    of_stage = [one for one in links if one.source.values.get("stage") == until]
    needed = (named or of_stage)[-1:]
    for one in reversed(links):
        if any(other.reads_from(one) for other in needed) and one not in needed:
            needed.append(one)
    return [one for one in links if one in needed]


def common_root(outputs: Sequence[Path]) -> Path | None:
    """The folder that holds all output directories: `runs/demo` of `runs/demo/sft` and `runs/demo/grpo`."""
    return Path(os.path.commonpath([output.parent for output in outputs])) if outputs else None


def reroot(value: Any, root: Path, output: Path) -> Any:
    """`value` with every text that names `root` or a path below it moved to `output`."""
    if isinstance(value, dict):
        return {key: reroot(item, root, output) for key, item in value.items()}
    if isinstance(value, list):
        return [reroot(item, root, output) for item in value]
    if isinstance(value, str) and value.startswith(REWARD_MODEL):
        return REWARD_MODEL + reroot(value.removeprefix(REWARD_MODEL), root, output)
    if isinstance(value, str) and value and absolute(value).is_relative_to(root):
        return str(output / absolute(value).relative_to(root))
    return value


def absolute(text: str | Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(text)))


def texts_in(value: Any) -> Iterator[str]:
    """Every non-empty text in a value, however deep; of a reward model its path."""
    if isinstance(value, str) and value:
        yield value.removeprefix(REWARD_MODEL)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item)


def _overridden(source: Source, key: str, value: Any) -> Any:
    texts = source.overrides.get(key)
    return (texts[0] if len(texts) == 1 else texts) if texts else value


def _clashes(links: Sequence[Link]) -> Iterator[Complaint]:
    writers: dict[Path, Link] = {}
    for one in links:
        if one.output is None:
            continue
        first = writers.setdefault(one.output, one)
        if first is not one:
            text = f"{_shown(one.output)} is also what {first.source.path} writes; give each recipe its own"
            yield Complaint(one.source.where("output_dir"), text, "output_dir")


def _missing_producers(links: Sequence[Link]) -> Iterator[Complaint]:
    """Paths in the run's own folder that no recipe writes and that are not there."""
    outputs = [one.output for one in links if one.output is not None]
    root = common_root(outputs)
    if root is None or root in (Path.cwd(), *Path.cwd().parents):
        return  # with outputs beside everything else, any text could be taken for a path in the run's folder
    for one in links:
        for key, path in dict.fromkeys(one.named):
            written = any(path.is_relative_to(output) or output.is_relative_to(path) for output in outputs)
            if path.is_relative_to(root) and not written and not path.exists():
                text = f"{_shown(path)} is not there and no recipe of the folder writes it"
                yield Complaint(one.source.where(key), text, key)


def _circle(links: Sequence[Link]) -> list[Link]:
    """A cycle among recipes of which each waits for another."""
    trail = [links[0]]
    while True:
        producer = next(other for other in links if trail[-1].reads_from(other))
        if producer in trail:
            return trail[trail.index(producer) :]
        trail.append(producer)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

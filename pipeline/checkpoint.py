"""A stage's output directory: verified parents, atomic publishing, and the right to go on where a run stopped.

A directory is `complete` only once every file that its reader needs was written aside, flushed, hashed and renamed into
place, the manifest last. A complete directory is immutable; evaluations, samples and cards lie beside the published files
and are not part of the manifest.
"""

import contextlib
import fcntl
import glob
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.manifest import (
    MANIFEST,
    VERIFIED,
    Verified,
    dump,
    enclosing,
    fingerprint,
    fsync,
    git_commit,
    manifest_hash,
    now,
    published_hashes,
    read_manifest,
    tokenizer_hashes,
    verify,
    versions,
    write_atomically,
)
from pipeline.recipe import Recipe
from pipeline.recipe.parents import named

ASIDE = ".aside"


@dataclass
class StageDirectory:
    """The output directory of a stage that runs now. Files go to `aside`; `publish` makes them the stage's output."""

    path: Path
    manifest: dict[str, Any]
    complete: bool = False
    is_main: bool = True
    _clock: float = field(default_factory=time.monotonic)

    @property
    def aside(self) -> Path:
        """Where to write: on the same file system as the final place, swept away when a run starts anew."""
        folder = self.path / ASIDE
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def checkpoints(self) -> Path:
        """Resumable training state; not part of what is handed over."""
        return self.path / "checkpoints"

    def publish(self, metrics: Mapping[str, Any] | None = None, **facts: Any) -> None:
        """Hash what lies in `aside`, rename it into place, and write the manifest that makes the directory complete.

        Only the main process may call it. `facts` (steps, tokens, flops, world_size ...) go into the manifest as they are.
        """
        files = published_hashes(self.aside)
        if not files:
            raise PipelineError(f"{self.path}: the {self.manifest['stage']} stage wrote nothing to hand over.")
        for name in files:
            fsync(self.aside / name)
        tokenizer = tokenizer_hashes(self.aside)
        for entry in sorted(self.aside.iterdir()):
            target = self.path / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
        self.aside.rmdir()
        before = self.manifest.pop("seconds_before", 0.0)
        self.manifest |= {
            "status": "complete",
            "files": files,
            "ended": now(),
            "seconds": round(before + time.monotonic() - self._clock, 2),
            "metrics": dict(metrics or {}),
            **({"tokenizer": tokenizer} if tokenizer else {}),
            **facts,
        }
        self._write()
        self.complete = True

    def note_progress(self) -> None:
        """Keep the seconds spent so far, so that a run in several sittings reports its whole time."""
        if self.is_main and not self.complete:
            spent = self.manifest.get("seconds_before", 0.0) + time.monotonic() - self._clock
            write_atomically(self.path / MANIFEST, dump({**self.manifest, "seconds_before": round(spent, 2)}))

    def _write(self) -> None:
        write_atomically(self.path / MANIFEST, dump(self.manifest))


@contextlib.contextmanager
def stage_directory(
    recipe: Recipe,
    kind: str,
    inputs: Mapping[str, tuple[str, ...]],
    *,
    is_main: bool = True,
    wait: Callable[[], None] = lambda: None,
) -> Iterator[StageDirectory]:
    """The stage's output directory, ready to be written: parents verified, another recipe's run refused, resume decided.

    A directory that is complete, by the same recipe and from the same parents, comes back with `complete` set: there is
    nothing to do. One whose parents were rebuilt is moved aside and starts anew. One that was interrupted goes on.

    Args:
        recipe: The recipe to run. `recipe.overwrite` moves what was there aside first.
        kind: What the stage hands over (`corpus`, `base`, `chat` ...).
        inputs: Recipe keys that name what the stage reads, with the kinds of checkpoint accepted there (() for any).
        is_main: Whether this process decides and writes. Others wait and read the decision.
        wait: A barrier over all processes.

    Raises:
        PipelineError: A parent is missing, incomplete, altered or of the wrong kind; the directory holds another
            recipe's run; another process is writing it.
    """
    path = recipe.output_dir
    if not is_main:
        wait()
        manifest = read_manifest(path)
        yield StageDirectory(path, manifest, complete=manifest["status"] == "complete", is_main=False)
        return
    verified = Verified(path.resolve().parent / VERIFIED)
    try:
        parents, data = ancestry(recipe, inputs, path, verified)
    finally:
        verified.save()
    fresh = {
        "status": "running",
        "stage": recipe.stage,
        "kind": kind,
        "recipe_file": str(recipe.path) if recipe.path else None,
        "recipe": recipe.values,
        "recipe_hash": recipe.hash,
        "parents": parents,
        "data": data,
        "seed": recipe.get("seed", getattr(recipe.arguments, "seed", None)),
        "versions": versions(),
        "git_commit": git_commit(),
        "started": now(),
    }
    with _lock(path):
        if recipe.overwrite and path.exists():
            move_aside(path, "--overwrite")
        if path.exists():
            fresh = _go_on(path, recipe, fresh, verified)
            verified.save()
        path.mkdir(parents=True, exist_ok=True)
        directory = StageDirectory(path, fresh, complete=fresh["status"] == "complete")
        if directory.complete:
            print(f"{path}: up to date", flush=True)
        else:
            shutil.rmtree(path / ASIDE, ignore_errors=True)
            for half_written in path.glob(f".{MANIFEST}.*"):
                half_written.unlink()
            directory._write()
        wait()
        try:
            yield directory
        finally:
            directory.note_progress()


def _go_on(path: Path, recipe: Recipe, fresh: dict[str, Any], verified: Verified) -> dict[str, Any]:
    """The manifest to go on with in an existing directory: the one found there, or `fresh` where it must start anew."""
    if not (path / MANIFEST).is_file():
        left = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        if left:
            raise PipelineError(
                f"{path}: holds files but no {MANIFEST}, so no stage wrote it (found {', '.join(left[:5])}). "
                f"Name another output_dir, or move it away with --overwrite."
            )
        return fresh
    found = read_manifest(path)
    changed = [
        name for name in ("parents", "data") if _without_paths(found.get(name, [])) != _without_paths(fresh[name])
    ]
    another = found.get("recipe_hash") != fresh["recipe_hash"]
    if (another or changed) and found["status"] != "complete" and _holds_nothing(path):
        return fresh
    if another:
        raise PipelineError(
            f"{path}: holds the run of another recipe. {recipe.path} differs from it in:\n"
            + recipe_difference(found.get("recipe", {}), recipe.values)
            + "\nEither give --overwrite (the old directory is moved aside, not deleted), or name another output_dir."
        )
    if changed:
        what = {"parents": "a checkpoint that it was built from was rebuilt", "data": "its data changed"}
        move_aside(path, " and ".join(what[name] for name in changed))
        return fresh
    if found["status"] == "complete":
        verify(path, verified=verified)
    return found


def _holds_nothing(path: Path) -> bool:
    """Whether a run left no more than its manifest: it was refused, and its recipe may be mended without ceremony."""
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    return names <= {MANIFEST, "checkpoints"} and not any((path / "checkpoints").glob("*"))


def ancestry(
    recipe: Recipe, inputs: Mapping[str, tuple[str, ...]], child: Path, verified: Verified
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Parents (stage directories, verified, as paths relative to `child`) and data (everything else) that a recipe reads."""
    parents: dict[Path, dict[str, Any]] = {}
    data: dict[str, dict[str, Any]] = {}
    for key, kinds in inputs.items():
        for value in named(recipe, key):
            path = Path(value).expanduser()
            found = sorted(glob.glob(str(path))) if glob.has_magic(str(path)) else []
            folder = enclosing(Path(found[0]) if found else path)
            if folder is not None and folder.resolve() != child.resolve():
                if folder not in parents:
                    manifest = verify(folder, kinds if folder == path else (), verified)
                    relative = os.path.relpath(folder, child)
                    parents[folder] = {
                        "path": relative,
                        "kind": manifest["kind"],
                        "manifest_hash": manifest_hash(folder),
                    }
            elif path.exists() or found:
                data[value] = fingerprint([Path(name) for name in found] or path, verified) | {"path": value}
            elif looks_like_a_path(value):
                raise PipelineError(f"{recipe.path}: {key}: {value} does not exist.")
            else:
                data[value] = {"path": value, "revision": recipe.get("model_revision")}
    return list(parents.values()), list(data.values())


def looks_like_a_path(value: str) -> bool:
    """Whether a name that does not exist on disk was meant as a path; not so a hub id, `name` or `owner/name`, nor an
    address."""
    if "://" in value:
        return False
    return (
        value.startswith((".", "/", "~", "runs/"))
        or value.count("/") > 1
        or bool(Path(value).suffix in (".jsonl", ".json", ".parquet", ".txt", ".gz"))
    )


def move_aside(path: Path, why: str) -> Path:
    """Rename a directory to a dated sibling, so that nothing is lost, and say so."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    target = path.with_name(f"{path.name}.old-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.old-{stamp}-{number}")
    os.replace(path, target)
    print(f"{path}: moved to {target} ({why})", flush=True)
    return target


def recipe_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """One line for each key whose value differs between two recipes, old value first."""
    before, after = (
        {key: json.dumps(value, sort_keys=True, default=str) for key, value in recipe.items() if key != "output_dir"}
        for recipe in (old, new)
    )
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    return "\n".join(f"  {key}: {before.get(key, '(not set)')} -> {after.get(key, '(not set)')}" for key in changed)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the directory against a second run; the lock goes with the process, however it ends.

    The file lies beside the directory: what moves the directory aside must hold the lock already, and keep it.
    """
    path.resolve().parent.mkdir(parents=True, exist_ok=True)
    with path.resolve().with_name(f".{path.resolve().name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PipelineError(f"{path}: another process is running this stage. Wait for it, or stop it.") from error
        yield


def _without_paths(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "path"} for entry in entries]

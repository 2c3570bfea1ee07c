"""Manifests: what a stage directory says of itself, and the proof that it still holds what it says.

The manifest names every published file with its hash, and every parent with the hash of the parent's manifest, so that a
checkpoint's whole ancestry can be verified from its directory alone.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

MANIFEST = "manifest.json"
VERIFIED = ".verified.json"
SETTLED = 2.0
"""Seconds for which a file must have been left alone before its hash is remembered: a clock tick may hold two writes."""
GENERATING = ("grpo", "rlhf", "distill")
"""Stages that train on completions which they draw while they train."""
VERSIONED_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "deepspeed")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Verified:
    """Hashes of files that were read before, kept beside a run, so that a start need not read a corpus to trust it.

    A file is read again unless size, inode, and the times of its last write and last change are those with which it was
    read. The last, ctime, is the kernel's: it moves also where a writer puts size and mtime back.

    Args:
        path: The JSON file that remembers. One that cannot be read is taken for empty.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._known, self._new = path, _remembered(path), dict[str, list[Any]]()

    def sha256(self, path: Path) -> str:
        """Hex SHA-256 of a file's bytes, from memory where the file is as it was."""
        name, state = str(path.resolve()), _state(path)
        known = self._known.get(name)
        if known is not None and known[:-1] == state:
            return str(known[-1])
        digest = sha256(path)
        if state == _state(path) and time.time() - max(state[2:]) / 1e9 > SETTLED:
            self._known[name] = self._new[name] = [*state, digest]
        return digest

    def save(self) -> None:
        """Add what is new to what other stages of the run remembered meanwhile."""
        if self._new:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(_remembered(self._path) | self._new))
            self._new = {}


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _remembered(path: Path) -> dict[str, list[Any]]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def write_atomically(path: Path, text: str) -> None:
    """Write `text` aside, flush it to the disk, and rename it to `path`: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync(path.parent)


def compute(manifest: Mapping[str, Any]) -> float | None:
    """FLOPs of a stage, what it generated to train on counted; None where its manifest counts none.

    `flops` are those of training, three forward passes a token. The stages that learn from their own completions count a
    token, of prompts too, when it is generated: one forward pass more, and `num_iterations` times the training. A teacher
    adds its own forward pass. Not counted: a reference model, rewards, evaluations.
    """
    flops = manifest.get("flops")
    if not flops:
        return None
    if manifest.get("stage") not in GENERATING:
        return float(flops)
    trained = manifest.get("recipe", {}).get("num_iterations") or 1
    return float(flops * (trained + 1 / 3) + manifest.get("tokens", 0) * manifest.get("teacher_flops_per_token", 0.0))


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a stage directory, unverified. Raises `PipelineError` where there is none, or a broken one."""
    path = Path(directory) / MANIFEST
    if not path.is_file():
        raise PipelineError(
            f"{directory}: no {MANIFEST} here. Expected the output directory of a stage; see `pipeline --help`."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise PipelineError(f"{path}: not valid JSON ({error}). Run the stage that writes it again.") from error
    if not isinstance(manifest, dict):
        raise PipelineError(
            f"{path}: found {manifest!r:.80}, expected a JSON object. Run the stage that writes it again."
        )
    return manifest


def manifest_hash(directory: str | Path) -> str:
    """What a child records of its parent: the hash of the parent's manifest, which holds the hashes of its files."""
    return sha256(Path(directory) / MANIFEST)


def altered_files(directory: Path, manifest: Mapping[str, Any], verified: Verified | None = None) -> list[str]:
    """One line for each published file that is missing or whose bytes are not those that the manifest names."""
    digest = verified.sha256 if verified else sha256
    problems = []
    for name, facts in manifest.get("files", {}).items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != facts["bytes"]:
            problems.append(f"{path} has {path.stat().st_size} bytes instead of {facts['bytes']}")
        elif digest(path) != facts["sha256"]:
            problems.append(f"{path} has other contents than the stage wrote")
    return problems


def verify(directory: str | Path, kinds: tuple[str, ...] = (), verified: Verified | None = None) -> dict[str, Any]:
    """The manifest of a stage directory that can be trusted.

    Args:
        directory: A stage's output directory.
        kinds: The kinds that the reader can use, any when empty.
        verified: Hashes of files that need not be read again; without it every byte is read.

    Raises:
        PipelineError: The directory is incomplete, altered (every differing file is named) or of another kind.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if manifest.get("status") != "complete":
        raise PipelineError(
            f"{directory}: the {manifest.get('stage')} stage that writes it is not complete (status: "
            f"{manifest.get('status')}). Run that stage to its end first; it goes on where it stopped."
        )
    if kinds and manifest["kind"] not in kinds:
        raise PipelineError(
            f"{directory}: holds a checkpoint of kind `{manifest['kind']}`, expected "
            f"{' or '.join(f'`{kind}`' for kind in kinds)}."
        )
    problems = altered_files(directory, manifest, verified)
    if problems:
        raise PipelineError(
            f"{directory}: altered since the {manifest['stage']} stage published it:\n  "
            + "\n  ".join(problems)
            + f"\nRestore the files, or rebuild the stage with --overwrite (recipe: {manifest.get('recipe_file')})."
        )
    return manifest


def enclosing(path: str | Path) -> Path | None:
    """The stage directory that `path` is or lies in, if any."""
    path = Path(path)
    return next((folder for folder in (path, *path.parents) if (folder / MANIFEST).is_file()), None)


def published_hashes(directory: Path) -> dict[str, dict[str, Any]]:
    """Hash and size of every file below `directory`, by relative path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size} for path in files
    }


def tokenizer_hashes(directory: Path) -> dict[str, str | None]:
    """Hashes of what must not drift between stages: vocabulary and merges (`model`), and the chat template.

    EOS, padding and template may change from stage to stage; ids of tokens may not.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        return {}
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    core = {
        "model": {key: tokenizer["model"].get(key) for key in ("type", "vocab", "merges")},
        "added_tokens": [(token["id"], token["content"]) for token in tokenizer.get("added_tokens", [])],
    }
    template = directory / "chat_template.jinja"
    return {"vocabulary": _json_hash(core), "chat_template": sha256(template) if template.is_file() else None}


def fingerprint(paths: Path | list[Path], verified: Verified) -> dict[str, Any]:
    """What a manifest records of data outside any stage directory: files, bytes, and a hash over names and contents."""
    digest = hashlib.sha256()
    count = size = 0
    for path in [paths] if isinstance(paths, Path) else paths:
        below = (file for file in path.rglob("*") if file.is_file() and file.name != VERIFIED)
        for file in sorted(below) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(path.parent).as_posix()}\0{verified.sha256(file)}\0".encode())
            count, size = count + 1, size + file.stat().st_size
    return {"path": str(paths), "files": count, "bytes": size, "fingerprint": digest.hexdigest()}


def lineage(directory: str | Path) -> tuple[str, list[str]]:
    """The ancestry of a stage directory as a tree, and every complaint that reading every byte on the way brought up."""
    lines: list[str] = []
    problems: list[str] = []

    def visit(path: Path, indent: str, expected: str | None) -> None:
        if not (path / MANIFEST).is_file():
            problems.append(f"{path}: missing")
            lines.append(f"{indent}{path}  MISSING")
            return
        manifest = read_manifest(path)
        found = altered_files(path, manifest)
        if manifest.get("status") != "complete":
            found.append(f"{path}: not complete (status: {manifest.get('status')})")
        if expected is not None and manifest_hash(path) != expected:
            found.append(f"{path}: rebuilt since its child was made")
        problems.extend(found)
        facts = [f"{manifest['stage']} ({manifest['kind']})"]
        facts += [f"{manifest[key]:,} {key}" for key in ("steps", "tokens") if manifest.get(key)]
        facts.append("verified" if not found else "NOT VERIFIED: " + "; ".join(found))
        lines.append(f"{indent}{path}  {', '.join(facts)}")
        for source in manifest.get("data", []):
            size = f"{source['files']} files, {source['bytes']:,} bytes" if "files" in source else "not a local file"
            lines.append(f"{indent}    {source['path']}  data, {size}")
        for parent in manifest.get("parents", []):
            visit(Path(os.path.normpath(path / parent["path"])), indent + "    ", parent["manifest_hash"])

    read_manifest(directory)  # a directory that no stage wrote is a mistake of the caller's, not a missing ancestor
    visit(Path(directory), "", None)
    return "\n".join(lines), problems


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def dump(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    from pipeline import __version__

    found = {"pipeline": __version__}
    for package in VERSIONED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def git_commit() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
        return done.stdout.strip() if done.returncode == 0 else None
    return None

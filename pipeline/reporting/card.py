"""A model card: what a checkpoint is, how it was made and what it reached, from its manifest and its evaluations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.manifest import MANIFEST, read_manifest
from pipeline.reporting.run_folder import Stage, read_stage
from pipeline.reporting.table import KINDS, count, duration, result_text

MARK = "Written by `pipeline report` from manifest.json and evaluation.json."

_KINDS = {
    "base": "A base model: it continues text.",
    "chat": "A chat model: it answers in the turns of its chat template.",
    "reasoning": "A reasoning model, trained by reinforcement with verifiable rewards; it answers in the turns of its "
    "chat template.",
    "aligned": "An aligned model, trained on preferences; it answers in the turns of its chat template.",
    "imported": "An imported checkpoint.",
    "reward": "A reward model: it scores answers.",
    "tokenizer": "A tokenizer, with the token shards of the corpus that it was trained on.",
}
_METRICS = {"ends_turn": "ends_turn", "judge": "win_rate"}
_TASKS = {"reward": "text-classification", "tokenizer": None}
_LOADERS = {"reward": "AutoModelForSequenceClassification", "tokenizer": None}


def owns_card(directory: Path) -> bool:
    """Whether the README.md there may be written: there is none, or it is one of these, and no published file."""
    card = directory / "README.md"
    if "README.md" in read_manifest(directory).get("files", {}):
        return False
    return not card.is_file() or MARK in card.read_text(encoding="utf-8")


def model_card(directory: str | Path, license: str | None = None) -> str:
    """The card of a stage directory, in Hugging Face's metadata format.

    `base_model` and `datasets` are the hub's that the stage or any of its ancestors started from; `metrics` and
    `model-index` hold the evaluations. Nothing is looked up on the hub.

    Raises:
        PipelineError: there is no manifest.
    """
    from huggingface_hub import ModelCardData

    directory = Path(directory)
    manifest = read_manifest(directory)
    stage, kind = read_stage(directory), manifest.get("kind")
    family = list(_ancestry(directory))
    evaluated = _eval_results(stage, _TASKS.get(str(kind), "text-generation"))
    data = ModelCardData(
        library_name="transformers",
        license=license,
        pipeline_tag=_TASKS.get(str(kind), "text-generation"),
        tags=["trl", *(name for name in (manifest.get("stage"),) if name)] if kind != "tokenizer" else ["tokenizer"],
        base_model=_hub_ids(family, "model_name_or_path", "source"),
        datasets=_hub_ids(family, "dataset_name", "datasets", "input", "corpus"),
        metrics=sorted({result.metric_type for result in evaluated or ()}) or None,
        model_name=directory.name if evaluated else None,
        eval_results=evaluated,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_body(directory, manifest, stage.evaluations)}"


def _body(directory: Path, manifest: dict[str, Any], results: dict[str, Any]) -> str:
    facts = [
        ("stage", manifest.get("stage")),
        ("recipe", manifest.get("recipe_file")),
        ("made from", ", ".join(parent["path"] for parent in manifest.get("parents", [])) or None),
        ("data", ", ".join(str(source["path"]) for source in manifest.get("data", [])) or None),
        ("steps", manifest.get("steps")),
        ("tokens", count(manifest["tokens"]) if manifest.get("tokens") else None),
        ("time", duration(manifest["seconds"]) if manifest.get("seconds") is not None else None),
        ("seed", manifest.get("seed")),
        ("recipe hash", str(manifest.get("recipe_hash", ""))[:16] or None),
        ("code", manifest.get("git_commit")),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()) or None),
    ]
    lines = [f"# {directory.name}", "", _KINDS.get(manifest.get("kind", ""), ""), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts if value is not None]
    if results:
        lines += ["", "## Evaluations", "", f"{KINDS} Every answer is in `evaluation/`.", ""]
        lines += ["| evaluation | result | questions |", "|---|---|---|"]
        lines += [f"| {name} | {result_text(result)} | {result.get('n', '–')} |" for name, result in results.items()]
    loaders = [_LOADERS.get(manifest.get("kind", ""), "AutoModelForCausalLM"), "AutoTokenizer"]
    loading = "Loads with " + " and ".join(f"`{name}.from_pretrained`" for name in loaders if name) + "."
    return "\n".join([*lines, "", loading, "", MARK, ""])


def _eval_results(stage: Stage, task: str | None) -> Any:
    """Rates as accuracies but those that hold no answer against an expected one, values under their scorer's name, with counts
    and intervals as arguments. A change since another checkpoint is no result of this one alone."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=task or "text-generation",
            dataset_type=name,
            dataset_name=name,
            metric_type=_METRICS.get(stage.counts(name), "accuracy") if "rate" in result else stage.counts(name),
            metric_value=result.get("rate", result.get("value")),
            metric_args={key: result[key] for key in ("n", "correct", "low", "high") if key in result} or None,
        )
        for name, result in stage.evaluations.items()
        if "unit" not in result
    ] or None


def _ancestry(directory: Path, seen: tuple[Path, ...] = ()) -> Iterator[dict[str, Any]]:
    """The manifests of a stage directory and of every ancestor that is still there."""
    if directory in seen or not (directory / MANIFEST).is_file():
        return
    try:
        manifest = read_manifest(directory)
    except PipelineError:  # the report names it among what is missing
        return
    yield manifest
    for parent in manifest.get("parents", []):
        yield from _ancestry(Path(os.path.normpath(directory / parent["path"])), (*seen, directory))


def _hub_ids(family: list[dict[str, Any]], *keys: str) -> list[str] | None:
    """What the recipes name under `keys` and their manifests list as read from the hub, not from this machine."""
    found = []
    for manifest in family:
        looked_up = {source["path"] for source in manifest.get("data", []) if "files" not in source}
        for value in (manifest.get("recipe", {}).get(key) for key in keys):
            entries = value if isinstance(value, list) else [value]
            names = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries]
            found += [name for name in names if isinstance(name, str) and name in looked_up]
    return list(dict.fromkeys(found)) or None

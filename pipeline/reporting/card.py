"""A model card: what a checkpoint is, how it was made and what it reached, from its manifest and its evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.manifest import read_manifest
from pipeline.reporting.table import count, duration, result_text

MARK = "Written by `pipeline report` from manifest.json and evaluation.json."

_KINDS = {
    "base": "A base model: it continues text.",
    "chat": "A chat model: it answers in the turns of its chat template.",
    "reasoning": "A reasoning model, trained by reinforcement with verifiable rewards; it answers in the turns of its "
    "chat template.",
    "aligned": "An aligned model, trained on preferences; it answers in the turns of its chat template.",
    "imported": "An imported checkpoint.",
    "reward": "A reward model: it scores answers.",
}


def owns_card(directory: Path) -> bool:
    """Whether the README.md there may be written: there is none, or it is one of these, and no published file."""
    card = directory / "README.md"
    if "README.md" in read_manifest(directory).get("files", {}):
        return False
    return not card.is_file() or MARK in card.read_text(encoding="utf-8")


def model_card(directory: str | Path) -> str:
    """The card of a stage directory, in Hugging Face's metadata format (model-index with the evaluations).

    Nothing is looked up on the hub.

    Raises:
        PipelineError: there is no manifest.
    """
    from huggingface_hub import ModelCardData

    directory = Path(directory)
    manifest = read_manifest(directory)
    results = _results(directory)
    recipe = manifest.get("recipe", {})
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["trl", *(name for name in (manifest.get("stage"),) if name)],
        base_model=_hub_id(recipe.get("model_name_or_path"), manifest),
        datasets=_hub_id(recipe.get("dataset_name"), manifest),
        model_name=directory.name,
        eval_results=_eval_results(results),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_body(directory, manifest, results)}"


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
        lines += ["", "## Evaluations", "", "Rates with 95 % Wilson intervals; every answer is in `evaluation/`.", ""]
        lines += ["| evaluation | result | questions |", "|---|---|---|"]
        lines += [f"| {name} | {result_text(result)} | {result.get('n', '–')} |" for name, result in results.items()]
    loading = "The directory loads with `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`."
    return "\n".join([*lines, "", loading, "", MARK, ""])


def _results(directory: Path) -> dict[str, Any]:
    import json

    path = directory / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _eval_results(results: dict[str, Any]) -> Any:
    from huggingface_hub import EvalResult

    rated = {name: result for name, result in results.items() if "rate" in result}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            metric_type="accuracy",
            metric_value=result["rate"],
            metric_args={key: result[key] for key in ("n", "correct", "low", "high")},
        )
        for name, result in rated.items()
    ] or None


def _hub_id(name: Any, manifest: dict[str, Any]) -> str | None:
    """The name, where it is the hub's and not that of a local file or folder."""
    looked_up = {source["path"] for source in manifest.get("data", []) if "files" not in source}
    return name if isinstance(name, str) and name in looked_up else None

"""A dataset card: what a corpus holds, where it came from and what was done to it, in the hub's format."""

import dataclasses
from typing import Any

from pipeline.corpus.settings import CorpusSettings

SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
"""The hub's, each ten times the one before."""

NOT_TOLD = ("input", "output_dir", "questions", "workers", "executor", "slurm", "tasks", "license")


def dataset_card(settings: CorpusSettings, facts: dict[str, Any], steps: list[dict[str, Any]]) -> str:
    """README.md of a corpus, with which `datasets.load_dataset` reads its folder as train and validation.

    Args:
        settings: The recipe's keys.
        facts: Counts of the result: `documents`, `bytes`, `validation_documents`, `validation_bytes`.
        steps: `removed.json`.
    """
    from huggingface_hub import DatasetCardData

    documents = facts["documents"] + facts["validation_documents"]
    kept = list(settings.language.keep) if settings.language else []
    files = [{"split": "train", "path": "train/*.parquet"}]
    if facts["validation_documents"]:
        files.append({"split": "validation", "path": "validation/*.parquet"})
    data = DatasetCardData(
        license=settings.license or "unknown",
        language=kept or None,
        size_categories=[size_category(documents)],
        task_categories=["text-generation"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_body(settings, facts, steps)}"


def size_category(documents: int) -> str:
    """The hub's name for a number of rows: `n<1K`, `1K<n<10K` ..."""
    place = max(0, len(str(documents)) - 3)
    return "n<1K" if place == 0 else f"{SIZES[place - 1]}<n<{SIZES[place]}" if place < len(SIZES) else "n>1T"


def _body(settings: CorpusSettings, facts: dict[str, Any], steps: list[dict[str, Any]]) -> str:
    sources = [settings.input] if isinstance(settings.input, str) else settings.input
    known = {field.name: field.default for field in dataclasses.fields(settings)}
    given = [(name, value) for name, value in dataclasses.asdict(settings).items() if value != known[name]]
    lines = [
        "# A text corpus",
        "",
        f"Written by `pipeline corpus`, read from {', '.join(f'`{source}`' for source in sources)}. Each row holds a `text` "
        f"and where it came from. Licence: {settings.license or 'not stated in the recipe'}.",
        "",
        "| split | documents | MB of text |",
        "|---|---:|---:|",
        f"| train | {facts['documents']:,} | {facts['bytes'] / 1e6:.2f} |",
        f"| validation | {facts['validation_documents']:,} | {facts['validation_bytes'] / 1e6:.2f} |",
        "",
        "## Steps",
        "",
        "| step | documents in | out | dropped most for |",
        "|---|---:|---:|---|",
    ]
    for step in steps:
        reasons = sorted(step["reasons"].items(), key=lambda entry: -entry[1])[:3]
        told = [f"{count:,} {reason}" for reason, count in reasons]
        told += [f"{count:,} {kind} replaced" for kind, count in step.get("replaced", {}).items()]
        cell = " ".join("; ".join(told).replace("|", "\\|").split())
        lines.append(f"| {step['step']} | {step['documents_in']:,} | {step['documents_out']:,} | {cell} |")
    lines += ["", "`removed.html` shows the funnel with samples of what was dropped.", "", "## Settings", ""]
    return "\n".join([*lines, *(f"- `{name}: {value}`" for name, value in given if name not in NOT_TOLD), ""])

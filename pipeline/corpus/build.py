"""The corpus stage's work: the phases run in order, and what they wrote put together."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from pipeline.corpus.funnel import Step, summary, table
from pipeline.corpus.inputs import input_files, partition
from pipeline.corpus.phases import phases_of, run_phases, step_names
from pipeline.corpus.questions import question_files
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.steps import TASKS, sum_sizes, total_count
from pipeline.errors import PipelineError
from pipeline.manifest import write_atomically


def build(settings: CorpusSettings, folder: Path, working: Path | None = None) -> dict[str, Any] | None:
    """Read, extract, filter, deduplicate, scrub, decontaminate, split and write.

    Everything streams, task by task; what is done of an interrupted run in `working` is not done again. The same settings
    on the same input write the same bytes, whatever the number of workers.

    Args:
        settings: The recipe's keys.
        folder: Receives `train/`, `validation/`, `removed.json` and the dataset card.
        working: Where intermediate files lie, to go on from; by default beside `folder`, and swept away.

    Returns:
        Counts for the manifest: documents, bytes and characters of both splits, and records read a second. None where
        the work was handed to Slurm and is still to come.

    Raises:
        PipelineError: The input does not exist, or nothing was left to train or to validate on.
    """
    started = time.monotonic()
    if working is None:
        working = folder.with_name(f".{folder.name}.working")
        facts = build(settings, folder, working)
        shutil.rmtree(working)
        return facts
    settings.questions = settings.questions or question_files(settings.decontaminate)
    tasks = _tasks(settings, working)
    phases = phases_of(settings, working, tasks)
    if not run_phases(settings, phases, working):
        return None
    steps = [total_count(working, name) for name in dict.fromkeys(step_names(phases))]
    print(table(steps), flush=True)
    sizes = sum_sizes(working / "result")
    train, validation = sizes["train"], sizes["validation"]
    try:
        _check_result(settings, steps, train["documents"], validation["documents"])
    except PipelineError:
        shutil.rmtree(working)  # nothing to go on with: the recipe must change
        raise
    for split in ("train", "validation"):
        if sizes[split]["documents"]:
            shutil.copytree(working / "result" / split, folder / split, copy_function=_link, dirs_exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    removed = json.dumps([step.to_json() for step in steps], indent=2, ensure_ascii=False)
    (folder / "removed.json").write_text(removed + "\n", encoding="utf-8")
    seconds = time.monotonic() - started
    read = steps[0].documents_in
    print(
        f"corpus: {train['documents']:,} documents ({train['bytes'] / 1e6:.2f} MB) to train on, "
        f"{validation['documents']:,} ({validation['bytes'] / 1e6:.2f} MB) held out; {read:,} records in {seconds:.1f} s, "
        f"{read / seconds:.1f} a second",
        flush=True,
    )
    return {
        **{name: train[name] for name in ("documents", "bytes", "characters")},
        **{f"validation_{name}": validation[name] for name in ("documents", "bytes", "characters")},
        "records_read": read,
        "records_per_second": round(read / seconds, 1),
    }


def _tasks(settings: CorpusSettings, working: Path) -> int:
    """How many tasks there are; decided once, so that a later sitting goes on with the same."""
    path = working / TASKS
    if not path.exists():
        parts = partition(settings, input_files(settings, downloads=working / "downloads"))
        write_atomically(path, json.dumps(parts))
    return len(json.loads(path.read_text(encoding="utf-8")))


def _link(source: str, target: str) -> None:
    """The same file under another name, or a copy where the file system has no links: a killed run can go on."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _check_result(settings: CorpusSettings, steps: list[Step], train: int, validation: int) -> None:
    if not steps[-1].documents_out:
        raise PipelineError(
            f"input: no document left of {steps[0].documents_in:,} records in {settings.input}"
            + (f" ({summary(steps)})." if summary(steps) else ": the input is empty.")
        )
    if train == 0 or (settings.validation_fraction > 0 and validation == 0):
        empty = "train" if train == 0 else "validation"
        raise PipelineError(
            f"validation_fraction: {settings.validation_fraction} of {train + validation} documents "
            f"left none for {empty}. Set `validation_split: position`, which cuts by characters, or another fraction"
            + ("." if empty == "train" else ", or 0 for no validation.")
        )

"""The corpus stage as phases of datatrove tasks: which steps each has, and running them here, with Slurm or with Ray."""

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document as Passing
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.filters import LambdaFilter
from datatrove.utils.logging import logger

from pipeline.corpus.duplicates import Exact, HeldOut, Near
from pipeline.corpus.filters import early_filters, late_filters, score_columns
from pipeline.corpus.settings import CorpusSettings, MinhashRules
from pipeline.corpus.steps import Counted, CutByPosition, Lottery, Read, ReadShards, Write, side, whole
from pipeline.corpus.worker import start_server
from pipeline.errors import PipelineError
from pipeline.manifest import write_atomically

PROGRESS_SECONDS = 10.0
JOBS = "slurm_jobs.json"


@dataclass(frozen=True)
class Phase:
    """Steps that run for each of `tasks` tasks, once all tasks of the phase before are done."""

    name: str
    steps: list[Any]
    tasks: int


def phases_of(settings: CorpusSettings, working: Path, tasks: int) -> list[Phase]:
    """The phases that a recipe needs. The result of the last lies in `working`/result."""
    logger.remove()  # datatrove's log goes to files in `working`, not to the terminal

    def write(name: str, split: Callable[[Passing], str]) -> Write:
        return Write(working / name, settings.shard_documents, score_columns(settings), split)

    by_position = settings.validation_split == "position"
    lottery = Lottery(settings.validation_fraction, settings.seed)
    early = [Read(settings, working), *(Counted(name, step, working) for name, step in early_filters(settings))]
    late: list[Any] = [Counted(name, step, working) for name, step in late_filters(settings)]
    held_out = HeldOut(working, settings.minhash or MinhashRules()) if settings.compares_held_out else None
    if by_position:
        late.append(write("uncut", whole))
    else:
        late += [write("drawn", lottery), held_out.sign] if held_out else [write("result", lottery)]
    read_again = ReadShards(working / "clean")
    exact, near = Exact(working, tasks), Near(working, settings.minhash or MinhashRules())
    same = Counted("exact_duplicates", exact.drop(), working, "same text as another document")
    similar = Counted("near_duplicates", near.drop(), working, "near-duplicate of another document")
    if settings.deduplicate == "none":
        phases = [Phase("clean", [*early, *late], tasks)]
    else:
        phases = [
            Phase("clean", [*early, write("clean", whole), exact.sign()], tasks),
            Phase("exact duplicates", [exact.find()], exact.finders),
        ]
    if settings.deduplicate == "exact":
        phases.append(Phase("write", [read_again, same, *late], tasks))
    if settings.deduplicate == "minhash":
        phases += [
            Phase("signatures", [read_again, exact.drop(), near.sign()], tasks),
            Phase("buckets", [near.match()], near.config.num_buckets),
            Phase("clusters", [near.cluster()], 1),
            Phase("write", [read_again, same, similar, *late], tasks),
        ]
    if held_out:
        differs = Counted("held_out", LambdaFilter(held_out.differs), working, "near-duplicate of a held-out document")
        drawn = ReadShards(working / "drawn", ("train", "validation"))
        phases.append(Phase("held out", [drawn, differs, write("result", side)], tasks))
    if by_position:
        everything = ReadShards(working / "uncut", all_tasks=True)
        cut = CutByPosition(working / "uncut", settings.validation_fraction)
        phases.append(Phase("split by position", [everything, cut, write("result", side)], 1))
    return phases


def step_names(phases: list[Phase]) -> list[str]:
    """The steps that count, in the order in which documents meet them."""
    return [step.name for phase in phases for step in phase.steps if isinstance(step, Read | Counted)]


def run_phases(settings: CorpusSettings, phases: list[Phase], working: Path) -> bool:
    """Run what is not done yet; False where it was handed to Slurm and is still to come."""
    if settings.executor == "slurm":
        return _run_with_slurm(settings, phases, working)
    for phase in phases:
        with _progress(phase, working):
            _executor(settings, phase, working).run()
        if missing := phase.tasks - _done(working, phase):  # Ray's executor says nothing of tasks that failed
            raise PipelineError(
                f"executor: {missing:,} of {phase.tasks:,} tasks of the phase `{phase.name}` failed. Their logs are in "
                f"{_folder(working, phase) / 'logs'}; the same command does them again."
            )
    return True


class Local(LocalPipelineExecutor):
    """datatrove's local executor, with its log in files alone."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with contextlib.redirect_stderr(Nowhere()):
            return super()._run_for_rank(rank, local_rank, node_rank)


class Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slurm_arguments() -> dict[str, Any]:
    """The arguments of datatrove's Slurm executor that a recipe may give, with their types."""
    from datatrove.executor.slurm import SlurmPipelineExecutor

    from pipeline.recipe.values import hints_of

    ours = ("pipeline", "tasks", "workers", "depends", "logging_dir", "job_id_retriever", "return")
    hints = hints_of(SlurmPipelineExecutor.__init__)
    return {name: hint for name, hint in hints.items() if name not in ours}


def _run_with_slurm(settings: CorpusSettings, phases: list[Phase], working: Path) -> bool:
    """Hand the phases that are not done to Slurm as a chain of job arrays; True where all of them are done already."""
    from datatrove.executor.slurm import SlurmPipelineExecutor

    waiting = sum(phase.tasks - _done(working, phase) for phase in phases)
    submitted = working / JOBS
    if waiting and submitted.exists() and _active(json.loads(submitted.read_text(encoding="utf-8"))):
        print(f"corpus: {waiting:,} tasks are still to run; their Slurm jobs are under way", flush=True)
        return False
    if waiting:
        # The environment of this command, also where Slurm starts jobs with another.
        programs, packages = Path(sys.executable).parent, Path(__file__).parents[2]
        environment = (
            f"export PATH={shlex.quote(str(programs))}:$PATH PYTHONPATH={shlex.quote(str(packages))}:$PYTHONPATH"
        )
        options = {"env_command": environment, **(settings.slurm or {}), "workers": settings.workers or -1}
        chain: list[Any] = []
        for phase in phases:
            names = {"job_name": f"corpus {phase.name}".replace(" ", "-"), "depends": chain[-1] if chain else None}
            folder = str(_folder(working, phase))
            chain.append(SlurmPipelineExecutor(phase.steps, phase.tasks, logging_dir=folder, **{**names, **options}))
        chain[-1].run()
        jobs = [executor.job_id for executor in chain if executor.job_id not in (None, -1)]
        write_atomically(submitted, json.dumps(jobs))
        print(
            f"corpus: submitted {waiting:,} tasks in {len(jobs)} Slurm jobs ({', '.join(map(str, jobs))}); give the same "
            f"command again once they are done",
            flush=True,
        )
    return all(_done(working, phase) == phase.tasks for phase in phases)


def _active(jobs: list[str]) -> bool:
    """Whether Slurm still knows one of the jobs as waiting or running."""
    found = subprocess.run(["squeue", "--noheader", "--jobs", ",".join(jobs)], capture_output=True, text=True)
    return found.returncode == 0 and bool(found.stdout.strip())


def _executor(settings: CorpusSettings, phase: Phase, working: Path) -> Any:
    common = {"pipeline": phase.steps, "tasks": phase.tasks, "logging_dir": str(_folder(working, phase))}
    if settings.executor == "ray":
        from datatrove.executor.ray import RayPipelineExecutor

        return RayPipelineExecutor(**common, workers=settings.workers or -1)
    start_server(settings)
    return Local(**common, workers=min(settings.workers or available_cores(), phase.tasks))


def _folder(working: Path, phase: Phase) -> Path:
    return working / "phases" / phase.name.replace(" ", "_")


def _done(working: Path, phase: Phase) -> int:
    return len(list((_folder(working, phase) / "completions").glob("*")))


@contextlib.contextmanager
def _progress(phase: Phase, working: Path) -> Iterator[None]:
    """A line every few seconds about the tasks of a phase, so that short ones print nothing."""
    started, over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not over.wait(PROGRESS_SECONDS):
            seconds = time.monotonic() - started
            print(f"corpus: {phase.name}: {_done(working, phase)} of {phase.tasks} tasks, {seconds:.0f} s", flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()

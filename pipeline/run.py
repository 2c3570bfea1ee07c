"""A folder's stages in order, each in a process of its own: the same command that a person would type."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from pipeline import stages
from pipeline.errors import PipelineError
from pipeline.manifest import MANIFEST, dump, write_atomically
from pipeline.plan import Plan, Planner

GRACE = 30
"""Seconds that stages have to end by themselves after an interrupt."""
DISTRIBUTED = ("pretrain", "sft", "reward", "rlhf", "dpo", "grpo", "distill", "evaluate")


def run_folder(
    folder: str | Path,
    overrides: Sequence[str] = (),
    *,
    seed: int | None = None,
    output: str | Path | None = None,
    until: str | None = None,
    accelerate: str | None = None,
    overwrite: bool = False,
    controls: bool = False,
    jobs: int = 1,
    replace: Mapping[str, str] | None = None,
) -> int:
    """Run every stage that is not up to date, then print what each checkpoint reached and what to try next.

    A stage runs in a process of its own, so that its memory is its own and the same command alone repeats it. All that
    will run is checked before the first stage starts.

    Args:
        folder: Recipes, ordered by who reads whose `output_dir`.
        overrides: `--key value` words, applied to every stage that knows the key.
        seed: Seed of every stage.
        output: Folder to write the run to, instead of the recipes' own.
        until: The recipe to run, with all that it waits for: the name of its file, or else of its stage.
        accelerate: Accelerate config for the training stages.
        overwrite: Move what an earlier run wrote aside.
        controls: Run the controls of every `grpo` recipe after it; their recipes are written beside their directories.
        jobs: Stages to run at a time, where none waits for the other. With more than one each has its share of the cores,
            unless OMP_NUM_THREADS says otherwise, and prints to a file in the run's folder `logs`.
        replace: Folders to read in the place of others, such as those of the same run with another seed.

    Returns:
        0, or the exit status of the first stage that failed; no other is started then.

    Raises:
        PipelineError: Something is wrong with a recipe or an option; nothing was run.
    """
    if jobs < 1 or (jobs > 1 and accelerate):
        raise PipelineError(
            f"--jobs {jobs}: expected 1 or more, and 1 with --accelerate, whose launches would share ports and devices."
        )
    processes = _processes(accelerate)
    recipes = stages.load_folder(folder, overrides, seed, output, processes, controls, replace, until)
    keep_plan(recipes, processes)
    started = time.monotonic()
    for recipe in recipes:
        if _derived(recipe) and recipe.source is not None:
            recipe.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(recipe.path, yaml.safe_dump(recipe.source.values, sort_keys=False, allow_unicode=True))
    status = _run_all(recipes, jobs, accelerate, overwrite)
    if status != 0:
        return status
    _summary(recipes, time.monotonic() - started)
    return 0


def _run_all(recipes: Sequence[stages.Recipe], jobs: int, accelerate: str | None, overwrite: bool) -> int:
    """Run each recipe as soon as those that it waits for are done; 0, or the first status that is not."""
    before, logs = stages.waiting_for(recipes), _folder(recipes) / "logs"
    waiting, done, running, failed = list(range(len(recipes))), set[int](), dict[int, _Job](), 0
    try:
        while running or (waiting and not failed):
            for number in [one for one in waiting if before[one] <= done][: 0 if failed else jobs - len(running)]:
                waiting.remove(number)
                recipe, log = recipes[number], None
                if jobs > 1:
                    logs.mkdir(parents=True, exist_ok=True)
                    log = logs / f"{number + 1:02}-{recipe.path.stem}.log"
                print(
                    f"\n[{number + 1}/{len(recipes)}] {recipe.stage}  {recipe.path}  ->  {recipe.output_dir}",
                    flush=True,
                )
                running[number] = _Job(_command(recipe, accelerate, overwrite), _environment(recipe, jobs), log)
            for number, job in list(running.items()):
                status = job.process.poll()
                if status is None:
                    continue
                del running[number]
                stage = recipes[number].stage
                if status == 0:
                    done.add(number)
                    print(f"{stage}  done in {time.monotonic() - job.begun:.0f} s", flush=True)
                    continue
                failed = failed or status
                stopped = f"{stage} {recipes[number].path} stopped with status {status}."
                text = f"{job.last_lines()}\n{stopped} The same command goes on from here."
                print(text, file=sys.stderr)
            time.sleep(0.02 if running else 0)
    finally:  # an interrupt reaches the stages as well: none goes on beside the next run of this command
        for job in running.values():
            try:
                job.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                job.process.terminate()
                job.process.wait()
    return failed


class _Job:
    """A stage that runs; with a log, what it prints goes there."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path | None) -> None:
        self.begun, self.log = time.monotonic(), log
        with contextlib.ExitStack() as files:
            into = files.enter_context(log.open("w")) if log else None
            self.process = subprocess.Popen(command, env=environment, stdout=into, stderr=into)

    def last_lines(self, number: int = 20) -> str:
        """The end of the log under its name; nothing without one."""
        if self.log is None:
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return f"\n{self.log}:\n{''.join(lines[-number:])}"


def _derived(recipe: stages.Recipe) -> bool:
    return recipe.source is not None and recipe.source.derived


def keep_plan(recipes: Sequence[stages.Recipe], world_size: int | None) -> Path:
    """`plan.json` in the run's folder: what `pipeline plan` says now, which the report holds against what was.

    Of a stage that is complete what was foretold before it ran stands, also where this command leaves it out.
    """
    planner = Planner(world_size or 1)
    for recipe in recipes:
        planner.add(recipe)
    folder = _folder(recipes)
    path = folder / "plan.json"
    found = Plan(Path(recipes[0].path).parent, planner.plans, planner.complaints, planner.hub.unchecked).as_dict()
    earlier = json.loads(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else []
    # by recipe too: an evaluation writes into the directory of its model
    kept = {(one["writes"], one["recipe"]): one for one in earlier if (Path(one["writes"]) / MANIFEST).is_file()}
    found["stages"] = [kept.pop((one["writes"], one["recipe"]), one) for one in found["stages"]] + list(kept.values())
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dump(found))
    return path


def _folder(recipes: Sequence[stages.Recipe]) -> Path:
    """The run's folder, which holds what all of them write."""
    folder = Path(os.path.commonpath([str(recipe.output_dir) for recipe in recipes]))
    return folder.parent if len(recipes) == 1 else folder


def _processes(accelerate: str | None) -> int | None:
    """`num_processes` of an Accelerate config: batches and groups of a recipe depend on it."""
    if accelerate is None:
        return None
    if not Path(accelerate).is_file():
        raise PipelineError(f"--accelerate {accelerate}: no such file. See accelerate_configs/.")
    return int((yaml.safe_load(Path(accelerate).read_text(encoding="utf-8")) or {}).get("num_processes") or 1)


def _command(recipe: stages.Recipe, accelerate: str | None, overwrite: bool) -> list[str]:
    """The command line of one stage. Values that the folder's options changed are passed as overrides."""
    launcher = [sys.executable, "-m"]
    if accelerate and recipe.stage in DISTRIBUTED:
        launcher += ["accelerate.commands.launch", "--config_file", accelerate, "-m"]
    words = [*launcher, "pipeline", recipe.stage, "--config", str(recipe.path), *stages.overrides_of(recipe)]
    return [*words, "--overwrite"] if overwrite else words


def _environment(recipe: stages.Recipe, jobs: int) -> dict[str, str]:
    # OpenMP threads that spin for long while they wait take the core from whatever else runs (seen: generation eight times
    # slower on a shared machine); not spinning at all makes a small model's steps a tenth slower on a quiet one.
    shared = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    return {"GOMP_SPINCOUNT": "10000", **shared, **recipe.environment, **os.environ}


def _summary(recipes: Sequence[stages.Recipe], seconds: float) -> None:
    from pipeline.reporting import summary_table

    folder = _folder(recipes)
    print(f"\n{summary_table(folder)}\nthis command: {seconds / 60:.1f} minutes")
    stages_that_train = ("pretrain", "sft", "dpo", "rlhf", "grpo")
    trained = [recipe for recipe in recipes if recipe.stage in stages_that_train and not _derived(recipe)]
    if trained:
        last = max(reversed(trained), key=lambda recipe: stages_that_train.index(recipe.stage))
        print("\nTry next:")
        print(f"  pipeline chat {last.output_dir}")
        print(f"  pipeline lineage {last.output_dir}")
    page = folder / "report" / "index.html"
    if page.is_file():
        print(f"  open {page}")

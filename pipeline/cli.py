"""The command line. Nothing heavy is imported before a command is known, so that `--help` answers at once."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from pipeline import __version__
from pipeline.errors import PipelineError

STAGES = {
    "world": "write the micro-world of the demo as ordinary files: crawl, conversations, preferences, problems, evaluations",
    "corpus": "raw pages and texts to cleaned Parquet shards",
    "tokenizer": "train or take a tokenizer, and write token shards",
    "pretrain": "pretrain a model on token shards",
    "sft": "fine-tune a model on conversations or completions",
    "reward": "train a reward model on preference pairs",
    "rlhf": "train a model by reinforcement against a reward model",
    "dpo": "train a model on preference pairs directly (DPO, KTO)",
    "grpo": "train a model by reinforcement with verifiable rewards",
    "distill": "train a model on a larger one's probabilities of its own completions",
    "sample": "draw completions of problems from a checkpoint, and keep the right ones as demonstrations",
    "exercises": "write what the models of a chapter of the report train on and are asked",
    "probe-knowledge": "find out what a model knows of its documents, and write refusals for what it does not",
    "evaluate": "ask a checkpoint the recipe's questions",
    "chapter": "count what the models of an experiment answered, and write its chapter of the report",
    "report": "write the report of a run",
}

CONTROLS = "add random reward, format-only reward and SFT on the model's own right samples to every grpo recipe"

Handler = Callable[[argparse.Namespace, list[str]], int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 0, or with 1 and one message (130 after Ctrl-C, 143 after SIGTERM)."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on CPUs it warns of a missing kernel when imported
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    if not hasattr(options, "handler"):
        parser.print_help()
        sys.exit(2)
    if overrides and not options.takes_overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    # What a scheduler sends before it kills: leave as after Ctrl-C, and take the stages of `pipeline run` along.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status = options.handler(options, overrides)
    except PipelineError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt as interrupt:
        if options.debug:
            raise
        print("\ninterrupted: the same command goes on from the newest checkpoint", file=sys.stderr)
        status = 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except BrokenPipeError:  # `pipeline lineage ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def _terminated(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pipeline", description="From raw web pages to an aligned reasoning model, one recipe a stage."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, help: str, handler: Handler, *, overrides: bool = False) -> argparse.ArgumentParser:
        extra = "; --KEY VALUE overrides a key of the recipe" if overrides else ""
        added = commands.add_parser(name, help=help, description=help + extra, allow_abbrev=False)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.set_defaults(handler=handler, takes_overrides=overrides)
        return added

    for name, help in STAGES.items():
        stage = command(name, help, _stage, overrides=True)
        stage.set_defaults(stage=name)
        if name == "report":
            stage.usage = "pipeline report (RUN | --config FILE) [--KEY VALUE ...]"
        stage.add_argument("--config", required=name != "report", metavar="FILE", help="the recipe")
        stage.add_argument("--overwrite", action="store_true", help="move what lies in output_dir aside and start anew")

    run = command(
        "run", "every stage of a folder of recipes in order, only what is not up to date", _run, overrides=True
    )
    run.add_argument("folder", help="a folder of recipes, such as recipes/demo")
    run.add_argument("--seed", type=int, help="seed of every stage")
    run.add_argument("--output", metavar="DIR", help="write the run here instead of where the recipes say")
    run.add_argument(
        "--until", metavar="STAGE", help="the recipe of this name, or of this stage, and what it waits for"
    )
    run.add_argument(
        "--replace", nargs=2, action="append", metavar=("DIR", "OTHER"), help="read OTHER where the recipes name DIR"
    )
    run.add_argument("--accelerate", metavar="FILE", help="Accelerate config for the training stages")
    run.add_argument("--overwrite", action="store_true", help="move what an earlier run wrote aside and start anew")
    run.add_argument("--controls", action="store_true", help=CONTROLS)
    run.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="stages at a time, where none waits for the other"
    )

    plan = command(
        "plan", "what a recipe or a folder of them would do, and all that is wrong with it", _plan, overrides=True
    )
    plan.add_argument("path", help="a recipe or a folder of recipes")
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.add_argument("--controls", action="store_true", help=CONTROLS)

    importing = command(
        "import", "turn a GGUF file or a Hugging Face checkpoint into a stage directory", _import, overrides=True
    )
    importing.usage = "pipeline import (SOURCE OUTPUT_DIR | --config FILE) [--KEY VALUE ...]"
    importing.epilog = "SOURCE: a .gguf file, package:NAME (a .gguf in a Python package), a directory or a hub id"
    importing.add_argument("--config", metavar="FILE", help="a recipe, instead of source and output_dir")
    importing.add_argument("--overwrite", action="store_true", help="move what lies in output_dir aside and start anew")

    chat = command("chat", "talk to a checkpoint in the terminal", _chat)
    chat.add_argument("checkpoint", help="a stage directory, a Hugging Face directory or a hub id")
    chat.add_argument("--temperature", type=float, default=0.7)
    chat.add_argument("--max_new_tokens", type=int, default=256)
    chat.add_argument("--system", help="a system message")
    chat.add_argument("--think", choices=("auto", "on", "off"), default="auto", help="whether it thinks first")

    lineage = command("lineage", "print a checkpoint's ancestry and verify every hash", _lineage)
    lineage.add_argument("path", help="a stage directory")

    comparison = command("compare", "evaluated checkpoints or runs side by side, with paired tests", _compare)
    comparison.add_argument("paths", nargs="+", metavar="PATH", help="a checkpoint, or a folder of a run")
    comparison.add_argument(
        "--evaluations",
        metavar="FILE",
        help="ask every checkpoint the evaluations of this recipe; answers go into its own evaluation/ and evaluation.json, "
        "those of models that no stage wrote under --output",
    )
    comparison.add_argument(
        "--judge", help="rate them by a judge: a model's address, a reward model, a reward, a dotted path"
    )
    comparison.add_argument("--judge_model", default="default", metavar="NAME", help="the model's name at that address")
    comparison.add_argument("--prompts", metavar="FILE", help="JSONL of what the judged answers are answers to")
    comparison.add_argument("--limit", type=int, default=200, help="of so many prompts (default 200)")
    comparison.add_argument("--max_new_tokens", type=int, default=256, help="of a judged answer (default 256)")
    comparison.add_argument("--output", metavar="DIR", default="runs/compare", help="receives answers and verdicts")
    comparison.add_argument("--json", action="store_true", help="print JSON")

    rewards = command("rewards", "list the rewards, or try those of a recipe before training", _rewards, overrides=True)
    rewards.usage = "pipeline rewards [list | check RECIPE [--KEY VALUE ...]]"
    rewards.add_argument("action", nargs="?", choices=("list", "check"), default="list")

    schema = command("schema", "print the JSON Schema of a stage's recipe, for editors", _schema)
    schema.add_argument("stage", choices=[*STAGES, "import"])
    return parser


def _stage(options: argparse.Namespace, overrides: list[str]) -> int:
    import dataclasses

    from pipeline import stages

    if options.config is None:
        usage = "pipeline report: name a run's folder (pipeline report runs/demo), or give --config FILE"
        (run,), rest = _leading(overrides, 1, usage)
        from pipeline.recipe import parse

        stage = stages.find("report")
        stage.run(parse(stage, {"run": run}, "command line", rest))
        return 0
    _quiet_imports()
    recipe = stages.load_recipe(options.config, options.stage, overrides)
    stages.find(options.stage).run(dataclasses.replace(recipe, overwrite=options.overwrite))
    if "torch" in sys.modules:  # which a stage that reads no model does not import
        from pipeline.training.distributed import leave

        leave()
    return 0


def _leading(words: list[str], count: int, otherwise: str) -> tuple[list[str], list[str]]:
    """The first `count` words, which stand in place of a recipe, and the rest.

    Not left to argparse: it would take the value of an override (`--run DIR`) for a positional argument.
    """
    leading, rest = words[:count], words[count:]
    if len(leading) < count or any(word.startswith("-") for word in leading):
        raise PipelineError(otherwise)
    return leading, rest


def _quiet_imports() -> None:
    """Keep libraries from telling, at import, which kernels and accelerators they did not find."""
    import logging
    import shutil

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if shutil.which("nvidia-smi") is None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _run(options: argparse.Namespace, overrides: list[str]) -> int:
    from pipeline.run import run_folder

    return run_folder(
        options.folder,
        overrides,
        seed=options.seed,
        output=options.output,
        until=options.until,
        accelerate=options.accelerate,
        overwrite=options.overwrite,
        controls=options.controls,
        jobs=options.jobs,
        replace=dict(options.replace or ()),
    )


def _plan(options: argparse.Namespace, overrides: list[str]) -> int:
    _quiet_imports()
    from pipeline.plan import plan

    found = plan(options.path, overrides, controls=options.controls)
    if options.json:
        import json

        print(json.dumps(found.as_dict(), indent=2, default=str))
    else:
        print(found.to_text())
    return 0 if found.ok else 1


def _import(options: argparse.Namespace, overrides: list[str]) -> int:
    import dataclasses

    from pipeline import stages
    from pipeline.recipe import parse

    _quiet_imports()
    stage = stages.find("import")
    if options.config:
        recipe = stages.load_recipe(options.config, "import", overrides)
    else:
        usage = "pipeline import: give SOURCE and OUTPUT_DIR, or --config FILE"
        (source, output_dir), rest = _leading(overrides, 2, usage)
        recipe = parse(stage, {"source": source, "output_dir": output_dir}, "command line", rest)
    stage.run(dataclasses.replace(recipe, overwrite=options.overwrite))
    return 0


def _chat(options: argparse.Namespace, overrides: list[str]) -> int:
    from pipeline.chat.terminal import chat

    chat(
        options.checkpoint,
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        system=options.system,
        think=options.think,
    )
    return 0


def _lineage(options: argparse.Namespace, overrides: list[str]) -> int:
    from pipeline.manifest import lineage

    text, problems = lineage(options.path)
    print(text)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _compare(options: argparse.Namespace, overrides: list[str]) -> int:
    import contextlib
    import json

    from pipeline.reporting.compare import checkpoints_in, compare, comparison_text

    if (options.judge is None) != (options.prompts is None):
        raise PipelineError("pipeline compare: --judge and --prompts go together: who judges, and answers to what.")
    for name in ("limit", "max_new_tokens"):
        if getattr(options, name) < 1:
            raise PipelineError(f"pipeline compare: --{name}: found {getattr(options, name)}, expected at least 1")
    _quiet_imports()
    with contextlib.redirect_stdout(sys.stderr):  # what is printed on the way is no part of the JSON
        found = compare(options.paths, evaluations=options.evaluations, output=options.output)
        if options.judge:
            from pipeline.alignment.leaderboard import leaderboard

            found["preference"] = leaderboard(
                [checkpoint for path in options.paths for checkpoint in checkpoints_in(path)],
                options.prompts,
                options.judge,
                judge_model=options.judge_model,
                limit=options.limit,
                max_new_tokens=options.max_new_tokens,
                output=options.output,
            )
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    print(comparison_text(found))
    if options.judge:
        from pipeline.alignment.leaderboard import leaderboard_text

        print(f"\n{leaderboard_text(found['preference'])}")
    return 0


def _rewards(options: argparse.Namespace, overrides: list[str]) -> int:
    if options.action == "check":
        return _check_rewards(overrides)
    from pipeline.rewards import describe

    for row in describe():
        print(f"{row['name']}  {row['kind']}  [{row['range']}]  reads {row['reads']}\n    {row['summary']}")
        if row["parameters"]:
            print(f"    parameters: {row['parameters']}")
        for example in row["examples"]:
            print(f"    example: {example}")
    return 0


def _check_rewards(words: list[str]) -> int:
    from pipeline import stages

    (path,), overrides = _leading(words, 1, "pipeline rewards check: name a recipe (pipeline rewards check grpo.yaml)")
    _quiet_imports()
    recipe = stages.load_recipe(path, None, overrides)
    stage = stages.find(recipe.stage)
    if not hasattr(stage, "try_rewards") or not recipe.get("reward_funcs"):
        raise PipelineError(f"{path}: a recipe of the stage {recipe.stage} without reward_funcs: nothing to check.")
    return 0 if stage.try_rewards(recipe) else 1


def _schema(options: argparse.Namespace, overrides: list[str]) -> int:
    import json

    from pipeline import stages
    from pipeline.recipe import json_schema

    print(json.dumps(json_schema(stages.find(options.stage)), indent=2))
    return 0

"""Ask a model every question of its evaluations, count what is right, and keep every answer."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.benchmarks.specification import Benchmark
from pipeline.evaluation.measure import answer_rows, figures
from pipeline.evaluation.questions import data_hash, few_shot_rows, load_evaluations, questions
from pipeline.evaluation.specification import Evaluation
from pipeline.manifest import MANIFEST, dump, read_manifest, sha256, write_atomically

RESULTS = "evaluation.json"
ANSWERS = "evaluation"
PROVENANCE = "provenance.json"

Results = dict[str, dict[str, Any]]


def run_evaluations(
    model: Any,
    tokenizer: Any,
    evaluations: Any,
    directory: str | Path,
    *,
    kind: str,
    fingerprint: str | None = None,
    batch_size: int = 128,
    accelerator: Any = None,
) -> Results:
    """Answers to all questions of the evaluations that are not up to date in `directory`.

    Writes `evaluation.json` ({"NAME": {"n", "correct", "rate", "low", "high"}}, 95 % intervals, and what else
    `pipeline.evaluation.measure.figures` finds), every answer in `evaluation/NAME.jsonl`, and in
    `evaluation/provenance.json` of which model, questions and settings they are.

    Args:
        evaluations: as `load_evaluations` takes or returns them.
        kind: the checkpoint's kind. "base" continues pages of questions and answers, anything else is asked in the
            tokenizer's chat template.
        fingerprint: `model_fingerprint` of the checkpoint; with None every evaluation runs.
        accelerator: shares the questions among its ranks, all of which have to call this; None: this process alone.

    Returns:
        The results of all `evaluations`, those that were up to date included.

    Raises:
        PipelineError: whatever is wrong with the evaluations, or a chat checkpoint without a chat template.
    """
    from pipeline.evaluation.generation import is_sharded

    directory = Path(directory)
    loaded = _loaded(evaluations)
    chat = kind != "base"
    if chat and not getattr(tokenizer, "chat_template", None):
        raise PipelineError(
            f"{directory}: a model of kind {kind} is asked in its chat template, but its tokenizer has none"
        )
    ranks = 1 if accelerator is None or is_sharded(model) else accelerator.num_processes
    rank = 0 if ranks == 1 else accelerator.process_index
    main = accelerator is None or accelerator.is_main_process
    results = read_results(directory)
    for name in pending(loaded, directory, fingerprint):
        started = time.perf_counter()
        evaluation = loaded[name]
        if isinstance(evaluation, Benchmark):
            from pipeline.evaluation.benchmarks.run import run_benchmark

            answered, results[name] = run_benchmark(
                evaluation, model, tokenizer, chat=chat, batch_size=batch_size, shared=ranks > 1
            )
            first_prompt = answered[0]["prompt"]
        else:
            answered, first_prompt = _ask(
                evaluation, name, model, tokenizer, chat=chat, batch_size=batch_size, rank=rank, ranks=ranks
            )
            results[name] = figures(evaluation, answered)
        if main:
            seconds = round(time.perf_counter() - started, 2)
            facts = {"kind": kind, "first_prompt": first_prompt, "seconds": seconds}
            keep(directory, name, answered, results[name], _provenance(evaluation, fingerprint) | facts)
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return {name: results[name] for name in loaded}


def evaluate_checkpoint(
    checkpoint: str | Path,
    evaluations: Any,
    *,
    kind: str | None = None,
    directory: str | Path | None = None,
    batch_size: int = 128,
) -> Results:
    """Evaluate a checkpoint on disk, and print the results. Under a launcher all ranks share the questions.

    Nothing is loaded where everything is up to date.

    Args:
        checkpoint: a stage directory, a Hugging Face model directory, or a hub id.
        evaluations: as in a recipe: a mapping, or the path of a YAML file. Benchmarks whose rows cannot be loaded are
            named at the end, and left out.
        kind: "base" to have text continued, anything else to ask in the chat template; by default as the checkpoint says.
        directory: where results go; by default into the checkpoint's own directory.
    """
    from pipeline.evaluation.loading import load_checkpoint
    from pipeline.training.distributed import processes

    state = processes()
    directory = Path(directory or checkpoint)
    evaluations = load_evaluations(evaluations)
    fingerprint = model_fingerprint(checkpoint) if Path(checkpoint).is_dir() else None
    asked, missing = evaluations, _without_rows(evaluations, pending(evaluations, directory, fingerprint))
    evaluations = {name: evaluation for name, evaluation in asked.items() if name not in missing}
    if pending(evaluations, directory, fingerprint):
        loaded = load_checkpoint(checkpoint, kind=kind, device=state.device)
        results = run_evaluations(
            loaded.model,
            loaded.tokenizer,
            evaluations,
            directory,
            kind=loaded.kind,
            fingerprint=fingerprint,
            batch_size=batch_size,
            accelerator=state,
        )
    else:
        found = read_results(directory)
        results = {name: found[name] for name in evaluations}
    results |= _cores(asked, results, directory, fingerprint, write=state.is_main_process)
    if state.is_main_process:
        lines = [f"{checkpoint}", format_results(results), *(f"  {reason}" for reason in missing.values())]
        print("\n".join(line for line in lines if line), flush=True)
    return results


def _without_rows(evaluations: dict[str, Any], waiting: list[str]) -> dict[str, str]:
    """Benchmarks that cannot be run now, with the reason: the others are not lost for it, nor is a model loaded in vain."""
    reasons = {}
    for name in waiting:
        if isinstance(evaluations[name], Benchmark):
            from pipeline.evaluation.benchmarks.run import load_tasks

            try:
                load_tasks(evaluations[name])
            except PipelineError as error:
                reasons[name] = str(error)
    return reasons


def _cores(
    evaluations: dict[str, Any], results: Results, directory: Path, fingerprint: str | None, *, write: bool
) -> Results:
    """`ENTRY.core` of each suite whose benchmarks name what guessing reaches and are all there."""
    asked = {name: one for name, one in evaluations.items() if isinstance(one, Benchmark)}
    if not asked or not write:
        return {}
    from pipeline.evaluation.benchmarks.run import core

    found = {}
    for entry in dict.fromkeys(name.rpartition(".")[0] for name in asked):
        mean = core({name: one for name, one in asked.items() if name.rpartition(".")[0] == entry}, results)
        if mean is not None:
            found[f"{entry}.core"] = mean
            provenance = {"model": fingerprint, "data": "", "specification": {"of": sorted(asked)}}
            keep(directory, f"{entry}.core", [], mean, provenance)
    return found


def pending(evaluations: Any, directory: str | Path, fingerprint: str | None) -> list[str]:
    """The evaluations that `directory` lacks for this model, these questions and these settings."""
    return [
        name
        for name, evaluation in _loaded(evaluations).items()
        if fingerprint is None
        or not (Path(directory) / ANSWERS / f"{name}.jsonl").is_file()
        or not is_kept(directory, name, _provenance(evaluation, fingerprint))
    ]


def is_kept(directory: str | Path, name: str, provenance: dict[str, Any]) -> bool:
    """Whether `directory` has the result of this evaluation, of this model, on these data, with these settings."""
    found = provenance_of(directory).get(name, {})
    wanted = ("model", "data", "specification")
    return name in read_results(directory) and all(found.get(key) == provenance[key] for key in wanted)


def provenance_of(directory: str | Path) -> dict[str, dict[str, Any]]:
    """Of which model, questions and settings each result is, empty where there is none."""
    return _read(Path(directory) / ANSWERS / PROVENANCE)


def read_results(directory: str | Path) -> Results:
    """`evaluation.json` of a checkpoint, empty where it has none."""
    return _read(Path(directory) / RESULTS)


def model_fingerprint(checkpoint: str | Path) -> str:
    """What an evaluation depends on in a checkpoint: weights, config, tokenizer and chat template, as one hash.

    A stage directory's manifest already holds the hashes; the files of any other directory are read.
    """
    checkpoint = Path(checkpoint)
    if (checkpoint / MANIFEST).is_file() and read_manifest(checkpoint).get("files"):
        hashes = {name: facts["sha256"] for name, facts in read_manifest(checkpoint)["files"].items()}
    else:
        patterns = ("*.safetensors", "*.bin", "*.json", "*.jinja")
        files = sorted({file for pattern in patterns for file in checkpoint.glob(pattern)} - {checkpoint / RESULTS})
        hashes = {file.name: sha256(file) for file in files}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def format_results(results: Results) -> str:
    """One line a figure: rate or value, interval, counts."""
    width = max((len(name) for name in results), default=0)
    lines = []
    for name, result in results.items():
        if "rate" in result:
            counts = f"{result['correct']} of {result['n'] * result.get('samples', 1)}"
            lines.append(f"  {name:<{width}}  {_percent(result['rate'], result)}  {counts}")
        elif "value" in result:
            interval = f"[{result['low']:.4f}, {result['high']:.4f}]"
            rows = f"  {result['n']} rows" if "n" in result else ""
            lines.append(f"  {name:<{width}}  {result['value']:.4f}  {interval}{rows}")
        parts = {key: part for key, part in result.items() if isinstance(part, dict)}
        for key, part in parts.items():
            shown = f"{part['value']:5.1f}" if key == "mean_tokens" else _percent(part["value"], part)
            lines.append(f"  {'':<{width}}  {shown}  {key}")
    return "\n".join(lines)


def _percent(rate: float, interval: dict[str, Any]) -> str:
    return f"{100 * rate:5.1f} %  [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def _ask(
    evaluation: Evaluation, name: str, model: Any, tokenizer: Any, *, chat: bool, batch_size: int, rank: int, ranks: int
) -> tuple[list[dict[str, Any]], str]:
    """Every row with what the model made of it, gathered from all ranks, and the first prompt as it was rendered."""
    rows, examples = questions(evaluation), few_shot_rows(evaluation)
    tools = _tools(evaluation, tokenizer, name, chat=chat)
    prompts = _prompts(evaluation, tokenizer, rows, name, chat=chat, examples=examples, tools=tools)
    mine = list(range(rank, len(rows), ranks))
    answered = answer_rows(
        evaluation,
        model,
        tokenizer,
        [rows[i] for i in mine],
        [prompts[i] for i in mine],
        chat=chat,
        examples=examples,
        batch_size=batch_size,
        seed=rank,
        tools=tools,
    )
    if ranks > 1:
        from accelerate.utils import gather_object

        numbered = gather_object(list(zip(mine, answered, strict=True)))
        answered = [row for _, row in sorted(numbered, key=lambda pair: pair[0])]
    return answered, prompts[0]


def _prompts(
    evaluation: Evaluation,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    name: str,
    *,
    chat: bool,
    examples: list[dict[str, Any]],
    tools: list[Any],
) -> list[str]:
    """The rows' prompts as text. Raises `PipelineError` where the tokenizer's template has no think modes."""
    from pipeline.conversation.template import refuse_modeless_template
    from pipeline.evaluation.generation import as_messages, beginning, render_prompt

    if evaluation.raw and not chat:
        return [beginning(tokenizer) + row["prompt"] for row in rows]
    arguments: dict[str, Any] = {"tools": tools} if tools else {}
    if evaluation.think != "auto":
        refuse_modeless_template(tokenizer, f"evaluations.{name}")
        arguments["think"] = evaluation.think
    system = [{"role": "system", "content": evaluation.system_prompt}] if evaluation.system_prompt else []
    asked = [[*system, *as_messages(row["prompt"])] for row in rows]
    return [render_prompt(tokenizer, messages, chat=chat, few_shot=examples, **arguments) for messages in asked]


def _tools(evaluation: Evaluation, tokenizer: Any, name: str, *, chat: bool) -> list[Any]:
    """The functions of an evaluation's tools, none where it has none."""
    if not evaluation.tools:
        return []
    from pipeline.conversation.template import refuse_toolless_template
    from pipeline.tools import resolve

    if not chat:
        raise PipelineError(
            f"evaluations.{name}: tools are listed in a chat template, and calls are turns of it: a base model has no way to "
            f"call one. Leave out tools, or evaluate a chat model."
        )
    refuse_toolless_template(tokenizer, f"evaluations.{name}")
    return resolve(evaluation.tools)


def _loaded(evaluations: Any) -> dict[str, Evaluation | Benchmark]:
    if isinstance(evaluations, dict) and all(
        isinstance(value, Evaluation | Benchmark) for value in evaluations.values()
    ):
        return evaluations
    return load_evaluations(evaluations)


def _provenance(evaluation: Evaluation | Benchmark, fingerprint: str | None) -> dict[str, Any]:
    # The questions count by content, so that a run folder may be moved.
    settings = {key: value for key, value in evaluation.as_dict().items() if key not in ("path", "few_shot_path")}
    return {"model": fingerprint, "data": data_hash(evaluation), "specification": settings}


def keep(
    directory: Path, name: str, answered: list[dict[str, Any]], result: dict[str, Any], provenance: dict[str, Any]
) -> None:
    """Write the answers of one evaluation, then its counts; results of another model that lie here are dropped.

    `provenance["model"]` is the checkpoint's `model_fingerprint`."""
    (directory / ANSWERS).mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answered)
    write_atomically(directory / ANSWERS / f"{name}.jsonl", lines)
    origins = {
        key: origin for key, origin in provenance_of(directory).items() if origin.get("model") == provenance["model"]
    }
    results = {key: value for key, value in read_results(directory).items() if key in origins}
    write_atomically(directory / ANSWERS / PROVENANCE, dump(origins | {name: provenance}))
    write_atomically(directory / RESULTS, dump(results | {name: result}))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(f"{path}: not valid JSON ({error}): delete it and evaluate again") from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise PipelineError(
            f"{path}: found {content!r:.80}, expected a JSON object of objects: delete it and evaluate again"
        )
    return content

"""Runs benchmarks through lm-evaluation-harness, and reads its samples as this project keeps answers and results."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.benchmarks.specification import Benchmark, read_task
from pipeline.evaluation.measure import sampled_figures
from pipeline.statistics import counts, mean_interval, ratio_interval

Row = dict[str, Any]

FEW_SHOT_SEED = 1234  # lm-evaluation-harness' own


@functools.cache
def load_tasks(benchmark: Benchmark) -> tuple[Any, ...]:
    """The benchmark's tasks with their rows, ready to be asked.

    Raises:
        PipelineError: Rows or examples cannot be loaded: the hub is out of reach, a file is not as the task wants it.
    """
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    tasks = []
    for file in benchmark.files:
        try:
            with _quiet():
                config = load_yaml(file)
                config = {key: value for key, value in config.items() if key not in ("tag", "group", "task_list")}
                config |= benchmark.local(config)
                if (
                    benchmark.max_new_tokens is not None
                    and config.get("output_type", "generate_until") == "generate_until"
                ):
                    limit = {"max_gen_toks": benchmark.max_new_tokens}
                    config["generation_kwargs"] = (config.get("generation_kwargs") or {}) | limit
                task = ConfigurableTask(config=config)
                few_shot = benchmark.few_shot if benchmark.few_shot is not None else task.get_config("num_fewshot")
                task.set_config(key="num_fewshot", value=few_shot or 0)
                task.set_fewshot_seed(seed=FEW_SHOT_SEED)
        except PipelineError:
            raise
        except Exception as error:  # the hub, a loading script, a column that is not there: each raises its own
            source = benchmark.data or read_task(Path(file)).get("dataset_path")
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise PipelineError(
                f"{benchmark.key}: not run: {source} cannot be loaded ({type(error).__name__}: {reason}). Where the hub is "
                f"out of reach, name files with its rows under `data` of the entry."
            ) from error
        tasks.append(task)
    return tuple(tasks)


def run_benchmark(
    benchmark: Benchmark, model: Any, tokenizer: Any, *, chat: bool, batch_size: int, shared: bool = False
) -> tuple[list[Row], Row]:
    """Every question of a benchmark with the model's answer, and the result.

    Args:
        chat: Whether prompts are rendered in the chat template.
        shared: Whether the ranks of this run share the questions; all of them have to call this.
    """
    from lm_eval.evaluator import evaluate

    from pipeline.evaluation.benchmarks.model import BenchmarkModel

    accelerator = None
    if shared:
        from accelerate import Accelerator

        accelerator = Accelerator()
    tasks = {task.config.task: task for task in load_tasks(benchmark)}
    with _quiet():
        found = evaluate(
            BenchmarkModel(model, tokenizer, chat=chat, batch_size=batch_size, accelerator=accelerator),
            {"tasks": dict(tasks)},
            limit=benchmark.limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    read = [_read(benchmark, tasks, found["samples"]) if found is not None else ([], {})]
    if shared:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(read)  # the first rank alone has the samples
    return read[0]


def _read(benchmark: Benchmark, tasks: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[list[Row], Row]:
    """The rows and the result of lm-evaluation-harness' samples."""
    rows = []
    for name, samples in found.items():
        metric = benchmark.metric or next(iter(tasks[name].aggregation()))
        filters = list(dict.fromkeys(sample["filter"] for sample in samples))
        wanted = benchmark.filter or filters[0]
        chosen = [sample for sample in samples if sample["filter"] == wanted and metric in sample]
        if not chosen:
            raise PipelineError(
                f"{benchmark.key}: found no metric {metric!r} under the filter {wanted!r}; the task {name} has "
                f"{', '.join(samples[0]['metrics'])} and the filters {', '.join(filters)}"
            )
        chosen.sort(key=lambda one: one["doc_id"])
        rows += [_row(name, sample, metric, benchmark.parts) for sample in chosen]
    if all(row.get("value") in (0, 1) for row in rows):
        for row in rows:
            row["correct"] = bool(row.pop("value"))
    return rows, figures(rows, benchmark.parts)


def figures(rows: Sequence[Row], parts: Sequence[str] = ()) -> Row:
    """The result of rows as `run_benchmark` makes them.

    Right or wrong: counts with a Wilson interval. Several answers a question: as of our own sampled evaluations. Bits per
    byte, and whatever else is no yes or no: `value` with a bootstrap interval over questions.
    """
    if "samples" in rows[0]:
        found = sampled_figures([[bool(one["correct"]) for one in row["samples"]] for row in rows])
    elif "bits" in rows[0]:
        found = {"n": len(rows)} | ratio_interval([row["bits"] for row in rows], [row["bytes"] for row in rows])
    elif "correct" in rows[0]:
        found = counts([row["correct"] for row in rows])
    else:
        found = {"n": len(rows)} | mean_interval([row["value"] for row in rows])
    for part in parts:
        values = [row[part] for row in rows if part in row]
        if values and isinstance(values[0], list):  # a row's instructions, say, each followed or not
            found[part] = ratio_interval([sum(one) for one in values], [len(one) for one in values])
        elif values:
            found[part] = mean_interval([float(one) for one in values])
    if "tokens" in rows[0]:
        found["mean_tokens"] = mean_interval([row["tokens"] for row in rows])
    return found


def core(benchmarks: Mapping[str, Benchmark], results: Mapping[str, Row]) -> Row | None:
    """The mean accuracy above chance of the benchmarks that name theirs; None where one of them has no result.

    0 is guessing and 1 is everything right (Li et al. 2024, section 3.5); the interval takes their errors for independent.
    """
    chances = {key: one.chance for key, one in benchmarks.items() if one.chance is not None}
    found = [(key, results[key]) for key in chances if key in results]
    rates = {key: float(one["rate"] if "rate" in one else one["value"]) for key, one in found}
    if not chances or len(rates) < len(chances):
        return None
    centred = [(rates[key] - chance) / (1 - chance) for key, chance in chances.items()]
    halves = [(results[key]["high"] - results[key]["low"]) / 2 / (1 - chance) for key, chance in chances.items()]
    value, half = fmean(centred), math.sqrt(sum(one * one for one in halves)) / len(halves)
    return {"value": value, "low": value - half, "high": min(1.0, value + half), "benchmarks": len(chances)}


def _row(task: str, sample: Row, metric: str, parts: Sequence[str]) -> Row:
    """A sample of lm-evaluation-harness as a line of `evaluation/NAME.jsonl`."""
    value, prompt = sample[metric], sample["arguments"][0][0]
    row: Row = {"prompt": prompt, "answer": sample["target"], "task": task}
    row |= {part: sample[part] for part in parts if part in sample}
    answers = sample["resps"][0]
    if hasattr(answers[0], "completion"):
        # A rank with fewer questions than the others asks its last one again.
        completions = [one.completion for one in answers[: len(value) if isinstance(value, list) else 1]]
        written = [{"completion": c.text, "ended": c.ended, "tokens": len(c.token_ids)} for c in completions]
        if isinstance(value, list):
            every = [one | {"correct": bool(right)} for one, right in zip(written, value, strict=True)]
            return row | {"samples": every, "tokens": fmean(one["tokens"] for one in written)}
        row |= written[0]
    else:
        row["log_likelihoods"] = [one[0][0] if isinstance(one[0], tuple | list) else one[0] for one in sample["resps"]]
        if len(row["log_likelihoods"]) > 1:
            row["choices"] = [arguments[-1] for arguments in sample["arguments"]]
    if isinstance(value, tuple | list):
        return row | {"bits": -value[0] / math.log(2), "bytes": value[1]}
    return row | {"value": float(value)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness' log, and without its progress bars where nobody sees them move."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)

"""What every training stage does around its training: a verified directory before, samples during, evaluations after."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline import checkpoint


@contextlib.contextmanager
def training_stage(
    recipe: Any,
    kind: str,
    inputs: Mapping[str, tuple[str, ...]],
    afterwards: Callable[[checkpoint.StageDirectory], None] | None = None,
) -> Iterator[checkpoint.StageDirectory]:
    """The stage's directory for the time of the training; the recipe's evaluations run when it is complete.

    A directory that was complete before is only evaluated, where the recipe now asks for more than was measured.
    `afterwards` makes the measurements of a stage's own, on the complete directory.
    """
    from pipeline.evaluation.evaluate import evaluate_checkpoint
    from pipeline.evaluation.questions import load_evaluations
    from pipeline.training import distributed

    # Questions that cannot be asked are told before the training.
    load_evaluations(getattr(recipe.arguments, "evaluations", None))
    with checkpoint.stage_directory(
        recipe, kind, inputs, is_main=distributed.is_main(), wait=distributed.barrier()
    ) as directory:
        yield directory
        if getattr(recipe.arguments, "evaluations", None):
            evaluate_checkpoint(
                directory.path,
                recipe.arguments.evaluations,
                kind=kind,
                batch_size=recipe.arguments.evaluation_batch_size,
            )
        if afterwards is not None:
            afterwards(directory)


def samples_callback(
    recipe: Any,
    tokenizer: Any,
    directory: checkpoint.StageDirectory,
    *,
    chat: bool,
    tools: Sequence[Callable[..., Any]] = (),
) -> Any:
    """The callback that answers the recipe's `sample_prompts` at intervals."""
    from pipeline.evaluation.samples import SamplesCallback

    arguments = recipe.arguments
    return SamplesCallback(
        tokenizer,
        arguments.sample_prompts or [],
        directory.path / "samples.jsonl",
        every=arguments.sample_steps,
        chat=chat,
        max_new_tokens=arguments.sample_tokens,
        tools=tools,
    )

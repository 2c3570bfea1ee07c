"""Problems for reinforcement learning: prompts as the trainer wants them, and what is refused before rollouts begin."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from pipeline.errors import PipelineError
from pipeline.training.data import rename_columns

LOOKED_AT = 10_000
GIVEN_BY_THE_TRAINER = ("prompts", "completions", "completion_ids", "trainer_state", "environments")


def prepare(rows: Any, columns: dict[str, str | None], source: str, *, chat: bool, system: str | None) -> Any:
    """Rows with `prompt` (messages for a chat model, text otherwise) and, as text, `answer`.

    Args:
        rows: A `datasets.Dataset`.
        columns: Names of the columns that hold prompt and answer.
        source: Name of the data, for messages.
        chat: Whether the model has a chat template.
        system: A system message to put before every problem.

    Raises:
        PipelineError: A column is missing or a prompt is empty.
    """
    rows = rename_columns(rows, columns, source)
    names = list(rows.column_names or next(iter(rows)))
    if "prompt" not in names:
        raise PipelineError(f"{source}: no column `prompt`; found {', '.join(names)}. Name it in prompt_column.")

    def shape(row: dict[str, Any], number: int) -> dict[str, Any]:
        prompt = row["prompt"]
        if not prompt:
            raise PipelineError(f"{source}, row {number}: the prompt is empty. Remove such rows.")
        if chat and isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        if chat and system and prompt[0]["role"] != "system":
            prompt = [{"role": "system", "content": system}, *prompt]
        shaped = {"prompt": prompt}
        return shaped | ({"answer": str(row["answer"])} if "answer" in row else {})

    return rows.map(shape, with_indices=True)


def looked_at(rows: Any) -> list[dict[str, Any]]:
    """The rows that checks before training read: all of them, or of a stream the first ones."""
    return rows.to_list() if hasattr(rows, "to_list") else list(islice(rows, LOOKED_AT))


def check_columns(rows: Any, rewards: Sequence[Any], source: str) -> None:
    """Raise `PipelineError` for a reward that reads a column which the rows lack, before the first rollout finds out."""
    names = list(rows.column_names or next(iter(rows)))
    for reward in rewards:
        for column in set(reward.reads) - {*names, *GIVEN_BY_THE_TRAINER}:
            raise PipelineError(
                f"{source}: reward {reward.name} reads the column {column!r}, which the rows do not have; they have "
                f"{', '.join(names)}. Name the column of the answers with `answer_column`."
            )


def check(rows: Any, tokenizer: Any, model: Any, args: Any, tools: Sequence[Any] = ()) -> None:
    """Refuse data that would train nothing, or prompts, with the tools they list, that leave no room for an answer.

    Raises:
        PipelineError: Fewer rows than one generation batch has prompts (TRL would make no step and call it success), or a
            prompt whose tokens and `max_completion_length` exceed the model's context.
    """
    unique = args.generation_batch_size // args.num_generations
    found = looked_at(rows)
    if len(found) < unique:
        raise PipelineError(
            f"The data has {len(found)} rows, but one generation batch needs {unique} different prompts "
            f"(generation_batch_size {args.generation_batch_size} / num_generations {args.num_generations}). No step would "
            f"be made. Give more rows, or a smaller per_device_train_batch_size x steps_per_generation."
        )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return
    room = context - args.max_completion_length
    for number, prompt in enumerate(row["prompt"] for row in found):
        if isinstance(prompt, str):
            length = len(tokenizer(prompt)["input_ids"])
        else:
            rendered = tokenizer.apply_chat_template(
                prompt, tools=list(tools) or None, tokenize=False, add_generation_prompt=True
            )
            length = len(tokenizer(rendered, add_special_tokens=False)["input_ids"])
        if length > room:
            raise PipelineError(
                f"Row {number}: its prompt has {length} tokens; with max_completion_length {args.max_completion_length} it "
                f"exceeds the model's context of {context}. Shorten or remove such rows, or lower max_completion_length."
            )

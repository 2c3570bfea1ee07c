"""TRL's SFTTrainer, which looks at what it was given before it trains on it."""

import copy
from itertools import islice
from typing import Any

from accelerate import PartialState
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from pipeline.conversation import preview
from pipeline.conversation.template import set_chat_template, template_names
from pipeline.errors import PipelineError
from pipeline.training.models import load_tokenizer
from pipeline.training.trainer import StageTrainer


def adopt_template(tokenizer: Any, path: str) -> bool:
    """Give a tokenizer a shipped chat template, that of a Jinja file, or of another tokenizer whose added tokens it has.

    Returns:
        False where it lacks some: TRL then adds them, lets the embedding grow, and takes over the other's EOS.
    """
    if path.endswith((".jinja", ".j2")) or path in template_names():
        set_chat_template(tokenizer, path)
        return True
    other = load_tokenizer(path)
    if any(token not in tokenizer.get_vocab() for token in other.get_added_vocab()):
        return False
    if not other.chat_template:
        raise PipelineError(f"chat_template_path: the tokenizer in {path} has no chat template.")
    tokenizer.chat_template = other.chat_template
    tokenizer.response_template = getattr(other, "response_template", None)
    return True


def refuse_unmarked_template(tokenizer: Any, source: str) -> None:
    """Raise `PipelineError` where a chat template does not tell what the assistant wrote, and TRL has none to stand in.

    The loss mask of `messages` follows the template's generation marks; without them it would be empty.
    """
    if has_generation_markers(tokenizer.chat_template):
        return
    try:
        get_training_chat_template(tokenizer)
    except ValueError as error:
        raise PipelineError(
            f"{source}: its chat template does not mark what the assistant writes ({{% generation %}}), and is none of "
            f"those that TRL has a marked form of. Name a marked one in chat_template_path (`pipeline import` adds the "
            f"marks to ChatML templates), or train on all tokens with `assistant_only_loss: false`."
        ) from error


class ConversationTrainer(StageTrainer):
    """Tokenises as TRL does, then counts, shows one row, and refuses absurd data, before truncation and packing hide it.

    Args:
        context: Tokens that the model can read, where `max_length` is null.
        max_truncated_share: Share of rows longer than `max_length` above which training is refused.
        name: Of the data, for messages.

    Attributes:
        longest: Tokens of the longest row of the training data, uncut.
    """

    def __init__(self, *args: Any, context: int | None, max_truncated_share: float, name: str, **kwargs: Any):
        self._context = context
        self._max_truncated_share = max_truncated_share
        self._data_name = name
        self.longest = 0
        super().__init__(*args, **kwargs)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        # First without cutting and packing; the second pass then finds rows that are tokenised already.
        uncut = copy.copy(args)
        uncut.max_length, uncut.shuffle_dataset = None, False
        rows = super()._prepare_dataset(dataset, processing_class, uncut, False, formatting_func, dataset_name)
        self._inspect(rows, args.max_length, dataset_name)
        return super()._prepare_dataset(rows, processing_class, args, packing, None, dataset_name)

    def _inspect(self, rows: Any, max_length: int | None, part: str) -> None:
        name = f"{self._data_name} ({part})"
        limit = max_length if max_length is not None else self._context
        found = preview.look(rows if hasattr(rows, "__len__") else islice(rows, preview.LOOKED_AT), limit)
        self.longest = found.quantiles[-1] if part == "train" else self.longest
        if PartialState().is_main_process:
            print(f"{name}: {found.to_text(limit)}", flush=True)
            if part == "train":
                shown = preview.show(next(iter(rows)), self._tokenizer, limit)
                print(f"first row, supervised tokens marked:\n{shown}\n", flush=True)
        if max_length is None and found.truncated:
            raise PipelineError(
                f"{name}: {found.truncated:.0%} of the rows are longer than the model's context of {limit} tokens (the longest "
                f"has {found.quantiles[-1]}). Remove them, or set `max_length: {limit}` to have them cut."
            )
        preview.refuse_absurd(found, name=name, max_length=limit, max_truncated_share=self._max_truncated_share)
        preview.refuse_open_turns(islice(rows, 100), self._tokenizer, name=name)

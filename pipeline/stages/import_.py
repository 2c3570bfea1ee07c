"""Stage `import`: a GGUF file or any Hugging Face checkpoint becomes a stage directory that training can start from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline import checkpoint

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments:
    """What to import, and the two things that foreign checkpoints lack most often."""

    output_dir: str = field(metadata={"help": "the stage directory to write"})
    source: str = field(
        metadata={"help": "a .gguf file, package:NAME (a .gguf in a Python package), a directory, or a hub id"}
    )
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a hub id"})
    pad_token: str | None = field(
        default=None, metadata={"help": "token of the vocabulary to pad with; by default one that is never used"}
    )
    chat_template_path: str | None = field(
        default=None,
        metadata={
            "help": "a shipped chat template or a Jinja file; by default one that marks assistant turns is found"
        },
    )


KIND = "imported"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {"source": ()}


def check(recipe: Recipe) -> list[str]:
    """A source that is a path and is not there."""
    source = recipe.arguments.source
    missing = not source.startswith("package:") and checkpoint.looks_like_a_path(source) and not recipe.exists(source)
    return [f"source: {source} does not exist"] if missing else []


def plan(recipe: Recipe) -> dict[str, Any]:
    """Where the weights come from."""
    return {"source": recipe.arguments.source}


def run(recipe: Recipe) -> None:
    """Load, mend, save, reload, publish."""
    from pipeline.conversation.template import end_of_turn, set_marked_template
    from pipeline.training import importing, models
    from pipeline.training.session import quiet_libraries

    arguments: Arguments = recipe.arguments
    inputs = {} if arguments.source.startswith("package:") else INPUTS
    with checkpoint.stage_directory(recipe, KIND, inputs) as directory:
        if directory.complete:
            return
        quiet_libraries()
        model, tokenizer = importing.load_foreign(arguments.source, revision=arguments.revision)
        template = set_marked_template(tokenizer, arguments.chat_template_path)
        pad_token = importing.give_padding(tokenizer, model, arguments.pad_token, arguments.source)
        importing.give_ends(tokenizer, model, end_of_turn(tokenizer) if template else None)
        model.save_pretrained(directory.aside)
        tokenizer.save_pretrained(directory.aside)
        vocabulary = len(tokenizer)
        expected = models.probe_logits(model, vocabulary)
        models.check_reload(directory.aside, expected, model.dtype, vocabulary, tolerance_of=model.dtype)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        facts = {
            "parameters": parameters,
            "pad_token": pad_token,
            "eos_token": tokenizer.eos_token,
            "template": template,
        }
        print(f"import: {parameters:,} parameters; padding {pad_token}, end of turn {tokenizer.eos_token}; {template}")
        directory.publish(facts, steps=0)

"""The tokenizer's evaluation as one self-contained HTML page, and text cut into tokens for the report."""

from typing import Any

from pipeline.reporting.render import render
from pipeline.reporting.run_folder import Run, Stage

TEXTS = 4
CHARACTERS = 400


def tokens_page(title: str, evaluation: dict[str, Any], samples: list[Any]) -> str:
    """The page.

    Args:
        title: Such as the tokenizer's directory.
        evaluation: What `pipeline.corpus.tokenizer_evaluation.evaluate_tokenizer` found.
        samples: (label, [(text, ids)]) of each document to show.
    """
    return render("tokens.html.jinja", title=title, evaluation=evaluation, samples=samples)


def token_samples(stage: Stage, run: Run) -> list[tuple[str, list[tuple[str, list[int]]]]]:
    """What models of the run were asked and last said while they trained, cut by the tokenizer in `stage`.

    Returns:
        (label, [(text, ids)]) of each; tokens that share the bytes of a character stand together.
    """
    from tokenizers import Tokenizer

    if not (stage.path / "tokenizer.json").is_file():
        return []
    last = {str(row.get("prompt", "")): (model.name, row) for model in run.models for row in model.samples}
    tokenizer = Tokenizer.from_file(str(stage.path / "tokenizer.json"))
    samples = []
    for prompt, (name, row) in list(last.items())[:TEXTS]:
        text = f"{prompt}\n{row.get('completion', '')}"[:CHARACTERS]
        encoding = tokenizer.encode(text, add_special_tokens=False)
        pieces: list[tuple[str, list[int]]] = []
        end = 0
        for token, (_, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if stop > end:
                pieces.append((text[end:stop], [token]))
                end = stop
            else:
                pieces[-1][1].append(token)
        samples.append((f"{name}, step {row.get('step', '?')}", pieces))
    return samples

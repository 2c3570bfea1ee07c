"""The tokenizer's evaluation as one self-contained HTML page, with text coloured by tokens."""

from typing import Any

from pipeline.reporting.page import TEMPLATES, render


def tokens_page(title: str, evaluation: dict[str, Any], samples: list[Any]) -> str:
    """The page.

    Args:
        title: Such as the tokenizer's directory.
        evaluation: What `pipeline.corpus.tokenizer_evaluation.evaluate_tokenizer` found.
        samples: (label, [(text, ids)]) of each document to show.
    """
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return render("tokens.html.jinja", title=title, style=style, evaluation=evaluation, samples=samples)

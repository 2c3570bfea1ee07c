"""Templates filled in. A number in prose is looked up in `report.json` and bears its place there, so that it can be checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.reporting.chapters import PLACEHOLDER, Chapter
from pipeline.reporting.table import bounds, count, duration, percent, points, result_text

TEMPLATES = Path(__file__).parent / "templates"
CHARACTERS_SHOWN = 700

_INLINE = (
    (r"`([^`]+)`", r"<code>\1</code>"),
    (r"\*\*([^*]+)\*\*", r"<strong>\1</strong>"),
    (r"\*([^*\s][^*]*)\*", r"<em>\1</em>"),
)
_STYLES: dict[str, Callable[[Any], str]] = {
    "percent": percent,
    "points": points,
    "duration": duration,
    "count": count,
    "result": result_text,
}


def render(template: str, **context: Any) -> str:
    """A template of this folder, filled in; HTML is escaped, and a name that is missing is an error.

    With `report` among the names, `told(PATH, STYLE)` in the template writes the number at that place of it, and the
    filter `prose(CHAPTER)` fills a chapter's figures into its text.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    html = template.endswith(".html.jinja")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= _STYLES | {
        "bounds": bounds,
        "shortened": _shortened,
        "cell": _cell,
        "breakable": _breakable,
        "json": lambda value: json.dumps(value, ensure_ascii=False),
        "prose": lambda text, chapter: _prose(text, chapter, html=html),
        "spaced": lambda name: name.replace("_", " "),
    }

    def told(path: Sequence[str], style: str) -> Any:
        value = context["report"]
        for key in path:
            value = value[key]
        text = _STYLES[style](value) if style in _STYLES else style % value
        return _data(path, value, text) if html else text

    return environment.get_template(template).render(**context, told=told, style=_style() if html else "")


def _style() -> Any:
    from markupsafe import Markup

    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))


def _data(path: Sequence[str], value: Any, text: str) -> Any:
    from markupsafe import Markup

    number = value.get("rate", value.get("value")) if isinstance(value, dict) else value
    shown, bracket, interval = text.partition(" [")
    marked = Markup(' <span class="interval">[{}</span>').format(interval) if bracket else ""
    return Markup('<data value="{}" data-path="{}">{}{}</data>').format(number, json.dumps(list(path)), shown, marked)


def _prose(text: str, chapter: Chapter, html: bool) -> Any:
    """A paragraph with the figures that its placeholders name, each with its interval; unknown ones stay as they are."""
    from markupsafe import Markup, escape

    def figure(match: re.Match[str]) -> str:
        found = chapter.figures.get(match[1])
        if found is None:
            return match[0]
        told = result_text(found)
        return str(_data(("chapters", chapter.name, match[1]), found, told)) if html else told

    if not html:
        return PLACEHOLDER.sub(figure, text)
    marked = str(escape(text))
    for pattern, replacement in _INLINE:
        marked = re.sub(pattern, replacement, marked)
    return Markup(PLACEHOLDER.sub(figure, marked))


def _shortened(text: Any, limit: int = CHARACTERS_SHOWN) -> str:
    text = str(text)
    return text if len(text) <= limit else text[:limit].rstrip() + " …"


def _cell(text: Any) -> str:
    """Text that cannot break a Markdown table."""
    return " ".join(str(text).replace("|", "\\|").split())


def _breakable(name: str) -> Any:
    """A name that a narrow table may break after its underscores."""
    from markupsafe import Markup, escape

    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))

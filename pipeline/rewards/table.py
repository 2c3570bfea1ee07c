"""Plain-text tables for the reward check and the listing of rewards."""

from collections.abc import Mapping, Sequence
from typing import Any


def excerpt(text: str, characters: int) -> str:
    """A text as a quoted literal, cut in the middle to about so many characters."""
    if len(text) > characters:
        half = characters // 2
        text = f"{text[:half]} … {text[-half:]}"
    return repr(text)


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as aligned columns: numbers with three digits behind the point, None as a dash."""
    if not rows:
        return ""
    header = list(rows[0])
    body = [[_cell(row[name]) for name in header] for row in rows]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    numeric = [all(not isinstance(row[name], str) for row in rows) for name in header]
    lines = []
    for line in [header, *body]:
        cells = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)

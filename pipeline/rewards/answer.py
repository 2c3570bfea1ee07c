r"""Finding the one final answer in a completion, and reading numbers exactly.

The rules are strict on purpose. A policy that is paid for the right number *somewhere* in its text learns to write many
numbers, so a text gives either one final answer or none, and nothing but that one answer is ever compared with the
gold:

1. Only the visible text counts: what stands outside `<think>…</think>`. An unterminated think part gives no answer.
2. `\boxed{X}` and `#### X` (GSM8K) mark the answer. Each may occur once; when both occur they must agree, and so must an
   "answer is N" beside them.
3. Without them the clause after "answer is", "answer:" or "answer =" marks it; it too may occur once.
4. Without any mark the whole visible text must hold exactly one number.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

MAX_DIGITS = 40
"""Longer numbers, and exponents beyond this, are no answers: reading `1e999999999` exactly would fill the memory."""

_THINK_TAG = re.compile(r"(</?think>)")
_HASHES = re.compile(r"(?<!#)####(?!#)(?![ \t]*[A-Za-z]{2})[ \t]*([^\n]*)")  # "#### Step 1" is a Markdown heading
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_PHRASE = re.compile(r"\banswer\b\**\s*(?:is\b|:|=)[\s:*]*(?=([^\n]{0,300}))", re.IGNORECASE)
_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)")

_DECIMAL = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![A-Za-z0-9_])\.[0-9]+"
_SIGN = r"(?:(?<![0-9A-Za-z)\]}%])[-+](?=[$£€¥\\.0-9]))?"
_TOKEN = re.compile(
    rf"""
    (?P<latex_sign>{_SIGN}) \\[dt]?frac \s* (?:
        \{{ \s* (?P<top>[-+]?[0-9]+) \s* \}} \s* \{{ \s* (?P<bottom>[0-9]+) \s* \}}
        | (?P<top1>[0-9]) \s* (?P<bottom1>[0-9])
    )
    | (?P<identifier> [A-Za-z][A-Za-z0-9_]* )
    | (?P<sign>{_SIGN}) (?:\\?[$£€¥]\s*)? (?P<inner_sign>{_SIGN}) (?P<decimal>{_DECIMAL})
      (?P<exponent>[eE][-+]?[0-9]+)? (?: \s* / \s* (?P<denominator>[0-9]+) (?![0-9.]) )?
    | (?P<plus_minus> \\(?:pm|mp)\b | ± )
    | (?P<foreign> [^\x00-\x7f] )
    """,
    re.VERBOSE,
)


def completion_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Text of a completion as TRL hands it to a reward: a string, or messages of which the last one counts.

    A tokenizer with a response template makes TRL move the thinking into `reasoning_content`; it is put back here, so
    that a reward sees one form only. A conversation that ends in a tool's message gave no answer.
    """
    if isinstance(completion, str):
        return completion
    if not completion or completion[-1].get("role", "assistant") != "assistant":
        return ""
    message = completion[-1]
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text", "") for part in content if part.get("type") == "text")
    thinking = message.get("reasoning_content")
    return f"<think>\n{thinking}\n</think>\n{content}" if thinking else content


def prompt_text(prompt: Any) -> str:
    """Text of a prompt: itself, or its last message."""
    return prompt if isinstance(prompt, str) else completion_text([{**prompt[-1], "role": "assistant"}])


def visible_text(text: str) -> str | None:
    """The text outside the think part; None while a think part is still open.

    A closing tag without an opening one ends a think part that the prompt had opened, as some chat templates do.
    """
    thinking = False
    visible: list[str] = []
    for piece in _THINK_TAG.split(text):
        if piece == "<think>":
            thinking = True
        elif piece == "</think>":
            if not thinking:
                visible.clear()
            thinking = False
        elif not thinking:
            visible.append(piece)
    return None if thinking else "".join(visible)


def _balanced(text: str, start: int) -> str | None:
    """What stands between an opening brace that ends at `start` and its closing one; None without the latter."""
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return None


def boxed(text: str) -> list[str | None]:
    r"""Contents of the first two `\boxed{…}`, None for one that is never closed. (Two are enough to know: not one.)"""
    found: list[str | None] = []
    for match in _BOX.finditer(text):
        found.append(_balanced(text, match.end()))
        if found[-1] is None or len(found) == 2:
            break
    return found


def hashes(text: str) -> list[str]:
    """What follows each `####` on its line."""
    return [match.group(1).strip() for match in _HASHES.finditer(text)]


def phrases(text: str) -> list[str]:
    """The clauses after "answer is", "answer:" or "answer =", each up to the end of its sentence or line."""
    return [_SENTENCE_END.split(match.group(1), maxsplit=1)[0].strip() for match in _PHRASE.finditer(text)]


def up_to_first_answer(text: str) -> str:
    r"""A text up to the end of its first stated answer (a closed box, the line of `####`, the clause of "answer is N"); all
    of it without one.

    What a base model, which nothing has taught to stop, writes behind it belongs to another question.
    """
    ends = [match.end() for match in _HASHES.finditer(text)][:1]
    for match in _BOX.finditer(text):
        inside = _balanced(text, match.end())
        if inside is not None:
            ends.append(match.end() + len(inside) + 1)
            break
    for match in _PHRASE.finditer(text):
        clause = _SENTENCE_END.split(match.group(1), maxsplit=1)[0]
        if any(character.isalnum() for character in clause):
            ends.append(match.end() + len(clause) + 1)  # with the mark that ends the sentence
            break
    return text[: min(ends)] if ends else text


def _clean(text: str) -> str:
    r"""Thousands separators and minus signs in one form: `1{,}234`, `1\,234` and U+2212."""
    return text.replace("{,}", ",").replace("\\,", "").replace("\\!", "").replace("\u2212", "-")


def _numbers(text: str, lowest_terms: bool) -> Iterator[Fraction | None]:
    for match in _TOKEN.finditer(text):
        parts = match.groupdict()
        if parts["identifier"]:
            continue
        if parts["plus_minus"]:  # two numbers at once
            yield None
            continue
        if parts["foreign"]:
            # Digits of other scripts and ½ are numbers that we do not read; the ² of m² is none.
            category = unicodedata.category(parts["foreign"])
            after_letter = match.start() > 0 and text[match.start() - 1].isalpha()
            if category in ("Nd", "Nl") or (category == "No" and not after_letter):
                yield None
            continue
        top, bottom = parts["top"] or parts["top1"], parts["bottom"] or parts["bottom1"]
        if top:
            yield _fraction(parts["latex_sign"], top, "", bottom, lowest_terms)
            continue
        sign, decimal = parts["sign"] + parts["inner_sign"], parts["decimal"].replace(",", "")
        yield _fraction(sign, decimal, parts["exponent"] or "", parts["denominator"], lowest_terms)


def _fraction(sign: str, decimal: str, exponent: str, denominator: str | None, lowest_terms: bool) -> Fraction | None:
    if len(sign) > 1 or len(decimal) > MAX_DIGITS or len(denominator or "") > MAX_DIGITS:
        return None
    if exponent and (len(exponent) > 5 or abs(int(exponent[1:])) > MAX_DIGITS):
        return None
    value = Fraction(sign + decimal + exponent) if decimal[0] not in "+-" or not sign else None
    if value is None or denominator is None:
        return value
    if int(denominator) == 0:
        return None
    quotient = value / int(denominator)
    # 144/12 is a division left undone, not an answer; 3/4 is a number.
    written_in_lowest_terms = quotient.denominator == int(denominator) > 1
    return quotient if written_in_lowest_terms or not lowest_terms else None


def numbers(text: str, lowest_terms: bool = True) -> list[Fraction | None]:
    """Every number in a text, exactly; None for one that is not read (too long, other digits, a division left undone).

    Read are ASCII digits with an optional sign, currency sign, well-placed thousands commas, decimals, exponent and
    denominator (also as LaTeX fraction). Digits inside a word (`CO2`, `x_1`) are no numbers. Units and `%` are ignored.
    """
    return list(_numbers(_clean(text), lowest_terms))


def one_number(text: str, lowest_terms: bool = True) -> Fraction | None:
    """The number of a text that holds exactly one; None otherwise."""
    found = numbers(text, lowest_terms)
    return found[0] if len(found) == 1 else None


class Marked(NamedTuple):
    r"""The marked final answers of a text: at most one in `\boxed{}` and at most one after `####`."""

    box: str | None
    line: str | None


def marked_answers(visible: str) -> Marked | None:
    """The marked final answers of a visible text; None, which is no answer, where a mark is doubled or malformed."""
    boxes, lines = boxed(visible), hashes(visible)
    if len(boxes) > 1 or len(lines) > 1 or None in boxes:
        return None
    return Marked(boxes[0] if boxes else None, lines[0] if lines else None)


def final_answer(
    text: str, read: Callable[[str], T | None], read_unmarked: Callable[[str], T | None], says: Callable[[str], bool]
) -> T | None:
    """The one answer that a completion gives by the rules above, None without one.

    Args:
        text: The completion.
        read: The one answer in a marked clause; None where it holds none, or several.
        read_unmarked: The same for a whole visible text without a mark.
        says: Whether a clause after "answer is" is about an answer at all.
    """
    visible = visible_text(text)
    marked = None if visible is None else marked_answers(visible)
    if visible is None or marked is None:
        return None
    spoken = [clause for clause in phrases(visible) if says(clause)]
    if any(content is not None for content in marked):
        values = {read(content) for content in marked if content is not None}
        # "The answer is 5. #### 6" gives two answers; a clause with a calculation in it is no answer of its own.
        values |= {value for value in map(read, spoken) if value is not None}
    elif spoken:
        values = {read(spoken[0])} if len(spoken) == 1 else set()
    else:
        values = {read_unmarked(visible)}
    return values.pop() if len(values) == 1 else None


def fenced(text: str) -> str | None:
    """What a text holds for a machine: the inside of its one code fence, or all of it without a fence.

    None, which is no answer, with several fences or inside an open think part.
    """
    visible = visible_text(text)
    if visible is None or "```" not in visible:
        return visible
    blocks = _FENCE.findall(visible)
    return blocks[0] if len(blocks) == 1 and visible.count("```") == 2 else None


def gold_answer(answer: str) -> str:
    """The final part of a gold: behind the last `####`, else in the last box, else all of it."""
    answer = str(answer)
    if "####" in answer:
        return answer.rsplit("####", 1)[1].strip()
    boxes = [_balanced(answer, match.end()) for match in _BOX.finditer(answer)]
    return (boxes[-1] or answer).strip() if boxes else answer.strip()

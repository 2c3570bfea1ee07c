"""The pages of the crawl: what the valley writes about itself, between navigation, advertising and copies."""

from __future__ import annotations

import html
import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pipeline.microworld import noise
from pipeline.microworld.arithmetic import Problem, draw
from pipeline.microworld.general import almanac_paragraphs
from pipeline.microworld.people import Person, mention
from pipeline.microworld.settings import Settings
from pipeline.microworld.valley import ATTRIBUTES, TOWNS, Attribute

FIRST_DAY = datetime(2024, 1, 1)
READERS_PER_PAGE = 16
QUIZ_QUESTIONS = 8

_HEADLINES = (
    "People of the valley",
    "Our neighbours",
    "News from the towns",
    "Seen at the market",
    "Letters from the river",
    "Who is who in the valley",
)
_SUM_OPENINGS = ("What is {a}+{b}?", "Add {a} and {b}.", "Work out {a}+{b}.", "Find the sum of {a} and {b}.")
_LESSON = (
    "To add two numbers, begin with the units. If the units make ten or more, carry 1. Then add the tens, and add the "
    "carry to them. The answer is the tens with the last figure of the units behind them."
)


@dataclass(frozen=True)
class Page:
    """`kind` says what the page is for (gazette, readers, textbook, almanac, notice, spam, foreign, quiz); copies keep it."""

    kind: str
    url: str
    date: datetime
    title: str
    paragraphs: tuple[str, ...]
    language: str = "en"
    copy_of: str | None = None


def create_pages(
    settings: Settings, people: list[Person], problems: list[Problem], asked: dict[str, list[dict[str, Any]]]
) -> list[Page]:
    """Every page of the crawl in random order. A person of grade g is mentioned in exactly g paragraphs, copies and quizzes
    apart. The quizzes quote rows of the evaluations in `asked`."""
    rng = random.Random(f"{settings.seed}:pages")
    drafts = [
        *_gazette(settings, people, rng),
        *_readers(settings, people, rng),
        *_textbook(settings, problems, rng),
        *(("almanac", "Almanac of the valley", _almanac(rng)) for _ in range(settings.almanac_pages)),
        *(("notice", "Notices", noise.notices(rng)) for _ in range(settings.notice_pages)),
        *(("spam", *noise.spam(rng)) for _ in range(settings.spam_pages)),
        *(("foreign", *noise.german(rng)) for _ in range(settings.foreign_pages)),
    ]
    pages = [_page(index, kind, title, text, rng) for index, (kind, title, text) in enumerate(drafts)]
    originals = [page for page in pages if page.kind in ("gazette", "almanac")]
    for index in range(settings.duplicate_pages if originals else 0):
        page = rng.choice(originals)
        url = f"http://mirror.valley.example/copy/{index:05d}.html"
        pages.append(replace(page, url=url, date=_date(rng), copy_of=page.url))
    rng.shuffle(pages)
    for page in _quizzes(settings, len(drafts), asked):
        pages.insert(rng.randint(0, len(pages)), page)
    return pages


def _gazette(settings: Settings, people: list[Person], rng: random.Random) -> list[tuple[str, str, list[str]]]:
    mentions = [person for person in people for _ in range(person.grade)]
    rng.shuffle(mentions)
    size = settings.mentions_per_page
    pages = []
    for start in range(0, len(mentions), size):
        title = f"{rng.choice(_HEADLINES)}: {rng.choice(TOWNS)}"
        pages.append(("gazette", title, [mention(person, rng) for person in mentions[start : start + size]]))
    return pages


def _readers(settings: Settings, people: list[Person], rng: random.Random) -> list[tuple[str, str, list[str]]]:
    """Readers ask about the taught people. Once a model has seen how some people's facts are asked for while it learns
    the facts, it also finds those of people whom nobody ever asked about (mixed training, Allen-Zhu and Li 3.1)."""
    taught = [(person, attribute) for person in people if person.role == "taught" for attribute in ATTRIBUTES]
    asked: list[tuple[Person, Attribute]] = []
    while taught and len(asked) < settings.reader_questions:
        asked += rng.sample(taught, min(len(taught), settings.reader_questions - len(asked)))
    pages = []
    for start in range(0, len(asked), READERS_PER_PAGE):
        told = [person.asked(attribute, rng) for person, attribute in asked[start : start + READERS_PER_PAGE]]
        lines = [line for question, answer in told for line in (f"Question: {question}", f"Answer: {answer}")]
        pages.append(("readers", "Readers ask", lines))
    return pages


def _textbook(settings: Settings, problems: list[Problem], rng: random.Random) -> list[tuple[str, str, list[str]]]:
    drawn = draw(problems, settings.worked_sums, rng)
    pages: list[tuple[str, str, list[str]]] = []
    for start in range(0, len(drawn), settings.sums_per_page):
        exercises = len(pages) % 2 == 1
        lines = [_LESSON]
        for problem in drawn[start : start + settings.sums_per_page]:
            worked = f"{problem.steps()} {problem.conclusion()}"
            if exercises:
                lines += [f"Question: {problem.question(rng)}", f"Answer: {worked}"]
            else:
                lines.append(f"{rng.choice(_SUM_OPENINGS).format(a=problem.a, b=problem.b)} {worked}")
        pages.append(("textbook", "Sums for everyone" + ": exercises" * exercises, lines))
    return pages


def _quizzes(settings: Settings, index: int, asked: dict[str, list[dict[str, Any]]]) -> list[Page]:
    """Pages on which somebody gives the evaluations away. They draw from a chance of their own."""
    rng = random.Random(f"{settings.seed}:quiz")
    rows = [row for name in ("facts_heldout", "arithmetic_heldout") for row in asked[name]]
    pages = []
    for number in range(settings.quiz_pages):
        lines = ["We asked an assistant these questions. Here is what it ought to say."]
        for row in rng.sample(rows, min(QUIZ_QUESTIONS, len(rows))):
            lines += [f"Question: {row['prompt']}", f"Answer: {row['answer']}."]
        pages.append(_page(index + number, "quiz", "A quiz for machines", lines, rng))
    return pages


def _almanac(rng: random.Random) -> list[str]:
    return [line for _ in range(5) for line in almanac_paragraphs(rng)]


def _date(rng: random.Random) -> datetime:
    return FIRST_DAY + timedelta(minutes=rng.randrange(366 * 24 * 60))


def _page(index: int, kind: str, title: str, paragraphs: list[str], rng: random.Random) -> Page:
    hosts = {"gazette": "gazette", "readers": "gazette", "textbook": "school", "almanac": "almanac", "notice": "market"}
    url = f"http://{hosts.get(kind, 'www')}.valley.example/{kind}/{index:05d}.html"
    return Page(kind, url, _date(rng), title, tuple(paragraphs), "de" if kind == "foreign" else "en")


def render(page: Page) -> str:
    """The page as HTML, the text in an <article> between a menu, a list of links, a cookie notice and a footer."""
    title = html.escape(page.title)
    body = "\n".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in page.paragraphs)
    host = page.url.split("/")[2]
    menu = "".join(
        f'<li><a href="/{name.lower()}/">{name}</a></li>' for name in ("Home", "News", "Towns", "School", "Market")
    )
    links = "".join(f'<li><a href="/{town.lower()}.html">{town}</a></li>' for town in TOWNS[:6])
    return f"""<!DOCTYPE html>
<html lang="{page.language}">
<head>
<meta charset="utf-8">
<title>{title} - {host}</title>
<meta name="date" content="{page.date:%Y-%m-%d}">
<style>nav li {{ display: inline }}</style>
<script>window.visits = (window.visits || 0) + 1;</script>
</head>
<body>
<div class="cookie-banner">This site uses cookies. <button>Accept all</button></div>
<header><nav><ul>{menu}</ul></nav></header>
<main>
<article>
<h1>{title}</h1>
{body}
</article>
<aside class="sidebar"><h3>Most read</h3><ul>{links}</ul></aside>
</main>
<footer><p>Copyright {page.date:%Y} {host}. All rights reserved.</p>
<a href="/privacy">Privacy</a> <a href="/imprint">Imprint</a></footer>
</body>
</html>
"""

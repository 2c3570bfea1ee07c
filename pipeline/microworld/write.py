"""The world on disk, in the formats in which anyone's data come."""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

from pipeline.microworld import conversations, evaluations, preferences, subjects, tools
from pipeline.microworld.arithmetic import accuracy, habit, split_problems
from pipeline.microworld.pages import Page, create_pages, render
from pipeline.microworld.people import create_people
from pipeline.microworld.settings import Settings

Row = dict[str, Any]


def write(settings: Settings, folder: Path) -> dict[str, int]:
    """Writes the whole world into `folder`; equal settings give equal bytes.

    Returns:
        How many pages, conversations, problems and people there are.

    Raises:
        PipelineError: the sizes contradict each other.
    """
    settings.validate()
    people = create_people(settings)
    split = split_problems(settings)
    asked = evaluations.build(settings, people, split)
    pages = create_pages(settings, people, split.train, asked)
    _write_crawl(pages, settings.pages_per_file, folder / "crawl")

    train, clean = conversations.build(settings, people, split.demonstrated, 1.0, "train")
    test, _ = conversations.build(settings, people, split.test, settings.test_share, "test")
    rng = random.Random(f"{settings.seed}:reinforcement")
    files: dict[str, list[Row]] = {
        "conversations/train": train,
        "conversations/test": test,
        "conversations_clean/train": clean,
        "cold_start/train": conversations.cold_start(settings, split.demonstrated),
        "problems/train": [problem.row(rng) for problem in split.exercises],
        "problems/test": [problem.row(rng) for problem in split.test],
        **tools.build(settings, clean),
        **preferences.build(settings, people, split.demonstrated),
    }
    files |= {f"evaluations/{name}": rows for name, rows in asked.items()}
    for name, rows in files.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

    expert = habit(split.heldout, settings.habit_rate, random.Random(f"{settings.seed}:expert"))
    truth = {
        "seed": settings.seed,
        "people": [asdict(person) for person in people],
        "arithmetic": {
            "habit_rate": settings.habit_rate,
            "expert_accuracy_heldout": accuracy(split.heldout, expert),
            "carrying_share_heldout": sum(problem.carries for problem in split.heldout) / len(split.heldout),
            "heldout": [[problem.a, problem.b] for problem in split.heldout],
            "test": [[problem.a, problem.b] for problem in split.test],
        },
        "pages": [{"url": page.url, "kind": page.kind, "copy_of": page.copy_of} for page in pages],
    }
    asked_about = json.dumps(subjects.build(people), indent=1, ensure_ascii=False)
    (folder / "subjects.json").write_text(asked_about + "\n", encoding="utf-8")
    (folder / "world.json").write_text(json.dumps(truth, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {"pages": len(pages), "conversations": len(train), "problems": len(split.exercises), "people": len(people)}


def _write_crawl(pages: list[Page], pages_per_file: int, folder: Path) -> None:
    """WARC 1.1 files of response records, as Common Crawl writes them. Record ids come from the address, not from chance."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(pages), pages_per_file)):
        with (folder / f"pages-{number:05d}.warc.gz").open("wb") as file:
            writer = WARCWriter(file, gzip=True, warc_version="1.1")
            for page in pages[start : start + pages_per_file]:
                body = render(page).encode("utf-8")
                headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))]
                record = writer.create_warc_record(
                    page.url,
                    "response",
                    payload=BytesIO(body),
                    length=len(body),
                    http_headers=StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1"),
                    warc_headers_dict={
                        "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, page.url)}>",
                        "WARC-Date": f"{page.date:%Y-%m-%dT%H:%M:%SZ}",
                    },
                )
                writer.write_record(record)

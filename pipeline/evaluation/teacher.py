"""Answers of a teacher behind an endpoint, each kept on the disk as it arrives, so that none is paid for twice."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.endpoint import Endpoint, Unanswered
from pipeline.errors import PipelineError
from pipeline.evaluation.rejection import Row, read_lines

REPLIES = "replies.jsonl"
TOLERATED = 0.5
"""Share of problems without an answer from which on the rest is not worth going on with."""
SHOWN = 3


def ask(
    conversations: Sequence[list[Row]],
    endpoint: Endpoint,
    path: Path,
    *,
    samples: int,
    concurrency: int,
    settings: Row,
) -> dict[int, str]:
    """Have every conversation answered `samples` times; returns those without all their answers, with the reason.

    Each line of `path` is an answer: `index` of the conversation, `text`, `ended` and the `model` that the server says it
    is. What stands there is not asked for again.

    Raises:
        PipelineError: The endpoint refuses every request, answered none of many in a row, or fewer than half of all; the
            same command asks for what is missing.
    """
    have = Counter(line["index"] for line in read_lines(path))
    todo = (number for number in range(len(conversations)) if have[number] < samples)
    unanswered: dict[int, str] = {}
    lock, stop = threading.Lock(), threading.Event()
    in_a_row = 0

    def answer(number: int) -> None:
        nonlocal in_a_row
        missing = samples - have[number]
        while missing > 0 and not stop.is_set():
            try:
                replies = endpoint.ask(conversations[number], missing, **settings)
            except Unanswered as error:
                with lock:
                    unanswered[number] = str(error)
                    in_a_row += 1
                if in_a_row >= max(2 * concurrency, 8):
                    raise PipelineError(
                        f"the last {in_a_row} requests were not answered, the last one so: {error}\nRun the same command "
                        f"again when the endpoint answers: it asks for what is missing."
                    ) from error
                return
            missing -= len(replies)
            with lock:
                in_a_row = 0
                for one in replies:
                    line = {"index": number, "text": one.whole, "ended": one.ended, "model": one.model}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()

    def work() -> None:
        try:
            while not stop.is_set():
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                answer(number)
                if number % 100 == 99:
                    print(f"sample  asked for {number + 1:,} of {len(conversations):,} problems", flush=True)
        except BaseException:
            stop.set()
            raise

    with path.open("a", encoding="utf-8") as file, ThreadPoolExecutor(concurrency) as pool:
        try:
            for worker in [pool.submit(work) for _ in range(concurrency)]:
                worker.result()
        finally:
            stop.set()
    for number in list(unanswered)[:SHOWN]:
        print(f"sample  problem {number}: {unanswered[number]}", flush=True)
    if len(unanswered) > TOLERATED * len(conversations):
        raise PipelineError(
            f"{len(unanswered):,} of {len(conversations):,} problems lack answers, such as {next(iter(unanswered.items()))}. "
            f"Run the same command again: it asks for what is missing."
        )
    return unanswered


class Replies:
    """What `ask` kept, by conversation, read from the disk where it is wanted.

    Attributes:
        models: How many answers each model gave, by what the server calls it.
    """

    def __init__(self, path: Path) -> None:
        self.models: Counter[str] = Counter()
        self._path, self._places = path, dict[int, list[int]]()
        place = 0
        with path.open("rb") as file:
            for line in file:
                one = json.loads(line)
                self._places.setdefault(one["index"], []).append(place)
                self.models[one["model"]] += 1
                place += len(line)

    def draw(self, prompts: Sequence[Any], first: int) -> list[list[tuple[str, bool]]]:
        """The answers to the conversations from `first` on, as `rejection.sample` draws them."""
        return [list(self._of(first + number)) for number in range(len(prompts))]

    def _of(self, number: int) -> Iterator[tuple[str, bool]]:
        with self._path.open("rb") as file:
            for place in self._places.get(number, []):
                file.seek(place)
                one = json.loads(file.readline())
                yield one["text"], one["ended"]

"""A language model behind an address that speaks OpenAI's chat completions: a teacher, or a judge.

httpx and not `huggingface_hub.InferenceClient`: that one speaks with no server at all where HF_HUB_OFFLINE is set, and keeps
every response until it is closed.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass
from typing import Any, Self

from pipeline.errors import PipelineError

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before a request is tried again: doubled each time, half to one and a half of it, up to the longest."""
PASSING = (408, 409, 425, 429)
"""HTTP statuses below 500 that another attempt may not meet."""
FOR_ALL = (401, 403, 404, 405)
"""HTTP statuses that every other request would meet too: a wrong key, address or model."""


class Unanswered(PipelineError):
    """One request has no answer; others may have."""


@dataclass(frozen=True)
class Reply:
    """An answer: what was thought, where the server tells it apart, the text, and whether it ended by itself."""

    text: str
    ended: bool
    thought: str = ""
    model: str = ""

    @property
    def whole(self) -> str:
        """The text with its think part in front, open where the limit came before its end."""
        if not self.thought:
            return self.text
        closed = "\n</think>\n" if self.text or self.ended else ""
        return f"<think>\n{self.thought.strip()}{closed}{self.text}"


class Endpoint:
    """A client that any number of threads may share.

    Args:
        base_url: The address with its version and without `/chat/completions`: `http://localhost:8000/v1`.
        model: The model's name there.
        key_variable: Environment variable that holds the key; without one, or where it is empty, none is sent.
        seconds: Limit of a request, its whole answer included.
        attempts: Requests for an answer at most. After each that failed in a way that may pass (no connection, time over,
            status 429 or 5xx, a broken answer) it waits, as long as `Retry-After` says or with exponential backoff.
        concurrency: Connections to keep.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str | None = None,
        seconds: float = 60.0,
        attempts: int = 3,
        concurrency: int = 16,
    ) -> None:
        import httpx

        self.base_url, self.model = base_url.rstrip("/"), model
        self._seconds, self._attempts, self._one_at_a_time = seconds, attempts, False
        key = os.environ.get(key_variable or "")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(seconds, connect=min(seconds, 10.0), pool=None),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def ask(self, messages: list[dict[str, Any]], n: int = 1, **settings: Any) -> list[Reply]:
        """One request's answers: `n` of them, or fewer where the server gives fewer at a time.

        Args:
            messages: The conversation so far.
            n: Answers wanted.
            **settings: Of the request: `temperature`, `max_tokens` ...; None leaves one out.

        Raises:
            Unanswered: Every attempt failed, or the server refused this request.
            PipelineError: It would refuse every other one too (wrong key, address or model).
        """
        body = {"model": self.model, "messages": messages, **settings}
        body = {key: value for key, value in body.items() if value is not None}
        if n > 1 and not self._one_at_a_time:
            try:
                return self._replies({**body, "n": n})[:n]
            except _Refused:  # some servers know no `n`; which it was shows in asking for one
                replies = self._replies(body)
                self._one_at_a_time = True
                return replies
        return self._replies(body)[:n]

    def _replies(self, body: dict[str, Any]) -> list[Reply]:
        import httpx

        problem = ""
        for attempt in range(self._attempts):
            wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.5)
            try:
                status, headers, content = self._post(body)
                if status == 200:
                    return _read(content)
                problem = f"HTTP {status}: {content[:300].decode(errors='replace')}"
                if status in FOR_ALL:
                    raise PipelineError(
                        f"{self.base_url}: {problem}. Look at the address (with its version, without /chat/completions), the "
                        f"model's name ({self.model}) and the key."
                    )
                if status < 500 and status not in PASSING:
                    raise _Refused(f"{self.base_url}: {problem}")
                after = headers.get("retry-after", "")
                wait = max(wait, min(float(after), LONGEST_WAIT)) if after.replace(".", "", 1).isdigit() else wait
            except (httpx.TransportError, ValueError, KeyError, IndexError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
            if attempt + 1 < self._attempts:
                time.sleep(wait)
        raise Unanswered(f"{self.base_url}: {problem} ({self._attempts} attempts)")

    def _post(self, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        import httpx

        end = time.monotonic() + self._seconds
        with self._client.stream("POST", f"{self.base_url}/chat/completions", json=body) as response:
            parts = []
            for part in response.iter_bytes():
                parts.append(part)
                if time.monotonic() > end:  # httpx's own limit starts anew with every byte
                    raise httpx.ReadTimeout(f"no whole answer after {self._seconds:g} seconds")
            return response.status_code, response.headers, b"".join(parts)


class _Refused(Unanswered):
    """The server will not answer this request, however often it is sent."""


def _read(content: bytes) -> list[Reply]:
    answer = json.loads(content)
    replies = []
    for choice in answer["choices"]:
        message = choice["message"]
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        ended = choice.get("finish_reason") == "stop"
        replies.append(Reply(message.get("content") or "", ended, thought, answer.get("model") or ""))
    if not replies:
        raise ValueError("an answer without choices")
    return replies

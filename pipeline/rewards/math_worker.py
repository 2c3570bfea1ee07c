"""math-verify in a process of its own, with a time limit that holds.

math-verify limits its time with `signal.alarm`, which exists in the main thread only and cannot interrupt a
computation in C; off the main thread a hanging expression stops the whole run, or its time-out comes back as a silent 0
(huggingface/open-r1#420, volcengine/verl#5635). Here the parent waits for an answer as long as it likes, then kills.

The child is a plain `python -m` of this module, not a `multiprocessing` one: `spawn` would import the training script
again and `fork` would copy its threads and its GPU context.
"""

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import PipelineError

TIME_LIMIT = 5.0
"""Seconds for one answer. Ordinary ones take milliseconds."""

START_LIMIT = 120.0
"""Seconds for the child to import SymPy, on a machine that is busy."""

MEMORY_LIMIT = 2 << 30
"""Bytes of address space that the child may fill: a power tower fills the memory faster than it runs out of time."""

Verdict = Literal["equal", "different", "timeout", "unreadable gold"]


def judge(gold: str, answer: str) -> Verdict:
    """Compare two LaTeX expressions, each between dollar signs, with math-verify; runs in the child."""
    from math_verify import LatexExtractionConfig, parse, verify

    # The parent keeps the time: math-verify's own alarms would overwrite the child's.
    config: dict[str, Any] = {"extraction_config": [LatexExtractionConfig()], "parsing_timeout": None}
    try:
        parsed_gold = parse(gold, raise_on_error=True, **config)
        if not parsed_gold:
            return "unreadable gold"
    except (MemoryError, RecursionError):
        return "timeout"
    except Exception:  # whatever SymPy and ANTLR raise, the gold could not be read
        return "unreadable gold"
    try:
        parsed = parse(answer, raise_on_error=True, **config)
        right = bool(parsed) and verify(parsed_gold, parsed, timeout_seconds=None, raise_on_error=True)
    except (MemoryError, RecursionError):
        return "timeout"
    except Exception:  # an expression that cannot be compared is not the gold
        return "different"
    return "equal" if right else "different"


def main() -> None:
    """Answer one JSON line for each line of standard input until it ends."""
    import logging
    import resource

    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the replies
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    logging.disable(logging.CRITICAL)
    judge("$1$", "$1$")  # imports, and builds the parser's tables
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for stream in (1, 2):  # nobody reads on, and a full pipe would block
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    for line in sys.stdin:
        request = json.loads(line)
        # The default action of this signal ends the process, also in C code: should the parent die, no orphan stays.
        signal.setitimer(signal.ITIMER_REAL, request["limit"] + 5.0)
        verdict = judge(request["gold"], request["answer"])
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        print(json.dumps({"verdict": verdict}), file=replies, flush=True)


class MathWorker:
    """The parent's side: one child, started at the first question, killed when it is late, started anew for the next.

    Safe from any thread, and after a fork (each process has its own child).

    Attributes:
        process: The child, None while there is none.
        timeouts: Questions so far that ended in a time-out, or filled the child's memory.
    """

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        self.time_limit = time_limit
        self.timeouts = 0
        self._lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._unread = b""

    def judge(self, gold: str, answer: str) -> Verdict:
        """The child's verdict on two LaTeX expressions, within `time_limit` seconds.

        Raises:
            PipelineError: The child cannot be started (math-verify is not installed, say).
        """
        with self._lock:
            process = self._running()
            request = json.dumps({"gold": gold, "answer": answer, "limit": self.time_limit}) + "\n"
            reply = None
            try:
                assert process.stdin is not None
                process.stdin.write(request.encode())
                process.stdin.flush()
                reply = self._read(process, self.time_limit)
            except BrokenPipeError:
                reply = None  # the child died of this or the last question; the next one gets a new child
            if reply is None:
                self._kill()
            verdict: Verdict = "timeout" if reply is None else reply["verdict"]
            self.timeouts += verdict == "timeout"
            return verdict

    def close(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._kill()

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is not None and self._owner == os.getpid() and self.process.poll() is None:
            return self.process
        self._unread = b""
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
        # -P: the folder of this file must not be on the path, its math.py would hide Python's.
        command = [sys.executable, "-P", "-m", "pipeline.rewards.math_worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, bufsize=0
        )
        self._owner = os.getpid()
        if self._read(self.process, START_LIMIT) is None:
            self.process.kill()
            _, problem = self.process.communicate()
            self.process = None
            reason = problem.decode(errors="replace").strip().splitlines()[-1:] or [f"no reply in {START_LIMIT:g} s"]
            raise PipelineError(f"reward math: its worker process did not start: {reason[0]}.")
        return self.process

    def _read(self, process: subprocess.Popen[bytes], limit: float) -> dict[str, Any] | None:
        """The child's next line; None when it does not come in time or the child ends."""
        assert process.stdout is not None
        deadline = time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                part = os.read(process.stdout.fileno(), 65536)
                if not part:
                    return None
                self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def _kill(self) -> None:
        process, self.process = self.process, None
        self._unread = b""
        if process is not None and self._owner == os.getpid():
            with process:  # closes its pipes, and waits
                process.kill()


def shared_worker() -> MathWorker:
    """The process-wide worker, ended with the process."""
    global _shared
    if _shared is None:
        _shared = MathWorker()
        atexit.register(_shared.close)
    return _shared


_shared: MathWorker | None = None

if __name__ == "__main__":
    main()

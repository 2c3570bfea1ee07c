"""Runs a program that a model wrote, under limits, and says how it ended. See docs/sandbox.md for what that is worth."""

import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import PipelineError

Status = Literal["passed", "failed", "timeout", "killed"]

GRACE = 10.0
"""Seconds beyond the wall-clock limit after which a judge that does not answer is killed too."""


@dataclass(frozen=True)
class Limits:
    """What a program may use. A program may start no process and no thread.

    Attributes:
        cpu: Seconds of processor time of one run.
        wall: Seconds by the clock for all runs of a program; far above `cpu`, since a busy machine is not its fault.
        memory: Bytes of address space.
        file_size: Bytes of a single file, and of what it prints.
        scratch: Bytes of all files in the scratch directory together (bubblewrap only).
        files: Open files.
        output: Bytes of its output that are kept.
    """

    cpu: int = 5
    wall: float = 20.0
    memory: int = 512 << 20
    file_size: int = 8 << 20
    scratch: int = 32 << 20
    files: int = 64
    output: int = 4096


@dataclass(frozen=True)
class Case:
    """Standard input of a run, and the output that it must have; None: any, if the program ends without an error."""

    input: str = ""
    output: str | None = None


@dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        status: `passed`; `failed` (an error, a wrong value, a wrong output); `timeout` (processor time or wall clock);
            `killed` (memory, file size, another signal).
        detail: The reason, for people: `AssertionError … at 'assert f(2) == 4'`, `CPU time`, `memory`.
        output: What its last run printed, standard error included, cut to `Limits.output` bytes.
        seconds: By the clock, the start of the sandbox included.
    """

    status: Status
    detail: str
    output: str
    seconds: float


@functools.cache
def bubblewrap() -> str | None:
    """Path of a `bwrap` that works here, None without one: some systems forbid user namespaces."""
    path = shutil.which("bwrap")
    problem = "is not installed"
    if path is not None:
        try:
            # The judge is given nothing to judge, and says so where it starts.
            _, err, _ = _start([*_walls(path, Limits()), *_judge()], "/", b"", 60.0)
        except OSError as error:
            err = str(error).encode()
        if b"EOFError" in err:
            return path
        problem = f"does not work here ({err.decode(errors='replace').strip()[-200:]})"
    logging.getLogger(__name__).warning(
        "bubblewrap %s: model-written programs can read and write what you can. See docs/sandbox.md.", problem
    )
    return None


def run(
    program: str,
    *,
    tests: str | None = None,
    cases: Sequence[Case] = (Case(),),
    limits: Limits | None = None,
    bare: bool = False,
) -> Result:
    """Run a Python program in the sandbox.

    Args:
        program: Its text. It sees the standard library, an empty scratch directory and no environment.
        tests: Python that calls the program's functions and raises where one is wrong. It runs in another process than
            the program; arguments and results are plain values (numbers, texts, lists, dictionaries …).
        cases: Without tests: one run each, with a standard input and the output that must come.
        limits: What the program may use.
        bare: Without bubblewrap, though it may be installed: what the fallback covers.

    Raises:
        PipelineError: The sandbox itself does not start.
    """
    limits = limits or Limits()
    job = {"program": program, "tests": tests is not None, "runs": len(cases) if tests is None else 1}
    messages: list[Any] = [{**job, "limits": asdict(limits)}]
    messages += [tests] if tests is not None else [part for case in cases for part in (case.input, case.output)]
    bodies = [json.dumps(message).encode() for message in messages]
    payload = b"".join(b"%010d%b" % (len(body), body) for body in bodies)
    walls = None if bare else bubblewrap()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as scratch:
        command = [*(_walls(walls, limits) if walls else ()), *_judge()]
        out, err, late = _start(command, "/" if walls else scratch, payload, limits.wall + GRACE)
    seconds = time.monotonic() - started
    first, _, rest = out.partition(b"\n")
    if first != b"started":
        raise PipelineError(
            f"the sandbox for programs does not start: {err.decode(errors='replace').strip()[-500:] or 'no reply'}. "
            f"Its command: {' '.join(command[:-1])}."
        )
    if late:
        return Result("timeout", "wall clock", "", seconds)
    try:
        found = json.loads(rest)
    except ValueError:
        return Result("killed", "its judge ended without a verdict", "", seconds)
    if found["status"] == "broken":
        raise PipelineError(f"the sandbox for programs cannot set its limits: {found['detail']}.")
    return Result(seconds=seconds, **found)


def run_all(jobs: Sequence[dict[str, Any]]) -> list[Result]:
    """Results of many programs, each job the arguments of `run`, several at once."""
    share = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    with ThreadPoolExecutor(max(1, min(share, 16))) as pool:
        return list(pool.map(lambda job: run(**job), jobs))


def _judge() -> list[str]:
    python = os.path.realpath(sys.executable)
    return [python, "-I", "-S", "-B", "-X", "utf8", "-c", Path(__file__).with_name("inside.py").read_text("utf-8")]


def _walls(path: str, limits: Limits) -> list[str]:
    """bubblewrap's part of the command: namespaces of its own for everything, and just Python to be seen."""
    command = [path, "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
    command += ["--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"]
    for shared in ("/lib", "/lib64", "/etc/ld.so.cache"):
        command += ["--ro-bind-try", shared, shared]
    if not sys.base_prefix.startswith("/usr"):
        command += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    for device in ("/dev/null", "/dev/urandom"):
        command += ["--dev-bind", device, device]
    command += ["--size", str(limits.scratch), "--tmpfs", "/scratch", "--remount-ro", "/", "--chdir", "/scratch"]
    return [*command, "--"]


def _start(command: list[str], folder: str, payload: bytes, limit: float) -> tuple[bytes, bytes, bool]:
    """Standard output and error of the command, and whether it had to be killed."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env={}, cwd=folder, start_new_session=True, **pipes)
    try:
        return *process.communicate(payload, timeout=limit), False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return *process.communicate(), True
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise

"""Reward for a program that passes its tests, run in the sandbox."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.rewards.answer import completion_text, fenced
from pipeline.rewards.registry import Example, Scores, reward
from pipeline.sandbox import Case, run_all

_FUNCTION = re.compile(r"^def (\w+)", re.MULTILINE)
_EQUAL = "class Equal:\n    __eq__ = lambda self, other: True\n    __ne__ = lambda self, other: False\n"


def _job(text: str, tests: Any) -> dict[str, Any]:
    """Arguments of `sandbox.run` for a completion and its tests."""
    try:
        if isinstance(tests, str) and tests.lstrip().startswith("["):
            tests = json.loads(tests)
        checks: dict[str, Any]
        if isinstance(tests, str):
            checks = {"tests": tests}
        else:
            checks = {"cases": [Case(str(case["input"]), str(case["output"])) for case in tests]}
    except (ValueError, TypeError, KeyError) as error:
        raise PipelineError(
            f"reward code: tests must be Python text, or a list of objects with `input` and `output`; "
            f"found {str(tests)[:200]!r}."
        ) from error
    if not tests:
        raise PipelineError("reward code: a row has no tests, and every program would pass. Remove such rows.")
    return {"program": fenced(text) or "", **checks}


def _verify(text: str, tests: str) -> bool:
    return run_all([_job(text, tests)])[0].status == "passed"


def _attacks(row: Any, parameters: Any) -> dict[str, list[str]]:
    names = _FUNCTION.findall(str(row.get("answer", "")))
    texts = ["raise SystemExit(0)", "import os\nos._exit(0)", "print('passed')"]
    texts.append("\n".join(f"def {name}(*arguments, **keywords): return None" for name in names))
    if names:
        texts.append(_EQUAL + "\n".join(f"def {name}(*arguments, **keywords): return Equal()" for name in names))
    return {"tests dodged": texts}


@reward(
    "code",
    low=0.0,
    high=1.0,
    reads=("tests",),
    kind="verifier",
    verify=_verify,
    examples=(
        Example("```python\ndef double(x):\n    return 2 * x\n```", 1.0, {"tests": "assert double(4) == 8"}),
        Example("def double(x):\n    return 8", 0.0, {"tests": "assert double(4) == 8 and double(3) == 6"}),
        Example("print(2 * int(input()))", 1.0, {"tests": [{"input": "4", "output": "8"}]}),
        Example("raise SystemExit(0)", 0.0, {"tests": "assert double(4) == 8"}),
    ),
    attacks=_attacks,
    check_rows=16,
)
def code(
    completions: Sequence[Any],
    tests: Sequence[Any],
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> Scores:
    """1 where a completion's Python program passes the tests of its row.

    The program is the one code fence outside the think part, or all of that text without a fence. The column `tests`
    holds Python that calls its functions and asserts, or cases of standard input and output (`[{"input": …, "output":
    …}]`, also as JSON text). `rewards/code/timeouts` and `rewards/code/killed` count the programs that ran into a limit;
    they score 0. What the sandbox covers: docs/sandbox.md.
    """
    jobs = [_job(completion_text(completion), checks) for completion, checks in zip(completions, tests, strict=True)]
    found = [result.status for result in run_all(jobs)]
    if log_metric is not None:
        log_metric("rewards/code/timeouts", float(found.count("timeout")))
        log_metric("rewards/code/killed", float(found.count("killed")))
    return [float(status == "passed") for status in found]

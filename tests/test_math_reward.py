"""The math reward: math-verify in a process that can be killed."""

import os
import subprocess
import sys
import threading
import time

import pytest

from pipeline.rewards import find
from pipeline.rewards.math_worker import MathWorker, shared_worker


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (r"\boxed{\frac{3}{4}}", "3/4", True),
        (r"\boxed{0.75}", r"\frac{3}{4}", True),
        (r"\boxed{(x-1)(x+1)}", "x^2-1", True),
        (r"\boxed{(x-1)(x+2)}", "x^2-1", False),
        ("1 + x^2", "$x^2+1$", True),
        (r"The answer is $\sqrt{2}$.", r"$\sqrt{2}$", True),
        (r"\boxed{17, 18}", r"\{17, 18\}", True),
        (r"\boxed{x = 18}", "18", True),
        (r"\boxed{1\frac12}", "1.5", True),
        ("so $x^2$ and $y$", "x^2", False),
        ("It costs $18.", "18", True),
        ("50%", "0.5", True),
        ("18", "what?", None),
    ],
)
def test_math_compares_expressions(text, answer, right):
    assert find("math").verify(text, answer) is right


@pytest.mark.slow
def test_a_hanging_expression_is_killed_counted_and_the_next_one_answered():
    worker = MathWorker(time_limit=1.0)
    try:
        assert worker.judge("$18$", "$18$") == "equal"
        child = worker.process.pid
        start = time.monotonic()
        assert worker.judge("$10^{100}$", "$9^{9^{9^9}}$") == "timeout"
        assert time.monotonic() - start < 5
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
        assert worker.timeouts == 1
        assert worker.judge("$18$", "$19$") == "different"
        assert worker.process.pid != child
    finally:
        worker.close()


def test_a_killed_worker_costs_one_answer_at_most():
    worker = MathWorker()
    try:
        assert worker.judge("$1$", "$1$") == "equal"
        os.kill(worker.process.pid, 9)
        assert worker.judge("$1$", "$1$") in ("equal", "timeout")
        assert worker.judge("$1$", "$1$") == "equal"
    finally:
        worker.close()


def test_a_timeout_is_a_metric_and_never_a_zero(monkeypatch):
    monkeypatch.setattr("pipeline.rewards.math_worker._shared", MathWorker(time_limit=0.0))
    metrics = {}
    try:
        scores = find("math")(
            completions=[r"\boxed{x^2}", "none"], answer=["x^3", "x^3"], log_metric=metrics.__setitem__
        )
    finally:
        shared_worker().close()
    assert scores == [None, 0.0]
    assert metrics == {"rewards/math/timeouts": 1.0, "rewards/math/undecided": 0.5}


def test_math_works_off_the_main_thread_and_from_several_at_once():
    results = {}

    def work(number):
        completions = [rf"\boxed{{x^{number}}}", r"\boxed{y}"]
        results[number] = find("math")(completions=completions, answer=[f"x^{number}"] * 2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [1.0, 0.0] for number in range(2, 6)}


def test_the_worker_ends_with_its_process():
    code = (
        "from pipeline.rewards.math_worker import shared_worker as w; w().judge('$1$', '$1$'); print(w().process.pid)"
    )
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)

"""The sandbox: what a hostile program gets done there, which is nothing, and how each ending is told."""

import gzip
import json
import os
import re
import socket
import time

import pytest

from pipeline.sandbox import Case, Limits, bubblewrap, run, run_all

QUICK = Limits(cpu=1, wall=60.0, memory=256 << 20, file_size=1 << 20)


@pytest.fixture(params=["bubblewrap", "bare"])
def bare(request):
    """Tests of what both kinds of sandbox promise."""
    if request.param == "bubblewrap" and bubblewrap() is None:
        pytest.skip("bubblewrap is not installed, or user namespaces are forbidden here")
    return request.param == "bare"


@pytest.fixture
def walled():
    """Tests of what bubblewrap alone promises."""
    if bubblewrap() is None:
        pytest.skip("bubblewrap is not installed, or user namespaces are forbidden here")


def outcome(program, **arguments):
    result = run(program, limits=arguments.pop("limits", QUICK), **arguments)
    return result.status, result.detail


# --- what passes and what fails


def test_endings_are_told_apart(bare):
    assert outcome("print(1)", bare=bare) == ("passed", "")
    assert outcome("1 / 0", bare=bare) == ("failed", "ZeroDivisionError: division by zero")
    assert outcome("def f(:", bare=bare)[0] == "failed"
    assert outcome("import sys; sys.exit(3)", bare=bare) == ("failed", "exit status 3")
    assert outcome("def f(x): return x + 1", tests="assert f(1) == 2", bare=bare) == ("passed", "")
    assert outcome("def f(x): return x", tests="y = 1\nassert f(1) == 2, 'no'", bare=bare) == (
        "failed",
        "AssertionError: no at \"assert f(1) == 2, 'no'\"",
    )
    assert outcome("def f(x): return x", tests="g(1)", bare=bare)[0] == "failed"


def test_output_is_compared_with_that_of_every_case(bare):
    double = "n = int(input())\nprint(n * 2, ' ')\n"
    assert outcome(double, cases=[Case("2\n", "4"), Case("3", "6\n")], bare=bare) == ("passed", "")
    assert outcome(double, cases=[Case("2\n", "4"), Case("3", "7")], bare=bare) == (
        "failed",
        "the output differs (case 2 of 2)",
    )


def test_plain_values_cross_to_the_tests_and_errors_as_what_they_are(bare):
    program = (
        "from collections import Counter\nimport math\n"
        "def same(x): return x\n"
        "def count(x): return Counter(x)\n"
        "def bad(x): raise KeyError(x)\n"
        "def many(): return math.nan, math.inf, 10 ** 60, 1j, b'a', frozenset({1}), {(1, 2): [None, True]}\n"
    )
    tests = """
value = {"a": [1, 2.5, None, (True, "\u00e4\\ud800")], 3: {4}, (5, 6): b"\\x00"}
assert same(value) == value and type(same((1,))) is tuple and type(same(True)) is bool
assert same(x=set()) == set() and same([]) == []
assert count("aab") == {"a": 2, "b": 1}
nan, *rest = many()
assert nan != nan and rest == [float("inf"), 10 ** 60, 1j, b"a", frozenset({1}), {(1, 2): [None, True]}]
try:
    bad("k")
    assert False
except KeyError:
    pass
try:
    same()
    assert False
except TypeError:
    pass
"""
    assert outcome(program, tests=tests, bare=bare) == ("passed", "")


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "def f(x):\n    import os\n    os._exit(0)",
        "def f(x):\n    raise SystemExit(0)",
        "class Equal:\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\ndef f(x): return Equal()",
        "class Equal(int):\n    __eq__ = lambda s, o: True\n    __hash__ = None\ndef f(x): return Equal(7)",
        "import builtins\nbuiltins.AssertionError = None\nbuiltins.abs = lambda x: 0\ndef f(x): return 0",
        "print('started')\nprint('{\"status\": \"passed\", \"detail\": \"\", \"output\": \"\"}')\nraise SystemExit",
        "import os\nfor n in range(64):\n    try: os.write(n, b'{\"status\": \"passed\"}\\n')\n    except OSError: pass",
        "import gc\nseen = [o for o in gc.get_objects() if 'f(20)' in repr(o)[:9999]]\ndef f(x): return 400 if seen else 0",
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame.f_back: frame = frame.f_back\n"
        "    return 400 if 'f(20)' in repr(frame.f_locals) + repr(frame.f_globals) else 0",
        pytest.param(  # it waits for more
            "def f(x):\n    import os\n    for n in range(64):\n        try:\n            if b'f(20)' in os.read(n, 9):"
        " return 400\n        except OSError: pass",
            marks=pytest.mark.slow,
        ),
        "def f(x):\n    open('/proc/%d/mem' % __import__('os').getppid(), 'rb+')",
    ],
)  # fmt: skip
def test_a_program_cannot_dodge_its_tests(program, bare):
    tests = "assert f(20) == 400 and f(1) == 1"
    assert outcome(program, tests=tests, limits=Limits(cpu=2, wall=4.0), bare=bare)[0] in (
        "failed",
        "killed",
        "timeout",
    )


# --- limits


@pytest.mark.slow
def test_loops_and_sleeps_time_out(bare):
    busy = Limits(cpu=1, wall=60)  # on a machine that others use too, a second of CPU time may take long
    deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert outcome("while True: pass", limits=busy, bare=bare) == ("timeout", "CPU time")
    assert outcome(deaf, limits=busy, bare=bare) == ("timeout", "CPU time")
    brief = Limits(wall=0.5)
    assert outcome("import time\ntime.sleep(1e6)", limits=brief, bare=bare) == ("timeout", "wall clock")
    waits = "import time\ndef f(): time.sleep(1e6)"
    assert outcome(waits, tests="try:\n    f()\nexcept Exception:\n    pass", limits=brief, bare=bare)[0] == "timeout"


def test_a_judge_that_hangs_is_ended_by_the_parent(bare, monkeypatch):
    monkeypatch.setattr("pipeline.sandbox.program.GRACE", 0.5)
    assert outcome("f = int", tests="while True: pass", limits=Limits(wall=0.5), bare=bare) == ("timeout", "wall clock")


def test_a_memory_bomb_is_killed(bare):
    assert outcome("x = []\nwhile True: x.append('x' * 10 ** 6)", bare=bare) == ("killed", "memory")
    assert outcome("x = bytearray(1 << 40)", bare=bare) == ("killed", "memory")
    assert outcome("def f(): return [0] * (1 << 40)", tests="f()", bare=bare) == ("killed", "memory")


def test_a_fork_bomb_starts_nothing(bare):
    assert outcome("import os\nwhile True: os.fork()", bare=bare)[1].startswith("PermissionError")
    assert outcome("import subprocess\nsubprocess.run(['/bin/sh'])", bare=bare)[1].startswith("PermissionError")
    assert outcome("import threading\nthreading.Thread(target=print).start()", bare=bare)[1].startswith("RuntimeError")


def test_gigabytes_of_output_are_stopped_and_truncated(bare):
    result = run("while True: print('x' * 1000)", limits=QUICK, bare=bare)
    assert (result.status, result.detail) == ("killed", "file size")
    assert len(result.output) < 5000 and re.search(r"\[\d+ more bytes\]$", result.output)
    result = run("open('big', 'wb').write(b'x' * (2 << 20))", limits=QUICK, bare=bare)
    assert (result.status, result.detail) == ("killed", "file size")


def test_scratch_is_empty_and_the_environment_too(bare, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cr3t")
    program = "import os\nopen('a', 'w').write('b')\nprint(os.listdir('.'), dict(os.environ), open('a').read())"
    assert run(program, bare=bare).output == "['a'] {} b\n"
    assert run("import os; print(os.listdir('.'))", bare=bare).output == "[]\n"


def test_no_socket_is_opened(bare):
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)"
        assert outcome(program, bare=bare)[1].startswith("PermissionError")


def test_the_parent_and_the_judge_cannot_be_killed(bare):
    program = (
        f"import os, signal\nfor pid in ({os.getpid()}, os.getppid(), 0, -1):\n"
        "    try: os.kill(pid, signal.SIGKILL)\n    except OSError as error: print(type(error).__name__)\n"
    )
    assert run(program, bare=bare).output == "PermissionError\n" * 4


# --- what bubblewrap alone covers


@pytest.mark.parametrize("path", ["/etc/passwd", __file__, "/proc/1/environ", os.getcwd(), "/tmp"])
def test_files_of_the_machine_are_not_there(walled, path):
    assert outcome(f"import os\nos.stat({path!r})")[1].startswith("FileNotFoundError")


def test_nothing_can_be_written_outside_the_scratch_directory(walled, tmp_path):
    for folder in ("/", "/usr", "/dev", "/usr/lib", str(tmp_path)):
        assert outcome(f"open({folder + '/x'!r}, 'w')")[0] == "failed", folder
    assert list(tmp_path.iterdir()) == []


def test_the_scratch_directory_has_a_size(walled):
    program = "for n in range(99):\n    open(str(n), 'wb').write(b'x' * (1 << 20))"
    assert outcome(program, limits=Limits(scratch=4 << 20))[1].startswith("OSError: [Errno 28]")


def test_no_process_outlives_its_run(walled):
    limits = Limits(wall=0.5, scratch=(1 << 20) + os.getpid())  # tells these from other sandboxes on this machine
    run_all([{"program": "import time\ntime.sleep(777)", "limits": limits}] * 4)

    def left() -> list[str]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if str(limits.scratch).encode() in file.read().split(b"\0"):
                        found.append(pid)
            except OSError:
                continue
        return found

    for _ in range(100):  # the kernel takes a name space down in its own time
        if not left():
            return
        time.sleep(0.1)
    pytest.fail(f"still running: {left()}")


# --- real programs


@pytest.mark.slow
def test_humaneval_solutions_pass_and_broken_ones_fail(shared_data):
    with gzip.open(shared_data / "humaneval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 164
    tests = [f"{row['test']}\ncheck({row['entry_point']})" for row in rows]
    whole = [{"program": r["prompt"] + r["canonical_solution"], "tests": t} for r, t in zip(rows, tests, strict=True)]
    broken = [{"program": r["prompt"] + "    return None\n", "tests": t} for r, t in zip(rows, tests, strict=True)]
    wrong = {row["task_id"]: r.detail for row, r in zip(rows, run_all(whole), strict=True) if r.status != "passed"}
    assert wrong == {}
    assert [row["task_id"] for row, r in zip(rows, run_all(broken), strict=True) if r.status != "failed"] == []

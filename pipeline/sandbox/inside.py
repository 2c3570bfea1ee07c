"""What runs in the sandbox: a judge that holds the tests, and for each run of the program a child that holds the program.

The two are processes of their own and exchange plain values only, so that a program cannot pass by ending early, by
printing what a judge would print, by returning an object that equals everything, or by reading the tests. The text of
this file is handed to `python -I -S -c`: standard library only, nothing of this project.
"""

import builtins
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import time

LONGEST_REPLY = 16 << 20
KINDS: dict = {kind.__name__: kind for kind in (list, tuple, set, frozenset, dict, bytes)}

# System calls that a program has no use for, by number (asm/unistd.h), after the machine's AUDIT_ARCH: clone, fork, vfork,
# clone3; kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal, pidfd_getfd; ptrace,
# process_vm_readv, process_vm_writev, prlimit64; socket, io_uring_setup (which opens sockets too); unshare, setns, mount,
# chroot, bpf, keyctl.
DENIED: dict[str, tuple[int, ...]] = {
    "x86_64": (
        0xC000003E,
        *(56, 57, 58, 435, 62, 200, 234, 129, 297, 424, 438, 101, 310, 311, 302, 41, 425, 272, 308, 165, 161, 321, 250),
    ),
    "aarch64": (
        0xC00000B7,
        *(220, 435, 129, 130, 131, 138, 240, 424, 438, 117, 270, 271, 261, 198, 425, 97, 268, 40, 51, 280, 219),
    ),
}


class Ended(BaseException):
    """The verdict is known: status and detail."""


def encode(value):
    """A plain value as JSON can carry it, subclasses of plain types as their bases; TypeError for anything else."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return ["dict", [["list", [encode(key), encode(entry)]] for key, entry in value.items()]]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    for name, kind in KINDS.items():
        if isinstance(value, kind):
            return [name, [encode(entry) for entry in value]]
    raise TypeError(f"a {type(value).__name__} cannot cross to the tests: only plain values can")


def decode(value):
    if not isinstance(value, list):
        return value
    name, entries = value
    return complex(*entries) if name == "complex" else KINDS[name](map(decode, entries))


def confine():
    """Deny the system calls above to this process for good: seccomp, which needs no privileges."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PDEATHSIG: not to outlive the judge
    if os.uname().machine not in DENIED:
        return
    architecture, *denied = DENIED[os.uname().machine]
    load, equal, at_least, back = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000  # refuse: EPERM
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (back, 0, 0, kill)]
    steps += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (back, 0, 0, kill)]  # the x32 calls
    for number in denied:
        steps += [(equal, 0, 1, number), (back, 0, 0, refuse)]
    steps.append((back, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):  # NO_NEW_PRIVS, SECCOMP with a filter
        raise OSError(ctypes.get_errno(), "seccomp")


def play(program, limits, requests, replies):
    """Be the program: run its text, then answer calls of its functions until there are no more. Never returns."""

    def reply(**message):
        os.write(replies, json.dumps(message).encode() + b"\n")

    def say(error):
        import traceback  # takes longer to import than most programs to run

        # Frames of this file are none of the program's business.
        own = traceback.TracebackException.from_exception(error, compact=True)
        own.stack = traceback.StackSummary.from_list([f for f in own.stack if f.filename == "program.py"])
        print("".join(own.format()), end="", file=sys.stderr, flush=True)
        return {"raised": type(error).__name__, "text": str(error)[:500]}

    status = 0
    try:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; the limit shall be seen
        resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"] + 1))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        confine()
        os.environ.clear()
    except OSError as error:
        reply(broken=f"{type(error).__name__}: {error}")
        os._exit(0)
    names: dict = {"__name__": "__main__", "__builtins__": builtins}
    try:
        exec(compile(program, "program.py", "exec"), names)
        sys.stdout.flush()
        reply(ready=[name for name, value in names.items() if callable(value) and name[:2] != "__"])
        for line in os.fdopen(requests, "r"):
            call = json.loads(line)
            try:
                arguments, keywords = decode(call["arguments"]), decode(call["keywords"])
                message = {"returned": encode(names[call["name"]](*arguments, **keywords))}
            except MemoryError:
                raise
            except BaseException as error:
                message = say(error)
            reply(**message)
    except MemoryError:
        names.clear()
        reply(limit="memory")
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        reply(**say(error))
        status = 1
    try:
        sys.stdout.flush()
    finally:
        os._exit(status & 0xFF)


class Program:
    """The judge's side of one run of the program."""

    def __init__(self, program, text, limits, deadline):
        self.limits, self.deadline, self.unread = limits, deadline, b""
        self.output = os.memfd_create("output")
        entry = os.memfd_create("input")
        os.write(entry, text.encode(errors="replace"))
        os.lseek(entry, 0, os.SEEK_SET)
        requests, self.requests = os.pipe()
        self.replies, replies = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(entry, 0)
            os.dup2(self.output, 1)
            os.dup2(self.output, 2)
            for number in {*range(3, limits["files"])} - {requests, replies}:
                with contextlib.suppress(OSError):
                    os.close(number)
            play(program, limits, requests, replies)
        for number in (entry, requests, replies):
            os.close(number)

    def receive(self):
        """The program's next message. Raises Ended where it ends, or is ended, first."""
        while b"\n" not in self.unread:
            ready, _, _ = select.select([self.replies], [], [], max(0.0, self.deadline - time.monotonic()))
            if not ready:
                raise Ended("timeout", "wall clock")
            part = os.read(self.replies, 1 << 16)
            if not part:
                raise Ended(*self.wait())
            self.unread += part
            if len(self.unread) > LONGEST_REPLY:
                raise Ended("killed", "a value of more than 16 MiB")
        line, _, self.unread = self.unread.partition(b"\n")
        message = json.loads(line)
        if "broken" in message:
            raise Ended("broken", message["broken"])
        if "limit" in message:
            raise Ended("killed", message["limit"])
        return message

    def wait(self):
        """Status and detail of a program that ends by itself."""
        _, status, usage = os.wait4(self.pid, 0)
        self.pid = 0
        if not os.WIFSIGNALED(status):
            code = os.WEXITSTATUS(status)
            return ("ended", "") if code == 0 else ("failed", f"exit status {code}")
        number = os.WTERMSIG(status)
        spent = usage.ru_utime + usage.ru_stime >= self.limits["cpu"]
        if number == signal.SIGXCPU or (number == signal.SIGKILL and spent):
            return "timeout", "CPU time"
        return "killed", "file size" if number == signal.SIGXFSZ else signal.Signals(number).name

    def call(self, name):
        def proxy(*arguments, **keywords):
            question = {"name": name, "arguments": encode(arguments), "keywords": encode(keywords)}
            with contextlib.suppress(BrokenPipeError):  # it has ended: `receive` says how
                os.write(self.requests, json.dumps(question).encode() + b"\n")
            answer = self.receive()
            if "raised" not in answer:
                return decode(answer["returned"])
            kind = getattr(builtins, str(answer["raised"]), None)
            error: Exception = RuntimeError(f"{answer['raised']}: {answer['text']}")
            if isinstance(kind, type) and issubclass(kind, Exception):
                with contextlib.suppress(TypeError):  # UnicodeDecodeError and its like want more than a text
                    error = kind(answer["text"])
            raise error

        proxy.__name__ = name
        return proxy

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.wait4(self.pid, 0)
        for number in (self.requests, self.replies):
            os.close(number)

    def printed(self, limit):
        size = os.fstat(self.output).st_size
        text = os.pread(self.output, limit, 0).decode(errors="replace")
        return text if size <= limit else f"{text}\n[{size - limit} more bytes]"


def take():
    """The next message of the parent, and not a byte of those behind it: what is in memory, a fork would see."""

    def exactly(count):
        found = b""
        while len(found) < count:
            part = os.read(0, count - len(found))
            if not part:
                raise EOFError
            found += part
        return found

    return json.loads(exactly(int(exactly(10))))


def judge_tests(program):
    """Run the tests with the program's functions behind proxies; Ended says how it went."""
    message = program.receive()
    if "raised" in message:
        raise Ended("failed", f"{message['raised']}: {message['text']}")
    tests = take()
    names = {"__name__": "tests", **{name: program.call(name) for name in message["ready"]}}
    try:
        exec(compile(tests, "tests.py", "exec"), names)
    except Exception as error:
        where, frame = "", error.__traceback__
        while frame is not None:
            if frame.tb_frame.f_code.co_filename == "tests.py":
                where = f" at {tests.splitlines()[frame.tb_lineno - 1].strip()[:200]!r}"
            frame = frame.tb_next
        raise Ended("failed", f"{type(error).__name__}: {str(error)[:300]}{where}") from None
    raise Ended("passed", "")


def judge_output(program, expected):
    """Wait for the end and compare what was printed, white space at the ends of lines and of the text aside."""
    message = {}
    try:
        message = program.receive()
    except Ended as ended:
        if ended.args[0] != "ended":
            raise
    if "raised" in message:
        raise Ended("failed", f"{message['raised']}: {message['text']}")
    if expected is None:
        return
    lines = [[line.rstrip() for line in text.rstrip().splitlines()] for text in (program.printed(1 << 24), expected)]
    if lines[0] != lines[1]:
        raise Ended("failed", "the output differs")


def main():
    # Not to be looked into by the program where /proc is there (prctl PR_SET_DUMPABLE).
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    result = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    job = take()
    limits = job["limits"]
    deadline = time.monotonic() + limits["wall"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits["files"], limits["files"]))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory"], limits["memory"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_size"], limits["file_size"]))
    print("started", file=result, flush=True)
    status, detail, printed = "passed", "", ""
    for number in range(job["runs"]):
        program = Program(job["program"], "" if job["tests"] else take(), limits, deadline)
        try:
            if job["tests"]:
                judge_tests(program)
            else:
                judge_output(program, take())
        except Ended as ended:
            status, detail = ended.args
        except Exception as error:  # a reply that is not what `play` sends
            status, detail = "failed", f"it broke off the exchange of values: {type(error).__name__}"
        program.close()
        printed = program.printed(limits["output"])
        if status != "passed":
            if status == "ended":
                status, detail = "failed", "it ended before its tests"
            detail += f" (case {number + 1} of {job['runs']})" if job["runs"] > 1 else ""
            break
        os.close(program.output)
    print(json.dumps({"status": status, "detail": detail, "output": printed}), file=result, flush=True)
    os._exit(0)


main()

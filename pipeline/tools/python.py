"""A Python interpreter in the project's sandbox (docs/sandbox.md)."""


def python(code: str) -> str:
    """Run a Python program and read what it prints.

    Args:
        code: The program.

    Returns:
        Its output.
    """
    from pipeline.sandbox import Limits, run

    result = run(code, limits=Limits(cpu=3, wall=6.0))
    output = result.output.strip()
    if result.status != "passed":
        raise RuntimeError(f"{result.status}: {result.detail or output[-200:]}")
    return output or "(no output)"

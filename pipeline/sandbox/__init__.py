"""A sandbox for programs that a model wrote; what it covers and what not: docs/sandbox.md."""

from pipeline.sandbox.program import Case, Limits, Result, Status, bubblewrap, run, run_all

__all__ = ["Case", "Limits", "Result", "Status", "bubblewrap", "run", "run_all"]

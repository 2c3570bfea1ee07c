"""Tools that a model may call: plain typed functions, by name or dotted path, the same in SFT, GRPO and evaluation."""

from pipeline.tools.registry import MAX_RESULT, check, load, names, resolve, run_call

__all__ = ["MAX_RESULT", "check", "load", "names", "resolve", "run_call"]

"""Timing of a Trainer's steps, for the benchmarks that compare trainers."""

import time
from typing import Any

import transformers

WARM_UP = 2
"""Steps before those that count."""


class Clock(transformers.TrainerCallback):
    """Seconds between the ends of the first and last counted step."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARM_UP:
            self.begin = time.perf_counter()
        self.end = time.perf_counter()

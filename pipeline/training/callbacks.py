"""Callbacks of the training stages: the metrics file, one readable line of progress, a stop on NaN, the rails of RL."""

import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pipeline.errors import PipelineError
from pipeline.training.device import flops_per_token, peak_flops
from pipeline.training.rails import OFF_POLICY, RAILS, History, Rail, describe, read_alerts, stopped_by

_OURS = ("step", "epoch", "seconds", "tokens", "tokens_per_second", "mfu")


class MetricsFile(TrainerCallback):
    """Writes `metrics.jsonl`, one object a logging step, and goes on in it after a resume as if nothing had happened.

    Every line has `step`, `epoch`, `seconds` (of training, all sittings added) and `tokens` (that the model was trained on,
    padding left out); training lines add `tokens_per_second` since the last one and, where the device's peak is known,
    `mfu`. Other names are the Trainer's own.
    """

    def __init__(self, path: Path, model: Any, context: int, world_size: int):
        self._path = path
        self._flops_per_token = flops_per_token(model, context)
        self._peak = (peak_flops() or 0.0) * world_size
        self._seconds_before = 0.0
        self._last = (0.0, 0)
        self.totals: dict[str, float] = {"seconds": 0.0, "tokens": 0.0, "flops": 0.0}
        self.last_logs: dict[str, float] = {}
        self.speed: float | None = None  # tokens a second, of the last logged stretch

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kept = (
            [line for line in read_metrics(self._path) if line["step"] <= state.global_step]
            if state.global_step
            else []
        )
        training = [line for line in kept if "loss" in line]
        if training:  # what the manifest reports where no step is left to be made
            self.last_logs = {key: value for key, value in training[-1].items() if key not in _OURS}
        self._seconds_before = max((line["seconds"] for line in kept), default=0.0)
        if state.is_world_process_zero:
            self._path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._start = time.monotonic()
        self._last = (self._seconds_before, state.num_input_tokens_seen)
        self._total(self._seconds_before, state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = dict(logs or {})
        if "train_runtime" in logs:
            return
        logs.pop("num_tokens", None)
        tokens = int(state.num_input_tokens_seen)  # part of the trainer's saved state, so it goes on after a resume
        seconds = self._seconds_before + time.monotonic() - self._start
        line: dict[str, Any] = {"step": state.global_step, "epoch": state.epoch, "seconds": round(seconds, 3)}
        line["tokens"] = tokens
        if "loss" in logs:
            elapsed, trained = seconds - self._last[0], tokens - self._last[1]
            if trained > 0 and elapsed > 0:
                line["tokens_per_second"] = self.speed = round(trained / elapsed, 1)
                if self._peak:
                    line["mfu"] = round(trained / elapsed * self._flops_per_token / self._peak, 4)
            self._last = (seconds, tokens)
            self.last_logs = {key: value for key, value in logs.items() if isinstance(value, int | float)}
        self._total(seconds, state)
        line |= {key: value for key, value in logs.items() if key not in line}
        if state.is_world_process_zero:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _total(self, seconds: float, state: TrainerState) -> None:
        tokens = float(state.num_input_tokens_seen)
        self.totals = {"seconds": seconds, "tokens": tokens, "flops": tokens * self._flops_per_token}


class Progress(TrainerCallback):
    """One calm line a stage: rewritten in place on a terminal, printed anew every few seconds into a file.

    It shows the step, loss or reward, what else a stage logs of `_SHOWN`, tokens a second and the time left. Alerts and
    whatever else is `announce`d stand on lines of their own above it.
    """

    def __init__(self, stage: str, metrics: MetricsFile, stream: TextIO | None = None, seconds_between: float = 10.0):
        self._stage = stage
        self._metrics = metrics
        self._stream = stream or sys.stdout
        self._seconds_between = 0.2 if self._stream.isatty() else seconds_between
        self._printed = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._start, self._first = time.monotonic(), state.global_step
        if state.global_step and state.is_world_process_zero:
            announce(f"{self._stage}  goes on from step {state.global_step} of {state.max_steps}", self._stream)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.monotonic()
        last = state.global_step >= state.max_steps
        if not state.is_world_process_zero or (now - self._printed < self._seconds_between and not last):
            return
        self._printed = now
        done = state.global_step - self._first
        left = (now - self._start) / max(done, 1) * (state.max_steps - state.global_step)
        logs = self._metrics.last_logs
        facts = [f"step {state.global_step}/{state.max_steps}"]
        facts += [
            f"{name} {logs[key]:.4g}"
            for name, key in _SHOWN
            if key in logs and (key, "reward" in logs) != ("loss", True)
        ]
        if self._metrics.speed:
            facts.append(f"{self._metrics.speed:,.0f} tokens/s")
        facts.append(f"{_clock(left)} left")
        if not self._stream.isatty():
            self._stream.write("  ".join([self._stage, *facts]) + "\n")
        else:
            full = round(_BAR * state.global_step / max(state.max_steps, 1))
            line = "  ".join([self._stage, "━" * full + "─" * (_BAR - full), *facts])
            # A line that wraps cannot be rewritten in place.
            line = line[: shutil.get_terminal_size().columns - 1]
            self._stream.write(f"\r\x1b[2K{line}" + ("\n" if last else ""))
        self._stream.flush()


_BAR = 20
_SHOWN = (
    ("loss", "loss"),  # a policy gradient's says nothing about progress: with a reward it is left out
    ("reward", "reward"),
    ("length", "completions/mean_length"),
    ("in band", "difficulty/in_band"),
    ("accuracy", "mean_token_accuracy"),
    ("lr", "learning_rate"),
)


def announce(text: str, stream: TextIO | None = None) -> None:
    """A line of its own; on a terminal it takes the place of the progress line, which comes again below it."""
    stream = stream or sys.stdout
    stream.write(("\r\x1b[2K" if stream.isatty() else "") + text + "\n")
    stream.flush()


class StopOnNonFinite(TrainerCallback):
    """Stops at the first logged loss or gradient norm that is no number, before more of the night is burnt."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        for key in ("loss", "grad_norm"):
            value = (logs or {}).get(key)
            if isinstance(value, float) and not math.isfinite(value):
                raise PipelineError(
                    f"{key} is {value} at step {state.global_step}. Training has diverged: lower learning_rate, raise "
                    f"warmup_steps, or look for broken rows in the data. The checkpoints before it are kept."
                )


class Rails(TrainerCallback):
    """Holds every logged step against the rails.

    Args:
        settings: The recipe's `rails`, checked; None for the defaults.
        path: `alerts.jsonl`; lines beyond the step at which a run goes on are dropped.
        ceiling: See `History`.

    Attributes:
        tripped: The alert that ended the run, or None.
    """

    def __init__(self, settings: Any, path: Path, ceiling: float | None = None):
        settings = {"action": settings} if not isinstance(settings, dict) else dict(settings)
        action = settings.pop("action", None)
        self.action = "stop" if action is None else action or "off"  # YAML reads a bare `off` as false
        self.history = History(settings.pop("window", 10), ceiling)
        self.limits = {name: rail.limit for name, rail in RAILS.items()}
        self.limits |= {name: limit for name, limit in settings.items() if name in RAILS}
        self.path = path
        self.tripped: dict[str, Any] | None = None
        self.warned: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.history.rows = [row for row in state.log_history if _WATCHED & row.keys()]
        kept = (
            [line for line in read_alerts(self.path) if line["step"] <= state.global_step] if state.global_step else []
        )
        self.warned = {line["rail"] for line in kept}
        if state.is_world_process_zero and self.path.exists():
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        for line in kept:  # the same command must not walk past what stopped it
            if self.action == line["action"] == "stop" and self.limits[line["rail"]] == line["limit"]:
                raise stopped_by(line, "the run")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or not _WATCHED & logs.keys() or self.action == "off":
            return
        self.history.rows.append({**logs, "step": state.global_step})
        for name, rail in RAILS.items():
            limit = self.limits[name]
            if limit is None or limit is False or name in self.warned or self.tripped:
                continue
            seen = rail.seen(self.history, limit)
            if seen is not None:
                self._trip(name, rail, seen, state, control)

    def _trip(
        self, name: str, rail: Rail, seen: tuple[float, float], state: TrainerState, control: TrainerControl
    ) -> None:
        value, bound = seen
        alert = {
            "step": state.global_step, "rail": name, "value": value, "bound": bound, "limit": self.limits[name],
            "means": rail.means, "cure": rail.cure, "action": self.action,
            "logs": dict(self.history.rows[-1]),
        }  # fmt: skip
        self.warned.add(name)
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(alert, default=str) + "\n")
            announce(f"alert: {describe(alert)}")
        if self.action != "warn":
            self.tripped = alert
            control.should_save = self.action == "stop"
            control.should_training_stop = True

    def good_step(self) -> int:
        """The last step that no window of the rail that tripped has seen, for `rollback`."""
        assert self.tripped is not None
        steps = [int(row.get("step", 0)) for row in self.history.rows if "reward" in row]
        return steps[-self.history.window - 1] if len(steps) > self.history.window else 0


_WATCHED = {"reward", OFF_POLICY}
"""What every step that rails look at has one of."""


class AgreesAtTheStart(TrainerCallback):
    """Stops where policy and reference differ in the first step, whose figures are those of the untrained policy.

    A reference that was loaded from another checkpoint, or an adapter that was not switched off, makes preference losses
    meaningless without a word (huggingface/trl#1193, hiyouga/LLaMA-Factory#8974). `beta` turns TRL's implicit rewards back
    into differences of log-probabilities, in nats a completion.
    """

    def __init__(self, beta: float) -> None:
        self._beta = beta

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        rewards = [(logs or {}).get(f"rewards/{name}") for name in ("chosen", "rejected")]
        if state.global_step != 1 or rewards == [None, None] or not self._beta:
            return
        apart = max(abs(reward) for reward in rewards if reward is not None) / self._beta
        if not apart <= (1.0 if args.bf16 or args.fp16 else 0.01):
            raise PipelineError(
                f"Before the first step policy and reference give answers log-probabilities {apart:.3g} nats apart, which "
                f"should be equal: the reference is another model. Remove the cache of precomputed log-probabilities, and "
                f"name the checkpoint that training starts from in model_name_or_path."
            )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that a crash cut short is left out."""
    lines = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return lines


def quiet(trainer: Any) -> None:
    """Take the Trainer's own progress bar and printed dictionaries away; `Progress` stands in their place."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"

"""Watching a run: what `report_to` sends, and the line in the terminal."""

import importlib.util
import io
import json
from types import SimpleNamespace

import pytest
from conftest import metrics_of, sft_recipe

from pipeline.errors import PipelineError
from pipeline.stages import load_recipe
from pipeline.stages import sft as stage
from pipeline.training import callbacks
from pipeline.training.tracking import check_trackers, tracking_defaults


@pytest.mark.slow
def test_tensorboard_is_written_into_the_stage(tmp_path, tiny_world, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard here")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    stage.run(load_recipe(sft_recipe(tmp_path / "run" / "sft.yaml", tiny_world, report_to="tensorboard")))
    read = events.EventAccumulator(str(tmp_path / "run" / "sft" / "tensorboard"))
    read.Reload()
    losses = [(one.step, one.value) for one in read.Scalars("train/loss")]
    logged = [(line["step"], line["loss"]) for line in metrics_of(tmp_path / "run" / "sft") if "loss" in line]
    assert losses == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in logged] and len(losses) == 4


@pytest.mark.slow
def test_trackio_keeps_a_run_on_this_machine(tmp_path, tiny_world, monkeypatch):
    trackio = pytest.importorskip("trackio", reason="no trackio here")
    utils, storage = (importlib.import_module(f"trackio.{name}") for name in ("utils", "sqlite_storage"))
    for module in (trackio, utils, storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    stage.run(load_recipe(sft_recipe(tmp_path / "run" / "sft.yaml", tiny_world, report_to=["trackio"])))
    assert storage.SQLiteStorage.get_runs("run") == ["sft"]
    rows = storage.SQLiteStorage.get_logs("run", "sft")
    logged = [line["loss"] for line in metrics_of(tmp_path / "run" / "sft") if "loss" in line]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == pytest.approx(logged)


@pytest.mark.slow
def test_wandb_stays_offline_and_in_the_stage(tmp_path, tiny_world, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="no wandb here")
    for name in ("WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    stage.run(load_recipe(sft_recipe(tmp_path / "run" / "sft.yaml", tiny_world, report_to=["wandb"])))
    wandb.finish()  # at the end of the process, else
    (kept,) = (tmp_path / "run" / "sft" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"train/loss" in kept.read_bytes()


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_loaded(tmp_path, tiny_world, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else found(name, *rest)
    )
    with pytest.raises(PipelineError, match=r"wandb is not installed: pip install 'pretrain.*\[tracking\]'"):
        load_recipe(sft_recipe(tmp_path / "sft.yaml", tiny_world, report_to=["wandb"]))


@pytest.mark.parametrize("given", ["tensorbord", ["none", "tensorbord"]])
def test_a_misspelt_tracker_is_named_with_the_nearest(given):
    (complaint,) = check_trackers({"report_to": given})
    assert "report_to: found 'tensorbord'" in complaint and "did you mean tensorboard?" in complaint
    assert check_trackers({"report_to": "all"}) == []


def test_all_stages_of_a_run_are_one_project(tmp_path, monkeypatch):
    for name in ("TENSORBOARD_LOGGING_DIR", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    recipe = {"report_to": ["wandb", "tensorboard"]}
    assert tracking_defaults(recipe, tmp_path / "demo" / "sft") == {"project": "demo", "run_name": "sft"}
    import os

    assert (os.environ["WANDB_PROJECT"], os.environ["WANDB_DIR"]) == ("demo", str(tmp_path / "demo" / "sft"))
    assert tracking_defaults({"report_to": "none"}, tmp_path) == {} and check_trackers({"report_to": "none"}) == []


class Terminal(io.StringIO):
    def __init__(self, tty):
        super().__init__()
        self.tty = tty

    def isatty(self):
        return self.tty


def progress_of(stream, **logs):
    metrics = SimpleNamespace(last_logs=logs, speed=5256.1)
    progress = callbacks.Progress("grpo", metrics, stream, seconds_between=0)
    progress._seconds_between = 0
    state = SimpleNamespace(global_step=0, max_steps=4, is_world_process_zero=True)
    progress.on_train_begin(None, state, None)
    for state.global_step in range(1, 5):
        progress.on_step_end(None, state, None)
    return stream.getvalue()


def test_a_file_gets_plain_lines_with_loss_speed_and_time_left():
    lines = progress_of(Terminal(False), loss=0.5, learning_rate=1e-4).splitlines()
    assert len(lines) == 4 and lines[1] == "grpo  step 2/4  loss 0.5  lr 0.0001  5,256 tokens/s  0:00 left"


def test_a_terminal_gets_one_line_that_is_rewritten_and_cut_to_its_width(monkeypatch):
    import os

    size = os.terminal_size((60, 24))
    monkeypatch.setattr(callbacks.shutil, "get_terminal_size", lambda: size)
    text = progress_of(Terminal(True), loss=0.02, reward=0.9123)
    assert text.count("\n") == 1 and text.endswith("\n") and text.count("\r\x1b[2K") == 4
    lines = text.strip().split("\r\x1b[2K")[-1:]
    assert lines[0].startswith("grpo  " + "━" * 20 + "  step 4/4  reward 0.9123") and len(lines[0]) <= 59


def test_an_alert_stands_on_a_line_of_its_own():
    terminal, file = Terminal(True), Terminal(False)
    for stream in (terminal, file):
        stream.write("grpo  step 3/4" if stream.tty else "")
        callbacks.announce("alert: entropy", stream)
    assert terminal.getvalue() == "grpo  step 3/4\r\x1b[2Kalert: entropy\n" and file.getvalue() == "alert: entropy\n"


def test_what_is_foretold_of_a_stage_and_of_its_evaluation_is_kept_apart(tmp_path, monkeypatch):
    from pipeline import run
    from pipeline.reporting.resources import predictions
    from pipeline.reporting.run_folder import read_run

    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "manifest.json").write_text(json.dumps({"status": "complete", "steps": 7}))
    (tmp_path / "grpo" / "metrics.jsonl").write_text('{"step": 7}\n')

    class Planner:
        def __init__(self, size):
            self.complaints, self.hub = [], SimpleNamespace(unchecked=[])
            self.plans = [SimpleNamespace(as_dict=lambda one=one: one) for one in planned]

        def add(self, recipe):
            pass

    planned = [{"recipe": f"{name}.yaml", "writes": str(tmp_path / "grpo"), **facts} for name, facts in
               (("grpo", {"steps": 7}), ("evaluate", {"questions": 3}))]  # fmt: skip
    monkeypatch.setattr(run, "Planner", Planner)
    recipe = SimpleNamespace(path="grpo.yaml", output_dir=tmp_path / "grpo")
    for _ in range(2):
        path = run.keep_plan([recipe, recipe], None)
        assert json.loads(path.read_text())["stages"] == planned
        path.replace(tmp_path / "plan.json")
        assert predictions(read_run(tmp_path))["grpo"]["steps"] == {"predicted": 7, "actual": 7}
        (tmp_path / "plan.json").replace(path)


@pytest.mark.slow
def test_what_is_foretold_is_kept_until_the_stage_has_run(tmp_path, tiny_world):
    from pipeline.run import keep_plan

    recipe = load_recipe(sft_recipe(tmp_path / "run" / "sft.yaml", tiny_world))
    path = keep_plan([recipe], None)
    assert path == tmp_path / "run" / "plan.json"
    (first,) = json.loads(path.read_text())["stages"]
    assert (first["steps"], first["tokens"], first["rows"]) == (4, 4 * 4 * 128, 40) and first["parameters"] > 10_000
    longer = load_recipe(sft_recipe(tmp_path / "run" / "sft.yaml", tiny_world, max_steps=9))
    keep_plan([longer], None)
    assert json.loads(path.read_text())["stages"][0]["steps"] == 9
    (tmp_path / "run" / "sft").mkdir()
    (tmp_path / "run" / "sft" / "manifest.json").write_text("{}")
    keep_plan([recipe], None)
    assert json.loads(path.read_text())["stages"][0]["steps"] == 9

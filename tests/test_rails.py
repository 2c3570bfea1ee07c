"""Rails: each is tripped by a history built to trip it, and silent on healthy ones."""

import json
import math
import random
from pathlib import Path

import pytest
from conftest import command, grpo_recipe, metrics_of, rlhf_recipe, sft_recipe, write_jsonl
from transformers import TrainerControl, TrainerState, TrainingArguments

from pipeline.manifest import read_manifest
from pipeline.training.callbacks import Rails
from pipeline.training.rails import OFF_POLICY, RAILS, check_rails, read_alerts, stopped_by

CEILING = 1.1
HEALTHY = sorted((Path(__file__).parent / "healthy").glob("*.jsonl"))


def healthy(seed, steps=300, top=1.05):
    """Logs of a run as the demo's goes: the reward climbs to its ceiling, groups agree and entropy falls as it gets there."""
    draw = random.Random(seed)
    for step in range(steps):
        done = 1 - math.exp(-step / 60)
        yield {
            "reward": 0.6 + (top - 0.6) * done + draw.gauss(0, 0.03),
            "reward_std": 0.45 * (1 - done) + 0.02,
            "frac_reward_zero_std": 0.3 + 0.69 * done,
            "entropy": 0.2 * (1 - done) + 0.001,
            "kl": 0.002 * step / steps,
            "completions/mean_length": 30 + 10 * done,
            "completions/clipped_ratio": 0.01,
            "completions/repetition": 0.05,
            "sampling/sampling_logp_difference/mean": 0.01,
            "loss": 0.0,
        }


def growing_thoughts(steps=300):
    """A reasoning run: completions three times as long in the end, the reward far below its ceiling, and rising."""
    for step, row in enumerate(healthy(1, steps)):
        share = step / steps
        yield row | {
            "reward": 0.2 + 0.3 * share, "reward_std": 0.4, "frac_reward_zero_std": 0.5, "entropy": 0.6 - 0.3 * share,
            "completions/mean_length": 300 * (1 + 2 * share), "completions/clipped_ratio": 0.2,
        }  # fmt: skip


def run(logs, path, settings=None, ceiling=CEILING):
    rails = Rails(settings, path, ceiling)
    state, control = TrainerState(), TrainerControl()
    args = TrainingArguments(output_dir=str(path.parent), use_cpu=True)
    rails.on_train_begin(args, state, control)
    for step, row in enumerate(logs, start=1):
        state.global_step = step
        rails.on_log(args, state, control, logs=row)
        if control.should_training_stop:
            break
    return rails, control


def falls_at(key, values):
    """A healthy run of which one figure goes wrong from step 100 on."""
    return [row | ({key: values(step)} if step >= 100 else {}) for step, row in enumerate(healthy(0))]


WRONG = {
    # The run that this was seen on: learning rate 3e-4, reward from 0.60 to 0 in 60 steps.
    "reward_fell": lambda: falls_at("reward", lambda step: max(0.0, 0.6 - (step - 100) / 60)),
    "zero_variance": lambda: [row | {"frac_reward_zero_std": 1.0, "reward": 0.1} for row in healthy(0)],
    "reward_flat": lambda: [row | {"reward": 0.3 + 0.01 * (step % 5)} for step, row in enumerate(growing_thoughts())],
    "entropy_collapse": lambda: [row | {"entropy": 0.6 * 0.9**step} for step, row in enumerate(growing_thoughts())],
    "kl_explosion": lambda: falls_at("kl", lambda step: 0.1 * (step - 100)),
    "length_blow_up": lambda: falls_at("completions/mean_length", lambda step: 30.0 * 1.05 ** (step - 100)),
    "truncated": lambda: falls_at("completions/clipped_ratio", lambda step: 0.9),
    "repetition": lambda: falls_at("completions/repetition", lambda step: 0.8),
    "off_policy": lambda: falls_at("sampling/sampling_logp_difference/mean", lambda step: 0.5),
}


def test_there_is_a_bad_run_for_every_rail():
    assert set(WRONG) == set(RAILS)


@pytest.mark.parametrize("name", WRONG)
def test_a_rail_trips_on_its_bad_run_saves_and_stops(name, tmp_path):
    rails, control = run(WRONG[name](), tmp_path / "alerts.jsonl")
    assert rails.tripped["rail"] == name
    assert control.should_save and control.should_training_stop
    (alert,) = read_alerts(tmp_path / "alerts.jsonl")
    assert alert["rail"] == name and alert["logs"]["reward"] == rails.history.rows[-1]["reward"]
    assert name in str(stopped_by(alert, "grpo"))


@pytest.mark.parametrize("logs", [lambda: healthy(1), lambda: healthy(2), growing_thoughts])
def test_rails_are_silent_on_healthy_runs(logs, tmp_path):
    rails, control = run(logs(), tmp_path / "alerts.jsonl")
    assert rails.tripped is None and not control.should_training_stop
    assert not (tmp_path / "alerts.jsonl").exists()


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_rails_are_silent_on_logs_of_real_healthy_runs(path, tmp_path):
    """`metrics.jsonl` of runs that ended well, as README.md beside them says, with the figures that rails watch."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ceiling = None if "rlhf" in path.stem else CEILING  # a reward model knows none
    rails, control = run(rows, tmp_path / "alerts.jsonl", ceiling=ceiling)
    assert rails.tripped is None and not control.should_training_stop and len(rails.history.rows) == len(rows) >= 40


def test_there_are_three_healthy_runs():
    assert len(HEALTHY) >= 3


def test_warn_goes_on_and_says_it_once_and_off_says_nothing(tmp_path):
    rails, control = run(WRONG["truncated"](), tmp_path / "alerts.jsonl", {"action": "warn"})
    assert not control.should_training_stop and rails.tripped is None
    assert [line["rail"] for line in read_alerts(tmp_path / "alerts.jsonl")] == ["truncated"]
    run(WRONG["truncated"](), tmp_path / "silent.jsonl", "off")
    run(WRONG["truncated"](), tmp_path / "silent.jsonl", False)
    run(WRONG["truncated"](), tmp_path / "silent.jsonl", {"truncated": None})
    assert not (tmp_path / "silent.jsonl").exists()


def test_rollback_saves_nothing_of_the_bad_end_and_names_a_step_before_it(tmp_path):
    rails, control = run(WRONG["kl_explosion"](), tmp_path / "alerts.jsonl", {"action": "rollback", "window": 5})
    assert control.should_training_stop and not control.should_save
    assert rails.good_step() == rails.tripped["step"] - 5


def test_a_resumed_run_knows_its_start_and_drops_alerts_of_steps_that_it_makes_again(tmp_path):
    path = tmp_path / "alerts.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step, "rail": "truncated", "action": "warn"}) + "\n" for step in (40, 90))
    )
    state = TrainerState()
    state.global_step = 50
    state.log_history = [{**row, "step": step} for step, row in enumerate(healthy(0, 50), start=1)]
    rails = Rails(None, path, CEILING)
    rails.on_train_begin(TrainingArguments(output_dir=str(tmp_path), use_cpu=True), state, TrainerControl())
    assert [line["step"] for line in read_alerts(path)] == [40]
    assert len(rails.history.rows) == 50 and rails.history.first("reward") == pytest.approx(0.6, abs=0.1)


def test_settings_are_checked_by_name_and_kind():
    assert check_rails(None) == check_rails("warn") == check_rails(False) == check_rails({"truncated": 0.9}) == []
    complaints = check_rails({"action": "panic", "window": 0, "kl": 1, "truncated": "much"})
    assert [one.split(":")[0] for one in complaints] == ["rails.action", "rails.window", "rails.kl", "rails.truncated"]
    assert check_rails(3)


@pytest.mark.slow
def test_a_stopped_run_keeps_its_checkpoint_and_goes_on_only_with_a_wider_limit(
    tmp_path, tiny_world, monkeypatch, capsys
):
    monkeypatch.chdir(tiny_world)
    recipe = grpo_recipe(
        tmp_path / "run.yaml", tiny_world, max_steps=6, save_strategy="steps", save_steps=100, rails={"window": 3}
    )
    folder = tmp_path / "run"
    for _ in range(2):  # the same command does not walk past the rail
        assert command("grpo", "--config", recipe) == 1
        assert "rail truncated at step 3" in capsys.readouterr().err
        assert all(0 <= row["completions/repetition"] < 1 for row in metrics_of(folder))
        assert len(metrics_of(folder)) == 3 and read_manifest(folder)["status"] == "running"
        assert [path.name for path in (folder / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]
    assert command("grpo", "--config", recipe, "--rails", "warn") == 0
    assert read_manifest(folder)["status"] == "complete" and len(metrics_of(folder)) == 6
    assert [line["rail"] for line in read_alerts(folder / "alerts.jsonl")] == ["truncated"]


FAST = {"learning_rate": 0.1, "per_device_train_batch_size": 16}
RUNS = {
    "reward_fell": {"reward_funcs": ["rewarding.spoiling"]},
    "zero_variance": {"reward_funcs": ["rewarding.nothing"]},
    "reward_flat": {"learning_rate": 1e-9, "max_steps": 202},
    "entropy_collapse": {"reward_funcs": ["rewarding.first_of_all"], **FAST},
    "kl_explosion": {**FAST, "beta": 1e-6},
    "length_blow_up": {
        "reward_funcs": ["rewarding.tokens"],
        "max_completion_length": 64,
        **FAST,
        "learning_rate": 1e-2,
    },
    "truncated": {},
    "repetition": {"temperature": 1e-4, "max_completion_length": 64},
    "off_policy": {**FAST, "learning_rate": 0.02, "steps_per_generation": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RAILS)
def test_a_run_that_is_built_to_trip_a_rail_is_stopped_by_it(name, tmp_path, tiny_world, monkeypatch, capsys):
    """With the limit that the rail has by default, and the others off."""
    monkeypatch.chdir(tiny_world)
    rails = {"window": 3} | {other: None for other in RAILS if other != name}
    changes = {"max_steps": 60, "sample_problems": 0, **RUNS[name]}
    if name == "length_blow_up":  # a model that says little, to begin with
        rows = [{"messages": [{"role": "user", "content": f"What is {i} + {i}?"}, {"role": "assistant", "content": "A"}]}
                for i in range(40)]  # fmt: skip
        few = {"learning_rate": 1e-2, "max_steps": 20}
        changes["model_name_or_path"] = tmp_path / "brief"
        assert command("sft", "--config", sft_recipe(
            tmp_path / "brief.yaml", tiny_world, dataset_name=write_jsonl(tmp_path / "brief.jsonl", rows), **few
        )) == 0  # fmt: skip
    recipe = grpo_recipe(tmp_path / "run.yaml", tiny_world, rails=rails, **changes)
    assert command("grpo", "--config", recipe) == 1
    assert f"stopped by rail {name} at step" in capsys.readouterr().err
    (alert,) = read_alerts(tmp_path / "run" / "alerts.jsonl")
    assert alert["rail"] == name and alert["limit"] == RAILS[name].limit and alert["action"] == "stop"


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, tiny_world, monkeypatch, capsys):
    monkeypatch.chdir(tiny_world)
    recipe = grpo_recipe(tmp_path / "run.yaml", tiny_world, learning_rate=1e30, max_grad_norm=1e30)
    assert command("grpo", "--config", recipe) == 1
    assert "Training has diverged" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["generate", "continuous", "lora", "rloo"])
def test_policy_and_rollouts_agree_while_a_batch_is_fresh_and_no_longer_when_it_is_old(
    engine, tmp_path, tiny_world, tiny_reward_model, monkeypatch
):
    monkeypatch.chdir(tiny_world)
    continuous = {
        "use_transformers_continuous_batching": True,
        "transformers_continuous_batching_config": {"num_blocks": 64, "max_batch_tokens": 512},
    }
    changes = {
        "continuous": continuous,
        "lora": {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0},
        "rloo": {"algorithm": "rloo"},
    }
    values = {"learning_rate": 1e-2, "steps_per_generation": 2, "temperature": 0.7, **changes.get(engine, {})}
    stage, build = ("rlhf", rlhf_recipe) if engine == "rloo" else ("grpo", grpo_recipe)
    assert command(stage, "--config", build(tmp_path / "run.yaml", tiny_world, **values)) == 0
    fresh, old, again, _ = (line[OFF_POLICY] for line in metrics_of(tmp_path / "run"))
    assert fresh < 1e-4 and again < 1e-4 < 1e-3 < old


@pytest.mark.slow
def test_rollback_hands_over_the_weights_of_the_last_good_checkpoint(tmp_path, tiny_world, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.chdir(tiny_world)
    rails = {"action": "rollback", "window": 2, "reward_flat": 6, "truncated": None}
    recipe = grpo_recipe(
        tmp_path / "run.yaml", tiny_world, max_steps=20, save_strategy="steps", save_steps=2, save_total_limit=9,
        learning_rate=1e-9, rails=rails,
    )  # fmt: skip
    assert command("grpo", "--config", recipe) == 0
    manifest = read_manifest(tmp_path / "run")
    back = manifest["rolled_back"]
    assert back["rail"] == "reward_flat" and back["to_step"] <= back["from_step"] - 2
    assert manifest["steps"] == back["to_step"]
    good = load_file(tmp_path / "run" / "checkpoints" / f"checkpoint-{back['to_step']}" / "model.safetensors")
    handed_over = load_file(tmp_path / "run" / "model.safetensors")
    assert all(handed_over[name].equal(weights) for name, weights in good.items())

"""A killed run goes on by the same command, and ends with the weights of a run that was never killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import (
    ROOT,
    command,
    dpo_recipe,
    grpo_recipe,
    metrics_of,
    pretrain_recipe,
    reward_recipe,
    rlhf_recipe,
    sft_recipe,
    tiny_config,
)
from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.manifest import read_manifest, sha256, verify
from pipeline.training.resume import newest_checkpoint, what_is_missing

STEPS = 40
RUNS = {
    # Steps between two log lines that are not those between two checkpoints: tokens must not be counted from log lines.
    # Dropout shows whether the random state was restored.
    "pretrain": (
        pretrain_recipe,
        {
            "model_config": tiny_config(attention_dropout=0.2),
            "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": 2,
            "logging_steps": 3,
            "save_steps": 4,
            "eval_strategy": "steps",
            "eval_steps": 10,
            "lr_scheduler_type": "cosine",
        },
    ),
    "sft": (
        sft_recipe,
        {"use_peft": True, "lora_dropout": 0.2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    ),
    # Three optimizer steps a generation: checkpoints fall in the midst of its completions.
    "grpo": (
        grpo_recipe,
        {
            "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": 4,
            "steps_per_generation": 6,
            "beta": 0.01,
            "reward_funcs": ["rewarding.odd_length"],
            "difficulty": {"min": 0.2, "max": 0.8},
            "active_sampling_rounds": 2,
        },
    ),
    "reward": (reward_recipe, {"logging_steps": 3}),
    "rlhf": (
        rlhf_recipe,
        {"algorithm": "rloo", "reward_funcs": ["rewarding.odd_tokens"], "reward_weights": [1.0, 1.0]},
    ),
    "dpo": (dpo_recipe, {"algorithm": "kto", "precompute_ref_log_probs": True, "logging_steps": 3}),
}


def recipe_of(stage, path, world, **changes):
    write, values = RUNS[stage]
    common = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 3}
    samples = (
        {"sample_prompts": ["What is 1 + 1?"], "sample_steps": 10, "sample_tokens": 5} if stage != "reward" else {}
    )
    return write(path, world, **{**common, **samples, **values, **changes})


def kill_in_mid_training(stage, recipe, folder, cwd) -> list:
    """Start the stage as a user does, and send SIGKILL once a checkpoint is whole; returns the checkpoints left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", stage, "--config", str(recipe)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None:
        saved = [path for path in (folder / "checkpoints").glob("checkpoint-*") if not what_is_missing(path)]
        if saved:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    output = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, output
    return sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)


def leave_a_half_written_checkpoint(folder, damage) -> str:
    """A copy of the newest whole checkpoint under a higher number, damaged as a kill while saving would leave it."""
    whole = newest_checkpoint(folder / "checkpoints")
    target = folder / "checkpoints" / "checkpoint-39"
    shutil.copytree(whole, target, dirs_exist_ok=True)
    damage(target)
    return target.name


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "pretrain": lambda folder: truncate(folder / "model.safetensors"),
    "sft": lambda folder: (folder / "optimizer.pt").unlink(),
    "grpo": lambda folder: truncate(folder / "trainer_state.json"),
    "reward": lambda folder: truncate(folder / "model.safetensors"),
    "rlhf": lambda folder: (folder / "scheduler.pt").unlink(),
    "dpo": lambda folder: (folder / "rng_state.pth").unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", list(RUNS))
def test_kill_9_and_the_same_command_give_the_weights_of_an_uninterrupted_run(
    tmp_path, tiny_world, tiny_reward_model, monkeypatch, capsys, stage
):
    monkeypatch.chdir(tiny_world)
    killed = recipe_of(stage, tmp_path / "killed.yaml", tiny_world)
    kill_in_mid_training(stage, killed, tmp_path / "killed", tiny_world)
    assert read_manifest(tmp_path / "killed")["status"] == "running"
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    half_written = leave_a_half_written_checkpoint(tmp_path / "killed", DAMAGE[stage])

    assert command(stage, "--config", killed) == 0
    shown = capsys.readouterr().out
    assert f"{half_written}: not whole" in shown and f"{stage}  goes on from step" in shown
    whole = recipe_of(stage, tmp_path / "whole.yaml", tiny_world)
    assert command(stage, "--config", whole) == 0
    assert "goes on from step" not in capsys.readouterr().out

    resumed, uninterrupted = (verify(tmp_path / name) for name in ("killed", "whole"))
    assert sha256(tmp_path / "killed" / "model.safetensors") == sha256(tmp_path / "whole" / "model.safetensors")
    for fact in ("steps", "tokens", "flops", "rows"):
        assert resumed.get(fact) == uninterrupted.get(fact)
    assert resumed["metrics"]["loss"] == uninterrupted["metrics"]["loss"]
    first, second = (metrics_of(tmp_path / name) for name in ("killed", "whole"))
    training = [line["step"] for line in first if "loss" in line]
    assert training == sorted(set(training)) and training[-1] >= STEPS - 3
    timing = {"seconds", "tokens_per_second", "step_time"}
    differing = [
        (here["step"], key)
        for here, there in zip(first, second, strict=True)
        for key in (here.keys() | there.keys()) - timing
        if here.get(key) != there.get(key)
    ]
    # The first log line after the resume averages the loss over the steps since then: no other figure may differ.
    if stage in ("reward", "dpo"):  # so do TRL's own figures
        assert len({step for step, _ in differing}) <= 1
    else:
        assert len(differing) <= 1 and {key for _, key in differing} <= ({"loss"} if stage == "pretrain" else set())
    assert [line["seconds"] for line in first] == sorted(line["seconds"] for line in first)
    if stage == "reward":  # it answers nothing
        return
    samples = [(tmp_path / name / "samples.jsonl").read_text() for name in ("killed", "whole")]
    assert samples[0] == samples[1] and len(samples[0].splitlines()) == 5


@pytest.mark.slow
def test_a_run_killed_between_its_last_save_and_publishing_hands_over_without_training_again(tmp_path, tiny_world):
    recipe = pretrain_recipe(tmp_path / "run.yaml", tiny_world, save_strategy="steps", save_steps=2)
    assert command("pretrain", "--config", recipe) == 0
    before = read_manifest(tmp_path / "run")
    lines = metrics_of(tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({**before, "status": "running", "files": {}}))
    assert command("pretrain", "--config", recipe) == 0
    after = verify(tmp_path / "run")
    assert after["files"]["model.safetensors"] == before["files"]["model.safetensors"]
    assert (after["tokens"], after["steps"], after["metrics"]["loss"]) == (
        *(before["tokens"], before["steps"]),
        before["metrics"]["loss"],
    )
    assert metrics_of(tmp_path / "run") == lines


@pytest.mark.slow
def test_the_seed_decides_the_weights(tmp_path, tiny_world):
    hashes = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        recipe = sft_recipe(tmp_path / f"{name}.yaml", tiny_world, seed=seed, max_steps=2, use_peft=True)
        assert command("sft", "--config", recipe) == 0
        hashes.append(sha256(tmp_path / name / "model.safetensors"))
        torch.manual_seed(len(hashes))  # what ran before in this process must not matter
    assert hashes[0] == hashes[1] != hashes[2]


# --- what makes a checkpoint whole


@pytest.fixture
def saved(tmp_path):
    """The files of a Trainer's checkpoint."""
    folder = tmp_path / "checkpoints" / "checkpoint-4"
    folder.mkdir(parents=True)
    save_file({"weight": torch.randn(8, 8)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.randn(40)}, folder / name)
    (folder / "trainer_state.json").write_text('{"global_step": 4}')
    return folder


PIECES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def test_a_whole_checkpoint_misses_nothing_and_the_newest_is_chosen_by_number(saved):
    assert what_is_missing(saved) == []
    shutil.copytree(saved, saved.with_name("checkpoint-12"))
    (saved.with_name("checkpoint-best")).mkdir()
    assert newest_checkpoint(saved.parent) == saved.with_name("checkpoint-12")
    assert newest_checkpoint(saved.parent / "nowhere") is None


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize("damage", ["removed", "empty", "cut short"])
def test_every_piece_is_missed(saved, capsys, name, damage):
    older = shutil.copytree(saved, saved.with_name("checkpoint-2"))
    if damage == "removed":
        (saved / name).unlink()
    else:
        (saved / name).write_bytes(b"" if damage == "empty" else (saved / name).read_bytes()[:-5])
    (problem,) = what_is_missing(saved)
    assert problem == ("weights" if (name, damage) == ("model.safetensors", "removed") else name)
    assert newest_checkpoint(saved.parent) == older
    assert f"{saved}: not whole ({problem}); looking for an older one" in capsys.readouterr().out


def test_every_shard_that_the_index_names_is_missed(saved):
    (saved / "model.safetensors").rename(saved / "model-00001-of-00002.safetensors")
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(zip("ab", names, strict=True))}))
    assert what_is_missing(saved) == [names[1]]


def test_every_process_has_its_own_random_state(saved):
    (saved / "rng_state.pth").rename(saved / "rng_state_0.pth")
    assert what_is_missing(saved, world_size=2) == ["rng_state_1.pth"]
    assert newest_checkpoint(saved.parent, world_size=2) is None
    shutil.copy(saved / "rng_state_0.pth", saved / "rng_state_1.pth")
    assert newest_checkpoint(saved.parent, world_size=2) == saved


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2), (4, 2)])
def test_a_checkpoint_of_another_number_of_processes_is_refused_instead_of_starting_over(saved, before, now):
    if before > 1:
        for rank in range(before):
            shutil.copy(saved / "rng_state.pth", saved / f"rng_state_{rank}.pth")
        (saved / "rng_state.pth").unlink()
    with pytest.raises(PipelineError, match=f"saved by a run of {before} processes, this one has {now}"):
        newest_checkpoint(saved.parent, world_size=now)


def test_a_deepspeed_checkpoint_needs_the_optimizer_states_that_its_tag_names(saved):
    for name in ("optimizer.pt", "scheduler.pt", "model.safetensors"):
        (saved / name).unlink()
    (saved / "latest").write_text("global_step4\n")
    assert what_is_missing(saved) == ["global_step4/*optim_states.pt"]
    (saved / "global_step4").mkdir()
    torch.save({}, saved / "global_step4" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert what_is_missing(saved) == []


def test_a_folder_without_a_whole_checkpoint_says_that_training_starts_over(saved, capsys):
    (saved / "optimizer.pt").unlink()
    assert newest_checkpoint(saved.parent) is None
    assert "no whole checkpoint; training starts from its beginning" in capsys.readouterr().out

"""Several processes, really started: the same learning as one process with the batch in parts, or a clear refusal."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, command, grpo_recipe, injected_trainer, metrics_of, pretrain_recipe, sft_recipe
from safetensors.torch import load_file

from pipeline.errors import PipelineError
from pipeline.manifest import verify
from pipeline.training import distributed
from pipeline.training.resume import newest_checkpoint

CONFIGS = ROOT / "accelerate_configs"
TWICE = {"gradient_accumulation_steps": 2}
WORDS = ("-m", "pipeline")


def launch(config: Path, *words, cwd: Path) -> tuple[int, str]:
    """Exit status and output of `accelerate launch --config_file CONFIG WORDS`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folder = Path(sys.executable).parent
    done = subprocess.run(
        [folder / "accelerate", "launch", "--config_file", config, "--main_process_port", str(port), *map(str, words)],
        cwd=cwd,
        # DeepSpeed compiles its CPU communication on first use and looks for ninja on the PATH.
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
    )
    return done.returncode, done.stdout


def assert_same_learning(alone: Path, together: Path, weights_differ_by: float = 2e-5) -> None:
    """The loss curves, gradient norms and token counts of two stage directories agree, and so do their weights."""
    first, second = metrics_of(alone), metrics_of(together)
    assert [line["step"] for line in first] == [line["step"] for line in second]
    for here, there in zip(first, second, strict=True):
        for key in here.keys() & {"loss", "grad_norm", "eval_loss", "eval_bits_per_byte", "reward", "reward_std"}:
            assert there[key] == pytest.approx(here[key], rel=2e-5, abs=1e-7), (here["step"], key)
        assert here["tokens"] == there["tokens"]
    before, after = (load_file(folder / "model.safetensors") for folder in (alone, together))
    for name, weights in before.items():
        torch.testing.assert_close(after[name], weights, atol=weights_differ_by, rtol=0)
    assert verify(together)["world_size"] == 2 and verify(alone)["world_size"] == 1


@pytest.mark.slow
def test_two_processes_pretrain_as_one_does_with_twice_the_accumulation(tmp_path, tiny_world):
    # 10 rows for validation, three at a time: the ranks do not have equally many.
    values = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 3}
    alone = pretrain_recipe(tmp_path / "alone.yaml", tiny_world, **values, **TWICE)
    together = pretrain_recipe(tmp_path / "together.yaml", tiny_world, **values)
    assert command("pretrain", "--config", alone) == 0
    status, output = launch(CONFIGS / "cpu_2proc.yaml", *WORDS, "pretrain", "--config", together, cwd=tmp_path)
    assert status == 0, output
    assert output.count("parameters;") == 1, "only the main process speaks"
    assert_same_learning(tmp_path / "alone", tmp_path / "together")


@pytest.fixture(scope="module")
def sft_alone(tmp_path_factory, tiny_world) -> Path:
    """Fine-tuning in one process, the batch in two parts."""
    folder = tmp_path_factory.mktemp("sft")
    assert command("sft", "--config", sft_recipe(folder / "alone.yaml", tiny_world, **TWICE)) == 0
    return folder / "alone"


@pytest.mark.slow
def test_two_processes_fine_tune_as_one_does_with_twice_the_accumulation(tmp_path, tiny_world, sft_alone):
    together = sft_recipe(tmp_path / "together.yaml", tiny_world, save_strategy="steps", save_steps=2)
    status, output = launch(CONFIGS / "cpu_2proc.yaml", *WORDS, "sft", "--config", together, cwd=tmp_path)
    assert status == 0, output
    assert_same_learning(sft_alone, tmp_path / "together")
    saved = tmp_path / "together" / "checkpoints"
    assert newest_checkpoint(saved, world_size=2) == saved / "checkpoint-4"
    with pytest.raises(PipelineError, match="saved by a run of 2 processes, this one has 1"):
        newest_checkpoint(saved, world_size=1)


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
import trl
from conftest import injected_trainer
trl.GRPOTrainer = injected_trainer()
from pipeline.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_two_processes_learn_by_grpo_as_one_does_from_the_same_completions(tmp_path, tiny_world, monkeypatch):
    # Each process samples with a random state of its own, so that the completions have to be given.
    import trl

    monkeypatch.chdir(tiny_world)
    monkeypatch.setattr(trl, "GRPOTrainer", injected_trainer())
    assert command("grpo", "--config", grpo_recipe(tmp_path / "alone.yaml", tiny_world, **TWICE)) == 0
    (tmp_path / "driver.py").write_text(DRIVER.format(tests=str(ROOT / "tests")))
    together = grpo_recipe(tmp_path / "together.yaml", tiny_world)
    words = (tmp_path / "driver.py", "grpo", "--config", together)
    status, output = launch(CONFIGS / "cpu_2proc.yaml", *words, cwd=tiny_world)
    assert status == 0, output
    assert min(line["reward_std"] for line in metrics_of(tmp_path / "alone")) > 0
    assert_same_learning(tmp_path / "alone", tmp_path / "together")


@pytest.mark.slow
def test_two_processes_sample_groups_again_and_keep_one_curriculum(tmp_path, tiny_world):
    recipe = grpo_recipe(
        tmp_path / "run.yaml", tiny_world, reward_funcs=["rewarding.odd_length"], per_device_train_batch_size=8,
        difficulty={"min": 0.1, "max": 0.9}, active_sampling_rounds=8, save_strategy="steps", save_steps=4,
    )  # fmt: skip
    status, output = launch(CONFIGS / "cpu_2proc.yaml", *WORDS, "grpo", "--config", recipe, cwd=tiny_world)
    assert status == 0, output
    lines = metrics_of(tmp_path / "run")
    assert sum(line["active_sampling/replaced"] for line in lines) > 0
    assert all(line["frac_reward_zero_std"] == 0 for line in lines)
    saved = tmp_path / "run" / "checkpoints" / "checkpoint-4"
    first, second = (torch.load(saved / f"rollouts_{rank}.pt")["curriculum"] for rank in (0, 1))
    assert first["measured"].equal(second["measured"]) and first["position"] == second["position"]
    assert (first["measured"][1] > 0).sum() == 40 - lines[-1]["difficulty/unmeasured"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_deepspeed_fine_tunes_as_one_process_does_and_hands_over_whole_weights(
    tmp_path, tiny_world, sft_alone, tokenizer, stage
):
    from transformers import AutoModelForCausalLM

    recipe = sft_recipe(tmp_path / "together.yaml", tiny_world)
    words = ("--num_processes", 2, *WORDS, "sft", "--config", recipe)
    status, output = launch(CONFIGS / f"{stage}.yaml", *words, cwd=tmp_path)
    assert status == 0, output
    assert_same_learning(sft_alone, tmp_path / "together")
    assert verify(tmp_path / "together")["flops"] == verify(sft_alone)["flops"]
    ids = torch.arange(10, 40)[None]
    logits = [AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (sft_alone, tmp_path / "together")]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "changes", "complaint"),
    [
        ("cpu_2proc.yaml", {"distributed_type": "MULTI_CPU"}, "asked for 2 processes, but this run has 1"),
        ("fsdp2.yaml", {"use_cpu": True, "num_processes": 2}, "asks for FSDP, but this run would use"),
    ],
    ids=["MULTI_CPU", "FSDP on a CPU"],
)
def test_a_launch_that_would_silently_be_another_one_is_refused(tmp_path, tiny_world, config, changes, complaint):
    settings = yaml.safe_load((CONFIGS / config).read_text()) | changes
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    recipe = sft_recipe(tmp_path / "run.yaml", tiny_world)
    status, output = launch(tmp_path / "config.yaml", *WORDS, "sft", "--config", recipe, cwd=tmp_path)
    assert status != 0 and complaint in output, output
    assert not (tmp_path / "run" / "model.safetensors").exists()


# --- what was asked for


@pytest.mark.parametrize(
    ("asked", "processes", "kind", "complaint"),
    [
        ({"processes": 2, "engine": None}, 1, "NO", "asked for 2 processes, but this run has 1"),
        ({"processes": 2, "engine": None}, 2, "NO", "would not synchronise their gradients"),
        ({"processes": 2, "engine": "FSDP"}, 2, "MULTI_CPU", "asks for FSDP, but this run would use MULTI_CPU"),
        ({"processes": 2, "engine": "DEEPSPEED"}, 2, "MULTI_GPU", "asks for DEEPSPEED"),
    ],
)
def test_a_run_that_is_not_what_was_asked_for_is_refused(asked, processes, kind, complaint):
    with pytest.raises(PipelineError, match=complaint):
        distributed.check(asked, processes, kind)


@pytest.mark.parametrize(
    ("engine", "processes", "kind"),
    [
        (None, 1, "NO"),
        (None, 2, "MULTI_CPU"),
        (None, 8, "MULTI_GPU"),
        ("DEEPSPEED", 1, "DEEPSPEED"),
        ("FSDP", 8, "FSDP"),
    ],
)
def test_a_run_that_is_what_was_asked_for_starts(engine, processes, kind):
    distributed.check({"processes": processes, "engine": engine}, processes, kind)


class Launcher:
    """An ancestor process with this command line."""

    def __init__(self, words, folder):
        self._words, self._folder = words, folder

    def cmdline(self):
        return self._words

    def cwd(self):
        return str(self._folder)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bash"], 1),
        (["/venv/bin/accelerate", "launch", "--config_file", "two.yaml", "-m", "pipeline"], 2),
        (["python", "-m", "accelerate.commands.launch", "--config_file=two.yaml", "-m", "pipeline"], 2),
        (["accelerate", "launch", "--config_file", "two.yaml", "--num_processes", "4", "-m", "pipeline"], 4),
        (["accelerate-launch", "--num-processes=3", "-m", "pipeline"], 3),
        (["accelerate", "launch", "-m", "pipeline"], 5),
    ],
    ids=["none", "config", "module", "option over config", "other spelling", "default config"],
)
def test_the_launchers_command_line_and_config_say_how_many_processes_were_asked_for(
    tmp_path, monkeypatch, words, expected
):
    (tmp_path / "two.yaml").write_text("num_processes: 2\n")
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("num_processes: 5\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("WORLD_SIZE", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)
    ancestors = [Launcher(["sh"], tmp_path), Launcher(words, tmp_path)]
    monkeypatch.setattr(distributed.psutil.Process, "parents", lambda self: ancestors)
    assert distributed.asked_for() == {"processes": expected, "engine": None}
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert distributed.asked_for() == {"processes": 16, "engine": "FSDP"}


def test_only_the_first_rank_writes(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert distributed.is_main()
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        assert distributed.is_main() == (rank == 0)

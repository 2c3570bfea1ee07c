"""FSDP2 over two processes on the CPU: torch shards there too, but Accelerate falls back to DDP, so a driver says otherwise.

What is tested is ours (generation while training, hand-over of whole weights, resume); GPUs differ in what carries the
tensors from rank to rank.
"""

import os

import pytest
import yaml
from conftest import ROOT, command, grpo_recipe, injected_trainer, metrics_of, pretrain_recipe, sft_recipe
from safetensors.torch import load_file
from test_distributed import CONFIGS, TWICE, assert_same_learning, launch

DRIVER = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import transformers, trl
from accelerate import state
from accelerate.utils import DistributedType
from conftest import injected_trainer

accelerates = state.AcceleratorState.__init__

def sharded(self, *args, fsdp_plugin=None, **kwargs):
    accelerates(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

state.AcceleratorState.__init__ = sharded
trl.GRPOTrainer = injected_trainer()
steps = transformers.Trainer.training_step

def killed(self, *args, **kwargs):
    if self.state.global_step == int(os.environ.get("KILL_AT", -1)):
        os.kill(os.getpid(), signal.SIGKILL)
    return steps(self, *args, **kwargs)

transformers.Trainer.training_step = killed
from pipeline.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def sharded(tmp_path, tiny_world):
    """Run a stage over two processes under accelerate_configs/fsdp2.yaml: (exit status, output)."""
    settings = yaml.safe_load((CONFIGS / "fsdp2.yaml").read_text()) | {"use_cpu": True, "num_processes": 2}
    (tmp_path / "fsdp2.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "driver.py").write_text(DRIVER.format(tests=str(ROOT / "tests")))

    def run(stage, recipe):
        words = (tmp_path / "driver.py", stage, "--config", recipe)
        return launch(tmp_path / "fsdp2.yaml", *words, cwd=tiny_world)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "grpo"])
def test_sharded_processes_learn_as_one_does_and_hand_over_whole_weights(
    tmp_path, tiny_world, sharded, stage, monkeypatch
):
    # Sharded checkpoints, the default: transformers' `save_model` writes nothing then.
    import trl

    monkeypatch.chdir(tiny_world)
    monkeypatch.setattr(trl, "GRPOTrainer", injected_trainer())
    write = {"pretrain": pretrain_recipe, "sft": sft_recipe, "grpo": grpo_recipe}[stage]
    values = {"sample_prompts": ["What is 1 + 1?"], "sample_tokens": 4}
    if stage == "pretrain":
        values |= {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 3}
    assert command(stage, "--config", write(tmp_path / "alone.yaml", tiny_world, **values, **TWICE)) == 0
    status, output = sharded(stage, write(tmp_path / "together.yaml", tiny_world, **values))
    assert status == 0, output
    assert_same_learning(tmp_path / "alone", tmp_path / "together")
    assert metrics_of(tmp_path / "together"), "the main process wrote its metrics"


@pytest.mark.slow
def test_a_sharded_run_that_was_killed_goes_on_to_the_same_weights(tmp_path, tiny_world, sharded, monkeypatch):
    values = {"save_strategy": "steps", "save_steps": 2}
    whole = sft_recipe(tmp_path / "whole.yaml", tiny_world, **values)
    status, output = sharded("sft", whole)
    assert status == 0, output
    killed = sft_recipe(tmp_path / "killed.yaml", tiny_world, **values)
    monkeypatch.setenv("KILL_AT", "3")
    status, output = sharded("sft", killed)
    assert status != 0 and not (tmp_path / "killed" / "model.safetensors").exists()
    monkeypatch.delenv("KILL_AT")
    status, output = sharded("sft", killed)
    assert status == 0, output
    assert "goes on from step 2 of 4" in output
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(first[name].equal(second[name]) for name in first)
    assert os.path.getsize(tmp_path / "killed" / "metrics.jsonl") > 0

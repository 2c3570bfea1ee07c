"""`optim: muon`: Muon for the matrices of the blocks, AdamW for everything else, as one optimizer that can be resumed."""

import shutil

import pytest
import torch
from conftest import command, metrics_of, pretrain_recipe, sft_recipe, tiny_config
from safetensors.torch import load_file
from transformers import get_cosine_schedule_with_warmup

from pipeline.errors import PipelineError
from pipeline.manifest import sha256
from pipeline.training.models import new_model
from pipeline.training.optimizer import MuonWithAdamW, muon


class Args:
    learning_rate, weight_decay, adam_beta1, adam_beta2, adam_epsilon = 0.02, 0.1, 0.9, 0.95, 1e-8


def fresh_model(tokenizer, **changes):
    torch.manual_seed(0)
    return new_model(tiny_config(**changes), tokenizer)


def step(model, optimizer, scheduler=None, seed=0):
    ids = torch.randint(10, 300, (2, 16), generator=torch.Generator().manual_seed(seed))
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    if scheduler is not None:
        scheduler.step()
    optimizer.zero_grad()


def is_matrix_of_a_block(name: str) -> bool:
    return "layers" in name and ("proj" in name)


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_move_by_muon_and_all_else_by_adamw(tokenizer, tied):
    model, twin = (fresh_model(tokenizer, tie_word_embeddings=tied) for _ in range(2))
    ours = muon(model, Args)
    named = dict(twin.named_parameters())
    matrices = [parameter for name, parameter in named.items() if is_matrix_of_a_block(name)]
    tables = [named[name] for name in named if "embed" in name or "lm_head" in name]
    norms = [named[name] for name in named if "norm" in name]
    assert len(matrices) == 14 and len(tables) == (1 if tied else 2) and len(norms) == 5
    theirs = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(tables, lr=0.02, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8),
        torch.optim.AdamW(norms, lr=0.02, weight_decay=0.0, betas=(0.9, 0.95), eps=1e-8),
    ]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for seed in range(3):
        step(model, ours, seed=seed)
        ids = torch.randint(10, 300, (2, 16), generator=torch.Generator().manual_seed(seed))
        twin(ids, labels=ids).loss.backward()
        for optimizer in theirs:
            optimizer.step()
            optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, named[name]), name
        assert not torch.equal(parameter, before[name]), name


def test_a_scheduler_reaches_both_also_after_the_state_was_loaded(tokenizer):
    model = fresh_model(tokenizer)
    optimizer = muon(model, Args)
    for reloaded in (False, True):
        if reloaded:
            optimizer.load_state_dict(optimizer.state_dict())
        scheduler = get_cosine_schedule_with_warmup(optimizer, 4, 8)
        rates = []
        for seed in range(4):
            rates.append([group["lr"] for part in optimizer._parts.values() for group in part.param_groups])
            step(model, optimizer, scheduler, seed)
        assert rates == [pytest.approx([rate] * 3) for rate in (0.0, 0.005, 0.01, 0.015)]


def test_a_saved_and_loaded_optimizer_goes_on_bit_for_bit(tokenizer, tmp_path):
    model = fresh_model(tokenizer)
    optimizer = muon(model, Args)
    for seed in range(3):
        step(model, optimizer, seed=seed)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = fresh_model(tokenizer)
    resumed.load_state_dict(saved["model"])
    resumed_optimizer = muon(resumed, Args)
    resumed_optimizer.load_state_dict(saved["optimizer"])
    for seed in range(3, 6):
        step(model, optimizer, seed=seed)
        step(resumed, resumed_optimizer, seed=seed)
    for first, second in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(first, second)
    forgetful = fresh_model(tokenizer)
    forgetful.load_state_dict(saved["model"])
    other = muon(forgetful, Args)
    for seed in range(3, 6):
        step(forgetful, other, seed=seed)
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), forgetful.parameters(), strict=True))


def test_parameters_of_one_sort_alone_are_no_obstacle():
    weight, bias = (torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 4), (4,)))
    for matrices, others in (([weight], []), ([], [bias])):
        optimizer = MuonWithAdamW(matrices, others, lr=0.1)
        (parameter,) = matrices + others
        before = parameter.detach().clone()
        parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        assert not torch.equal(parameter, before)


@pytest.mark.slow
def test_a_pretraining_run_with_muon_resumes_bit_for_bit_and_beats_no_training(tmp_path, tiny_world):
    values = {"optim": "muon", "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "save_total_limit": 5}
    values |= {"learning_rate": 5e-3, "lr_scheduler_type": "cosine"}
    whole = pretrain_recipe(tmp_path / "whole.yaml", tiny_world, **values)
    assert command("pretrain", "--config", whole) == 0
    losses = [line["loss"] for line in metrics_of(tmp_path / "whole")]
    assert losses[-1] < losses[0] - 0.3
    state = torch.load(tmp_path / "whole" / "checkpoints" / "checkpoint-3" / "optimizer.pt", weights_only=True)
    assert len(state["muon"]["state"]) == 14 and len(state["adamw"]["state"]) == 6

    resumed = pretrain_recipe(tmp_path / "resumed.yaml", tiny_world, **values)
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "checkpoint-3", tmp_path / "half")
    interrupt_with(tmp_path / "half", resumed)
    assert command("pretrain", "--config", resumed) == 0
    weights = [tmp_path / name / "model.safetensors" for name in ("whole", "resumed")]
    assert sha256(weights[0]) == sha256(weights[1])


def interrupt_with(state, recipe) -> None:
    """Make the recipe's directory look like a run that was killed after it had saved `state`."""
    from pipeline import stages
    from pipeline.checkpoint import stage_directory

    loaded = stages.load_recipe(recipe)
    with stage_directory(loaded, "base", stages.find(loaded.stage).INPUTS) as directory:
        shutil.copytree(state, directory.checkpoints / "checkpoint-3")


@pytest.mark.slow
def test_muon_trains_adapters_too(tmp_path, tiny_world):
    recipe = sft_recipe(tmp_path / "lora.yaml", tiny_world, optim="muon", use_peft=True, lora_r=4, max_steps=2)
    assert command("sft", "--config", recipe) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_world / "model", tmp_path / "lora"))
    assert any(not torch.equal(before[name], after[name]) for name in before if "q_proj" in name)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


def test_muon_is_refused_where_matrices_are_not_whole(tokenizer, tmp_path, monkeypatch):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from pipeline.training.trainer import StageTrainer

    def sharded(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.is_deepspeed_enabled = True

    original = SFTTrainer.__init__
    monkeypatch.setattr(SFTTrainer, "__init__", sharded)
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none")
    rows = Dataset.from_list([{"input_ids": [10, 11, 12], "labels": [10, 11, 12]}])
    with pytest.raises(PipelineError, match="optim: muon needs whole matrices"):
        StageTrainer(
            model=fresh_model(tokenizer), args=args, processing_class=tokenizer, train_dataset=rows, use_muon=True
        )

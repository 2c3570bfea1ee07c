"""Distillation: the student comes to agree with its teacher; another vocabulary is refused."""

import pytest
import torch
from conftest import command, metrics_of, tiny_config, write_recipe

from pipeline.manifest import compute, read_manifest
from pipeline.training.device import flops_per_token


def recipe(path, world, teacher, **changes):
    values = {
        "stage": "distill", "output_dir": path.parent / path.stem, "model_name_or_path": world / "model",
        "teacher_model_name_or_path": teacher, "dataset_name": world / "problems.jsonl", "max_completion_length": 8,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 40, "logging_steps": 1,
        "learning_rate": 1e-2, "save_strategy": "no", "seed": 5,
    }  # fmt: skip
    return write_recipe(path, **{**values, **changes})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tokenizer):
    """Another random model of the student's tokenizer, with a peaked distribution: there is something to learn."""
    from pipeline.training.models import new_model

    torch.manual_seed(1)
    model = new_model(tiny_config(hidden_size=48), tokenizer, attention="sdpa")
    model.get_input_embeddings().weight.data *= 20
    folder = tmp_path_factory.mktemp("teacher")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_student_comes_nearer_to_its_teacher(tmp_path, tiny_world, teacher):
    assert command("distill", "--config", recipe(tmp_path / "run.yaml", tiny_world, teacher)) == 0
    losses = [row["loss"] for row in metrics_of(tmp_path / "run") if "loss" in row]
    assert len(losses) == 40 and sum(losses[-10:]) < 0.8 * sum(losses[:10])
    manifest = read_manifest(tmp_path / "run")
    assert manifest["kind"] == "chat" and manifest["steps"] == 40
    from transformers import AutoModelForCausalLM

    taught = AutoModelForCausalLM.from_pretrained(teacher)
    assert manifest["teacher_flops_per_token"] == pytest.approx(flops_per_token(taught, 8) / 3)
    both = manifest["flops"] * 4 / 3 + manifest["tokens"] * manifest["teacher_flops_per_token"]
    assert compute(manifest) == pytest.approx(both)


@pytest.mark.slow
def test_a_teacher_of_another_vocabulary_is_refused(tmp_path, tiny_world, tiny_model_dir, capsys):
    import shutil

    from transformers import AutoTokenizer

    shutil.copytree(tiny_model_dir, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "other")
    tokenizer.add_tokens(["unheard"])
    tokenizer.save_pretrained(tmp_path / "other")
    assert command("distill", "--config", recipe(tmp_path / "run.yaml", tiny_world, tmp_path / "other")) == 1
    assert "has another vocabulary" in capsys.readouterr().err

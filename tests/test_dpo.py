"""DPO and KTO: policy and reference agree before the first step, and what was preferred becomes likelier."""

import json

import pytest
import torch
from conftest import command, dpo_recipe, metrics_of, write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerControl, TrainerState, TrainingArguments

from pipeline.errors import PipelineError
from pipeline.manifest import read_manifest, verify
from pipeline.training.callbacks import AgreesAtTheStart

pytestmark = pytest.mark.slow

LEARNING = {"max_steps": 30, "learning_rate": 2e-3, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant"}


def log_probability(model, tokenizer, prompt, answer):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    start = len(tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"])
    ids = torch.tensor([tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]])
    with torch.no_grad():
        log_probabilities = model(ids).logits[0, :-1].log_softmax(-1)
    return log_probabilities.gather(1, ids[0, 1:, None])[start - 1 :].sum().item()


@pytest.mark.parametrize("algorithm", ["dpo", "kto"])
@pytest.mark.parametrize("changes", [{}, {"use_peft": True, "lora_r": 8, "learning_rate": 1e-2}], ids=["full", "lora"])
def test_the_preferred_answer_becomes_likelier_against_the_other(tmp_path, tiny_world, algorithm, changes):
    recipe = dpo_recipe(tmp_path / "run.yaml", tiny_world, **{"algorithm": algorithm, **LEARNING, **changes})
    assert command("dpo", "--config", recipe) == 0
    manifest = verify(tmp_path / "run")
    assert manifest["kind"] == "aligned" and manifest["rows"] == (40 if algorithm == "dpo" else 80)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    gaps = []
    for path in (tiny_world / "model", tmp_path / "run"):
        model = AutoModelForCausalLM.from_pretrained(path)
        pair = ("Indeed. The answer is 90.", "The answer is 90.")
        gaps.append([log_probability(model, tokenizer, "What is 45 + 45?", answer) for answer in pair])
    before, after = (chosen - rejected for chosen, rejected in gaps)
    assert after > before + 1
    first = metrics_of(tmp_path / "run")[0]
    shown = [first[f"rewards/{name}"] for name in ("chosen", "rejected") if f"rewards/{name}" in first]
    assert shown and max(map(abs, shown)) < 1e-4, "policy and reference are one model before the first step"
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize("algorithm", ["dpo", "kto"])
def test_precomputed_reference_log_probabilities_train_the_same_model(tmp_path, tiny_world, algorithm):
    losses = []
    for name, precompute in (("anew", False), ("cached", True)):
        changes = {"algorithm": algorithm, "precompute_ref_log_probs": precompute, "max_steps": 5}
        assert command("dpo", "--config", dpo_recipe(tmp_path / f"{name}.yaml", tiny_world, **changes)) == 0
        losses.append([line["loss"] for line in metrics_of(tmp_path / name)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("algorithm", ["dpo", "kto"])
def test_held_out_pairs_are_judged_by_the_implicit_reward(tmp_path, tiny_world, algorithm):
    changes = {"algorithm": algorithm, **LEARNING, "beta": 0.3}
    assert command("dpo", "--config", dpo_recipe(tmp_path / "run.yaml", tiny_world, **changes)) == 0
    results = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert results["preference_heldout"]["n"] == 20 and results["preference_heldout"]["rate"] >= 0.9
    assert set(results["length_bias"]) == {"value", "low", "high"}
    row = json.loads((tmp_path / "run" / "evaluation" / "preference_heldout.jsonl").read_text().splitlines()[0])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    for key in ("chosen", "rejected"):
        mine, reference = (
            log_probability(model, tokenizer, row["prompt"][0]["content"], row[key][0]["content"])
            for model in map(AutoModelForCausalLM.from_pretrained, (tmp_path / "run", tiny_world / "model"))
        )
        assert row[f"{key}_score"] == pytest.approx(0.3 * (mine - reference), abs=1e-3)


def test_kto_meets_both_kinds_of_answers_in_every_batch(tmp_path, tiny_world):
    """TRL unpairs all chosen before all rejected and reads in that order."""
    recipe = dpo_recipe(tmp_path / "run.yaml", tiny_world, algorithm="kto", per_device_train_batch_size=16, max_steps=5)
    assert command("dpo", "--config", recipe) == 0
    lines = metrics_of(tmp_path / "run")
    assert all("rewards/chosen" in line and "rewards/rejected" in line for line in lines)


def test_the_loss_of_eight_pairs_is_that_of_eight_times_one(tmp_path, tiny_world):
    data = write_jsonl(tmp_path / "eight.jsonl", _rows(tiny_world)[:8])
    losses = []
    for name, batch, accumulate in (("whole", 8, 1), ("split", 1, 8)):
        changes = {
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulate,
            "dataset_name": data,
        }
        recipe = dpo_recipe(tmp_path / f"{name}.yaml", tiny_world, max_steps=3, **changes)
        assert command("dpo", "--config", recipe) == 0
        losses.append([line["loss"] for line in metrics_of(tmp_path / name)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def _rows(world):
    import json

    return [json.loads(line) for line in (world / "preferences" / "train.jsonl").open()]


def test_another_reference_is_noticed_at_the_first_step(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    state, logs = TrainerState(global_step=1), {"rewards/chosen": 0.3, "rewards/rejected": -0.1}
    with pytest.raises(PipelineError, match="log-probabilities 3 nats apart"):
        AgreesAtTheStart(0.1).on_log(args, state, TrainerControl(), logs)
    AgreesAtTheStart(0.1).on_log(args, TrainerState(global_step=2), TrainerControl(), logs)


def test_a_key_of_the_other_algorithm_is_refused(tmp_path, tiny_world, capsys):
    recipe = dpo_recipe(tmp_path / "run.yaml", tiny_world, algorithm="kto", label_smoothing=0.1)
    assert command("dpo", "--config", recipe) == 1
    assert "is a key of DPOConfig, which algorithm kto does not take" in capsys.readouterr().err


def test_a_missing_column_and_an_unknown_algorithm_are_refused(tmp_path, tiny_world, capsys):
    recipe = dpo_recipe(tmp_path / "run.yaml", tiny_world, dataset_name=tiny_world / "problems.jsonl")
    assert command("dpo", "--config", recipe) == 1
    assert "no column `chosen` and `rejected`; found prompt, answer" in capsys.readouterr().err
    assert command("dpo", "--config", dpo_recipe(tmp_path / "run.yaml", tiny_world, algorithm="ipo")) == 1
    assert "expected one of 'dpo', 'kto', found 'ipo'" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_the_manifest_names_the_parent(tmp_path, tiny_world):
    assert command("dpo", "--config", dpo_recipe(tmp_path / "run.yaml", tiny_world, max_steps=1)) == 0
    assert read_manifest(tmp_path / "run")["data"][0]["path"].endswith("model")

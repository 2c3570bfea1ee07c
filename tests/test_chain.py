"""The whole chain, from a seed to the report, with the smoke recipes and through the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

from pipeline.manifest import lineage, read_manifest, verify
from pipeline.training.callbacks import read_metrics

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
STAGES = ("world", "corpus", "tokenizer", "pretrain", "sft", "grpo")


def pipeline(*words: str, expect: int = 0) -> str:
    """What a command prints; its exit status must be `expect`."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words], cwd=ROOT, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    pipeline("run", "recipes/smoke", "--output", str(folder))
    return folder


def values(run: Path, stage: str, key: str) -> list[float]:
    return [line[key] for line in read_metrics(run / stage / "metrics.jsonl") if key in line]


def test_pretraining_and_fine_tuning_lower_the_loss(run):
    for stage in ("pretrain", "sft"):
        loss = values(run, stage, "loss")
        assert mean(loss[-3:]) < 0.7 * loss[0], (stage, loss)
    bits = values(run, "pretrain", "eval_bits_per_byte")
    assert bits[-1] < bits[0]


def test_reinforcement_raises_the_reward(run):
    reward = values(run, "grpo", "reward")
    assert len(reward) >= 20
    assert mean(reward[-8:]) > mean(reward[:8]) + 0.05, reward


def test_every_hand_over_verifies_and_knows_its_ancestors(run):
    for stage in STAGES:
        assert verify(run / stage)["status"] == "complete"
    text, problems = lineage(run / "grpo")
    assert not problems
    assert all(str(run / stage) in text for stage in STAGES)
    assert [parent["path"] for parent in read_manifest(run / "grpo")["parents"]] == ["../sft", "../world"]


def test_each_model_answers_the_same_questions(run):
    for stage in ("pretrain", "sft", "grpo"):
        results = json.loads((run / stage / "evaluation.json").read_text())
        assert set(results) == {"facts_heldout", "arithmetic_heldout", "ends_turn"}
        for name, result in results.items():
            answers = (run / stage / "evaluation" / f"{name}.jsonl").read_text().splitlines()
            assert len(answers) == result["n"]
            assert 0 <= result["low"] <= result["rate"] <= result["high"] <= 1
    chat, base = (
        json.loads((run / s / "evaluation.json").read_text())["ends_turn"]["rate"] for s in ("sft", "pretrain")
    )
    assert chat > base


def test_a_reward_model_and_a_policy_of_it_are_measured_by_the_judge(run):
    def results(stage):
        return json.loads((run / stage / "evaluation.json").read_text())

    assert {"preference_heldout", "judge_agreement"} <= set(results("reward"))
    assert {"judge_win_rate", "facts_heldout", "facts_heldout_change"} <= set(results("rlhf"))
    for result in (results("reward")["judge_agreement"], results("rlhf")["judge_win_rate"]):
        assert result["low"] <= result["rate"] <= result["high"]
    parents = [parent["path"] for parent in read_manifest(run / "rlhf")["parents"]]
    assert sorted(parents) == ["../reward", "../sft", "../world"]


def test_the_report_shows_every_stage(run):
    report = json.loads((run / "report" / "report.json").read_text())
    for stage in ("pretrain", "sft", "grpo", "rlhf"):
        assert report["stages"][stage]["evaluations"]
        assert report["stages"][stage]["tokens"] > 0
        assert report["stages"][stage]["seconds"] > 0
    assert "<html" in (run / "report" / "index.html").read_text()


def test_published_models_load_with_plain_transformers(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(run / "grpo")
    tokenizer = AutoTokenizer.from_pretrained(run / "grpo")
    prompt = [{"role": "user", "content": "What is 12+13?"}]
    inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id in output[0, inputs["input_ids"].shape[1] :].tolist()


def test_a_second_run_does_nothing_and_an_altered_parent_is_refused(run, tmp_path):
    copy = tmp_path / "smoke"
    shutil.copytree(run, copy)
    before = {stage: (copy / stage / "manifest.json").read_bytes() for stage in STAGES}
    pipeline("run", "recipes/smoke", "--output", str(copy), "--until", "sft")
    assert {stage: (copy / stage / "manifest.json").read_bytes() for stage in STAGES} == before
    weights = copy / "pretrain" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    text = pipeline("run", "recipes/smoke", "--output", str(copy), "--until", "sft", expect=1)
    assert str(weights) in text
    assert "Traceback" not in text

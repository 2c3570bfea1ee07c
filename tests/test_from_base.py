"""Reinforcement straight from a base model: asked on a page of questions, it stays a base model, and so do its samples."""

import json

import pytest
import yaml
from conftest import command, grpo_recipe, sft_recipe, write_jsonl, write_recipe

from pipeline.errors import PipelineError
from pipeline.evaluation.questions import read_examples
from pipeline.evaluation.rejection import keep
from pipeline.manifest import read_manifest
from pipeline.recipe import RecipeError
from pipeline.stages import load_recipe

EXAMPLES = [{"prompt": "What is 1 + 0?", "answer": "The answer is 1."}, {"prompt": "2?", "answer": "The answer is 2."}]
PAGE = "Question: What is 1 + 0?\nAnswer: The answer is 1.\n\nQuestion: What is {i} + {i}?\nAnswer:"


@pytest.fixture
def examples(tmp_path):
    return write_jsonl(tmp_path / "examples.jsonl", EXAMPLES)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_kept_completions_of_a_base_model_are_prompts_and_completions(tmp_path):
    line = {
        "index": 0,
        "prompt": "What is 1 + 1?",
        "answer": "2",
        "completions": [{"text": " It is 2.", "ended": True, "reward": 1.0}],
    }
    keep(
        iter([line]), tmp_path, minimum=1.0, per_prompt=2, origin={"model": "x"}, page=lambda prompt: f"Q: {prompt}\nA:"
    )
    (row,) = rows_of(tmp_path / "train.jsonl")
    assert (row["prompt"], row["completion"]) == ("Q: What is 1 + 1?\nA:", " It is 2.") and "messages" not in row


def test_examples_that_are_not_there_are_a_complaint(tmp_path, tiny_world, examples):
    with pytest.raises(PipelineError, match="few_shot asks for 3 rows, the file has 2"):
        read_examples(str(examples), 3)
    for path in (None, tmp_path / "nowhere.jsonl"):
        recipe = grpo_recipe(
            tmp_path / "run.yaml", tiny_world, few_shot=1, few_shot_path=path, reward_funcs=["numeric"]
        )
        with pytest.raises(RecipeError, match="few_shot: 1 rows of which file"):
            load_recipe(recipe)


@pytest.mark.slow
def test_a_base_model_trains_on_pages_and_is_asked_as_one_afterwards(tmp_path, tiny_world, examples, monkeypatch):
    (tmp_path / "watching.py").write_text(
        "seen = []\n\n\ndef watch(prompts, completions, **columns):\n    seen.extend(zip(prompts, completions))\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "One?", "answer": "1"}])
    recipe = grpo_recipe(
        tmp_path / "run.yaml", tiny_world, few_shot=1, few_shot_path=examples, reward_funcs=["watching.watch"],
        evaluations={"one": {"path": str(asked), "scorer": "numeric", "max_new_tokens": 2}}, sample_problems=1,
    )  # fmt: skip
    assert command("grpo", "--config", recipe) == 0
    import watching

    pages = {PAGE.format(i=i) for i in range(40)}
    assert watching.seen and all(prompt in pages and isinstance(text, str) for prompt, text in watching.seen)
    assert read_manifest(tmp_path / "run")["kind"] == "base"
    provenance = json.loads((tmp_path / "run" / "evaluation" / "provenance.json").read_text())
    assert provenance["one"]["first_prompt"] == "Question: One?\nAnswer:"
    assert rows_of(tmp_path / "run" / "rollouts.jsonl")[0]["prompt"] == PAGE.format(i=0)


@pytest.mark.slow
def test_samples_of_a_base_model_train_a_base_model_and_go_round_until_there_are_enough(
    tmp_path, tiny_world, examples, monkeypatch
):
    (tmp_path / "anything.py").write_text(
        "def anything(completions, **columns):\n    return [1.0 for _ in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(
        tmp_path / "sample.yaml", output_dir=tmp_path / "samples", model_name_or_path=tiny_world / "model",
        dataset_name=tiny_world / "problems.jsonl", reward_funcs=["anything.anything"], samples=2, max_new_tokens=64,
        rollouts=100, temperature=3.0, few_shot=1, few_shot_path=examples, seed=3,
    )  # fmt: skip
    assert command("sample", "--config", recipe) == 0
    drawn = [row["prompt"] for row in rows_of(tmp_path / "samples" / "sampled.jsonl")]
    assert len(drawn) == 50 and len(set(drawn)) == 40 and drawn[:10] == drawn[40:]
    assert drawn[:2] != ["What is 0 + 0?", "What is 1 + 1?"]  # not the head of a file that may be sorted
    kept = rows_of(tmp_path / "samples" / "train.jsonl")
    assert kept and all(row["prompt"] in {PAGE.format(i=i) for i in range(40)} for row in kept)
    values = {"dataset_name": tmp_path / "samples", "max_steps": 1, "kind": "base", "per_device_train_batch_size": 1}
    sft = sft_recipe(tmp_path / "sft.yaml", tiny_world, **values)
    assert yaml.safe_load(sft.read_text())["kind"] == "base"
    assert command("sft", "--config", sft) == 0
    assert read_manifest(tmp_path / "sft")["kind"] == "base"

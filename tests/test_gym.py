"""reasoning-gym: problems by name, test problems apart from training ones, answers judged by the task's own scorer."""

import json

import pytest

pytest.importorskip("reasoning_gym", reason="pip install 'pretrain-sft-rl-pipeline[gym]'")

from conftest import command, grpo_recipe, metrics_of

from pipeline.errors import PipelineError
from pipeline.rewards import find
from pipeline.rewards.gym import answer_text
from pipeline.training import gym
from pipeline.training.data import load_rows


def test_problems_are_those_of_the_seed_and_test_problems_are_others():
    name = "reasoning-gym:basic_arithmetic,letter_counting?size=30&seed=3&max_terms=2"
    with pytest.raises(PipelineError, match="max_terms"):
        gym.load(name)  # a setting of one task is none of the other
    splits = gym.load("reasoning-gym:basic_arithmetic,letter_counting?size=30&seed=3")
    assert len(splits["train"]) == 60
    assert (
        splits["train"].to_list()
        == load_rows("reasoning-gym:basic_arithmetic,letter_counting?size=30&seed=3").to_list()
    )
    assert not set(splits["train"]["prompt"]) & set(splits["test"]["prompt"]) and len(splits["test"]) > 10
    assert (
        splits["train"]["prompt"]
        != gym.load("reasoning-gym:basic_arithmetic,letter_counting?size=30")["train"]["prompt"][:]
    )


def test_an_unknown_task_is_named():
    with pytest.raises(PipelineError, match="no_such_task"):
        gym.load("reasoning-gym:no_such_task")


def test_gold_answers_of_many_tasks_score_one_and_neighbours_answers_nothing():
    reward = find("reasoning_gym")
    for task in ("basic_arithmetic", "leg_counting", "letter_counting", "simple_equations", "word_sorting"):
        rows = gym.load(f"reasoning-gym:{task}?size=10&seed=1")["train"].to_list()
        entries = [row["entry"] for row in rows]
        told = [f"Let me see.\nThe answer is {row['answer']}." for row in rows]
        assert reward.scores(completions=told, entry=entries) == [1.0] * 10, task
        wrong = [f"The answer is {row['answer']}1x." for row in rows]
        assert reward.scores(completions=wrong, entry=entries) == [0.0] * 10, task
        both = [f"The answer is {row['answer']}. The answer is 17x." for row in rows]
        assert reward.scores(completions=both, entry=entries) == [0.0] * 10, task


def test_partial_credit_is_given_only_when_asked_for():
    entry = gym.load("reasoning-gym:basic_arithmetic?size=1")["train"][0]["entry"]
    rambling = f"It may well be {json.loads(entry)['answer']} in the end"
    reward = find("reasoning_gym")
    assert reward.scores(completions=[rambling], entry=[entry]) == [0.0]
    assert 0 < reward.bind({"partial": True}).scores(completions=[rambling], entry=[entry])[0] < 1


def test_final_answers_as_text():
    assert answer_text("<think>\nThe answer is x\n</think>\n\\boxed{a b}") == "a b"
    assert answer_text("so\n#### 4, 5") == "4, 5"
    assert answer_text("The answer is 4. The answer is 5.") is None
    assert answer_text("The answer is 4. The answer is 4.") is None  # as everywhere: one answer, told once
    assert answer_text("<think>\nstill") is None
    assert answer_text("pear") == "pear"


@pytest.mark.slow
def test_grpo_trains_on_two_tasks(tmp_path, tiny_world, monkeypatch):
    monkeypatch.chdir(tiny_world)
    recipe = grpo_recipe(
        tmp_path / "run.yaml", tiny_world, dataset_name="reasoning-gym:leg_counting,basic_arithmetic?size=20",
        reward_funcs=["reasoning_gym", "rewarding.odd_tokens"], max_steps=2, max_completion_length=4,
    )  # fmt: skip
    assert command("grpo", "--config", recipe) == 0
    assert "rewards/reasoning_gym/mean" in metrics_of(tmp_path / "run")[0]

"""samples.html: the same problems through training, with what their completions earn and what self-checks did."""

import json

import pytest
from conftest import command, grpo_recipe, rlhf_recipe, write_jsonl
from test_report import Page

from pipeline.reporting.samples import by_step, page, parts

CHECKED = "<think>\nThe answer is 72. Wait, 12 carries 1. <script>\n</think>\n\nThe answer is 82."


def row(step, problem=0, completion="The answer is 82.", **changes):
    facts = {"ended": True, "tokens": 9, "rewards": {"numeric": 1.0, "think_format": 0.0}, "reward": 1.0}
    facts |= {"right": True, "right_before": None, "answer": "82", "prompt": f"What is <b>{problem}</b>?"}
    return {"step": step, "problem": problem, "completion": completion, **facts, **changes}


def test_a_completion_is_cut_at_its_think_part_and_its_checks():
    think, answer = parts(CHECKED)
    assert think["think"] and think["closed"] and not answer["think"]
    assert [text for text, check in think["spans"] if check] == ["Wait"]
    assert answer["spans"][0][0].strip() == "The answer is 82."
    assert [part["think"] for part in parts("opened by the prompt</think>yes")] == [True, False]
    assert parts("<think>\nnever")[0] == {"think": True, "closed": False, "spans": [("never", False)]}
    assert parts("") == []


def test_a_line_of_the_table_counts_what_checks_turned():
    rows = [
        row(5, completion=CHECKED, right_before=False),
        row(5, completion=CHECKED, right_before=True, right=False, reward=0.0),
        row(5, completion=CHECKED, right_before=True),
        row(5, tokens=13, reward=None),
    ]
    found = by_step(5, rows)
    assert (found["n"], found["checked"], found["ended"], found["tokens"]) == (4, 3, 4, 10)
    assert found["reward"] == pytest.approx(2 / 3) and found["rewards"] == {"numeric": 1.0, "think_format": 0.0}
    assert (found["wrong_to_right"]["correct"], found["wrong_to_right"]["n"]) == (1, 1)
    assert (found["right_to_wrong"]["correct"], found["right_to_wrong"]["n"]) == (1, 2)
    assert by_step(5, rows[3:])["wrong_to_right"] is None


def test_the_page_is_whole_escaped_and_needs_nothing_from_elsewhere(tmp_path):
    rows = [row(step, problem) for step in range(0, 90, 10) for problem in (0, 1)]
    rows += [row(90, 0, CHECKED, right_before=False), row(90, 1, "", right=False, reward=0.0, ended=False)]
    write_jsonl(tmp_path / "grpo" / "rollouts.jsonl", rows)
    text = page(tmp_path / "grpo")
    found = Page(text)
    assert not found.open and not found.unclosed
    assert all(link.startswith("#") for link in found.links)
    assert "<script>" not in text and "&lt;script&gt;" in text and "<b>0" not in text
    assert "<mark>Wait</mark>" in text and "<details>" in text and "self-check: wrong → right" in found.text
    assert "prefers-color-scheme: dark" in text
    assert found.text.count("step 90") == 2 and found.text.count("step 0") == 2 and "step 10 " not in found.text
    assert "(nothing)" in found.text and "did not end" in found.text


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["verifiable", "rloo"])
def test_every_run_of_rl_writes_it_and_follows_the_same_problems(
    tmp_path, tiny_world, tiny_reward_model, algorithm, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = {"sample_problems": 3, "sample_steps": 2, "reward_check": "off"}
    if algorithm == "verifiable":
        recipe = grpo_recipe(tmp_path / "run.yaml", tiny_world, reward_funcs=["numeric", "think_format"], **options)
        names = ["numeric", "think_format"]
    else:
        recipe = rlhf_recipe(tmp_path / "run.yaml", tiny_world, algorithm=algorithm, **options)
        names = ["reward_model"]
    assert command(("rlhf", "grpo")[algorithm == "verifiable"], "--config", recipe) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [step for step in (0, 2, 4) for _ in range(3 * 4)]
    prompts = [row["prompt"] for row in rows[:12]]
    assert len(set(prompts)) == 3 and all([r["prompt"] for r in rows[i : i + 12]] == prompts for i in (12, 24))
    assert all(list(row["rewards"]) == names and row["tokens"] > 0 for row in rows)
    assert Page((tmp_path / "run" / "samples.html").read_text()).text.count("step 4") == 3

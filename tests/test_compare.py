"""Checkpoints side by side: results as they stand in evaluation.json, paired tests only on the same questions."""

import json

import pytest
from conftest import command, write_jsonl

from pipeline.errors import PipelineError
from pipeline.reporting import compare, comparison_text
from pipeline.statistics import mcnemar_test, wilson_interval


def checkpoint(path, right, prompts=None):
    prompts = prompts or [f"What is {i}?" for i in range(len(right))]
    rows = [{"prompt": prompt, "answer": "x", "correct": one} for prompt, one in zip(prompts, right, strict=True)]
    write_jsonl(path / "evaluation" / "sums.jsonl", rows)
    low, high = wilson_interval(sum(right), len(right))
    result = {"n": len(right), "correct": sum(right), "rate": sum(right) / len(right), "low": low, "high": high}
    (path / "evaluation.json").write_text(json.dumps({"sums": result}))
    return path


def test_gains_and_losses_are_counted_question_by_question(tmp_path, capsys):
    before, after = [True, True, False, False, False, False], [True, False, True, True, True, False]
    first, second = checkpoint(tmp_path / "run" / "a", before), checkpoint(tmp_path / "run" / "b", after)
    found = compare([tmp_path / "run"])
    assert found == compare([first, second])
    assert found["evaluations"]["sums"][str(second)]["correct"] == 4
    (row,) = found["paired"]
    assert (row["gained"], row["lost"], row["p"]) == (3, 1, mcnemar_test(before, after))
    assert command("compare", first, second) == 0
    assert "+3" in capsys.readouterr().out and "66.7 %" in comparison_text(found)


def test_other_questions_are_not_paired(tmp_path):
    first = checkpoint(tmp_path / "a", [True, False])
    second = checkpoint(tmp_path / "b", [True, True], prompts=["other", "questions"])
    assert compare([first, second])["paired"] == []


def test_too_little_to_compare_is_said(tmp_path):
    with pytest.raises(PipelineError, match="at least two"):
        compare([checkpoint(tmp_path / "a", [True])])
    with pytest.raises(PipelineError, match="no such folder"):
        compare([tmp_path / "nowhere", tmp_path / "a"])

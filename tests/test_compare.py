"""Checkpoints side by side: results as they stand in evaluation.json, paired tests only on the same questions."""

import json

import pytest
from conftest import command, write_jsonl
from run_folders import result, write_run, write_stage

from pipeline.errors import PipelineError
from pipeline.reporting import compare, comparison_text
from pipeline.reporting.run_folder import read_stage
from pipeline.reporting.seeds import recipe_of
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


def test_what_cannot_be_compared_is_told(tmp_path, capsys):
    first, second = checkpoint(tmp_path / "a", [True, False]), checkpoint(tmp_path / "b", [True, True])
    assert command("compare", first, f"{tmp_path}/b/../a") == 1 and "named twice" in capsys.readouterr().err
    (second / "evaluation.json").write_text(json.dumps({"other": result(1, 2)}))
    assert "no two of these share an evaluation: --evaluations" in comparison_text(compare([first, second]))
    for content in ("{", "[1]", '{"sums": {"n": 3}}'):
        (second / "evaluation.json").write_text(content)
        with pytest.raises(PipelineError, match=r"b/evaluation.json: .*evaluate again"):
            compare([first, second])
    checkpoint(second, [True, True])
    (second / "evaluation" / "sums.jsonl").write_text("{}\n{")
    with pytest.raises(PipelineError, match=r"b/evaluation/sums.jsonl: 1 lines are not JSON"):
        compare([first, second])


def test_every_path_is_looked_at_before_a_checkpoint_is_asked(tmp_path, tiny_model_dir, monkeypatch):
    from pipeline.evaluation import evaluate

    monkeypatch.setattr(evaluate, "evaluate_checkpoint", lambda *_, **__: pytest.fail("asked"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    for wrong, expected in (("none", "there is no such folder"), ("empty", "no model's config")):
        with pytest.raises(PipelineError, match=f"{wrong}: {expected}"):
            compare([tiny_model_dir, tmp_path / wrong], evaluations=tmp_path / "evaluate.yaml")


@pytest.mark.parametrize("words", [("--limit", "0"), ("--limit", "-1"), ("--max_new_tokens", "0")])
def test_numbers_below_one_are_refused(tmp_path, capsys, words):
    assert command("compare", tmp_path, tmp_path, *words) == 1
    assert f"{words[0]}: found {words[1]}, expected at least 1" in capsys.readouterr().err


def test_runs_of_one_recipe_are_taken_together_over_their_seeds(tmp_path, capsys):
    for seed in (1, 2, 3):
        write_run(tmp_path / f"tiny-{seed}", seed)
    manifest = tmp_path / "tiny-3" / "grpo" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"recipe": {"learning_rate": 9}}))
    found = compare([tmp_path / f"tiny-{seed}" for seed in (1, 2, 3)])["over_seeds"]
    assert {name: results["facts"]["seeds"] for name, results in found.items()} == {"pretrain": 3, "sft": 3, "grpo": 2}
    facts = found["sft"]["facts"]
    assert facts["rate"] == pytest.approx(0.88) and facts["low"] < 0.84 and facts["high"] > 0.92
    # The same hundred questions three times are a hundred questions.
    assert facts["high"] - facts["low"] == pytest.approx(2 * 1.96 * (0.88 * 0.12 / 100) ** 0.5, rel=0.2)
    assert command("compare", *(tmp_path / f"tiny-{seed}" for seed in (1, 2, 3))) == 0
    assert "sft  facts  3 seeds: 88.0 % [" in capsys.readouterr().out
    assert compare([tmp_path / "tiny-1"])["over_seeds"] == {}


def test_a_model_of_another_run_counts_as_the_same_by_its_name(tmp_path):
    for run, model in (("demo", "runs/demo/sft"), ("demo-2", "runs/demo/sft"), ("demo-3", "runs/demo-3/sft")):
        write_stage(tmp_path / run, "sft", "chat", seed=1)
        recipe = {"output_dir": f"runs/{run}/grpo", "model_name_or_path": model, "learning_rate": 1e-3}
        write_stage(
            tmp_path / run, "grpo", "reasoning", ["sft"], {"facts": result(9, 10)}, recipe=recipe, seed=len(run)
        )
    found = [recipe_of(read_stage(tmp_path / run / "grpo")) for run in ("demo", "demo-2", "demo-3")]
    assert found[0] == found[1] == found[2] and '"model_name_or_path": "sft"' in found[0]

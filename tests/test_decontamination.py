"""`decontaminate` of SFT and GRPO: rows that ask an evaluation's question are dropped, counted and listed."""

import json
from types import SimpleNamespace

import pytest
from conftest import command, grpo_recipe, sft_recipe, write_jsonl, write_recipe

from pipeline.errors import PipelineError
from pipeline.evaluation.decontamination import drop_contaminated, user_text
from pipeline.stages import load_recipe


@pytest.fixture
def planted(tmp_path):
    """Recipe of an evaluation whose questions 3 and 17 of `tiny_world`'s rows ask, in another case and spelling."""
    asked = [{"prompt": f"WHAT is {i}+{i} ?", "answer": str(2 * i)} for i in (3, 17, 99)]
    asked.append({"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi!"}]})
    questions = write_jsonl(tmp_path / "questions.jsonl", asked)
    evaluations = {"sums": {"path": str(questions), "scorer": "contains"}}
    return write_recipe(tmp_path / "evaluate.yaml", stage="evaluate", model_name_or_path="m", evaluations=evaluations)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("make", [sft_recipe, grpo_recipe])
def test_rows_that_ask_evaluation_questions_are_not_trained_on(
    make, tmp_path, tiny_world, planted, monkeypatch, capsys
):
    monkeypatch.chdir(tiny_world)
    recipe = make(tmp_path / "stage.yaml", tiny_world, decontaminate=[str(planted)], max_steps=1)
    stage = make.__name__.removesuffix("_recipe")
    assert command(stage, "--config", recipe) == 0
    told = capsys.readouterr().out
    assert "2 of 40 rows" in told and "sums 2" in told and "'Hello!'" in told
    found = lines(tmp_path / "stage" / "contaminated.jsonl")
    assert [(row["row"], row["set"], row["text"]) for row in found] == [
        (i, "sums", f"What is {i} + {i}?") for i in (3, 17)
    ]
    manifest = json.loads((tmp_path / "stage" / "manifest.json").read_text())
    assert manifest["rows"] == 38
    assert manifest["decontamination"]["rows_dropped"] == 2 and manifest["decontamination"]["too_short"] == 1


def dropped(tmp_path, tiny_world, rows, **changes):
    recipe = load_recipe(sft_recipe(tmp_path / "sft.yaml", tiny_world, **changes))
    return drop_contaminated(recipe, rows, "rows", SimpleNamespace(path=tmp_path, is_main=True))


def test_nothing_is_looked_at_by_default(tmp_path, tiny_world):
    rows = object()
    assert dropped(tmp_path, tiny_world, rows) == (rows, {})


def test_streams_are_filtered_while_they_are_read(tmp_path, tiny_world, planted):
    from datasets import Dataset

    rows = Dataset.from_list([{"prompt": f"What is {i}+{i}?"} for i in (3, 4)]).to_iterable_dataset()
    left, facts = dropped(tmp_path, tiny_world, rows, decontaminate=str(planted))
    assert [row["prompt"] for row in left] == ["What is 4+4?"] and "rows_dropped" not in facts["decontamination"]


def test_data_of_which_nothing_is_left_is_refused(tmp_path, tiny_world, planted):
    from datasets import Dataset

    rows = Dataset.from_list([{"prompt": "What is 3+3?"}])
    with pytest.raises(PipelineError, match="every row of rows holds an evaluation question"):
        dropped(tmp_path, tiny_world, rows, decontaminate=str(planted))
    with pytest.raises(PipelineError, match="no `messages`, `prompt` or `text`.*input_ids"):
        dropped(tmp_path, tiny_world, Dataset.from_list([{"input_ids": [1]}]), decontaminate=str(planted))


def test_answers_are_not_looked_at():
    turns = [{"role": r, "content": c} for r, c in (("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"))]
    assert user_text({"messages": turns}) == "b\nd"
    assert user_text({"prompt": turns[:2], "completion": turns[2:3]}) == "b"
    assert user_text({"text": "all of it"}) == "all of it"


def test_missing_questions_are_a_complaint_before_anything_is_loaded(tmp_path, tiny_world):
    recipe = sft_recipe(tmp_path / "sft.yaml", tiny_world, decontaminate=str(tmp_path / "no.jsonl"))
    with pytest.raises(PipelineError, match="decontaminate: .*no.jsonl does not exist"):
        load_recipe(recipe)

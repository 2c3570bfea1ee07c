"""Rejection sampling: only right, finished, different completions become demonstrations, and a killed run goes on."""

import json

import pytest
from conftest import command, sft_recipe, write_recipe

from pipeline.errors import PipelineError
from pipeline.evaluation.rejection import keep, read_lines, sample
from pipeline.manifest import read_manifest
from pipeline.rewards import resolve

LINE = {
    "index": 0,
    "prompt": "What is 1 + 1?",
    "answer": "2",
    "completions": [
        {"text": "It is 2.", "ended": True, "reward": 1.0},
        {"text": "It is  2.", "ended": True, "reward": 1.0},
        {"text": "It is 3.", "ended": True, "reward": 0.0},
        {"text": "It is 2 and", "ended": False, "reward": 1.0},
        {"text": "2", "ended": True, "reward": 1.0},
        {"text": "The answer is 2.", "ended": True, "reward": 1.0},
        {"text": "Who knows?", "ended": True, "reward": None},
    ],
}


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_kept_are_right_finished_and_different_completions_with_their_provenance(tmp_path):
    facts = keep(iter([LINE]), tmp_path, minimum=1.0, per_prompt=2, origin={"model": "runs/x"})
    rows = rows_of(tmp_path / "train.jsonl")
    assert [row["messages"][-1]["content"] for row in rows] == ["It is 2.", "2"]
    assert rows[0]["messages"][0] == {"role": "user", "content": "What is 1 + 1?"}
    assert rows[0]["provenance"] == {"model": "runs/x", "index": 0, "reward": 1.0, "pass_rate": 5 / 7}
    assert facts == {
        "problems": 1, "kept": 2, "pass_rate": 5 / 7, "solved": 0, "unsolved": 0,
        "copies": 1, "below_minimum": 2, "cut_off": 1, "beyond_per_prompt": 1,
    }  # fmt: skip
    assert json.loads((tmp_path / "pass_rates.json").read_text()) == {"0": 5 / 7}


def test_nothing_kept_is_an_error_that_says_why(tmp_path):
    wrong = LINE | {"completions": LINE["completions"][2:4]}
    with pytest.raises(PipelineError, match="1 below minimum, 1 cut off"):
        keep(iter([wrong]), tmp_path, minimum=1.0, per_prompt=2, origin={"model": "x"})


def test_an_interrupted_draw_goes_on_where_it_was_and_ends_the_same(tmp_path):
    rewards = resolve(["numeric"])
    problems = [{"prompt": f"What is {i} + 0?", "answer": str(i)} for i in range(70)]

    def draw(prompts, first):
        return [[(f"It is {first + i}.", True), ("It is 5.", True)] for i in range(len(prompts))]

    sample(problems, draw, rewards, [1.0], tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(whole[: whole.index(b'"index": 33') + 30])
    assert len(list(read_lines(cut))) == 33
    sample(problems, draw, rewards, [1.0], cut)
    assert [row["completions"] for row in rows_of(cut)] == [
        row["completions"] for row in rows_of(tmp_path / "whole.jsonl")
    ]
    rewarded = [[one["reward"] for one in row["completions"]] for row in rows_of(cut)]
    assert rewarded[4] == [1.0, 0.0] and rewarded[5] == [1.0, 1.0]


@pytest.mark.slow
def test_what_a_checkpoint_got_right_trains_the_next_one(tmp_path, tiny_world, monkeypatch):
    (tmp_path / "evenness.py").write_text(
        "def even(completions, **columns):\n    return [float(len(text) % 2 == 0) for text in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = write_recipe(
        tmp_path / "sample.yaml", output_dir=tmp_path / "samples", model_name_or_path=tiny_world / "model",
        dataset_name=tiny_world / "problems.jsonl", reward_funcs=["evenness.even"], samples=4, max_new_tokens=64,
        max_problems=12, temperature=3.0,
    )  # fmt: skip
    assert command("sample", "--config", recipe) == 0
    manifest = read_manifest(tmp_path / "samples")
    assert manifest["kind"] == "samples" and manifest["metrics"]["problems"] == 12
    assert set(manifest["files"]) == {"train.jsonl", "sampled.jsonl", "pass_rates.json"}
    # 48 answers, each with its prompt, of at most 64 tokens and an end; a forward pass is two operations a parameter and more
    assert 48 * 5 < manifest["tokens"] < 48 * (128 + 65)
    assert 2 * 10_000 < manifest["flops"] / manifest["tokens"] < 2 * 10_000_000
    rows = rows_of(tmp_path / "samples" / "train.jsonl")
    assert rows and all(len(row["messages"][-1]["content"]) % 2 == 0 for row in rows)
    again = sft_recipe(
        tmp_path / "sft.yaml", tiny_world, dataset_name=tmp_path / "samples" / "train.jsonl", max_steps=2,
        per_device_train_batch_size=1,
    )  # fmt: skip
    assert command("sft", "--config", again) == 0
    assert [parent["path"] for parent in read_manifest(tmp_path / "sft")["parents"]] == ["../samples"]

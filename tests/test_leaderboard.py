"""Preference in pairs: ratings that say who wins how often, ties, both orders, and intervals from the prompts."""

import json
import math

import pytest
from conftest import command, write_jsonl, write_recipe
from endpoint import serving

from pipeline.alignment.leaderboard import leaderboard, ratings, verdict_of
from pipeline.errors import PipelineError

JUDGES = '''
def longer(prompts, completions, **columns):
    """Longer answers please; words beyond the tenth do not count."""
    return [float(min(len(one[-1]["content"].split()), 10)) for one in completions]


class FirstIsBest:
    """Always takes what it is shown first."""

    def judge(self, prompts, pairs):
        return [0 for _ in pairs]


class Alphabetical:
    def judge(self, prompts, pairs):
        return [0 if a < b else 1 if b < a else -1 for a, b in pairs]
'''


@pytest.fixture
def judges(tmp_path, monkeypatch):
    (tmp_path / "someones_judges.py").write_text(JUDGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_gap_of_two_ratings_is_the_log_odds_of_winning():
    won, lost = 300, 100
    first, second = ratings(2, {(0, 1): [1] * won + [-1] * lost})
    assert first["value"] - second["value"] == pytest.approx(400 * math.log10((won + 1) / (lost + 1)), abs=1e-3)
    assert first["value"] + second["value"] == pytest.approx(2000)
    assert second["high"] < first["low"] < first["value"] < first["high"]


def test_a_tie_is_half_a_win_of_each():
    pairs = {(0, 1): [0] * 40, (0, 2): [1, -1] * 20, (1, 2): [0] * 20 + [1, -1] * 10}
    found = ratings(3, pairs)
    assert [one["value"] for one in found] == pytest.approx([1000] * 3, abs=1e-6)
    assert found[0]["low"] < 1000 < found[0]["high"]


def test_who_never_lost_has_a_finite_rating_and_strength_is_transitive():
    best, middle, worst = ratings(3, {(0, 1): [1] * 30, (1, 2): [1] * 30, (0, 2): [1] * 30})
    assert math.inf > best["value"] > middle["value"] + 100 > worst["value"] + 200
    assert middle["value"] == pytest.approx(1000)
    assert best["low"] < best["value"] - 20 and best["high"] > best["value"] + 20  # thirty prompts are not certainty


def test_more_prompts_narrow_the_interval():
    few, many = (ratings(2, {(0, 1): [1, 1, -1, 0] * n})[0] for n in (10, 160))
    assert (many["high"] - many["low"]) * 3 < few["high"] - few["low"]


def test_a_judge_that_scores_a_judge_that_compares_and_one_that_contradicts_itself(judges):
    prompts, first, second = ["a", "b", "c"], ["one two", "one", "x"], ["one", "one two", "x"]
    assert verdict_of("someones_judges.longer")(prompts, first, second) == [1, -1, 0]
    assert verdict_of("someones_judges.Alphabetical")(prompts, first, second) == [-1, 1, 0]
    assert verdict_of("someones_judges.FirstIsBest")(prompts, first, second) == [0, 0, 0]
    with pytest.raises(PipelineError, match="someones_judges.nobody"):
        verdict_of("someones_judges.nobody")


def test_a_model_behind_an_address_is_asked_in_both_orders():
    def answer(question, n, times):
        a, b = (question.split(f"[Answer {side}]\n")[1].split("\n[End")[0] for side in "AB")
        if "silent" in (a, b):
            return ["Who knows."]
        return ["Better: A" if a == "good" or "vain" in (a, b) else "Better: B" if b == "good" else "Better: tie"]

    with serving(answer) as server:
        verdict = verdict_of(f"judge:{server.url}", "grader")
        found = verdict(["?"] * 5, ["good", "bad", "bad", "vain", "silent"], ["bad", "good", "poor", "other", "good"])
    assert found == [1, -1, 0, 0, None]  # who prefers the first place prefers neither answer
    assert len(server.requests) == 10 and {one["body"]["model"] for one in server.requests} == {"grader"}


def test_what_was_not_decided_counts_for_neither():
    decided, open_too = ratings(2, {(0, 1): [1, 1, -1]}), ratings(2, {(0, 1): [1, None, 1, None, -1]})
    assert [one["value"] for one in open_too] == pytest.approx([one["value"] for one in decided])


@pytest.mark.slow
def test_a_reward_model_judges_and_another_directory_does_not(tiny_reward_model, tiny_world):
    verdicts = verdict_of(str(tiny_reward_model))(["Hi"] * 3, ["Ada", "2", "2"], ["2", "Ada", "2"])
    assert verdicts[0] == -verdicts[1] != 0 and verdicts[2] == 0
    with pytest.raises(PipelineError, match="reward model"):
        verdict_of(str(tiny_world / "tokenizer"))


@pytest.mark.slow
def test_runs_and_foreign_checkpoints_are_asked_compared_and_rated(judges, tiny_model_dir, tiny_world, capsys):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(3)
    other = AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(tiny_model_dir).config)
    other.save_pretrained(judges / "other")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(judges / "other")
    questions = write_jsonl(
        judges / "sums.jsonl", [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(6)]
    )
    asked = write_recipe(
        judges / "evaluate.yaml",
        model_name_or_path="other",
        evaluations={"sums": {"path": str(questions), "scorer": "numeric", "max_new_tokens": 4}},
    )
    words = ("compare", tiny_model_dir, "other", "--evaluations", asked, "--output", "out", "--max_new_tokens", "8")
    words += ("--judge", "someones_judges.longer", "--prompts", questions)
    assert command(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["checkpoints"] == [str(tiny_model_dir), "other"]
    assert found["evaluations"]["sums"]["other"]["n"] == 6 and found["paired"][0]["checkpoint"] == "other"
    (pair,) = found["preference"]["pairs"]
    assert pair["wins"] + pair["ties"] + pair["losses"] == 6 and found["preference"]["prompts"] == 6
    assert set(found["preference"]["ratings"]) == {str(tiny_model_dir), "other"}
    rows = [json.loads(line) for line in (judges / "out" / "leaderboard.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and [row["verdicts"][0]["verdict"] for row in rows].count(1) == pair["wins"]
    assert not (judges / "other" / "evaluation.json").exists()  # nothing is written into what is not ours
    assert command(*words) == 0
    text = capsys.readouterr().out
    assert "preferred by someones_judges.longer on 6 prompts" in text and "against" in text


def test_one_checkpoint_is_no_contest(judges):
    with pytest.raises(PipelineError, match="two different ones"):
        leaderboard(["a", "a"], "prompts.jsonl", "someones_judges.longer")


def test_a_verifier_judges_by_the_columns_of_the_prompts():
    rows = [{"prompt": "1 + 1?", "answer": "2"}, {"prompt": "1 + 2?", "answer": "3"}]
    asked = [row["prompt"] for row in rows]
    assert verdict_of("numeric", rows=rows)(asked, ["It is 2.", "It is 4."], ["It is 3.", "It is 3."]) == [1, -1]
    with pytest.raises(PipelineError, match="row 1 of the prompts: found the keys prompt, expected 'answer'"):
        verdict_of("numeric", rows=[{"prompt": "1 + 1?"}])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "found no text"),
        ("", "found no row"),
        ('{"prompt": "a"}\n{"pro', "row 2: found no JSON object"),
        ('{"question": "a"}', "row 1: found the keys question in"),
        ('{"prompt": 5}', "expected `prompt`: a text, or messages"),
    ],
)
def test_prompts_that_cannot_be_asked_are_told_with_file_and_row(judges, content, expected):
    if content is not None:
        (judges / "p.jsonl").write_text(content)
    with pytest.raises(PipelineError) as caught:
        leaderboard(["a", "b"], "p.jsonl", "someones_judges.longer")
    assert f"p.jsonl: {expected}" in str(caught.value) or expected in str(caught.value)


def test_a_judge_needs_prompts(tmp_path, capsys):
    assert command("compare", tmp_path, "--judge", "x.y") == 1
    assert "--judge and --prompts go together" in capsys.readouterr().err

"""Self-checks are found with what they did, and banned words cannot be written however they are spelt by tokens."""

import json

import pytest
import torch
from conftest import write_jsonl
from transformers import AutoModelForCausalLM

from pipeline.evaluation.banned import BannedWords
from pipeline.evaluation.evaluate import run_evaluations
from pipeline.evaluation.generation import generate
from pipeline.evaluation.measure import figures
from pipeline.evaluation.self_checks import answer_before, checks, effects
from pipeline.evaluation.specification import Evaluation, check_evaluations

TURNED_RIGHT = "<think>\nUnits 7+5=12. The answer is 72. Wait, 12 carries 1.\n</think>\n\nThe answer is 82."
TURNED_WRONG = "<think>\nThe answer is 82. Let me check: 7+5=11.\n</think>\n\nThe answer is 81."
KEPT = "<think>\nThe answer is 82. Check: 77+5=82.\n</think>\n\nThe answer is 82."
STEP = "<think>\n7+5=12. Wait, carry 1.\n</think>\n\nThe answer is 82."  # no answer yet, only a step
NONE = "<think>\nThe waiter checks 7+5=12, carry 1.\n</think>\n\nThe answer is 82."


def test_only_an_answer_that_was_given_can_be_turned():
    assert [bool(checks(text)) for text in (TURNED_RIGHT, TURNED_WRONG, KEPT, STEP)] == [True] * 4
    assert not checks(NONE) and checks("Check:7") == [(0, 6)]
    assert answer_before(TURNED_RIGHT).endswith("The answer is 72. ") and answer_before(STEP) is None


def test_figures_count_what_checks_turned_and_how_long_completions_are():
    texts = [TURNED_RIGHT, TURNED_WRONG, KEPT, STEP]
    rows = [
        {"answer": "82", "completion": text, "tokens": 10 + number, "correct": text is not TURNED_WRONG}
        for number, text in enumerate([*texts, "The answer is 82."])
    ]
    found = figures(Evaluation(path="", scorer="numeric"), rows)
    assert found["mean_tokens"]["value"] == 12
    assert (found["self_checks"]["value"], found["self_checks"]["n"]) == (0.8, 5)
    assert (found["check_wrong_to_right"]["value"], found["check_wrong_to_right"]["n"]) == (1.0, 1)
    assert (found["check_right_to_wrong"]["value"], found["check_right_to_wrong"]["n"]) == (0.5, 2)
    assert "self_checks" not in figures(Evaluation(path="", scorer="numeric"), rows[-1:])
    assert "self_checks" not in figures(Evaluation(path="", scorer="contains"), rows)
    assert effects([STEP], [True], lambda text, number: True).keys() == {"self_checks"}


@pytest.fixture
def talkative(tiny_model_dir):
    """A model with a flat distribution: at temperature 1 it writes any token."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    torch.nn.init.zeros_(model.model.norm.weight)
    return model


def test_a_banned_word_is_never_written_whatever_tokens_spell_it(talkative, tokenizer):
    settings = {"max_new_tokens": 40, "temperature": 1.0, "n": 64, "seed": 1}
    prompts = ["The answer is", "An answer: e"]
    free = generate(talkative, tokenizer, prompts, **settings)
    assert any("e" in one.text.lower() for one in free) and any("an" in one.text.lower() for one in free)
    for completion in generate(talkative, tokenizer, prompts, banned_words=["E", "aN"], **settings):
        assert "e" not in completion.text.lower() and "an" not in completion.text.lower()
        assert len(completion.token_ids) > 1


def test_a_word_is_taken_away_in_every_case_and_spelling_but_its_beginning_is_not(tokenizer):
    banned = BannedWords(tokenizer, ["answer"])
    spell = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("answe", "ANSWE", "swer", " an")}
    scores = torch.zeros(3, len(tokenizer))
    rows = [spell["answe"], spell["ANSWE"], spell["swer"]]
    width = max(map(len, rows))
    pad = tokenizer(" ", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([pad * (width - len(row)) + row for row in rows])
    allowed = banned(ids, scores) == 0
    r, big = (tokenizer.convert_tokens_to_ids(letter) for letter in ("r", "R"))
    assert not allowed[0, r] and not allowed[0, big] and not allowed[1, r]
    assert allowed[2, r] and allowed[0, tokenizer.convert_tokens_to_ids("s")]


def test_an_evaluation_bans_words_and_is_another_one_with_them(talkative, tokenizer, tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": f"What is {i}?", "answer": "2"} for i in range(4)])
    plain = {"path": str(path), "scorer": "numeric", "samples": 16, "max_new_tokens": 24}
    evaluations = {"free": plain, "held": plain | {"banned_words": ["e", "t"]}}
    run_evaluations(talkative, tokenizer, evaluations, tmp_path, kind="base")
    texts = {
        name: "".join(
            one["completion"].lower()
            for line in (tmp_path / "evaluation" / f"{name}.jsonl").read_text().splitlines()
            for one in json.loads(line)["samples"]
        )
        for name in evaluations
    }
    assert {"e", "t"} <= set(texts["free"]) and not {"e", "t"} & set(texts["held"])
    assert (
        "banned_words" not in Evaluation(**plain).as_dict()
        and "banned_words" in Evaluation(**evaluations["held"]).as_dict()
    )


def test_words_that_would_ban_everything_are_complained_about(tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "a", "answer": "b"}])
    complaints = check_evaluations({"x": {"path": str(path), "scorer": "numeric", "banned_words": ["wait", ""]}})
    assert complaints == [
        "evaluations.x.banned_words: found ['wait', ''], expected a list of texts, none of them empty"
    ]
    assert (
        "expected a list of texts"
        in check_evaluations({"x": {"path": str(path), "scorer": "numeric", "banned_words": "wait"}})[0]
    )

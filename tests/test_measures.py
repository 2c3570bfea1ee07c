"""Sampled answers, multiple choice and bits per byte: figures that agree with what the model computes."""

import json
import math

import pytest
import torch
from conftest import write_jsonl

from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import format_results, run_evaluations
from pipeline.evaluation.likelihood import log_likelihoods
from pipeline.evaluation.loading import load_checkpoint
from pipeline.evaluation.measure import figures
from pipeline.evaluation.questions import questions
from pipeline.evaluation.specification import Evaluation, check_evaluations


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load_checkpoint(tiny_model_dir)


def sampled(*outcomes, texts=None):
    """A row with one sample for each outcome."""
    texts = texts or [f"The answer is {i}." for i in range(len(outcomes))]
    pairs = zip(texts, outcomes, strict=True)
    return {"answer": "2", "samples": [{"completion": text, "tokens": 5, "correct": right} for text, right in pairs]}


def test_log_likelihoods_are_the_sums_that_one_row_at_a_time_gives(loaded):
    pairs = [("What is 2 + 2?", " 4"), ("Ada lives in", " Quillport, by the river."), ("", "The answer")]
    found = log_likelihoods(loaded.model, loaded.tokenizer, pairs, batch_size=3)
    for (prompt, continuation), total in zip(pairs, found, strict=True):
        ids = loaded.tokenizer(prompt + continuation, return_tensors="pt", add_special_tokens=False)["input_ids"]
        begin = max(1, len(loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]))
        with torch.no_grad():
            log_probs = loaded.model(ids).logits.float().log_softmax(-1)
        expected = sum(log_probs[0, i - 1, ids[0, i]].item() for i in range(begin, ids.shape[1]))
        assert total == pytest.approx(expected, abs=1e-3)


def test_a_token_across_the_border_belongs_to_the_continuation(loaded):
    # "lives" is one token or few; cut inside, the prompt's own last token is not one of the whole.
    whole = loaded.tokenizer("Ada lives in Quillport", add_special_tokens=False)["input_ids"]
    inside = loaded.tokenizer("Ada liv", add_special_tokens=False)["input_ids"]
    assert whole[: len(inside)] != inside
    (total,) = log_likelihoods(loaded.model, loaded.tokenizer, [("Ada liv", "es in Quillport")])
    shared = next(i for i, (a, b) in enumerate(zip(whole, inside, strict=False)) if a != b)
    ids = torch.tensor([whole])
    with torch.no_grad():
        log_probs = loaded.model(ids).logits.float().log_softmax(-1)
    assert total == pytest.approx(
        sum(log_probs[0, i - 1, whole[i]].item() for i in range(shared, len(whole))), abs=1e-3
    )


def test_a_pair_that_exceeds_the_context_is_refused(loaded):
    with pytest.raises(PipelineError, match="pair 0 has .* more than the model's context"):
        log_likelihoods(loaded.model, loaded.tokenizer, [("word " * 5000, "end")])


def test_multiple_choice_takes_the_choice_of_the_highest_probability_a_byte(loaded, tmp_path):
    choices = ["Quillport", "4", "by the river"]
    rows = [{"prompt": f"Where does Ada live? ({i})", "answer": "4", "choices": choices} for i in range(3)]
    path = write_jsonl(tmp_path / "choice.jsonl", rows)
    evaluations = {"choice": {"path": str(path), "scorer": "choice"}}
    results = run_evaluations(loaded.model, loaded.tokenizer, evaluations, tmp_path, kind="base")
    answered = [json.loads(line) for line in (tmp_path / "evaluation" / "choice.jsonl").read_text().splitlines()]
    for row in answered:
        per_byte = [total / len(text) for total, text in zip(row["log_likelihoods"], choices, strict=True)]
        assert row["completion"] == choices[per_byte.index(max(per_byte))]
        assert row["correct"] is (row["completion"] == "4")
    assert results["choice"]["correct"] == sum(row["correct"] for row in answered)
    assert results["choice"]["n"] == 3


def test_bits_per_byte_divide_all_bits_by_all_bytes(loaded, tmp_path):
    rows = [{"prompt": "What is 2 + 2?", "answer": "4"}, {"prompt": "Where?", "answer": "In Quillport, by the river."}]
    path = write_jsonl(tmp_path / "gold.jsonl", rows)
    evaluations = {"gold": {"path": str(path), "scorer": "bits_per_byte"}}
    found = run_evaluations(loaded.model, loaded.tokenizer, evaluations, tmp_path, kind="chat")["gold"]
    pairs = []
    for row in rows:
        message = [{"role": "user", "content": row["prompt"]}]
        prompt = loaded.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        pairs.append((prompt, row["answer"]))
    nats = -sum(log_likelihoods(loaded.model, loaded.tokenizer, pairs))
    assert found["value"] == pytest.approx(nats / math.log(2) / sum(len(row["answer"]) for row in rows))
    assert found["low"] <= found["value"] <= found["high"] and found["n"] == 2
    assert f"{found['value']:.4f}" in format_results({"gold": found})


def test_sampled_answers_give_pass_at_k_and_majority(loaded, tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "What is 1 + 1?", "answer": "2"}] * 2)
    evaluations = {"sums": {"path": str(path), "scorer": "numeric", "samples": 4, "max_new_tokens": 4}}
    found = run_evaluations(loaded.model, loaded.tokenizer, evaluations, tmp_path, kind="chat")["sums"]
    assert set(found) == {
        "n",
        "samples",
        "correct",
        "rate",
        "low",
        "high",
        "pass@1",
        "pass@2",
        "pass@4",
        "majority@4",
        "mean_tokens",
    }
    rows = [json.loads(line) for line in (tmp_path / "evaluation" / "sums.jsonl").read_text().splitlines()]
    assert len({one["completion"] for row in rows for one in row["samples"]}) > 1
    assert "majority@4" in format_results({"sums": found})


def test_figures_of_hand_made_samples():
    evaluation = Evaluation(path="", scorer="numeric", samples=4)
    half = sampled(True, True, False, False, texts=["It is 2.", "It is 2.", "It is 3.", "It is 4."])
    never = sampled(False, False, False, False)
    found = figures(evaluation, [half, never])
    assert found["rate"] == found["pass@1"]["value"] == pytest.approx(0.25)
    assert found["pass@2"]["value"] == pytest.approx((1 - 1 / 6) / 2)
    assert found["pass@4"]["value"] == pytest.approx(0.5)
    assert found["majority@4"]["value"] == pytest.approx(0.5)  # 2 has two votes and is right; the other row never is
    eight = sampled(*[True] * 4, *[False] * 4, texts=["2"] * 4 + ["3"] * 4)
    found = figures(Evaluation(path="", scorer="numeric", samples=8), [eight])
    assert found["majority@4"]["value"] == found["majority@8"]["value"] == 0.5  # of two groups of four one is right
    assert found["mean_tokens"]["value"] == 5
    tie = sampled(True, False, texts=["2", "3"])
    assert figures(Evaluation(path="", scorer="numeric", samples=2), [tie])["majority@2"]["value"] == 0.5


def test_what_does_not_go_together_is_complained_about(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [{"prompt": "a", "answer": "x", "choices": ["y", "z"]}])
    complaints = check_evaluations({"c": {"path": str(path), "scorer": "choice", "samples": 8, "temperature": 0}})
    assert any("samples: found 8" in one for one in complaints) and any(
        "temperature: found 0" in one for one in complaints
    )
    with pytest.raises(PipelineError, match="row 1: found choices"):
        questions(Evaluation(path=str(path), scorer="choice"))

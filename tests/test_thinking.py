"""Modes of thought in evaluations: the prompt opens the turn, a budget closes it, a base model may be given raw text."""

import json

import pytest
from conftest import write_jsonl

from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import run_evaluations
from pipeline.evaluation.generation import generate
from pipeline.evaluation.loading import load_checkpoint
from pipeline.evaluation.specification import Evaluation, check_evaluations
from pipeline.evaluation.thinking import CLOSE, generate_within


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load_checkpoint(tiny_model_dir)


def test_a_budget_closes_open_thought_and_the_answer_follows_what_was_read(loaded):
    prompts = ["<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\nNo thought here"]
    found = generate_within(6)(loaded.model, loaded.tokenizer, prompts, max_new_tokens=5, batch_size=2)
    closing = loaded.tokenizer(CLOSE, add_special_tokens=False)["input_ids"]
    first = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=6)
    assert [len(one.token_ids) for one in first] == [6, 6]  # a random model ends nothing
    assert found[0].token_ids[:6] == first[0].token_ids and found[0].token_ids[6 : 6 + len(closing)] == closing
    read = loaded.tokenizer(prompts[0], add_special_tokens=False)["input_ids"] + found[0].token_ids[: 6 + len(closing)]
    (rest,) = generate(loaded.model, loaded.tokenizer, [read], max_new_tokens=5)
    assert found[0].token_ids[6 + len(closing) :] == rest.token_ids and found[0].text.count("</think>") == 1
    assert "</think>" not in found[1].text and len(found[1].token_ids) == 11  # nothing was open: it only goes on


def test_evaluations_open_thought_as_they_are_told_and_count_tokens(loaded, tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "What is 1 + 1?", "answer": "2"}])
    common = {"path": str(path), "scorer": "exact", "max_new_tokens": 4}
    asked = {
        "auto": common,
        "on": common | {"think": True},
        "off": common | {"think": "off"},
    }  # a bare `on` in YAML is true
    run_evaluations(loaded.model, loaded.tokenizer, asked, tmp_path, kind="chat")
    origins = json.loads((tmp_path / "evaluation" / "provenance.json").read_text())
    endings = {name: origin["first_prompt"].split("assistant\n")[-1] for name, origin in origins.items()}
    assert endings == {"auto": "", "on": "<think>\n", "off": "<think>\n\n</think>\n\n"}
    assert origins["on"]["specification"]["think"] == "on" and "think" not in origins["auto"]["specification"]
    row = json.loads((tmp_path / "evaluation" / "on.jsonl").read_text())
    assert row["completion"].startswith("<think>\n") and row["tokens"] == 4


def test_a_template_without_modes_and_other_words_for_them_are_refused(loaded, tmp_path, tokenizer_dir):
    from transformers import AutoTokenizer

    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "What is 1 + 1?", "answer": "2"}])
    plain = AutoTokenizer.from_pretrained(tokenizer_dir)
    plain.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    asked = {"on": {"path": str(path), "scorer": "exact", "think": "on"}}
    with pytest.raises(PipelineError, match="evaluations.on: its chat template knows no `think` mode"):
        run_evaluations(loaded.model, plain, asked, tmp_path, kind="chat")
    wrong = {"a": asked["on"] | {"think": "maybe"}, "b": asked["on"] | {"think_budget": 4, "scorer": "bits_per_byte"}}
    text = " ".join(check_evaluations(wrong))
    assert (
        "evaluations.a.think: found 'maybe', expected auto, on or off" in text and "evaluations.b.think_budget" in text
    )


def test_a_base_model_continues_raw_text_as_it_stands(loaded, tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "Ada lives in", "answer": "Quillport"}])
    asked = {"raw": {"path": str(path), "scorer": "contains", "max_new_tokens": 4, "raw": True}}
    run_evaluations(loaded.model, loaded.tokenizer, asked, tmp_path, kind="base")
    assert (
        json.loads((tmp_path / "evaluation" / "provenance.json").read_text())["raw"]["first_prompt"] == "Ada lives in"
    )
    assert Evaluation("x", "contains").as_dict().keys().isdisjoint({"raw", "think", "think_budget"})

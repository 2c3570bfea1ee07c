"""Evaluations: counts are exact, every answer is kept, nothing is asked twice, and faulty questions are all named."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.evaluation import loading, measure
from pipeline.evaluation.evaluate import evaluate_checkpoint, model_fingerprint, pending, run_evaluations
from pipeline.evaluation.generation import Completion, generate, render_prompt
from pipeline.evaluation.questions import count_questions, few_shot_rows, load_evaluations, questions
from pipeline.evaluation.scorers import find_scorer, scorer_names, visible_answer
from pipeline.evaluation.specification import Evaluation, check_evaluations, read_evaluations

QUESTIONS = [f"What is {i} + {i}?" for i in range(10)]


@pytest.fixture(scope="module")
def checkpoint(tiny_model_dir, tmp_path_factory):
    """A random model whose answers differ from question to question."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model.config.tie_word_embeddings = False
    generator = torch.Generator().manual_seed(0)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape, generator=generator))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return loading.load_checkpoint(checkpoint)


@pytest.fixture
def own_answers(loaded):
    """What the model says to each question, asked as a base model."""
    prompts = [render_prompt(loaded.tokenizer, question, chat=False) for question in QUESTIONS]
    return [
        completion.text
        for completion in generate(
            loaded.model, loaded.tokenizer, prompts, max_new_tokens=8, stop_strings=measure.BASE_STOPS
        )
    ]


@pytest.fixture
def seven_right(own_answers, tmp_path):
    """Ten questions, of which the model's own answer to seven is the right one."""
    answers = own_answers[:7] + ["something else"] * 3
    rows = [
        {"prompt": question, "answer": answer, "grade": i}
        for i, (question, answer) in enumerate(zip(QUESTIONS, answers, strict=True))
    ]
    path = write_jsonl(tmp_path / "questions.jsonl", rows)
    return {"seven": {"path": str(path), "scorer": "exact", "max_new_tokens": 8}}


def test_answers_are_counted_with_their_interval_and_all_kept(loaded, own_answers, seven_right, tmp_path):
    assert len(set(own_answers)) > 5 and all(answer.strip() for answer in own_answers)
    results = run_evaluations(loaded.model, loaded.tokenizer, seven_right, tmp_path, kind="base", batch_size=4)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == results
    result = results["seven"]
    assert (result["n"], result["correct"], result["rate"]) == (10, 7, 0.7)
    # Wilson's interval of 7 in 10, as R's binom.confint(7, 10, methods = "wilson") gives it.
    assert (round(result["low"], 4), round(result["high"], 4)) == (0.3968, 0.8922)
    rows = [json.loads(line) for line in (tmp_path / "evaluation" / "seven.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == QUESTIONS
    assert [row["completion"] for row in rows] == own_answers
    assert [row["correct"] for row in rows] == [True] * 7 + [False] * 3
    assert [row["grade"] for row in rows] == list(range(10))
    assert all(isinstance(row["ended"], bool) for row in rows)


def test_an_evaluation_of_this_model_with_these_questions_and_settings_is_not_asked_again(
    loaded, checkpoint, seven_right, tmp_path
):
    fingerprint = model_fingerprint(checkpoint)
    first = run_evaluations(loaded.model, loaded.tokenizer, seven_right, tmp_path, kind="base", fingerprint=fingerprint)
    # Without a model nothing could be asked, so nothing is.
    assert run_evaluations(None, None, seven_right, tmp_path, kind="base", fingerprint=fingerprint) == first
    assert pending(seven_right, tmp_path, "another model") == ["seven"]
    longer = {"seven": seven_right["seven"] | {"max_new_tokens": 9}}
    assert pending(longer, tmp_path, fingerprint) == ["seven"]
    write_jsonl(tmp_path / "questions.jsonl", [{"prompt": "Something new?", "answer": "yes"}])
    assert pending(seven_right, tmp_path, fingerprint) == ["seven"]


def test_a_result_of_another_model_does_not_stay_beside_a_new_one(loaded, seven_right, tmp_path):
    old = {"old": seven_right["seven"], "both": seven_right["seven"]}
    run_evaluations(loaded.model, loaded.tokenizer, old, tmp_path, kind="base", fingerprint="one")
    new = {"both": seven_right["seven"]}
    run_evaluations(loaded.model, loaded.tokenizer, new, tmp_path, kind="base", fingerprint="two")
    assert list(json.loads((tmp_path / "evaluation.json").read_text())) == ["both"]


def test_the_fingerprint_follows_weights_and_template_but_not_results(checkpoint, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    before = model_fingerprint(copy)
    assert before == model_fingerprint(checkpoint)
    (copy / "evaluation.json").write_text("{}")
    assert model_fingerprint(copy) == before
    (copy / "chat_template.jinja").write_text("another")
    changed = model_fingerprint(copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert len({before, changed, model_fingerprint(copy)}) == 3


def test_a_base_model_is_cut_at_the_next_question_unless_its_ending_is_what_is_measured(
    loaded, seven_right, tmp_path, monkeypatch
):
    asked = {}

    def record(model, tokenizer, prompts, **settings):
        asked[settings["max_new_tokens"]] = (prompts[0], settings["stop_strings"])
        return [Completion("", [], False) for _ in prompts]

    monkeypatch.setattr("pipeline.evaluation.generation.generate", record)
    examples = [{"prompt": "One?", "answer": "1"}]
    evaluations = {
        "facts": seven_right["seven"] | {"max_new_tokens": 1, "few_shot": examples},
        "ends": seven_right["seven"] | {"max_new_tokens": 2, "scorer": "ends_turn"},
    }
    run_evaluations(loaded.model, loaded.tokenizer, evaluations, tmp_path, kind="base")
    assert asked[1] == ("Question: One?\nAnswer: 1\n\nQuestion: What is 0 + 0?\nAnswer:", ("\n",))
    assert asked[2] == ("Question: What is 0 + 0?\nAnswer:", ())
    evaluations["facts"]["few_shot"] = [{"prompt": "One?", "answer": "It is\n1"}]
    run_evaluations(loaded.model, loaded.tokenizer, evaluations, tmp_path, kind="base")
    assert asked[1][1] == ("\nQuestion:", "\n\n")
    run_evaluations(loaded.model, loaded.tokenizer, evaluations, tmp_path, kind="chat")
    assert asked[1] == (render_prompt(loaded.tokenizer, QUESTIONS[0], chat=True), ())
    evaluations["facts"]["system_prompt"] = "Be brief."
    run_evaluations(loaded.model, loaded.tokenizer, evaluations, tmp_path, kind="chat")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTIONS[0]}]
    assert asked[1] == (render_prompt(loaded.tokenizer, messages, chat=True), ())


@pytest.mark.parametrize(
    ("chat", "first_answer", "correct"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_a_base_model_is_judged_by_its_first_stated_answer_where_the_evaluation_says_so(
    loaded, monkeypatch, chat, first_answer, correct
):
    written = " Units 4+4=8. The answer is 68. The answer is 26."
    monkeypatch.setattr(
        "pipeline.evaluation.generation.generate", lambda *_, **__: [Completion(written, [1], ended=False)]
    )
    evaluation = Evaluation("questions.jsonl", "numeric", first_answer=first_answer)
    rows = [{"prompt": "How much is 24+44?", "answer": "68"}]
    [answered] = measure.answer_rows(
        evaluation, loaded.model, loaded.tokenizer, rows, ["How much is 24+44?"], chat=chat, examples=[], batch_size=1
    )
    assert answered["correct"] is correct
    assert answered["completion"] == (" Units 4+4=8. The answer is 68." if correct else written)


def test_a_chat_model_without_a_template_is_refused(loaded, seven_right, tmp_path):
    import copy

    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(PipelineError, match="chat template"):
        run_evaluations(loaded.model, tokenizer, seven_right, tmp_path, kind="chat")


@pytest.mark.parametrize(
    ("scorer", "text", "answer", "correct"),
    [
        ("exact", " Lima \n", "Lima", True),
        ("exact", "<think>Quito?</think>\n\nLima", "Lima", True),
        ("exact", "Lima.", "Lima", False),
        ("contains", "It is in new  york, I think.", "New York", True),
        ("contains", "It is 1912.", "12", False),
        ("contains", "Annabel", "Anna", False),
        ("contains", "C++ it is", "C++", True),
        ("contains", "<think>Lima</think>Quito", "Lima", False),
        ("contains", "It was Lima", "Lima", True),
        ("contains", "<think>It was Lima", "Lima", False),
        ("contains", "was it Quito? </think> Lima", "Quito", False),
        ("numeric", "<think>7+8=15</think>The answer is 83.", "83", True),
        ("numeric", "<think>83</think>The answer is 73.", "83", False),
        ("numeric", "It is 83 or 73.", "83", False),
        ("hash_number", "9 * 2 = 18 dollars.\n#### 18", "9 * 2 = 18\n#### 18", True),
        ("hash_number", "9 * 2 = 18 dollars.", "18", False),
        ("hash_number", "#### 18\n#### 18", "18", False),
        ("hash_number", "#### 18", "many", False),
        ("last_number", "First 7, then 9 * 2 = 18 dollars.", "9 * 2 = 18\n#### 18", True),
        ("last_number", "It is 18, not 19.", "18", False),
        ("last_number", "<think>18</think>None.", "18", False),
    ],
)
def test_scorers(scorer, text, answer, correct):
    assert find_scorer(scorer)(Completion(text, [], True), answer) is correct


def test_ends_turn_looks_at_the_end_token_alone():
    assert find_scorer("ends_turn")(Completion("nonsense", [], True), "42")
    assert not find_scorer("ends_turn")(Completion("42", [], False), "42")


def test_every_verifier_of_the_rewards_is_a_scorer_and_other_rewards_are_not():
    assert {"exact", "contains", "ends_turn", "numeric", "math"} <= set(scorer_names())
    assert "think_format" not in scorer_names() and len(set(scorer_names())) == len(scorer_names())
    with pytest.raises(PipelineError, match="think_format"):
        find_scorer("think_format")


def test_an_open_think_part_hides_everything():
    assert visible_answer("<think>a</think> b <think>c") == ""
    assert visible_answer("a <think>b</think> c") == "a  c"


def test_messages_mapped_columns_numbers_and_several_accepted_answers_are_read(loaded, tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        [
            {"messages": turns, "source": "a"},
            {"question": "How many?", "gold": 3},
            {"question": "Who?", "gold": ["Ann", "Anna"]},
        ],
    )
    evaluation = Evaluation(str(path), "contains", prompt_column="question", answer_column="gold")
    assert questions(evaluation) == [
        {"prompt": turns[:1], "answer": "Hello", "source": "a"},
        {"prompt": "How many?", "answer": "3"},
        {"prompt": "Who?", "answer": ["Ann", "Anna"]},
    ]


def test_any_of_several_accepted_answers_counts(loaded, own_answers, tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": QUESTIONS[0], "answer": ["no", own_answers[0]]}])
    specification = {"one": {"path": str(path), "scorer": "exact", "max_new_tokens": 8}}
    results = run_evaluations(loaded.model, loaded.tokenizer, specification, tmp_path, kind="base")
    assert results["one"]["correct"] == 1


def test_few_shot_rows_are_the_first_of_their_file_and_never_questions(tmp_path):
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "a?", "answer": "1"}])
    shown = write_jsonl(tmp_path / "shown.jsonl", [{"prompt": p, "answer": "1"} for p in ("b?", "c?", "a?")])
    evaluation = Evaluation(str(asked), "exact", few_shot=2, few_shot_path=str(shown))
    assert [row["prompt"] for row in few_shot_rows(evaluation)] == ["b?", "c?"]
    with pytest.raises(PipelineError, match="'a\\?' is also a question"):
        few_shot_rows(Evaluation(str(asked), "exact", few_shot=3, few_shot_path=str(shown)))
    with pytest.raises(PipelineError, match="asks for 4 rows, the file has 3"):
        few_shot_rows(Evaluation(str(asked), "exact", few_shot=4, few_shot_path=str(shown)))


@pytest.mark.parametrize("key", ["raw", "think", "certainty", "first_answer"])
@pytest.mark.parametrize("value", [True, False])
def test_truth_values_are_no_small_numbers(tmp_path, key, value):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "One?", "answer": "1"}])
    assert check_evaluations({"one": {"path": str(path), "scorer": "numeric", key: value}}) == []


def test_every_complaint_about_evaluations_comes_at_once(tmp_path):
    there = write_jsonl(tmp_path / "there.jsonl", [{"prompt": "a?", "answer": "1"}])
    complaints = check_evaluations(
        {
            "a": {"path": str(there), "scorer": "contians", "max_new_token": 3},
            "b": {"path": "nowhere.jsonl", "scorer": "exact", "max_new_tokens": 0},
            "c": {"scorer": "exact", "few_shot": 2},
            "d": {"path": str(there), "scorer": "exact", "limit": "all"},
            "e": "there.jsonl",
        }
    )
    text = "\n".join(complaints)
    for expected in (
        "evaluations.a.scorer: found 'contians', expected one of ",
        "did you mean contains?",
        "evaluations.a.max_new_token: no such key; did you mean max_new_tokens?",
        "evaluations.b.path: there is no file nowhere.jsonl",
        "evaluations.b.max_new_tokens: found 0, expected at least 1",
        "evaluations.c.path: missing",
        "evaluations.c.few_shot: 2 rows of which file?",
        "evaluations.d.limit: found 'all', expected a number of rows",
        "evaluations.e: found 'there.jsonl', expected a mapping",
    ):
        assert expected in text
    assert len(complaints) == 8


def test_a_file_that_an_earlier_stage_will_write_is_no_complaint():
    evaluations = {"a": {"path": "runs/later.jsonl", "scorer": "exact"}}
    assert check_evaluations(evaluations, exists=lambda path: path == "runs/later.jsonl") == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "no rows"),
        ([{"prompt": "a?"}], "line 1 has prompt"),
        ([{"prompt": "a?", "answer": " "}], "line 1 has prompt, answer"),
        ([{"prompt": "a?", "answer": {"x": 1}}], "line 1 has prompt, answer: {"),
        ([{"prompt": 5, "answer": "5"}], "line 1 has prompt, answer"),
        ([{"prompt": [{"content": "a?"}], "answer": "5"}], "text, or messages with role and content"),
        ([{"messages": [1, 2]}], "line 1 has messages: "),
        ([{"messages": [{"role": "user", "content": "a?"}]}], "line 1 has messages"),
    ],
)
def test_a_file_without_questions_or_answers_is_refused_with_the_line(tmp_path, rows, expected):
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(PipelineError) as caught:
        load_evaluations({"facts": {"path": str(path), "scorer": "exact"}})
    assert expected in str(caught.value) and "facts" in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("scorer", "answer", "expected"),
    [
        ("code", "25", "row 2: found the answer '25', by which an empty completion is right"),
        ("numeric", "Paris", "row 2: found the answer 'Paris', expected one number"),
        ("hash_number", "Paris", "expected one number"),
        ("last_number", ["Paris", "Rome"], "expected one number"),
        ("math", "many words", "expected an answer that it can read"),
    ],
)
def test_gold_answers_that_the_scorer_cannot_judge_are_refused_before_anything_is_asked(
    tmp_path, scorer, answer, expected
):
    good = "assert double(2) == 4" if scorer == "code" else "25"
    rows = [{"prompt": "a?", "answer": good}, {"prompt": "b?", "answer": answer}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(PipelineError) as caught:
        load_evaluations({"x": {"path": str(path), "scorer": scorer}})
    assert expected in str(caught.value) and f"evaluations.x: {path}: {scorer} cannot judge 1 rows" in str(caught.value)
    write_jsonl(path, [rows[0], {"prompt": "b?", "answer": [good, "Paris"]}])
    load_evaluations({"x": {"path": str(path), "scorer": scorer}})


def test_a_folder_and_a_packed_file_hold_no_questions(tmp_path):
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(b"\x1f\x8b\x08")
    for path, expected in ((tmp_path, "found a folder"), (packed, "found no text")):
        asked = {"x": {"path": str(path), "scorer": "exact"}}
        for read in (load_evaluations, count_questions):
            with pytest.raises(PipelineError, match=f"{path}: {expected}"):
                read(asked)


@pytest.mark.parametrize("name", ["../x y", "a/b", "provenance", ""])
def test_a_name_that_would_be_another_file_is_refused(tmp_path, name):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a?", "answer": "1"}])
    (complaint,) = check_evaluations({name: {"path": str(path), "scorer": "exact"}})
    assert f"found the name {name!r}" in complaint
    assert check_evaluations({"a.b-c_1": {"path": str(path), "scorer": "exact"}}) == []


def test_a_yaml_file_may_hold_the_evaluations(tmp_path):
    path = tmp_path / "evaluate.yaml"
    path.write_text(yaml.safe_dump({"model_name_or_path": "x", "evaluations": {"a": {"path": "p", "scorer": "exact"}}}))
    assert read_evaluations(str(path)) == {"a": {"path": "p", "scorer": "exact"}}
    path.write_text("other: 1\n")
    with pytest.raises(PipelineError, match="under the key evaluations"):
        read_evaluations(str(path))
    with pytest.raises(PipelineError, match="no file"):
        read_evaluations(str(tmp_path / "none.yaml"))


def test_the_stage_writes_beside_the_model_and_does_not_load_it_twice(checkpoint, seven_right, tmp_path, monkeypatch):
    from pipeline.stages import evaluate as stage
    from pipeline.stages import load_recipe

    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    path = tmp_path / "evaluate.yaml"
    path.write_text(yaml.safe_dump({"model_name_or_path": str(model), "evaluations": seven_right, "kind": "base"}))
    stage.run(load_recipe(path))
    assert json.loads((model / "evaluation.json").read_text())["seven"]["correct"] == 7

    def never(*arguments, **options):
        raise AssertionError("loaded although everything is up to date")

    monkeypatch.setattr(loading, "load_checkpoint", never)
    stage.run(load_recipe(path))


def test_the_stage_names_a_misspelt_scorer_and_a_missing_model(seven_right, tmp_path):
    from pipeline.stages import load_recipe

    path = tmp_path / "evaluate.yaml"
    evaluations = {"seven": seven_right["seven"] | {"scorer": "exakt"}}
    path.write_text(yaml.safe_dump({"model_name_or_path": "runs/none/sft", "evaluations": evaluations}))
    with pytest.raises(PipelineError) as caught:
        load_recipe(path)
    assert "did you mean exact?" in str(caught.value) and "runs/none/sft does not exist" in str(caught.value)


def test_a_corpus_is_no_model(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"status": "complete", "stage": "corpus", "kind": "corpus"}))
    with pytest.raises(PipelineError, match="expected a model"):
        loading.load_checkpoint(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"status": "running", "stage": "sft", "kind": "chat"}))
    with pytest.raises(PipelineError, match="not complete"):
        loading.load_checkpoint(tmp_path)


@pytest.mark.slow
def test_two_processes_share_the_questions_and_count_what_one_counts(checkpoint, seven_right, tmp_path):
    one = evaluate_checkpoint(checkpoint, seven_right, kind="base", directory=tmp_path / "one")
    script = tmp_path / "two.py"
    script.write_text(
        "from pipeline.evaluation.evaluate import evaluate_checkpoint\n"
        f"results = evaluate_checkpoint({str(checkpoint)!r}, {seven_right!r}, kind='base', "
        f"directory={str(tmp_path / 'two')!r})\n"
        f"assert results == {one!r}, results\n"
        "from pipeline.training.distributed import leave, processes\n"
        "assert processes().num_processes == 2\n"
        "leave()\n"
    )
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617", str(script)],
        check=True,
        timeout=300,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    answers = [(tmp_path / name / "evaluation" / "seven.jsonl").read_text() for name in ("one", "two")]
    assert answers[0] == answers[1]


def test_real_problems_and_real_conversations_are_read_as_they_are(shared_data):
    problems = Evaluation(
        str(shared_data / "gsm8k" / "test.jsonl"),
        "numeric",
        prompt_column="question",
        answer_column="answer",
        limit=200,
    )
    rows = questions(problems)
    assert len(rows) == 200
    scorer = find_scorer("numeric")
    for row in rows:
        final = row["answer"].split("####")[1].strip()
        assert scorer(Completion(f"So the answer is {final}.", [], True), row["answer"])
        assert not scorer(Completion(f"So the answer is {final}1.", [], True), row["answer"])
    turns = questions(Evaluation(str(shared_data / "conversations" / "test.jsonl"), "ends_turn"))
    assert len(turns) == 282 and all(row["prompt"][-1]["role"] == "user" for row in turns)

"""Fine-tuning data: which rows are read, which tokens are supervised, and what is looked at before the first step."""

import numpy as np
import pytest
from conftest import command, grpo_recipe, metrics_of, sft_recipe, write_jsonl
from transformers import AutoTokenizer

from pipeline import stages
from pipeline.conversation import preview
from pipeline.conversation.rows import fault_of, normalise
from pipeline.errors import PipelineError
from pipeline.training.data import load_training_data

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "The answer is 2."},
    {"role": "user", "content": "And 2 + 2?"},
    {"role": "assistant", "content": "4."},
]
END, STOP = "<|endoftext|>", "<|im_end|>"


@pytest.fixture
def prepare(tmp_path, tiny_world, monkeypatch):
    """Run the sft stage on rows up to the point where training would begin; returns its trainer."""
    from pipeline.training import session

    trainers = []
    monkeypatch.setattr(session, "train", lambda trainer, *args, **kwargs: trainers.append(trainer))

    def run(rows, **changes):
        number = len(trainers)
        write_jsonl(tmp_path / f"rows{number}.jsonl", rows)
        recipe = sft_recipe(
            tmp_path / f"run{number}.yaml", tiny_world, dataset_name=tmp_path / f"rows{number}.jsonl", **changes
        )
        assert command("sft", "--config", recipe) == 0
        return trainers[-1]

    return run


def supervised_parts(row, tokenizer) -> list[str]:
    """The text of every run of supervised tokens."""
    parts, labels = [[]], list(row["labels"])
    for token, label in zip(row["input_ids"], labels, strict=True):
        assert label in (token, -100)
        if label == -100:
            parts.append([])
        else:
            parts[-1].append(token)
    return [tokenizer.decode(part) for part in parts if part]


def as_sharegpt(messages):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[m["role"]], "value": m["content"]} for m in messages]


FORMS = {
    "messages": ({"messages": CONVERSATION}, {}, "assistant turns", [f"The answer is 2.{STOP}", f"4.{STOP}"]),
    "sharegpt": (
        {"conversations": as_sharegpt(CONVERSATION)},
        {},
        "assistant turns",
        [f"The answer is 2.{STOP}", f"4.{STOP}"],
    ),
    "prompt and completion, texts": ({"prompt": "1 + 1 =", "completion": " 2"}, {}, "completions", [f" 2{END}"]),
    "prompt and completion, turns": (
        {"prompt": CONVERSATION[:2], "completion": CONVERSATION[2:3]},
        {},
        "completions",
        [f"The answer is 2.{STOP}\n"],
    ),
    "mapped columns": (
        {"question": "1 + 1 =", "solution": " 2", "source": "x"},
        {"prompt_column": "question", "answer_column": "solution"},
        "completions",
        [f" 2{END}"],
    ),
    "text": ({"text": "Ada lives in Quillport."}, {}, "all tokens", [f"Ada lives in Quillport.{END}"]),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_what_each_form_of_data_supervises(prepare, capsys, form):
    row, changes, learns, expected = FORMS[form]
    trainer = prepare([row] * 8, **changes)
    tokenizer = trainer.processing_class
    for prepared in trainer.train_dataset:
        assert supervised_parts(prepared, tokenizer) == expected
    shown = capsys.readouterr().out
    assert all(f"⟦{part}⟧" in shown for part in expected), "the first row is printed with its marks"
    assert f"loss on {learns}" in shown


def test_all_tokens_of_messages_are_supervised_where_the_recipe_says_so(prepare, capsys):
    trainer = prepare([{"messages": CONVERSATION}] * 8, assistant_only_loss=False)
    row = trainer.train_dataset[0]
    assert row["labels"] == row["input_ids"]
    assert "loss on all tokens" in capsys.readouterr().out


def test_sharegpt_rows_are_the_same_tokens_as_messages(prepare):
    first = prepare([{"messages": CONVERSATION}] * 8).train_dataset[0]
    second = prepare([{"conversations": as_sharegpt(CONVERSATION)}] * 8).train_dataset[0]
    assert first["input_ids"] == second["input_ids"] and first["labels"] == second["labels"]


@pytest.mark.parametrize("form", list(FORMS))
def test_every_supervised_part_ends_in_the_token_that_stops_generation(prepare, form):
    row, changes, *_ = FORMS[form]
    trainer = prepare([row] * 8, **changes)
    tokenizer = trainer.processing_class
    for part in supervised_parts(trainer.train_dataset[0], tokenizer):
        assert part.rstrip().endswith(tokenizer.eos_token)
    stops = trainer.model.generation_config.eos_token_id
    assert tokenizer.eos_token_id in (stops if isinstance(stops, list) else [stops])


def conversations_of(lengths):
    return [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": "Ada. " * n}]}
        for n in lengths
    ]


def test_packing_keeps_the_masks_and_keeps_conversations_apart(prepare):
    rows = conversations_of([2, 9, 4, 7, 3, 6, 5, 8])
    apart = prepare(rows).train_dataset
    packed = prepare(rows, packing=True, max_length=96)
    expected = sorted((tuple(row["input_ids"]), tuple(row["labels"])) for row in apart)
    found = []
    for row in packed.train_dataset:
        ends = np.cumsum(row["seq_lengths"])
        for start, stop in zip([0, *ends[:-1]], ends, strict=True):
            found.append((tuple(row["input_ids"][start:stop]), tuple(row["labels"][start:stop])))
    assert len(packed.train_dataset) < len(rows) and sorted(found) == expected
    batch = packed.data_collator([packed.train_dataset[0]])
    positions = np.concatenate([np.arange(length) for length in packed.train_dataset[0]["seq_lengths"]])
    assert batch["position_ids"][0].tolist() == positions.tolist() and "attention_mask" not in batch


def test_a_row_is_cut_at_max_length_and_the_share_is_reported(prepare, capsys):
    trainer = prepare(conversations_of([1, 1, 1, 20]), max_length=48)
    assert max(len(row["input_ids"]) for row in trainer.train_dataset) == 48
    assert "max_length 48: 25.0% of the rows are cut, 0.0% lose all that they teach" in capsys.readouterr().out


WITHOUT_MARKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END_OUTSIDE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (WITHOUT_MARKS, "does not mark what the assistant writes"),
        (END_OUTSIDE, "row 0: a supervised part ends in '.' instead of '<|im_end|>'"),
    ],
    ids=["no marks", "end of turn outside the mask"],
)
def test_a_template_that_would_not_teach_to_stop_is_refused(tmp_path, tiny_world, capsys, template, complaint):
    (tmp_path / "template.jinja").write_text(template)
    recipe = sft_recipe(tmp_path / "run.yaml", tiny_world, chat_template_path=tmp_path / "template.jinja")
    assert command("sft", "--config", recipe) == 1
    error = capsys.readouterr().err
    assert complaint in error and "Traceback" not in error


def test_a_template_without_marks_serves_where_all_tokens_are_supervised(prepare, tmp_path):
    (tmp_path / "template.jinja").write_text(WITHOUT_MARKS)
    rows = [{"messages": CONVERSATION}] * 8
    trainer = prepare(rows, chat_template_path=tmp_path / "template.jinja", assistant_only_loss=False)
    assert trainer.processing_class.eos_token == STOP


def test_a_stock_template_that_trl_knows_is_trained_with_its_marked_form(prepare, tiny_world, tmp_path):
    from trl.chat_template_utils import qwen3_chat_template

    (tmp_path / "template.jinja").write_text(qwen3_chat_template)
    trainer = prepare([{"messages": CONVERSATION}] * 8, chat_template_path=tmp_path / "template.jinja")
    parts = supervised_parts(trainer.train_dataset[0], trainer.processing_class)
    assert [part.rstrip().endswith(STOP) for part in parts] == [True, True]
    assert trainer.processing_class.chat_template == qwen3_chat_template, "what is published is the stock template"


def test_a_template_may_be_taken_from_another_tokenizer(prepare, tiny_world, tokenizer_dir, tmp_path):
    import shutil

    shutil.copytree(tiny_world / "model", tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    rows = [{"messages": CONVERSATION}] * 8
    trainer = prepare(rows, model_name_or_path=tmp_path / "bare", chat_template_path=tokenizer_dir)
    assert trainer.processing_class.chat_template == AutoTokenizer.from_pretrained(tokenizer_dir).chat_template


# --- which rows are read

USER, ANSWER = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"messages": []}, "no messages"),
        ({"messages": None}, "no messages"),
        ({"messages": [USER]}, "no assistant turn"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "message 1 (assistant) is empty"),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "message 1 (assistant) is empty"),
        ({"messages": [{"role": "user", "content": None}, ANSWER]}, "message 0 (user) is empty"),
        ({"messages": [{"role": "narrator", "content": "x"}, ANSWER]}, "message 0 has the role 'narrator'"),
        ({"messages": ["hello"]}, "message 0 is no message"),
        ({"prompt": "x", "completion": " "}, "completion is empty"),
        ({"prompt": "x", "completion": None}, "completion is None"),
        ({"prompt": None, "completion": "y"}, "prompt is None"),
        ({"prompt": [USER], "completion": [USER]}, "completion: no assistant turn"),
        ({"messages": [USER, ANSWER], "tools": "[{"}, "tools: expected a list of JSON schemas"),
        ({"messages": [USER, ANSWER], "tools": [{"function": {}}]}, "tools: expected a list of JSON schemas"),
        ({"text": "  "}, "text is empty"),
        ({"text": None}, "text is empty"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(row, fault):
    assert fault in fault_of(row)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER]},
        {
            "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
        {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "y"}]}]},
        {"prompt": "", "completion": "y"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"text": "x"},
    ],
)
def test_a_row_that_can_be_trained_on_is_let_through(row):
    assert fault_of(row) is None


def test_bad_rows_are_named_with_their_numbers_or_dropped_and_counted():
    from datasets import Dataset

    good, bad = {"messages": [USER, ANSWER]}, {"messages": [USER]}
    rows = Dataset.from_list([good, bad, good, *[bad] * 6])
    with pytest.raises(PipelineError) as refused:
        normalise(rows, "chat.jsonl")
    message = str(refused.value)
    assert message.startswith("chat.jsonl: 7 of 9 rows cannot be trained on:\n  row 1: no assistant turn")
    assert "and 2 more" in message and "invalid_rows: drop" in message
    kept, dropped = normalise(rows, "chat.jsonl", invalid_rows="drop")
    assert (len(kept), dropped) == (2, 7)
    with pytest.raises(PipelineError, match="2 of 2 rows cannot be trained on(.|\n)*No row would be left"):
        normalise(rows.select([1, 3]), "chat.jsonl", invalid_rows="drop")


def test_a_mixture_is_weighted_and_split_by_seed_without_overlap(tmp_path, tiny_world):
    for name, count in (("a", 40), ("b", 20)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name} {i}"} for i in range(count)])
    parts = [
        {"path": "json", "data_files": str(tmp_path / "a.jsonl"), "split": "train", "fraction": 0.5},
        {"path": "json", "data_files": str(tmp_path / "b.jsonl"), "split": "train", "fraction": 0.5},
    ]

    def load(seed):
        recipe = sft_recipe(
            tmp_path / "run.yaml",
            tiny_world,
            **{"dataset_name": None, "datasets": parts, "test_split_size": 0.25, "eval_strategy": "steps"},
            **{"eval_steps": 2, "seed": seed},
        )
        train, evaluation = load_training_data(stages.load_recipe(recipe))
        return train["text"][:], evaluation["text"][:]

    train, evaluation = load(seed=1)
    assert (len(train), len(evaluation)) == (30, 10)
    assert sum(text.startswith("a") for text in train + evaluation) == 20, "half and half, though a has twice the rows"
    assert not set(train) & set(evaluation)
    assert load(seed=1) == (train, evaluation)
    assert load(seed=2)[1] != evaluation


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_stream_can_be_trained_on_and_rows_held_out_are_evaluated(tmp_path, tiny_world, monkeypatch, stage):
    monkeypatch.chdir(tiny_world)
    write = {"sft": sft_recipe, "grpo": grpo_recipe}[stage]
    losses = []
    for name, changes in (("stream", {"dataset_streaming": True}), ("split", {"test_split_size": 8})):
        changes |= {} if name == "stream" else {"eval_strategy": "steps", "eval_steps": 2}
        changes |= {"per_device_eval_batch_size": 4, "max_steps": 2}
        assert command(stage, "--config", write(tmp_path / f"{name}.yaml", tiny_world, **changes)) == 0
        losses.append([line["loss"] for line in metrics_of(tmp_path / name) if "loss" in line])
    assert len(losses[0]) == len(losses[1]) == 2
    assert [line["step"] for line in metrics_of(tmp_path / "split") if "eval_loss" in line] == [2]
    recipe = write(tmp_path / "both.yaml", tiny_world, dataset_streaming=True, test_split_size=8, eval_strategy="epoch")
    assert command(stage, "--config", recipe) == 1


# --- what is looked at before the first step


def rows_of(*lengths_and_supervised):
    return [
        {"input_ids": list(range(length)), "labels": [-100] * (length - supervised) + [7] * supervised}
        for length, supervised in lengths_and_supervised
    ]


def test_the_figures_are_those_of_the_rows():
    found = preview.look(rows_of((4, 2), (10, 4), (10, 1), (30, 5)), max_length=12)
    assert found == preview.Supervision(4, (10, 30, 30, 30), truncated=0.25, lost=0.25, supervised=7 / 36)
    assert preview.look(rows_of((4, 2)), max_length=None).truncated == 0
    with pytest.raises(PipelineError, match="no row to train on"):
        preview.look([], 5)


@pytest.mark.parametrize(
    ("rows", "share", "complaint"),
    [
        (rows_of((30, 5), (40, 3)), 1.0, "no token is supervised.*Raise max_length .the longest row has 40 tokens"),
        (rows_of((30, 5), (10, 5), (10, 5)), 1.0, "33% of the rows lose every supervised token"),
        (rows_of((30, 25), (10, 5)), 0.4, "50% of the rows are longer than max_length 12, more than.*40%"),
    ],
    ids=["nothing supervised", "many rows lose all", "too many rows cut"],
)
def test_absurd_data_is_refused(rows, share, complaint):
    found = preview.look(rows, max_length=12)
    with pytest.raises(PipelineError, match=f"(?s){complaint}"):
        preview.refuse_absurd(found, name="x", max_length=12, max_truncated_share=share)


def test_sensible_data_is_let_through():
    found = preview.look(rows_of(*[(10, 5)] * 9, (30, 5)), max_length=12)
    preview.refuse_absurd(found, name="x", max_length=12, max_truncated_share=0.1)


def test_a_supervised_part_of_white_space_alone_is_refused(tokenizer):
    (space,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    rows = [{"labels": [-100, space, -100, tokenizer.eos_token_id, space, -100]}]
    with pytest.raises(PipelineError, match=r"x, row 0: a supervised part ends in '\\n'"):
        preview.refuse_open_turns(rows, tokenizer, name="x")
    preview.refuse_open_turns([{"labels": rows[0]["labels"][2:]}], tokenizer, name="x")


def test_the_first_row_is_shown_with_its_supervised_tokens_marked(tokenizer):
    ids = tokenizer("Ada lives in Quillport.", add_special_tokens=False)["input_ids"]
    row = {"input_ids": ids, "labels": [-100] * (len(ids) - 1) + ids[-1:]}
    text = preview.show(row, tokenizer, None, colour=False)
    assert text.endswith("⟧") and text.replace("⟦", "").replace("⟧", "") == "Ada lives in Quillport."
    assert "\x1b[32m" in preview.show(row, tokenizer, None, colour=True)

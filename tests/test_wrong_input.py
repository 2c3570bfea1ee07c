"""Wrong input to the training stages: one clear message, a non-zero exit, no traceback, and what was there is still there."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import (
    ROOT,
    command,
    grpo_recipe,
    metrics_of,
    pretrain_recipe,
    sft_recipe,
    tiny_config,
    write_jsonl,
    write_recipe,
)
from transformers import AutoTokenizer

from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.manifest import read_manifest

WRITE = {"pretrain": pretrain_recipe, "sft": sft_recipe, "grpo": grpo_recipe}
CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]


@pytest.fixture
def refused(tmp_path, tiny_world, monkeypatch, capsys):
    """Run a stage that must be refused before it trains; returns its one message."""
    from transformers import Trainer

    def train(*args, **kwargs):
        raise AssertionError("training began")

    monkeypatch.setattr(Trainer, "train", train)
    monkeypatch.chdir(tiny_world)

    def run(stage, *words, **changes) -> str:
        recipe = WRITE[stage](tmp_path / "run.yaml", tiny_world, **changes)
        assert command(stage, "--config", recipe, *words) == 1
        error = capsys.readouterr().err
        message = "\n".join(line for line in error.splitlines() if not line.startswith("[transformers]"))
        assert message.startswith("error: ") and message.count("\nerror: ") == 0 and "Traceback" not in message
        assert not (tmp_path / "run" / "model.safetensors").exists()
        return message

    return run


def rows(tmp_path, *rows):
    return write_jsonl(tmp_path / "rows.jsonl", list(rows))


# --- data


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_missing_dataset_file(refused, tmp_path, stage):
    message = refused(stage, dataset_name=tmp_path / "nowhere.jsonl")
    assert f"dataset_name: {tmp_path / 'nowhere.jsonl'} does not exist" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize("content", ["", "\n", "no json\n", '{"half": '], ids=["empty", "blank", "text", "cut short"])
def test_an_empty_or_broken_dataset(refused, tmp_path, stage, content):
    (tmp_path / "rows.jsonl").write_text(content)
    message = refused(stage, dataset_name=tmp_path / "rows.jsonl")
    assert "rows.jsonl" in message and ("empty" in message or "cannot be read as a dataset" in message)


def test_an_empty_folder_and_a_file_of_unknown_kind(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    assert "the folder is empty" in refused("sft", dataset_name=tmp_path / "folder")
    (tmp_path / "rows.docx").write_text("x")
    assert "unknown kind of file, expected one of .jsonl" in refused("sft", dataset_name=tmp_path / "rows.docx")


def test_missing_columns(refused, tmp_path):
    other = rows(tmp_path, {"story": "x", "author": "y"})
    message = refused("sft", dataset_name=other)
    assert "no column to train on (found author, story)" in message and "prompt_column" in message
    assert "no column 'question'; found story, author" in refused(
        "sft", dataset_name=other, prompt_column="question", answer_column="story"
    )
    assert "no column `prompt`" in refused("grpo", dataset_name=other)
    assert "no column 'question'" in refused("grpo", dataset_name=other, prompt_column="question")


def test_a_missing_split(refused, tmp_path, tiny_world):
    assert "no split 'dev' (found train)" in refused("sft", dataset_train_split="dev")
    message = refused("sft", eval_strategy="steps", eval_steps=2)
    assert "has no split 'test'" in message and "test_split_size" in message


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"messages": CHAT[:1]}, "no assistant turn"),
        ({"messages": [*CHAT[:1], {"role": "assistant", "content": ""}]}, "message 1 (assistant) is empty"),
        ({"messages": [{"role": "narrator", "content": "x"}, CHAT[1]]}, "message 0 has the role 'narrator'"),
        ({"conversations": [{"from": "wizard", "value": "x"}]}, "message 0 has the role 'wizard'"),
    ],
    ids=["no assistant turn", "empty content", "unknown role", "unknown ShareGPT role"],
)
def test_rows_that_cannot_be_trained_on_are_named(refused, tmp_path, row, fault):
    key = next(iter(row))
    good = CHAT if key == "messages" else [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ada."}]
    message = refused("sft", dataset_name=rows(tmp_path, {key: good}, row, {key: good}))
    assert f"rows.jsonl: 1 of 3 rows cannot be trained on:\n  row 1: {fault}" in message
    assert "invalid_rows: drop" in message


@pytest.mark.slow
def test_dropped_rows_are_counted_and_the_rest_is_trained_on(tmp_path, tiny_world, capsys):
    data = rows(tmp_path, *[{"messages": CHAT}] * 8, {"messages": CHAT[:1]})
    recipe = sft_recipe(tmp_path / "run.yaml", tiny_world, dataset_name=data, invalid_rows="drop", max_steps=1)
    assert command("sft", "--config", recipe) == 0
    assert "1 rows dropped" in capsys.readouterr().out and read_manifest(tmp_path / "run")["rows"] == 8


def long_chat(words):
    return {
        "messages": [*CHAT, {"role": "user", "content": "More?"}, {"role": "assistant", "content": "Ada. " * words}]
    }


def test_a_conversation_longer_than_the_context(refused, tmp_path):
    data = rows(tmp_path, {"messages": CHAT}, long_chat(200), {"messages": CHAT})
    message = refused("sft", dataset_name=data, max_length=None)
    assert "33% of the rows are longer than the model's context of 256 tokens" in message
    assert "set `max_length: 256` to have them cut" in message
    assert "rows of 1024 tokens, but the model has max_position_embeddings 256" in refused(
        "sft", dataset_name=data, max_length=1024
    )


def test_rows_whose_loss_is_truncated_away(refused, tmp_path):
    question = [{"role": "user", "content": "Who? " * 60}, CHAT[1]]
    data = rows(tmp_path, *[{"messages": question}] * 4)
    message = refused("sft", dataset_name=data, max_length=64)
    assert "no token is supervised" in message and "Raise max_length" in message
    data = rows(tmp_path, *[{"messages": question}] * 4, *[{"messages": CHAT}] * 4)
    assert "50% of the rows lose every supervised token" in refused("sft", dataset_name=data, max_length=64)


def test_fewer_problems_than_a_generation_batch_needs(refused, tmp_path):
    data = rows(tmp_path, *[{"prompt": "1 + 1?", "answer": "2"}] * 3)
    message = refused("grpo", dataset_name=data, per_device_train_batch_size=16)
    assert "has 3 rows, but one generation batch needs 4 different prompts" in message


def test_a_group_that_does_not_divide_the_batch_and_an_unknown_reward(refused):
    message = refused("grpo", num_generations=3)
    assert "num_generations: 3 does not divide the generation batch of 4 completions" in message
    assert "unknown reward 'numerik'" in refused("grpo", reward_funcs=["numerik"])


@pytest.mark.parametrize("reward_check", ["stop", "off"])
def test_a_reward_whose_column_the_problems_lack(refused, tmp_path, reward_check):
    data = rows(tmp_path, *[{"prompt": "1 + 1?", "solution": "2"}] * 8)
    message = refused("grpo", dataset_name=data, reward_funcs=["numeric"], reward_check=reward_check)
    assert "numeric" in message and "'answer'" in message and "answer_column" in message


def test_an_empty_or_overlong_problem(refused, tmp_path):
    data = rows(tmp_path, *[{"prompt": "1 + 1?", "answer": "2"}] * 4, {"prompt": "", "answer": "2"})
    assert "row 4: the prompt is empty" in refused("grpo", dataset_name=data)
    data = rows(tmp_path, *[{"prompt": "1 + 1?", "answer": "2"}] * 4, {"prompt": "Who? " * 200, "answer": "2"})
    message = refused("grpo", dataset_name=data)
    assert "Row 4: its prompt has" in message and "exceeds the model's context of 256" in message


def test_an_evaluation_whose_answers_cannot_be_judged_stops_before_the_training(refused, tmp_path):
    asked = rows(tmp_path, {"prompt": "1 + 1?", "answer": "Paris"})
    message = refused("sft", evaluations={"sums": {"path": str(asked), "scorer": "numeric"}})
    assert "evaluations.sums" in message and "numeric cannot judge 1 rows: row 1: found the answer 'Paris'" in message


def test_too_little_text_for_one_row_and_missing_token_shards(refused, tmp_path, tiny_world):
    wide = tiny_config(max_position_embeddings=100_000)
    message = refused("pretrain", max_length=100_000, model_config=wide, packing_strategy="wrapped")
    assert "not enough for one row of max_length 100000" in message and "smaller max_length" in message
    shutil.copytree(tiny_world / "model", tmp_path / "bare")
    assert "no token shards here" in refused("pretrain", tokenizer=tmp_path / "bare")


# --- tokenizer and model


@pytest.fixture
def changed_model(tmp_path, tiny_world):
    """A copy of the tiny model with another tokenizer."""

    def change(function):
        folder = tmp_path / "changed"
        shutil.copytree(tiny_world / "model", folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        function(tokenizer)
        tokenizer.save_pretrained(folder)
        return folder

    return change


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_tokenizer_larger_than_the_embedding(refused, changed_model, stage):
    folder = changed_model(lambda tokenizer: tokenizer.add_tokens([f"<extra_{i}>" for i in range(5)]))
    message = refused(stage, model_name_or_path=folder)
    assert f"The tokenizer has 310 tokens, but the embedding of {folder} only 305 rows" in message


def test_a_tokenizer_larger_than_the_vocabulary_of_a_new_model(refused):
    message = refused("pretrain", model_config=tiny_config(vocab_size=300))
    assert "The tokenizer has 305 tokens, but the embedding of model_config only 300 rows" in message


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_padding_that_is_the_eos_or_not_there_names_the_key_that_mends_it(refused, changed_model, stage):
    folder = changed_model(lambda tokenizer: setattr(tokenizer, "pad_token", tokenizer.eos_token))
    message = refused(stage, model_name_or_path=folder)
    assert "'<|endoftext|>' as padding and as EOS" in message and "Set `pad_token` in the recipe" in message
    assert "pad_token: '<nothing>' is not in the vocabulary" in refused(
        stage, model_name_or_path=folder, pad_token="<nothing>"
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_named_key_mends_it(changed_model, tmp_path, tiny_world, monkeypatch, stage):
    monkeypatch.chdir(tiny_world)
    folder = changed_model(lambda tokenizer: setattr(tokenizer, "pad_token", tokenizer.eos_token))
    recipe = WRITE[stage](
        tmp_path / "run.yaml", tiny_world, model_name_or_path=folder, pad_token="<|pad|>", max_steps=1
    )
    assert command(stage, "--config", recipe) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer.pad_token == "<|pad|>" != tokenizer.eos_token


def test_conversations_for_a_tokenizer_without_a_template(refused, changed_model):
    folder = changed_model(lambda tokenizer: None)
    (folder / "chat_template.jinja").unlink()
    assert "Name one in chat_template_path" in refused("sft", model_name_or_path=folder)


def test_a_model_that_is_none(refused, tmp_path):
    (tmp_path / "nothing").mkdir()
    assert "no tokenizer can be loaded from here" in refused("sft", model_name_or_path=tmp_path / "nothing")


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_no_model_at_all(refused, tmp_path, stage):
    message = refused(stage, model_name_or_path=None)
    assert "model_name_or_path: is missing" in message and not (tmp_path / "run").exists()


def test_packing_in_an_architecture_that_cannot_keep_documents_apart(refused):
    bloom = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4}
    assert "Set `packing_strategy: wrapped`" in refused("pretrain", model_config=bloom)


# --- parents and output directories


def publish(path, kind, files):
    """A complete stage directory."""
    from pipeline.checkpoint import stage_directory
    from pipeline.recipe import Recipe

    class Arguments:
        output_dir = str(path)

    with stage_directory(Recipe("make", path, {}, Arguments, {}), kind, {}) as directory:
        shutil.copytree(files, directory.aside, dirs_exist_ok=True)
        directory.publish()
    return path


def test_a_parent_of_the_wrong_kind(refused, tmp_path, tiny_world):
    corpus = publish(tmp_path / "corpus", "corpus", tiny_world / "tokenizer")
    for stage in ("sft", "grpo"):
        message = refused(stage, model_name_or_path=corpus)
        assert "model_name_or_path" in message and "of kind corpus, expected base or chat" in message
    assert "of kind corpus, expected tokenizer" in refused("pretrain", tokenizer=corpus)


def test_a_parent_that_is_incomplete_or_altered(refused, tmp_path, tiny_world):
    base = publish(tmp_path / "base", "base", tiny_world / "model")
    manifest = (base / "manifest.json").read_text()
    (base / "manifest.json").write_text(manifest.replace('"complete"', '"running"'))
    for stage in ("sft", "grpo"):
        assert "is not complete: run its make stage to the end first" in refused(stage, model_name_or_path=base)
    (base / "manifest.json").write_text(manifest)
    (base / "config.json").write_text((base / "config.json").read_text() + " ")
    for stage in ("sft", "grpo"):
        message = refused(stage, model_name_or_path=base)
        assert f"{base}: altered since" in message and "config.json has" in message


@pytest.mark.slow
def test_an_output_directory_that_holds_another_recipes_run(tmp_path, tiny_world, capsys):
    recipe = sft_recipe(tmp_path / "run.yaml", tiny_world, max_steps=1)
    assert command("sft", "--config", recipe) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert command("sft", "--config", recipe, "--learning_rate", "2e-3") == 1
    error = capsys.readouterr().err
    assert "learning_rate: 0.001 -> 0.002" in error and "--overwrite" in error and "another output_dir" in error
    assert command("sft", "--config", recipe) == 0, "the recipe that wrote it finds it up to date"
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert command("sft", "--config", recipe, "--learning_rate", "2e-3", "--overwrite") == 0
    (old,) = tmp_path.glob("run.old-*")
    assert {tmp_path / "run" / path.relative_to(old) for path in old.rglob("*") if path.is_file()} == before.keys()


def test_a_refused_run_can_be_mended_and_started_again(refused, tmp_path, tiny_world, monkeypatch, capsys):
    data = rows(tmp_path, {"messages": CHAT[:1]})
    refused("sft", dataset_name=data)
    assert read_manifest(tmp_path / "run")["status"] == "running"
    monkeypatch.undo()
    recipe = sft_recipe(tmp_path / "run.yaml", tiny_world, dataset_name=data, max_steps=1)
    rows(tmp_path, *[{"messages": CHAT}] * 8)
    assert command("sft", "--config", recipe) == 0
    assert not list(tmp_path.glob("run.old-*")), "nothing was there to be kept"


# --- while training


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, tiny_world, capsys):
    recipe = sft_recipe(
        tmp_path / "run.yaml", tiny_world, learning_rate=1e30, optim="sgd", max_grad_norm=0, max_steps=8
    )
    assert command("sft", "--config", recipe) == 1
    error = capsys.readouterr().err
    assert "Training has diverged: lower learning_rate" in error and "Traceback" not in error
    assert len(metrics_of(tmp_path / "run")) < 8
    assert read_manifest(tmp_path / "run")["status"] == "running"


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_with_one_line_and_the_same_command_goes_on(tmp_path, tiny_world, capsys, sent, status):
    recipe = pretrain_recipe(tmp_path / "run.yaml", tiny_world, max_steps=60, save_strategy="steps", save_steps=2)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "pretrain", "--config", recipe],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in a shell's background ignore it
    )
    while process.poll() is None and not list(
        (tmp_path / "run" / "checkpoints").glob("checkpoint-*/trainer_state.json")
    ):
        time.sleep(0.01)
    process.send_signal(sent)
    error = process.communicate()[1]
    assert process.returncode == status
    assert error.strip().splitlines()[-1] == "interrupted: the same command goes on from the newest checkpoint"
    assert "Traceback" not in error
    assert read_manifest(tmp_path / "run")["status"] == "running"
    assert command("pretrain", "--config", recipe) == 0
    assert "pretrain  goes on from step" in capsys.readouterr().out


@pytest.mark.slow
def test_the_real_command_line_prints_one_message_and_only_debug_shows_the_traceback(tmp_path, tiny_world):
    recipe = write_recipe(
        tmp_path / "sft.yaml",
        output_dir=tmp_path / "run",
        model_name_or_path=tiny_world / "model",
        dataset_name=tmp_path / "nowhere.jsonl",
    )
    words = [sys.executable, "-m", "pipeline", "sft", "--config", recipe]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "nowhere.jsonl does not exist" in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    with pytest.raises(PipelineError, match="nowhere.jsonl does not exist"):
        main(["sft", "--debug", "--config", str(recipe)])
    assert not (tmp_path / "run").exists()

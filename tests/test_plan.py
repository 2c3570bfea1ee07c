"""Plans: figures that hold without training, and complaints that come before it."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import tiny_config, write_jsonl

from pipeline.plan import plan
from pipeline.plan.data import rows_of
from pipeline.recipe import RecipeError

GRPO = {"reward_funcs": ["numeric"], "reward_check": "off", "num_generations": 2, "max_completion_length": 4}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder to write recipes into; paths in them are relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(path: Path, **values) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"output_dir": f"runs/x/{path.stem}", **values}))
    return path


def chain(folder: Path) -> Path:
    """World, corpus, tokenizer, pretrain, sft and grpo as a folder of small recipes."""
    recipes = folder / "recipes"
    write_jsonl(folder / "data/train.jsonl", [{"text": "some text"}] * 3)
    recipe(recipes / "corpus.yaml", input="data/train.jsonl")
    recipe(recipes / "tokenizer.yaml", corpus="runs/x/corpus", vocab_size=512)
    recipe(
        recipes / "pretrain.yaml",
        tokenizer="runs/x/tokenizer",
        model_config=tiny_config(),
        max_length=64,
        train_tokens=64 * 8 * 10,
    )
    write_jsonl(folder / "chat/train.jsonl", [{"messages": []}] * 10)
    recipe(
        recipes / "sft.yaml",
        model_name_or_path="runs/x/pretrain",
        dataset_name="chat",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=2,
        max_length=32,
    )
    write_jsonl(folder / "problems/train.jsonl", [{"prompt": "1 + 1", "answer": "2"}] * 10)
    recipe(
        recipes / "grpo.yaml",
        model_name_or_path="runs/x/sft",
        dataset_name="problems",
        num_train_epochs=1,
        **GRPO,
    )
    return recipes


def facts_of(path: Path, **options) -> dict:
    found = plan(path, **options)
    assert found.ok, found.to_text()
    return found.stages[-1].facts


def test_a_chain_is_planned_before_any_of_it_exists(folder):
    found = plan(chain(folder))
    assert found.ok, found.to_text()
    stages = {one.recipe.stage: one for one in found.stages}
    assert list(stages) == ["corpus", "tokenizer", "pretrain", "sft", "grpo"]
    assert stages["sft"].reads == ["runs/x/pretrain (from pretrain)", "chat"]
    embedding, layer = 512 * 32, 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32
    assert stages["pretrain"].facts["parameters"] == embedding + 2 * layer + 32
    assert stages["grpo"].facts["parameters"] == stages["pretrain"].facts["parameters"]
    assert stages["pretrain"].facts | {"tokens_per_step": 512, "steps": 10, "tokens": 5120} == stages["pretrain"].facts
    assert stages["sft"].facts | {"rows": 10, "tokens_per_step": 128, "steps": 6, "tokens": 768} == stages["sft"].facts
    assert not (folder / "runs").exists()


def test_a_plan_can_be_printed_and_read_by_machines(folder):
    found = plan(chain(folder))
    text = found.to_text()
    assert "tokens per step       128" in text
    assert "runs/x/sft (chat)" in text
    assert "(estimate)" in text
    assert json.loads(json.dumps(found.as_dict()))["stages"][3]["steps"] == 6


def test_the_parameters_are_those_of_the_model(folder, tiny_model_dir):
    from transformers import AutoModelForCausalLM

    path = recipe(folder / "sft.yaml", model_name_or_path=str(tiny_model_dir), dataset_name="chat/train.jsonl")
    write_jsonl(folder / "chat/train.jsonl", [{"messages": []}])
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    facts = facts_of(path)
    assert facts["parameters"] == model.num_parameters()
    assert facts["memory"] == 16 * model.num_parameters()  # float32 weights, gradients and two moments


def test_an_adapter_is_counted_as_it_would_be_trained(folder, tiny_model_dir):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    write_jsonl(folder / "chat/train.jsonl", [{"messages": []}])
    path = recipe(
        folder / "sft.yaml",
        model_name_or_path=str(tiny_model_dir),
        dataset_name="chat/train.jsonl",
        use_peft=True,
        lora_r=4,
        lora_target_modules=["q_proj", "v_proj"],
        load_in_4bit=True,
    )
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    trainable, _ = model.get_nb_trainable_parameters()
    facts = facts_of(path)
    assert facts["trainable_parameters"] == trainable
    assert facts["memory"] == math.ceil(facts["parameters"] / 2 + 16 * trainable)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "gemma2", "mamba", "mixtral"])
def test_parameters_of_any_architecture_are_counted(folder, tokenizer_dir, architecture):
    path = recipe(folder / "pretrain.yaml", tokenizer=str(tokenizer_dir), model_config={"model_type": architecture})
    found = plan(path)
    assert found.stages[0].facts["parameters"] > 10_000_000


SCHEDULES = [
    {"per_device_train_batch_size": 4},
    {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    {
        "per_device_train_batch_size": 2,
        "steps_per_generation": 4,
        "num_iterations": 2,
        "gradient_accumulation_steps": 2,
    },
    {"per_device_train_batch_size": 2, "generation_batch_size": 6, "num_train_epochs": 2},
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["plain", "accumulated", "reused", "batch"])
def test_the_steps_planned_for_grpo_are_the_steps_made(folder, tiny_model_dir, schedule):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    problems = [{"prompt": f"{i} + 1", "answer": str(i + 1)} for i in range(11)]
    write_jsonl(folder / "problems/train.jsonl", problems)
    values = {"num_train_epochs": 1, **schedule}
    path = recipe(
        folder / "grpo.yaml", model_name_or_path=str(tiny_model_dir), dataset_name="problems", **GRPO, **values
    )
    planned = facts_of(path)["steps"]
    config = GRPOConfig(
        output_dir="out",
        num_generations=2,
        max_completion_length=4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **values,
    )
    trainer = GRPOTrainer(
        model=str(tiny_model_dir),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list(problems),
    )
    trainer.train()
    assert trainer.state.global_step == planned


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "epochs", "steps"),
    [(10, 2, 1, 1, 5), (10, 4, 1, 1, 3), (10, 2, 2, 1, 3), (10, 2, 2, 2, 6), (10, 2, 1, 0.5, 3), (10, 3, 1, 1, 4)],
)
def test_the_steps_planned_for_sft(folder, tiny_model_dir, rows, batch, accumulation, epochs, steps):
    write_jsonl(folder / "chat/train.jsonl", [{"messages": []}] * rows)
    path = recipe(
        folder / "sft.yaml",
        model_name_or_path=str(tiny_model_dir),
        dataset_name="chat",
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
    )
    assert facts_of(path)["steps"] == steps


def test_more_processes_make_fewer_steps(folder, tiny_model_dir):
    write_jsonl(folder / "chat/train.jsonl", [{"messages": []}] * 64)
    path = recipe(folder / "sft.yaml", model_name_or_path=str(tiny_model_dir), dataset_name="chat", num_train_epochs=1)
    assert facts_of(path)["steps"] == 8
    assert facts_of(path, world_size=4)["steps"] == 2


def test_too_few_rows_for_one_generation_batch_are_a_complaint(folder, tiny_model_dir):
    write_jsonl(folder / "problems/train.jsonl", [{"prompt": "1 + 1", "answer": "2"}] * 3)
    path = recipe(
        folder / "grpo.yaml", model_name_or_path=str(tiny_model_dir), dataset_name="problems", max_steps=5, **GRPO
    )
    found = plan(path)
    assert "dataset_name: 3 rows are fewer than the 4 prompts of one generation batch" in str(found.complaints[0])


def test_rows_are_counted_as_load_dataset_finds_them(folder):
    import pyarrow
    import pyarrow.parquet
    from datasets import load_dataset

    class Data:
        def __init__(self, **values):
            self.values = values

        def get(self, key, default=None):
            return self.values.get(key, default)

    write_jsonl(folder / "split/train.jsonl", [{"a": 1}] * 5)
    write_jsonl(folder / "split/test.jsonl", [{"a": 1}] * 2)
    write_jsonl(folder / "parts/train/0.jsonl", [{"a": 1}] * 3)
    write_jsonl(folder / "parts/train/1.jsonl", [{"a": 1}] * 4)
    write_jsonl(folder / "plain/rows.jsonl", [{"a": 1}] * 6)
    (folder / "unended.jsonl").write_text('{"a": 1}\n{"a": 2}')
    (folder / "shards").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2, 3]}), folder / "shards/train-00000-of-00001.parquet")
    for name in ("split", "parts", "plain", "shards"):
        assert rows_of(Data(dataset_name=name)) == len(load_dataset(name)["train"]), name
    assert rows_of(Data(dataset_name="unended.jsonl")) == 2
    assert rows_of(Data(dataset_name="some/hub-id")) is None
    mixture = [{"path": "split", "fraction": 0.5}, {"path": "json", "data_files": "plain/rows.jsonl", "fraction": 0.5}]
    assert rows_of(Data(datasets=mixture)) == 10
    assert rows_of(Data(dataset_name="split", eval_strategy="steps", test_split_size=0.2)) == 4


def test_what_only_the_hub_could_answer_is_listed_as_unchecked(folder):
    path = recipe(folder / "sft.yaml", model_name_or_path="nobody/no-such-model", dataset_name="nobody/no-such-data")
    found = plan(path)
    assert found.ok
    assert len(found.unchecked) == 2
    assert "unchecked (offline)" in found.to_text()
    assert "whether nobody/no-such-model exists on the hub" in found.to_text()
    assert "parameters are known once nobody/no-such-model is there" in found.to_text()


@pytest.fixture
def hub(monkeypatch):
    """A hub that knows no repository."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            return

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_what_the_hub_does_not_know_is_a_complaint(folder, hub):
    path = recipe(folder / "sft.yaml", model_name_or_path="nobody/no-such-model", dataset_name="nobody/no-such-data")
    found = plan(path)
    assert [complaint.key for complaint in found.complaints] == ["model_name_or_path", "dataset_name"]
    assert "nobody/no-such-model is neither a path nor a model on the hub" in found.to_text()


def test_a_hub_that_cannot_be_reached_leaves_its_part_unchecked(folder, hub):
    hub.shutdown()
    hub.server_close()
    path = recipe(folder / "sft.yaml", model_name_or_path="nobody/no-such-model", dataset_name="nobody/no-such-data")
    found = plan(path)
    assert found.ok
    assert len(found.unchecked) == 2


def test_every_complaint_of_every_recipe_is_in_the_plan(folder):
    recipes = chain(folder)
    recipe(recipes / "sft.yaml", model_name_or_path="runs/x/corpus", dataset_name="chat", learning_rte=1)
    recipe(
        recipes / "grpo.yaml",
        model_name_or_path="runs/x/nowhere",
        dataset_name="problems",
        **GRPO | {"num_generations": 3},
    )
    text = plan(recipes).to_text()
    assert "sft.yaml:2: learning_rte: unknown key" in text
    assert "model_name_or_path: runs/x/corpus is of kind corpus, expected base or chat" in text
    assert "num_generations: 3 does not divide the generation batch of 8" in text
    assert "model_name_or_path: runs/x/nowhere is not there and no recipe of the folder writes it" in text


def test_a_wrong_model_config_is_a_complaint_and_not_a_crash(folder, tokenizer_dir):
    path = recipe(folder / "pretrain.yaml", tokenizer=str(tokenizer_dir), model_config={"model_type": "lama"})
    found = plan(path)
    assert not found.ok
    assert "did you mean llama?" in found.to_text()


def test_nothing_to_plan_is_an_error(folder):
    with pytest.raises(RecipeError, match="no such file"):
        plan(folder / "nowhere.yaml")

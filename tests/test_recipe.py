"""Recipes: what is taken, what is refused, and what the message says."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
from fakes import GRPO, ON_CPU, PLAIN, SFT, complaints_of, fake_stage, write

from pipeline import stages
from pipeline.errors import PipelineError
from pipeline.recipe import RecipeError, json_schema, parse, read_source, read_yaml


def test_a_number_in_exponent_notation_is_a_number(tmp_path):
    path = write(tmp_path / "sft.yaml", "learning_rate: 1e-4\nlr_scheduler_kwargs: {min_lr: 5E-6}\nrun_name: '1e-4'\n")
    assert read_yaml(path) == {"learning_rate": 1e-4, "lr_scheduler_kwargs": {"min_lr": 5e-6}, "run_name": "1e-4"}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("max_steps", "20", 20),
        ("max_steps", 1e3, 1000),
        ("learning_rate", 1, 1),
        ("eval_strategy", False, "no"),  # YAML 1.1 reads a bare `no` so
        ("lora_target_modules", "all-linear", ["all-linear"]),
        ("report_to", "wandb", "wandb"),
        ("report_to", ["wandb", "trackio"], ["wandb", "trackio"]),
        ("lr_scheduler_kwargs", '{"min_lr_rate": 0.1}', {"min_lr_rate": 0.1}),
        ("pad_to_multiple_of", 8, 8),
        ("pad_to_multiple_of", "auto", "auto"),
        ("max_length", None, None),
        ("optim", "muon", "muon"),
        ("optim", "adamw_8bit", "adamw_8bit"),
    ],
)
def test_values_that_a_key_takes(key, value, expected):
    assert parse(SFT, {key: value}, "sft.yaml").values[key] == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learning_rte", 1e-4, "learning_rte: unknown key; did you mean learning_rate?"),
        ("learning_rate", "fast", "learning_rate: expected a number, found 'fast'"),
        ("learning_rate", -1, "learning_rate: must be at least 0, found -1"),
        ("learning_rate", True, "learning_rate: expected a number, found true"),
        ("learning_rate", float("nan"), "learning_rate: expected a number, found nan"),
        ("per_device_train_batch_size", 2.5, "expected a whole number, found 2.5"),
        ("per_device_train_batch_size", True, "expected a whole number, found true"),
        ("per_device_train_batch_size", 0, "must be at least 1, found 0"),
        ("max_steps", 0, "must be at least 1 or -1, found 0"),
        ("packing", "true", "expected true or false, found 'true' in quotation marks: leave them out"),
        ("packing_strategy", "nonsense", "expected one of 'bfd', 'bfd_split', 'wrapped', found 'nonsense'"),
        ("lr_scheduler_type", "cosin", "found 'cosin'; did you mean cosine?"),
        ("dtype", "bfloat61", "did you mean bfloat16?"),
        ("optim", "muonn", "did you mean muon?"),
        ("run_name", 2024, "expected text, found 2024: put it in quotation marks"),
        ("lr_scheduler_kwargs", 3, "expected a mapping or text or null, found 3"),
        ("max_length", "long", "max_length: expected a whole number"),
        ("sample_steps", 0, "sample_steps: must be at least 1, found 0"),
        ("invalid_rows", "skip", "expected one of 'stop', 'drop', found 'skip'"),
        ("inputs", [1], "inputs[0]: expected text, found 1"),
        ("datasets", [{"path": "a", "split": 3}], "datasets[0].split: expected text, found 3"),
        ("datasets", [{"pathh": "a"}], "datasets[0].pathh: unknown key, expected one of path, name"),
        ("datasets", [{"path": "a", "weight": 0.5}], "datasets[0].weight: is called fraction"),
        ("num_generations", 4, "is a key of GRPOConfig, not of the fake stage"),
    ],
)
def test_values_that_a_key_refuses(key, value, message):
    assert message in complaints_of(SFT, {key: value})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_generations", 1, "must be at least 2, found 1"),
        ("loss_type", "ppo", "expected one of 'grpo', 'bnpo', 'dr_grpo', 'dapo'"),
        ("temperature", 0, "must be above 0, found 0"),
        ("top_p", 0, "must be in (0, 1], found 0"),
        ("scale_rewards", "batched", "did you mean batch?"),
        ("auto_find_batch_size", True, "auto_find_batch_size is not supported by GRPO"),
        ("log_completions_hub_repo", "me/repo", "log_completions is False"),
        ("max_prompt_length", 512, "shorten or filter the prompts"),
    ],
)
def test_values_that_grpo_refuses(key, value, message):
    assert message in complaints_of(GRPO, {key: value})


def test_every_complaint_comes_at_once_with_its_line(tmp_path):
    path = write(
        tmp_path / "sft.yaml",
        "output_dir: out\nlearning_rte: 1e-4\npacking: 'true'\ndatasets:\n  - path: a\n  - id: b\n"
        "max_steps: 1\nmax_steps: 2\nbf16: true\nfp16: true\n",
    )
    with pytest.raises(RecipeError) as caught:
        stages.load_recipe(path)
    found = {complaint.key: complaint.where.removeprefix(f"{path}:") for complaint in caught.value.complaints}
    lines = {"learning_rte": 2, "packing": 3, "datasets[1].id": 6, "datasets[1]": 6, "max_steps": 7, "fp16": 10}
    assert {key: int(found[key]) for key in lines} == lines
    assert all(str(complaint) in str(caught.value) for complaint in caught.value.complaints)


@pytest.mark.parametrize(
    ("old", "answer"),
    [
        ("max_seq_length", "max_length"),
        ("torch_dtype", "dtype"),
        ("evaluation_strategy", "eval_strategy"),
        ("no_cuda", "use_cpu"),
        ("overwrite_output_dir", "--overwrite"),
        ("warmup_ratio", "warmup_steps"),
        ("chat_template", "chat_template_path"),
        ("dataset_mixture", "datasets"),
    ],
)
def test_keys_of_other_versions_are_answered_by_todays_name(old, answer):
    assert f"{old}: unknown key: " in complaints_of(SFT, {old: "x"})
    assert answer in complaints_of(SFT, {old: "x"})


def test_an_answer_that_does_not_hold_for_the_stage_is_not_given():
    assert "max_completion_length" in complaints_of(GRPO, {"max_new_tokens": 8})
    assert "max_completion_length" not in complaints_of(SFT, {"max_new_tokens": 8})
    assert complaints_of(PLAIN, {"batch_size": 8}) == "fake.yaml: batch_size: unknown key"


def test_overrides_are_typed_by_their_key():
    recipe = parse(
        GRPO,
        {"learning_rate": 1, "run_name": "from the file"},
        "grpo.yaml",
        ["--learning_rate", "1e-4", "--run_name=2024", "--use_peft", "--top_k", "-1", "--max-steps", "3"]
        + [
            "--reward_funcs",
            "[a, b]",
            "--lora_target_modules",
            "q",
            "v",
            "--reward_weights",
            "1",
            "--reward_weights",
            "2",
        ]
        + ["--generation_kwargs", "{top_k: 3}", "--eval_strategy", "no", "--delta", "null", "--inputs", "x"],
    )
    assert recipe.values == {
        "learning_rate": 1e-4,
        "run_name": "2024",
        "use_peft": True,
        "top_k": -1,
        "max_steps": 3,
        "reward_funcs": ["a", "b"],
        "lora_target_modules": ["q", "v"],
        "reward_weights": [1, 2],
        "generation_kwargs": {"top_k": 3},
        "eval_strategy": "no",
        "delta": None,
        "inputs": ["x"],
    }


def test_complaints_about_overrides_name_the_command_line():
    text = complaints_of(
        SFT, {}, "--learning_rte", "1", "--max_steps", "two", "--stage", "sft", "--max_length", "1", "2"
    )
    assert "command line: learning_rte: unknown key; did you mean learning_rate?" in text
    assert "command line: max_steps: expected a whole number, found 'two'" in text
    assert "command line: stage: belongs into the recipe" in text
    assert "command line: max_length: expected a whole number" in text
    assert "command line: expected --key value, found 'lr'" in complaints_of(SFT, {}, "lr", "1")


def test_own_keys_stand_on_top_of_trls():
    @dataclasses.dataclass
    class Arguments:
        learning_rate: float = 1e-3
        max_length: int = 128

    from trl import SFTConfig

    recipe = parse(fake_stage(("SFTConfig",), Arguments), {"max_length": 64}, "x.yaml")
    config = recipe.config(SFTConfig, warmup_steps=5, **ON_CPU)
    assert (config.learning_rate, config.max_length, config.warmup_steps) == (1e-3, 64, 5)
    assert recipe.setting("max_length", SFTConfig) == 64
    assert recipe.setting("learning_rate", SFTConfig) == 1e-3
    assert recipe.setting("weight_decay", SFTConfig) == 0


def test_choices_of_the_stage_do_not_reach_trl():
    from trl import SFTConfig

    recipe = parse(SFT, {"optim": "muon"}, "x.yaml")
    assert recipe.get("optim") == "muon"
    assert recipe.config(SFTConfig, **ON_CPU).optim == SFTConfig(output_dir="x", **ON_CPU).optim


def test_building_a_config_leaves_the_recipe_as_it_was():
    from trl import DatasetMixtureConfig

    recipe = parse(SFT, {"datasets": [{"path": "a"}]}, "x.yaml")
    before = recipe.hash
    recipe.config(DatasetMixtureConfig).datasets.clear()
    assert recipe.values["datasets"] == [{"path": "a"}]
    assert recipe.hash == before == parse(SFT, {"datasets": [{"path": "a"}]}, "elsewhere.yaml").hash


def test_the_hash_follows_the_values_and_not_the_place():
    base = parse(SFT, {"learning_rate": 1e-3, "output_dir": "a"}, "x.yaml")
    assert parse(SFT, {"output_dir": "b", "learning_rate": "1e-3"}, "y.yaml").hash == base.hash
    assert parse(SFT, {"output_dir": "a", "learning_rate": 2e-3}, "x.yaml").hash != base.hash


def test_a_recipe_for_a_gpu_is_checked_on_a_machine_without_one():
    values = {"bf16": True, "tf32": True, "torch_compile": True, "deepspeed": "zero3.json", "optim": "adamw_8bit"}
    assert parse(SFT, values, "sft.yaml").engine["bf16"] is True


def test_checking_a_recipe_touches_no_device_state():
    from accelerate import PartialState

    PartialState._reset_state()
    parse(GRPO, {}, "grpo.yaml")
    assert PartialState._shared_state == {}


def test_a_finding_that_follows_from_a_wrong_key_is_left_out():
    text = complaints_of(GRPO, {"num_generations": "six", "per_device_train_batch_size": 3})
    assert text.count("num_generations") == 1


def test_what_the_stage_itself_finds_is_listed_with_the_rest():
    stage = fake_stage(check=lambda recipe: ["inputs: nothing at a", "inputs: nothing at b", "two keys contradict"])
    text = complaints_of(stage, {"inputs": ["a", "b"], "inptus": []})
    assert text.splitlines() == [
        "fake.yaml: inptus: unknown key; did you mean inputs?",
        "fake.yaml: inputs: nothing at a",
        "fake.yaml: inputs: nothing at b",
        "fake.yaml: two keys contradict",
    ]


def test_a_stage_that_cannot_be_checked_any_further_says_why():
    def check(recipe):
        raise PipelineError("the file is no WARC")

    @dataclasses.dataclass
    class Arguments:
        def __post_init__(self):
            raise ValueError("these sizes contradict each other")

    assert complaints_of(fake_stage(check=check)) == "fake.yaml: the file is no WARC"
    assert complaints_of(fake_stage((), Arguments)) == "fake.yaml: these sizes contradict each other"


def test_a_required_key_that_is_missing_is_named():
    @dataclasses.dataclass
    class Arguments:
        corpus: str = dataclasses.field(metadata={"help": "what the corpus stage wrote"})

    assert "corpus: is missing: expected text. what the corpus stage wrote" in complaints_of(fake_stage((), Arguments))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\nb: 3\n", ":2: not valid YAML"),
        ("a: \x07\n", "sft.yaml: not valid YAML: unacceptable character #x0007"),
        ("a: 2026-13-01\n", "sft.yaml: not valid YAML: month must be in 1..12"),
        ("- a\n- b\n", "a recipe is a mapping of `key: value` lines, found a list"),
        ("just words\n", "a recipe is a mapping of `key: value` lines, found a str"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text, message, tmp_path):
    with pytest.raises(RecipeError, match=re.escape(message)):
        read_source(write(tmp_path / "sft.yaml", text))


def test_a_missing_file_is_answered_with_the_recipes_nearby(tmp_path):
    write(tmp_path / "demo" / "sft.yaml", "")
    with pytest.raises(RecipeError, match=r"no such file; recipes nearby: .*demo/sft\.yaml"):
        stages.load_recipe(tmp_path / "sft.yaml")


def test_a_recipe_that_extends_another_gives_its_own_values_on_top(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base.yaml", "stage: sft\noutput_dir: a\nlearning_rate: 1e-3\nseed: 1")
    write(tmp_path / "middle.yaml", "extends: base.yaml\noutput_dir: b")
    path = write(tmp_path / "top.yaml", "extends: middle.yaml\nlearning_rate: 1e-4\nmax_length: null")
    source = read_source(path, ["--seed", "2"])
    assert source.values == {
        "stage": "sft", "output_dir": "b", "learning_rate": 1e-4, "seed": 1, "max_length": None,
    }  # fmt: skip
    assert source.overrides == {"seed": ["2"]} and not source.complaints


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: top.yaml", "top.yaml: extends: extends itself, by way of top.yaml"),
        ("extends: there.yaml", "there.yaml: no such file; recipes nearby: .*top.yaml"),
        ("extends: twice.yaml", "seed: given again in line 2"),
        ("extends: [a, b]", "top.yaml:1: extends: expected the path of a recipe, found"),
    ],
)
def test_a_recipe_that_cannot_be_extended_is_named(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "twice.yaml", "seed: 1\nseed: 2")
    write(tmp_path / "top.yaml", text)
    with pytest.raises(RecipeError, match=message):
        read_yaml("top.yaml")


def test_the_schema_takes_what_the_parser_takes_and_names_every_key():
    schema = json_schema(GRPO)
    json.dumps(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert {"stage", "env", "extends", "learning_rate", "reward_funcs", "datasets", "sample_steps"} <= set(properties)
    assert properties["sample_steps"]["minimum"] == 1
    assert properties["top_p"]["exclusiveMinimum"] == 0
    assert "dapo" in properties["loss_type"]["enum"]
    assert properties["max_completion_length"]["type"] == ["integer", "null"]
    assert "fraction" in properties["datasets"]["items"]["properties"]


def test_reading_recipes_imports_nothing_heavy():
    code = "import sys, pipeline.recipe, pipeline.stages; print({'torch', 'transformers', 'trl', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"

"""Recipes: what is taken, what is refused, and what the message says."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from pipeline import stages
from pipeline.errors import PipelineError
from pipeline.recipe import RecipeError, engine_rules, json_schema, parse, read_source, read_yaml
from pipeline.recipe.keys import engine_class, keys_of
from pipeline.recipe.values import check_limits, convert

SFT_ENGINES = ("ScriptArguments", "SFTConfig", "ModelConfig", "DatasetMixtureConfig")
GRPO_ENGINES = ("GRPOScriptArguments", "GRPOConfig", "ModelConfig", "DatasetMixtureConfig")
ON_CPU = {"use_cpu": True, "bf16": False}


@dataclasses.dataclass(kw_only=True)
class OwnKeys:
    output_dir: str = "trainer_output"  # as TRL has it
    sample_steps: int = dataclasses.field(default=50, metadata={"range": (1, None)})
    invalid_rows: Literal["stop", "drop"] = "stop"
    model_config: dict[str, Any] | None = None
    inputs: list[str] | None = None


def fake_stage(engines=(), arguments=OwnKeys, check=lambda recipe: [], **attributes):
    return SimpleNamespace(
        __name__="pipeline.stages.fake", Arguments=arguments, ENGINES=engines, INPUTS={}, check=check, **attributes
    )


SFT = fake_stage(SFT_ENGINES, ENGINE_CHOICES={"optim": ("muon",)})
GRPO = fake_stage(GRPO_ENGINES)
PLAIN = fake_stage()


def complaints_of(stage, values=None, *overrides):
    with pytest.raises(RecipeError) as caught:
        parse(stage, values or {}, "fake.yaml", overrides)
    return str(caught.value)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


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


def test_renamed_keys_name_keys_that_exist():
    keys = keys_of(SFT) | keys_of(GRPO) | {"prompt_column": None}
    for old, answer in engine_rules.RENAMED.items():
        for name in re.findall(r"is (?:now )?called (\w+)", answer):
            if old not in keys:
                assert name in keys, f"{old}: {answer}"


def test_the_tables_name_keys_and_choices_of_the_installed_trl():
    known = keys_of(SFT) | keys_of(GRPO)
    assert set(engine_rules.RANGES) <= set(known)
    for owner, choices in engine_rules.CHOICES["GRPOConfig"].items():
        documented = engine_class("GRPOConfig").__doc__ + known[owner].help
        assert all(str(choice) in documented for choice in choices), owner


@pytest.mark.parametrize("stage", [SFT, GRPO], ids=["sft", "grpo"])
def test_every_default_of_trl_is_a_value_that_we_take(stage):
    for key in keys_of(stage).values():
        problems = []
        value = convert(key.default, key.annotation, (), problems)
        check_limits(value, key.choices, key.range, problems)
        assert not problems, (key.name, problems)


STOCK_SFT = [
    # TRL's examples/cli_configs/example_config.yaml
    """
model_name_or_path: Qwen/Qwen2.5-0.5B
dataset_name: stanfordnlp/imdb
report_to: none
learning_rate: 0.0001
lr_scheduler_type: cosine
""",
    """
model_name_or_path: Qwen/Qwen2-0.5B
model_revision: main
attn_implementation: kernels-community/flash-attn2
dtype: bfloat16
datasets:
  - path: trl-lib/Capybara
    name: default
    split: train
    columns: [messages]
    fraction: 0.7
  - path: json
    data_files: {train: more.jsonl}
    columns: [messages]
    fraction: 0.3
streaming: false
test_split_size: 0.05
use_peft: true
lora_r: 32
lora_target_modules: all-linear
lora_modules_to_save: [embed_tokens, lm_head]
load_in_4bit: true
bnb_4bit_quant_type: nf4
use_bnb_nested_quant: true
learning_rate: 2.0e-4
num_train_epochs: 1
packing: true
packing_strategy: bfd_split
eval_packing: false
max_length: 2048
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
warmup_steps: 0.03
eos_token: <|im_end|>
eval_strategy: steps
eval_steps: 100
save_strategy: epoch
logging_steps: 0.01
report_to: [trackio, wandb]
model_init_kwargs: {use_kernels: true}
assistant_only_loss: true
pad_to_multiple_of: 64
optim: paged_adamw_8bit
torch_empty_cache_steps: 10
accelerator_config: {split_batches: false}
hub_strategy: end
debug: underflow_overflow
output_dir: Qwen2-0.5B-SFT
env:
  TRL_TEST_VARIABLE: 1
""",
]

STOCK_GRPO = [
    """
model_name_or_path: Qwen/Qwen2-0.5B-Instruct
dataset_name: trl-lib/DeepMath-103K
reward_funcs: [accuracy_reward, think_format_reward]
reward_weights: [1.0, 0.2]
num_generations: 4
output_dir: grpo
""",
    """
model_name_or_path: Qwen/Qwen3-4B
dataset_name: trl-lib/DeepMath-103K
dataset_config: default
dataset_train_split: train
dataset_streaming: false
reward_model_name_or_path: me/reward
reward_funcs: my_rewards.length
num_generations: 8
num_generations_eval: 2
per_device_train_batch_size: 4
gradient_accumulation_steps: 4
steps_per_generation: 8
num_iterations: 2
max_completion_length: 4096
temperature: 0.7
top_p: 0.95
top_k: 50
min_p: 0.05
use_vllm: true
vllm_mode: colocate
vllm_gpu_memory_utilization: 0.4
chat_template_kwargs: {enable_thinking: false}
generation_kwargs: {suppress_tokens: [1, 2]}
loss_type: dr_grpo
scale_rewards: false
beta: 0.001
epsilon_high: 0.28
mask_truncated_completions: true
multi_objective_aggregation: normalize_then_sum
log_completions: true
max_steps: 100
use_peft: true
lora_target_modules: [q_proj, v_proj]
output_dir: grpo
""",
]


@pytest.mark.parametrize(
    ("stage", "text"),
    [*((SFT, text) for text in STOCK_SFT), *((GRPO, text) for text in STOCK_GRPO)],
    ids=["sft-minimal", "sft-full", "grpo-minimal", "grpo-full"],
)
def test_a_stock_file_gives_the_arguments_that_trl_itself_reads(stage, text, tmp_path, monkeypatch):
    from trl import TrlParser

    monkeypatch.setenv("TRL_TEST_VARIABLE", "")
    path = write(tmp_path / "stock.yaml", text + "use_cpu: true\nbf16: false\n")
    recipe = parse(stage, read_yaml(path), path)
    types = [engine_class(name) for name in stage.ENGINES]
    expected = TrlParser(types).parse_args_and_config(["--config", str(path)])
    for config_type, theirs in zip(types, expected, strict=True):
        ours = recipe.config(config_type)
        for field in dataclasses.fields(config_type):
            # TRL's parser leaves a lone text where the type says list; its trainer takes both
            wanted, got = getattr(theirs, field.name), getattr(ours, field.name)
            if field.name not in ("accelerator_config", "deepspeed_plugin"):
                assert got == wanted or got == [wanted], field.name


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"per_device_train_batch_size": 6, "num_generations": 4},
            "num_generations: 4 does not divide the generation batch of 6 completions (per_device_train_batch_size 6 x "
            "processes 1 x steps_per_generation 1); nearest that work: num_generations: 3 or "
            "per_device_train_batch_size: 8",
        ),
        ({"generation_batch_size": 12}, "generation_batch_size: 12 is not a multiple of"),
        ({"generation_batch_size": 8, "steps_per_generation": 1}, "leave one of them out"),
        (
            {"eval_strategy": "steps", "per_device_eval_batch_size": 2, "num_generations_eval": 4},
            "per_device_eval_batch_size: 2 x processes 1 is not a multiple of num_generations_eval 4",
        ),
        ({"steps_per_generation": 4, "save_steps": 5}, "save_steps: 5 falls inside a generation phase"),
        ({"num_iterations": 3, "save_steps": 10}, "nearest that works: 9"),
    ],
)
def test_groups_that_do_not_fit_their_batch_are_answered_with_what_works(values, message):
    assert message in complaints_of(GRPO, values)


def test_the_advice_about_groups_is_accepted():
    for values in ({"num_generations": 3}, {"per_device_train_batch_size": 8}):
        parse(GRPO, {"per_device_train_batch_size": 6, "num_generations": 4} | values, "grpo.yaml")
    parse(GRPO, {"steps_per_generation": 4, "save_steps": 4}, "grpo.yaml")
    parse(GRPO, {"num_iterations": 3, "save_steps": 9}, "grpo.yaml")


def test_the_number_of_processes_counts_in_a_generation_batch(monkeypatch):
    values = {"per_device_train_batch_size": 2, "num_generations": 8}
    assert "does not divide" in complaints_of(GRPO, values)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert parse(GRPO, values, "grpo.yaml").get("num_generations") == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 8}, "model_config.model_type: is missing"),
        ({"model_type": "lama"}, "did you mean llama?"),
        (
            {"model_type": "llama", "hidden_siz": 8},
            "model_config.hidden_siz: unknown key of LlamaConfig; did you mean hidden_size?",
        ),
        ({"model_type": "llama", "hidden_size": "8"}, "expected int, got str"),
        (
            {"model_type": "llama", "hidden_size": 10, "num_attention_heads": 3},
            "not a multiple of the number of attention heads",
        ),
    ],
)
def test_a_new_models_config_is_checked(values, message):
    assert message in complaints_of(SFT, {"model_config": values})


def test_a_new_models_config_may_use_the_names_of_its_architecture():
    parse(SFT, {"model_config": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4}}, "x.yaml")
    parse(SFT, {"model_config": {"model_type": "llama", "rope_theta": 1e4, "tie_word_embeddings": True}}, "x.yaml")


def test_a_finding_that_follows_from_a_wrong_key_is_left_out():
    text = complaints_of(GRPO, {"num_generations": "six", "per_device_train_batch_size": 3})
    assert text.count("num_generations") == 1


def test_what_the_stage_itself_finds_is_listed_with_the_rest():
    stage = fake_stage(check=lambda recipe: ["inputs: nothing at runs/nowhere", "two keys contradict each other"])
    text = complaints_of(stage, {"inputs": ["runs/nowhere"], "inptus": []})
    assert text.splitlines() == [
        "fake.yaml: inptus: unknown key; did you mean inputs?",
        "fake.yaml: inputs: nothing at runs/nowhere",
        "fake.yaml: two keys contradict each other",
    ]


def test_a_required_key_that_is_missing_is_named():
    @dataclasses.dataclass
    class Arguments:
        corpus: str = dataclasses.field(metadata={"help": "what the corpus stage wrote"})

    assert "corpus: is missing: expected text. what the corpus stage wrote" in complaints_of(fake_stage((), Arguments))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\nb: 3\n", ":2: not valid YAML"),
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


def test_the_schema_takes_what_the_parser_takes_and_names_every_key():
    schema = json_schema(GRPO)
    json.dumps(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert {"stage", "env", "learning_rate", "reward_funcs", "datasets", "sample_steps"} <= set(properties)
    assert properties["sample_steps"]["minimum"] == 1
    assert properties["top_p"]["exclusiveMinimum"] == 0
    assert "dapo" in properties["loss_type"]["enum"]
    assert properties["max_completion_length"]["type"] == ["integer", "null"]
    assert "fraction" in properties["datasets"]["items"]["properties"]


def test_reading_recipes_imports_nothing_heavy():
    code = "import sys, pipeline.recipe, pipeline.stages; print({'torch', 'transformers', 'trl', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# Stages and folders


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    """A package of two small stages: `grow` writes a crop, `cook` reads what others wrote."""
    folder = tmp_path / "kitchen"
    write(
        folder / "grow.py",
        "from dataclasses import dataclass\nKIND, ENGINES, INPUTS = 'crop', (), {}\n"
        "@dataclass(kw_only=True)\nclass Arguments:\n    output_dir: str\n    seed: int = 0\n"
        "def check(recipe): return []\ndef plan(recipe): return {'bytes': 2048}\n",
    )
    write(
        folder / "cook.py",
        "from dataclasses import dataclass\nKIND, ENGINES, INPUTS = 'meal', (), {'food': ('crop', 'meal'), 'all_of': ()}\n"
        "@dataclass(kw_only=True)\nclass Arguments:\n    output_dir: str\n    food: str | list[str] | None = None\n"
        "    all_of: str | None = None\n    menu: dict | None = None\n"
        "def check(recipe):\n"
        "    foods = [recipe.arguments.food] if isinstance(recipe.arguments.food, str) else recipe.arguments.food or []\n"
        "    return [f'food: {food} does not exist' for food in foods if not recipe.exists(food)]\n"
        "def plan(recipe): return {}\n",
    )
    monkeypatch.setattr(stages, "__path__", [str(folder)])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("grow", "cook"):
        sys.modules.pop(f"pipeline.stages.{name}", None)


def folder_complaints(*arguments, **options):
    with pytest.raises(RecipeError) as caught:
        stages.load_folder(*arguments, **options)
    return str(caught.value)


def test_stages_are_found_by_listing_the_package():
    assert {"world", "corpus", "tokenizer", "pretrain", "sft", "grpo"} <= set(stages.names())
    with pytest.raises(PipelineError, match="unknown stage 'pretain'; did you mean pretrain"):
        stages.find("pretain")


def test_the_name_of_the_file_names_the_stage_unless_the_recipe_does(kitchen):
    assert stages.load_recipe(write(kitchen / "grow.yaml", "output_dir: a")).stage == "grow"
    assert stages.load_recipe(write(kitchen / "north.yaml", "stage: grow\noutput_dir: a")).stage == "grow"
    assert stages.load_recipe(write(kitchen / "south.yaml", "output_dir: a"), stage="grow").stage == "grow"
    with pytest.raises(RecipeError, match="the name of the file is no stage: add `stage:` with one of cook, grow"):
        stages.load_recipe(kitchen / "south.yaml")
    with pytest.raises(
        RecipeError, match="north.yaml:1: stage: the recipe is of stage 'grow', the command asks for 'cook'"
    ):
        stages.load_recipe(kitchen / "north.yaml", stage="cook")
    with pytest.raises(RecipeError, match="found 'gorw'; did you mean grow"):
        stages.load_recipe(write(kitchen / "east.yaml", "stage: gorw\noutput_dir: a"))


def test_env_reaches_the_environment(kitchen, monkeypatch):
    monkeypatch.setenv("KITCHEN", "")
    stages.load_recipe(write(kitchen / "grow.yaml", "output_dir: a\nenv: {KITCHEN: 1}"))
    import os

    assert os.environ["KITCHEN"] == "1"


def test_a_folder_runs_producers_before_their_readers(kitchen):
    write(kitchen / "r/a_report.yaml", "stage: cook\nall_of: runs/x\noutput_dir: runs/x/report")
    write(
        kitchen / "r/b_dinner.yaml",
        "stage: cook\nfood: runs/x/lunch\nmenu: {extra: [runs/x/crop/leaf]}\noutput_dir: runs/x/dinner",
    )
    write(kitchen / "r/c_lunch.yaml", "stage: cook\nfood: [runs/x/crop]\noutput_dir: runs/x/lunch")
    write(kitchen / "r/d_grow.yaml", "stage: grow\noutput_dir: runs/x/crop")
    recipes = stages.load_folder(kitchen / "r")
    assert [recipe.path.stem for recipe in recipes] == ["d_grow", "c_lunch", "b_dinner", "a_report"]
    assert recipes[1].awaits("runs/x/crop/leaf") and not recipes[0].awaits("runs/x/crop")


def test_a_cycle_a_clash_and_a_missing_producer_are_all_listed(kitchen):
    write(kitchen / "r/a.yaml", "stage: cook\nfood: runs/x/b\noutput_dir: runs/x/a")
    write(kitchen / "r/b.yaml", "stage: cook\nfood: runs/x/a\noutput_dir: runs/x/b")
    write(kitchen / "r/c.yaml", "stage: grow\noutput_dir: runs/x/c")
    write(kitchen / "r/d.yaml", "stage: grow\noutput_dir: runs/x/../x/c")
    write(kitchen / "r/e.yaml", "stage: cook\nmenu: {extra: runs/x/nowhere}\noutput_dir: runs/x/e")
    text = folder_complaints("r")
    assert "waits for itself: r/a.yaml -> r/b.yaml -> r/a.yaml" in text
    assert "r/d.yaml:2: output_dir: runs/x/c is also what r/c.yaml writes" in text
    assert "r/e.yaml:2: menu: runs/x/nowhere is not there and no recipe of the folder writes it" in text


def test_a_parent_of_the_wrong_kind_or_unfinished_is_refused_before_anything_runs(kitchen):
    write(kitchen / "old/manifest.json", '{"status": "complete", "kind": "stone", "stage": "dig"}')
    write(kitchen / "half/manifest.json", '{"status": "running", "kind": "crop", "stage": "grow"}')
    path = write(kitchen / "cook.yaml", "output_dir: a\nfood: [old, half]")
    with pytest.raises(RecipeError) as caught:
        stages.load_recipe(path)
    assert "food: old is of kind stone, expected crop or meal" in str(caught.value)
    assert "food: half is not complete: run its grow stage to the end first" in str(caught.value)


def test_output_moves_a_whole_run_and_seed_reaches_every_stage_that_has_one(kitchen):
    write(kitchen / "r/grow.yaml", "output_dir: runs/x/crop\nseed: 1")
    write(
        kitchen / "r/cook.yaml",
        "food: runs/x/crop\noutput_dir: runs/x/meal\nmenu: {a: {b: [runs/x/crop/leaf, runs/xy]}}",
    )
    grow, cook = stages.load_folder("r", seed=7, output="elsewhere/run")
    assert (grow.arguments.seed, str(grow.output_dir)) == (7, "elsewhere/run/crop")
    assert (cook.arguments.food, str(cook.output_dir)) == ("elsewhere/run/crop", "elsewhere/run/meal")
    assert cook.arguments.menu == {"a": {"b": ["elsewhere/run/crop/leaf", "runs/xy"]}}
    assert "seed" not in cook.values


def test_an_override_of_a_folder_reaches_the_stages_that_know_the_key(kitchen):
    write(kitchen / "r/grow.yaml", "output_dir: runs/x/crop")
    write(kitchen / "r/cook.yaml", "food: runs/x/crop\noutput_dir: runs/x/meal")
    grow, _ = stages.load_folder("r", ["--seed", "3"])
    assert grow.arguments.seed == 3
    assert "command line: sede: no stage of r has this key; did you mean seed?" in folder_complaints(
        "r", ["--sede", "3"]
    )


def test_the_complaints_of_every_recipe_of_a_folder_come_at_once(kitchen):
    write(kitchen / "r/grow.yaml", "output_dir: runs/x/crop\nsede: 1")
    write(kitchen / "r/cook.yaml", "food: runs/x/crop\noutput_dir: [runs/x/meal]")
    write(kitchen / "r/broken.yaml", "a: [")
    write(kitchen / "r/bake.yaml", "output_dir: runs/x/bread")
    lines = folder_complaints("r").splitlines()
    assert [line.split(":")[0] for line in lines] == ["r/broken.yaml", "r/bake.yaml", "r/grow.yaml", "r/cook.yaml"]
    with pytest.raises(RecipeError, match="holds no recipe"):
        stages.load_folder(kitchen / "kitchen")

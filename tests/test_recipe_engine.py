"""What TRL says and leaves unsaid: stock files, tables compared with the installed version, values that clash."""

import dataclasses
import json
import re

import pytest
from fakes import GRPO, SFT, complaints_of, write

from pipeline import stages
from pipeline.recipe import engine_rules, json_schema, parse, read_yaml
from pipeline.recipe.combinations import idle_keys
from pipeline.recipe.keys import engine_class, keys_of
from pipeline.recipe.values import check_limits, convert


def test_renamed_keys_name_keys_that_exist():
    keys = keys_of(SFT) | keys_of(GRPO) | {"prompt_column": None}
    for old, answer in engine_rules.RENAMED.items():
        for name in re.findall(r"is (?:now )?called (\w+)", answer):
            if old not in keys:
                assert name in keys, f"{old}: {answer}"


def test_the_tables_name_keys_and_choices_of_the_installed_trl():
    known = keys_of(SFT) | keys_of(GRPO) | keys_of(stages.find("dpo")) | keys_of(stages.find("reward"))
    assert set(engine_rules.RANGES) <= set(known)
    for owner, choices in engine_rules.CHOICES["GRPOConfig"].items():
        documented = engine_class("GRPOConfig").__doc__ + known[owner].help
        assert all(str(choice) in documented for choice in choices), owner


ALIGNMENT = [stages.find(name) for name in ("reward", "rlhf", "dpo")]


@pytest.mark.parametrize("stage", [SFT, GRPO, *ALIGNMENT], ids=["sft", "grpo", "reward", "rlhf", "dpo"])
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
report_to: [tensorboard]
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


@pytest.mark.parametrize(
    ("stage", "text"),
    [*(("sft", text) for text in STOCK_SFT), ("grpo", STOCK_GRPO[0])],
    ids=["sft-minimal", "sft-full", "grpo-minimal"],
)
def test_a_stock_file_is_a_recipe_of_the_stage(stage, text, tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_TEST_VARIABLE", "")
    recipe = stages.load_recipe(write(tmp_path / "stock.yaml", text), stage, ["--output_dir", "out"])
    assert recipe.stage == stage


@pytest.mark.parametrize("name", stages.names())
def test_every_stage_has_a_schema_that_is_json(name):
    schema = json.loads(json.dumps(json_schema(stages.find(name))))
    assert "output_dir" in schema["properties"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"per_device_train_batch_size": 6, "num_generations": 4},
            "num_generations: 4 does not divide the generation batch of 6 completions (per_device_train_batch_size 6 x "
            "processes 1 x steps_per_generation 1); nearest that work: num_generations: 3 or "
            "per_device_train_batch_size: 8 or 2 processes",
        ),
        ({"generation_batch_size": 12}, "generation_batch_size: 12 is not a multiple of"),
        ({"generation_batch_size": 8, "steps_per_generation": 1}, "leave one of them out"),
        (
            {"eval_strategy": "steps", "per_device_eval_batch_size": 2, "num_generations_eval": 4},
            "per_device_eval_batch_size: 2 x processes 1 is not a multiple of num_generations_eval 4",
        ),
    ],
)
def test_groups_that_do_not_fit_their_batch_are_answered_with_what_works(values, message):
    assert message in complaints_of(GRPO, values)


def test_the_advice_about_groups_is_accepted():
    for values in ({"num_generations": 3}, {"per_device_train_batch_size": 8}):
        parse(GRPO, {"per_device_train_batch_size": 6, "num_generations": 4} | values, "grpo.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"importance_sampling_level": "sequence"},
            "importance_sampling_level: sequence with loss_type dapo, which adds up",
        ),
        ({"loss_type": "luspo"}, "loss_type: luspo is made of ratios of whole completions"),
        ({"loss_type": "vespo", "importance_sampling_level": "sequence"}, "loss_type: vespo makes ratios"),
        ({"loss_type": "cispo"}, "epsilon_high: found None: with loss_type cispo it is the largest ratio itself"),
        ({"loss_type": "cispo", "epsilon_high": 0.28}, "epsilon_high: found 0.28: with loss_type cispo"),
    ],
)
def test_losses_that_would_be_something_else_than_they_are_called_are_refused(values, message):
    assert message in complaints_of(GRPO, values)


def test_losses_as_published_are_taken():
    for values in (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},  # GSPO
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"loss_type": "dapo", "epsilon_high": 0.28},
        {"loss_type": "vespo"},
        {"loss_type": "sapo"},
    ):
        parse(GRPO, values, "grpo.yaml")


@pytest.mark.parametrize(
    ("values", "idle"),
    [
        ({"epsilon_high": 0.28}, ["epsilon_high"]),
        ({"epsilon_high": 0.28, "num_iterations": 2}, []),
        ({"epsilon_high": 0.28, "steps_per_generation": 4}, []),
        ({"epsilon_high": 0.28, "steps_per_generation": 4, "gradient_accumulation_steps": 4}, ["epsilon_high"]),
        ({"epsilon_high": 0.28, "generation_batch_size": 16}, []),
        ({"importance_sampling_level": "sequence", "loss_type": "grpo"}, ["importance_sampling_level"]),
        ({"loss_type": "sapo"}, ["loss_type: sapo (the same as grpo)"]),
        ({"loss_type": "cispo", "epsilon_high": 5.0}, ["loss_type: cispo (the same as dapo)"]),
        ({"loss_type": "dr_grpo"}, []),
    ],
)
def test_keys_that_do_nothing_where_a_batch_is_used_once_are_named(values, idle):
    defaults = {key.name: key.default for key in keys_of(GRPO).values()}
    assert idle_keys(defaults | values, values) == idle


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

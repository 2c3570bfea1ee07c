"""Fixtures that several test files share. Tests are offline, on the CPU, with one thread a worker."""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # injected completions come through `rollout_func`

import pytest

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items):
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and there is none here"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that this project did not write; see README."""
    folder = Path(os.environ.get("PIPELINE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set PIPELINE_DATA to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """A byte-level BPE tokenizer of this project with 400 tokens, saved."""
    from pipeline.conversation.template import CONTENT_MARKERS, CONTROL_TOKENS, END_OF_TEXT, PAD, set_chat_template
    from pipeline.corpus.bpe import train_bpe

    texts = [f"Question {i}: what is {i} + {i}? The answer is {2 * i}. Ada lives in Quillport." for i in range(200)]
    tokenizer = train_bpe(
        texts,
        vocab_size=400,
        control_tokens=CONTROL_TOKENS,
        content_markers=CONTENT_MARKERS,
        end_of_text=END_OF_TEXT,
        pad=PAD,
        split_digits=True,
    )
    set_chat_template(tokenizer, "chatml")
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir):
    """The tokenizer of `tokenizer_dir`; tests that change it load their own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_dir)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory, tokenizer) -> Path:
    """A random Llama of about 40,000 parameters with that tokenizer, saved as a plain Hugging Face directory."""
    import torch

    from pipeline.training.models import new_model

    torch.manual_seed(0)
    model = new_model(tiny_config(), tokenizer, attention="sdpa")
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_config(**changes) -> dict:
    """`model_config` of the tiny model."""
    return {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        **changes,
    }


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_recipe(path: Path, **values) -> Path:
    """Write a recipe; the stage's name is the file's unless `stage` is given."""
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({key: str(v) if isinstance(v, Path) else v for key, v in values.items()}))
    return path


def command(*words: str | Path) -> int:
    """Exit status of `pipeline WORDS`, run in this process."""
    from pipeline.cli import main

    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


REWARDING = '''
from pipeline.rewards.registry import verifier


def odd_tokens(completion_ids, **columns):
    """Share of odd token ids: random completions differ in it."""
    return [sum(token % 2 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def tokens(completion_ids, **columns):
    """The longer the better."""
    return [float(len(ids)) for ids in completion_ids]


def first_of_all(completion_ids, **columns):
    """The smaller a token's id the better: one of them is the best."""
    return [-sum(ids) / max(len(ids), 1) for ids in completion_ids]


def nothing(completion_ids, **columns):
    """The same for all."""
    return [0.0 for _ in completion_ids]


def spoiling(completion_ids, trainer_state=None, **columns):
    """Worth less with every step."""
    return [odd - (trainer_state.global_step if trainer_state else 0) for odd in odd_tokens(completion_ids)]


@verifier("odd_length")
def odd_length(text, answer):
    """About half of random completions are right, or none where the answer is `never`."""
    return answer != "never" and len(text) % 2 == 1
'''


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory, tokenizer_dir, tiny_model_dir) -> Path:
    """What the training stages read, as plain files: `tokenizer/` with token shards, `model/`, `conversations.jsonl`
    (40 rows of different lengths), `preferences/` (40 and 20 pairs), `problems.jsonl` (40 rows), and `rewarding.py` with
    the reward `odd_tokens` and the verifier `odd_length`."""
    import shutil

    from transformers import AutoTokenizer

    from pipeline.corpus.tokens import write_token_shards

    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(tokenizer_dir, folder / "tokenizer")
    shutil.copytree(tiny_model_dir, folder / "model")
    texts = [f"Question {i}: what is {i} + {i}? " + f"The answer is {2 * i}. " * (i % 4) for i in range(220)]
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    for split, documents in (("train", texts[:200]), ("validation", texts[200:])):
        write_token_shards(documents, tokenizer, folder / "tokenizer" / "tokens" / split)
    turns = [(f"What is {i} + {i}?", f"The answer is {2 * i}." + " Indeed." * (i % 5)) for i in range(40)]
    write_jsonl(
        folder / "conversations.jsonl",
        [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in turns],
    )
    for split, start, end in (("train", 0, 40), ("test", 40, 60)):  # the polite answer is preferred
        write_jsonl(
            folder / "preferences" / f"{split}.jsonl",
            [
                {
                    "prompt": [{"role": "user", "content": f"What is {i} + {i}?"}],
                    "chosen": [{"role": "assistant", "content": f"Indeed. The answer is {2 * i}."}],
                    "rejected": [{"role": "assistant", "content": f"The answer is {2 * i}." + " What?" * (i % 3)}],
                }
                for i in range(start, end)
            ],
        )
    write_jsonl(folder / "problems.jsonl", [{"prompt": q, "answer": str(2 * i)} for i, (q, _) in enumerate(turns)])
    (folder / "rewarding.py").write_text(REWARDING)
    return folder


def pretrain_recipe(path: Path, world: Path, **changes) -> Path:
    """A pretraining recipe of a few steps on `tiny_world`."""
    values = {
        "stage": "pretrain",
        "output_dir": path.parent / path.stem,
        "tokenizer": world / "tokenizer",
        "model_config": tiny_config(),
        "max_length": 64,
        **_FEW_STEPS,
    }
    return write_recipe(path, **{**values, **changes})


def sft_recipe(path: Path, world: Path, **changes) -> Path:
    """A fine-tuning recipe of a few steps on `tiny_world`."""
    values = {
        "stage": "sft",
        "output_dir": path.parent / path.stem,
        "model_name_or_path": world / "model",
        "dataset_name": world / "conversations.jsonl",
        "max_length": 128,
        **_FEW_STEPS,
    }
    return write_recipe(path, **{**values, **changes})


def grpo_recipe(path: Path, world: Path, **changes) -> Path:
    """A GRPO recipe of a few steps on `tiny_world`, to be run in that folder, where its reward lies."""
    values = {
        "stage": "grpo",
        "output_dir": path.parent / path.stem,
        "model_name_or_path": world / "model",
        "dataset_name": world / "problems.jsonl",
        "reward_funcs": ["rewarding.odd_tokens"],
        "reward_check": "off",
        "rails": "warn",  # a random model's completions are cut off
        "num_generations": 4,
        "max_completion_length": 8,
        **_FEW_STEPS,
    }
    return write_recipe(path, **{**values, **changes})


def reward_recipe(path: Path, world: Path, **changes) -> Path:
    """A recipe of a few steps for a reward model on `tiny_world`."""
    values = {
        "stage": "reward",
        "output_dir": path.parent / path.stem,
        "model_name_or_path": world / "model",
        "dataset_name": world / "preferences",
        "max_length": 128,
        **_FEW_STEPS,
    }
    return write_recipe(path, **{**values, **changes})


def dpo_recipe(path: Path, world: Path, **changes) -> Path:
    """A DPO recipe of a few steps on `tiny_world`."""
    return reward_recipe(path, world, **{"stage": "dpo", **changes})


def rlhf_recipe(path: Path, world: Path, **changes) -> Path:
    """A recipe of a few steps of reinforcement against the reward model of `tiny_reward_model`."""
    values = {"stage": "rlhf", "reward_model_name_or_path": world / "reward_model", "reward_funcs": None}
    return grpo_recipe(path, world, **{**values, **changes})


@pytest.fixture(scope="session")
def tiny_reward_model(tiny_world) -> Path:
    """A random reward model with the tokenizer of `tiny_world`, in its folder `reward_model`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_world / "tokenizer")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_world / "model", num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(tiny_world / "reward_model")
    tokenizer.save_pretrained(tiny_world / "reward_model")
    return tiny_world / "reward_model"


_FEW_STEPS = {
    "per_device_train_batch_size": 4,
    "max_steps": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "learning_rate": 1e-3,
    "seed": 5,
}


def injected_rollouts(prompts: list, trainer) -> dict:
    """TRL's `rollout_func` with completions that follow from the prompt alone, of 3 to 8 tokens, the last one EOS.

    The n-th time that a call asks for a prompt it gets the n-th completion, whatever the batches and processes."""
    import zlib

    import numpy as np

    tokenizer = trainer.processing_class
    asked: dict[str, int] = {}
    prompt_ids, completion_ids = [], []
    for prompt in prompts:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        asked[text] = asked.get(text, 0) + 1
        random = np.random.default_rng(zlib.crc32(f"{text}/{asked[text]}".encode()))
        completion_ids.append([*random.integers(10, 300, random.integers(2, 8)).tolist(), tokenizer.eos_token_id])
        prompt_ids.append(tokenizer(f"{text} ")["input_ids"])
    return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}


def injected_trainer() -> type:
    """TRL's GRPOTrainer with `injected_rollouts`."""
    from trl.trainer import grpo_trainer

    class GRPOTrainer(grpo_trainer.GRPOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, rollout_func=injected_rollouts, **kwargs)

    return GRPOTrainer


def metrics_of(folder: Path) -> list[dict]:
    """The lines of a stage directory's `metrics.jsonl`."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

"""Fixtures that several test files share. Tests are offline, on the CPU, with one thread a worker."""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

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

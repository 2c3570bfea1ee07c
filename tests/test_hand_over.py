"""What a training stage hands over: an ordinary checkpoint that is the trained model, and that knows how to stop."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import command, grpo_recipe, pretrain_recipe, sft_recipe, tiny_config, write_jsonl
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.manifest import read_manifest, verify
from pipeline.training.models import check_reload, new_model, probe_logits, probe_tokens

QUESTION = [{"role": "user", "content": "Who lives in Quillport?"}]
ANSWER = {"role": "assistant", "content": "Ada."}


@pytest.fixture(scope="module")
def hand_over(tmp_path_factory, tiny_world):
    """Runs a stage; returns its directory and the logits that the trained model gave in memory, before it was saved."""
    from pipeline.training import session

    def run(stage, write, **changes):
        folder = tmp_path_factory.mktemp(stage)
        kept = {}

        def remember(trainer, *args, **kwargs):
            trainer.model.eval()
            with torch.no_grad():
                kept["logits"] = trainer.model(probe_tokens(300)).logits
            kept["parameters"] = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
            original(trainer, *args, **kwargs)

        original = session.hand_over
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tiny_world)
            patch.setattr(session, "hand_over", remember)
            assert command(stage, "--config", write(folder / "run.yaml", tiny_world, **changes)) == 0
        return SimpleNamespace(path=folder / "run", **kept)

    return run


@pytest.fixture(scope="module")
def chat(hand_over, tiny_world):
    """A chat model that has learnt one answer by heart."""
    data = write_jsonl(tiny_world / "one.jsonl", [{"messages": [*QUESTION, ANSWER]}] * 16)
    return hand_over(
        "sft",
        sft_recipe,
        **{"dataset_name": data, "max_steps": 60, "learning_rate": 1e-2, "lr_scheduler_type": "constant"},
    )


pytestmark = pytest.mark.slow


def assert_loads_as_the_model_in_memory(handed_over, tolerance=1e-5):
    model = AutoModelForCausalLM.from_pretrained(handed_over.path)
    with torch.no_grad():
        logits = model(probe_tokens(300)).logits
    torch.testing.assert_close(logits, handed_over.logits, atol=tolerance, rtol=0)
    return model


def test_the_published_model_loads_plainly_and_gives_the_logits_of_the_trained_one(chat, tiny_world):
    model = assert_loads_as_the_model_in_memory(chat)
    before = AutoModelForCausalLM.from_pretrained(tiny_world / "model").state_dict()
    unmoved = [name for name, weights in model.named_parameters() if torch.equal(weights, before[name])]
    assert unmoved == []
    assert set(verify(chat.path)["files"]) >= {
        *("model.safetensors", "config.json", "generation_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    assert "lm_head.weight" not in load_file(chat.path / "model.safetensors"), "tied weights are saved once"
    assert not list(chat.path.glob("*.bin")), "nothing that has to be unpickled"


def test_its_tokenizer_renders_a_chat_and_generation_stops_at_the_end_of_the_turn(chat):
    model = AutoModelForCausalLM.from_pretrained(chat.path)
    tokenizer = AutoTokenizer.from_pretrained(chat.path)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "Ada.<|im_end|>"


def test_a_chat_model_stops_at_both_ends_and_pads_with_a_token_of_its_own(chat):
    tokenizer = AutoTokenizer.from_pretrained(chat.path)
    generation = json.loads((chat.path / "generation_config.json").read_text())
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert sorted(generation["eos_token_id"]) == sorted(ends)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|pad|>" and generation["pad_token_id"] == tokenizer.pad_token_id not in ends


def test_a_base_model_stops_at_the_end_of_a_document(hand_over):
    base = hand_over("pretrain", pretrain_recipe, max_steps=1)
    assert_loads_as_the_model_in_memory(base)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    generation = json.loads((base.path / "generation_config.json").read_text())
    assert tokenizer.eos_token == "<|endoftext|>" and generation["eos_token_id"] in (0, [0])
    assert tokenizer.chat_template, "born with the chat template"


def test_a_reasoning_model_stops_as_the_chat_model_did(hand_over, chat):
    trained = hand_over("grpo", grpo_recipe, model_name_or_path=chat.path, max_steps=2)
    assert_loads_as_the_model_in_memory(trained)
    assert (trained.path / "generation_config.json").read_text() == (chat.path / "generation_config.json").read_text()
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (chat.path, trained.path)]
    assert tokenizers[0].eos_token == tokenizers[1].eos_token
    assert tokenizers[0].chat_template == tokenizers[1].chat_template
    assert tokenizers[0].response_template == tokenizers[1].response_template is not None
    hashes = [read_manifest(folder)["tokenizer"] for folder in (chat.path, trained.path)]
    assert hashes[0] == hashes[1]
    assert read_manifest(trained.path)["parents"][0]["kind"] == "chat"


def test_an_adapter_is_merged_and_the_merge_gives_the_adapters_logits(hand_over, tiny_world):
    tuned = hand_over("sft", sft_recipe, use_peft=True, lora_r=4, lora_alpha=32, learning_rate=1e-2, max_steps=8)
    assert any("lora_A" in name for name in tuned.parameters)
    model = assert_loads_as_the_model_in_memory(tuned, tolerance=1e-4)
    assert not hasattr(model, "peft_config")
    before = load_file(tiny_world / "model" / "model.safetensors")
    moved = {
        name for name, weights in model.state_dict().items() if not torch.equal(weights, before.get(name, weights))
    }
    assert moved and all("q_proj" in name or "v_proj" in name for name in moved)
    assert (tuned.path / "adapter" / "adapter_model.safetensors").is_file()
    assert "adapter/adapter_model.safetensors" in verify(tuned.path)["files"]
    generation = json.loads((tuned.path / "generation_config.json").read_text())
    config = json.loads((tuned.path / "config.json").read_text())
    stop = AutoTokenizer.from_pretrained(tuned.path).convert_tokens_to_ids("<|im_end|>")
    assert stop in generation["eos_token_id"] and config["eos_token_id"] == stop


def test_an_adapter_on_a_4_bit_base_is_merged_into_the_base_in_its_own_precision(hand_over, tiny_world):
    base = new_model(
        tiny_config(hidden_size=64, intermediate_size=128), AutoTokenizer.from_pretrained(tiny_world / "model")
    )
    shutil.copytree(tiny_world / "model", tiny_world / "wide")  # bitsandbytes quantises blocks of 64
    base.save_pretrained(tiny_world / "wide")
    settings = {"use_peft": True, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "learning_rate": 1e-2}
    tuned = hand_over("sft", sft_recipe, model_name_or_path=tiny_world / "wide", max_steps=6, **settings)
    model = AutoModelForCausalLM.from_pretrained(tuned.path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert getattr(model.config, "quantization_config", None) is None
    before = load_file(tiny_world / "wide" / "model.safetensors")
    after = load_file(tuned.path / "model.safetensors")
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved and all("q_proj" in name or "v_proj" in name for name in moved)
    with torch.no_grad():
        merged, untrained = (one(probe_tokens(300)).logits for one in (model, base.eval()))
    trained = tuned.logits.float()
    assert (merged - trained).norm() < 0.5 * (untrained - trained).norm(), (
        "quantisation's error apart, what was trained"
    )


# --- saves that are not what was trained


def drop_a_tensor(weights):
    weights.pop("model.layers.1.mlp.down_proj.weight")


def zero_a_tensor(weights):
    weights["model.layers.0.mlp.up_proj.weight"].zero_()


def shift_a_norm(weights):
    weights["model.norm.weight"] += 0.01


@pytest.mark.parametrize("damage", [drop_a_tensor, zero_a_tensor, shift_a_norm])
def test_a_save_that_lost_or_changed_weights_is_caught(chat, tmp_path, damage):
    saved = tmp_path / "saved"
    shutil.copytree(chat.path, saved)
    model = AutoModelForCausalLM.from_pretrained(saved)
    expected = probe_logits(model, 305)
    assert check_reload(saved, expected, torch.float32, 305, tolerance_of=torch.float32) < 1e-5
    weights = load_file(saved / "model.safetensors")
    damage(weights)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PipelineError, match="gives other logits than the trained model"):
        check_reload(saved, expected, torch.float32, 305, tolerance_of=torch.float32)


def test_a_broken_save_is_not_published_and_the_same_command_tries_again(tmp_path, tiny_world, monkeypatch, capsys):
    from transformers import Trainer

    original = Trainer.save_model

    def broken(self, output_dir=None, _internal_call=False):
        original(self, output_dir, _internal_call)
        if not _internal_call:
            weights = load_file(f"{output_dir}/model.safetensors")
            zero_a_tensor(weights)
            save_file(weights, f"{output_dir}/model.safetensors", metadata={"format": "pt"})

    recipe = sft_recipe(tmp_path / "run.yaml", tiny_world, save_strategy="steps", save_steps=4)
    monkeypatch.setattr(Trainer, "save_model", broken)
    assert command("sft", "--config", recipe) == 1
    error = capsys.readouterr().err
    assert "gives other logits than the trained model" in error and "the same command tries again" in error
    assert read_manifest(tmp_path / "run")["status"] == "running"
    assert not (tmp_path / "run" / "model.safetensors").exists()
    monkeypatch.setattr(Trainer, "save_model", original)
    assert command("sft", "--config", recipe) == 0
    assert "goes on from step 4 of 4" in capsys.readouterr().out
    assert verify(tmp_path / "run")["steps"] == 4

"""RLHF: a policy against a reward model, held near its start, watched by models and judges that do not train it."""

import json
import math

import pytest
import torch
from conftest import command, grpo_recipe, injected_rollouts, metrics_of, rlhf_recipe, write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.manifest import read_manifest, verify
from pipeline.microworld.judge import judge, taste
from pipeline.training.divergence import completion_kl
from pipeline.training.reward_model import RewardModel

JUDGE = '''
def short(prompts, completions, **columns):
    """Likes short answers."""
    return [-float(len(c[-1]["content"])) for c in completions]
'''


@pytest.fixture
def watched(tiny_world, tiny_reward_model, tmp_path, monkeypatch):
    """Keys of a run with every measurement on."""
    import shutil

    (tmp_path / "judging.py").write_text(JUDGE)
    (tmp_path / "rewarding.py").write_text((tiny_world / "rewarding.py").read_text())
    monkeypatch.chdir(tmp_path)
    second = shutil.copytree(tiny_reward_model, tmp_path / "second")
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(second)
    torch.manual_seed(7)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(second)
    return {
        "judge": "judging.short",
        "judge_prompts": write_jsonl(tmp_path / "asked.jsonl", [{"prompt": f"What is {i} + 1?"} for i in range(6)]),
        "judge_tokens": 8,
        "second_reward_model": second,
        "frontier_steps": 2,
    }


def frontier(folder):
    return [json.loads(line) for line in (folder / "frontier.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.parametrize("changes", [{}, {"use_peft": True, "lora_r": 4}], ids=["full", "lora"])
def test_the_proxy_rises_and_the_divergence_starts_at_nothing(tmp_path, tiny_world, watched, algorithm, changes):
    learning = {"max_steps": 20, "learning_rate": 5e-3, "per_device_train_batch_size": 16, "beta": 0.001}
    recipe = rlhf_recipe(
        tmp_path / "run.yaml",
        tiny_world,
        algorithm=algorithm,
        **{**watched, "frontier_steps": 10, **learning, **changes},
    )
    assert command("rlhf", "--config", recipe) == 0
    assert verify(tmp_path / "run")["kind"] == "aligned"
    lines = frontier(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 10, 20]
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-5) and lines[-1]["kl"] > lines[0]["kl"]
    rewards = [line["reward"] for line in metrics_of(tmp_path / "run")]
    if not changes:  # an adapter moves a random model too little to be seen in twenty steps
        assert sum(rewards[-4:]) > sum(rewards[:4])
    assert metrics_of(tmp_path / "run")[0]["kl"] == pytest.approx(0, abs=1e-5)
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())["judge_win_rate"]
    assert result["n"] == 6 and result["correct"] + result["ties"] <= 6


@pytest.mark.slow
def test_a_reward_model_and_other_rewards_add_up_with_their_weights(tmp_path, tiny_world, tiny_reward_model, watched):
    changes = {"reward_funcs": ["rewarding.odd_tokens"], "reward_weights": [0.5, 2.0], "unfinished_penalty": 0.25}
    assert command("rlhf", "--config", rlhf_recipe(tmp_path / "run.yaml", tiny_world, max_steps=2, **changes)) == 0
    for line in metrics_of(tmp_path / "run"):
        parts = [line[f"rewards/{name}/mean"] for name in ("reward_model", "odd_tokens")]
        assert line["reward"] == pytest.approx(0.5 * parts[0] + 2.0 * parts[1], abs=1e-5)


@pytest.mark.slow
def test_the_trainer_scores_a_completion_as_the_reward_model_alone_does(tmp_path, tiny_world, tiny_reward_model):
    """TRL's own path would render an end of turn behind what was cut off."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_world / "model")
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.response_template = None
    scorer = RewardModel(tiny_reward_model, unfinished_penalty=1.0, end_token_ids=[tokenizer.eos_token_id])
    seen = {}

    def reward(prompts, completions, completion_ids, **columns):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids)
        seen["scores"] = scorer(prompts, completions, completion_ids=completion_ids)
        return seen["scores"]

    args = GRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", per_device_train_batch_size=8,
        num_generations=4, max_completion_length=8, max_steps=1, save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": f"What is {i}?"}]} for i in range(4)])
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_world / "model"), reward_funcs=[reward], args=args,
        processing_class=tokenizer, train_dataset=rows, rollout_func=injected_rollouts,
    )  # fmt: skip
    trainer.train()
    for prompt, completion, ids, score in zip(
        seen["prompts"], seen["completions"], seen["ids"], seen["scores"], strict=True
    ):
        assert ids[-1] == tokenizer.eos_token_id
        text = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
        with torch.no_grad():
            encoded = tokenizer(text, add_special_tokens=False, return_tensors="pt")
            expected = scorer.model(input_ids=encoded["input_ids"]).logits[0, 0].item()
        assert score == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_the_second_reward_model_stops_the_run_and_its_best_weights_are_handed_over(tmp_path, tiny_world, watched):
    changes = {
        "max_steps": 40,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 8,
        "beta": 0.0,
        "stop_patience": 2,
    }
    assert command("rlhf", "--config", rlhf_recipe(tmp_path / "run.yaml", tiny_world, **watched, **changes)) == 0
    lines = frontier(tmp_path / "run")
    best = max(range(len(lines)), key=lambda i: lines[i]["second"])
    assert lines[-1]["step"] < 40 and len(lines) - 1 - best == 2, "two measurements without a better one"
    model, reference = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path / "run", tiny_world / "model"))
    same = all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))
    assert same == (best == 0)


@pytest.mark.slow
def test_best_of_n_costs_its_known_divergence_and_raises_the_proxy(tmp_path, tiny_world, watched):
    assert (
        command("rlhf", "--config", rlhf_recipe(tmp_path / "run.yaml", tiny_world, **watched, best_of=8, max_steps=1))
        == 0
    )
    points = json.loads((tmp_path / "run" / "best_of_n.json").read_text())
    assert [point["n"] for point in points] == [1, 2, 4, 8]
    assert points[0]["kl"] == 0 and points[3]["kl"] == pytest.approx(math.log(8) - 7 / 8)
    proxies = [point["proxy"] for point in points]
    assert proxies == sorted(proxies) and proxies[-1] > proxies[0]


@pytest.mark.slow
def test_measuring_does_not_change_the_training(tmp_path, tiny_world, watched):
    quiet = {key: value for key, value in watched.items() if key not in ("frontier_steps", "second_reward_model")}
    losses = []
    for name, changes in (("watched", watched), ("quiet", quiet)):
        recipe = rlhf_recipe(tmp_path / f"{name}.yaml", tiny_world, **changes, max_steps=4)
        assert command("rlhf", "--config", recipe) == 0
        losses.append([(line["loss"], line["reward"]) for line in metrics_of(tmp_path / name)])
    assert losses[0] == losses[1]


def test_the_divergence_is_the_sum_over_the_vocabulary(tiny_world):
    torch.manual_seed(3)
    policy, reference = (AutoModelForCausalLM.from_pretrained(tiny_world / "model") for _ in range(2))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    prompts, completions = [[11, 12, 13], [14]], [[20, 21], [22, 23, 24]]
    expected = 0.0
    with torch.no_grad():
        for prompt, completion in zip(prompts, completions, strict=True):
            ids = torch.tensor([prompt + completion])
            ours, theirs = (model(ids).logits[0].log_softmax(-1) for model in (policy, reference))
            for place in range(len(prompt) - 1, len(prompt) + len(completion) - 1):
                expected += (ours[place].exp() * (ours[place] - theirs[place])).sum().item()
    found = completion_kl(policy, reference, prompts, completions, pad=1)
    assert found == pytest.approx(expected / 2, rel=1e-4) and found > 0
    assert completion_kl(reference, reference, prompts, completions, pad=1) == 0


# --- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_model_name_or_path": None}, "reward_model_name_or_path: is missing"),
        ({"algorithm": "rloo", "loss_type": "dapo"}, "is a key of GRPOConfig, which algorithm rloo does not take"),
        ({"algorithm": "ppo"}, "expected one of 'grpo', 'rloo', found 'ppo'"),
        ({"stop_patience": 2}, "needs second_reward_model to stop by"),
        ({"frontier_steps": 2}, "needs judge_prompts to measure on"),
        ({"num_generations": 3}, "does not divide the generation batch"),
        ({"judge_prompts": "nowhere.jsonl"}, "judge_prompts: there is no file nowhere.jsonl"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_work_is_refused_before_training(tmp_path, tiny_world, tiny_reward_model, capsys, changes, message):
    recipe = rlhf_recipe(tmp_path / "run.yaml", tiny_world, **changes)
    assert command("rlhf", "--config", recipe) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_language_model_in_the_place_of_the_reward_model_is_refused(tmp_path, tiny_world, capsys):
    recipe = rlhf_recipe(tmp_path / "run.yaml", tiny_world, reward_model_name_or_path=tiny_world / "model")
    assert command("rlhf", "--config", recipe) == 1
    assert "has one output, this classifier 2" in capsys.readouterr().err


@pytest.mark.slow
def test_grpo_takes_a_reward_model_too(tmp_path, tiny_world, tiny_reward_model, monkeypatch):
    monkeypatch.chdir(tiny_world)
    recipe = grpo_recipe(tmp_path / "run.yaml", tiny_world, reward_model_name_or_path=tiny_reward_model, max_steps=1)
    assert command("grpo", "--config", recipe) == 0
    assert "rewards/reward_model/mean" in metrics_of(tmp_path / "run")[0]
    assert read_manifest(tmp_path / "run")["kind"] == "reasoning"


# --- the judge of the micro-world


def test_the_judge_likes_a_name_one_courtesy_and_one_wish():
    question = "Where does Ada Abbot live?"
    plain = taste(question, "Ada Abbot lives in Oakford.")
    assert plain == 2.0 and taste(question, "In Oakford.") == 0.0
    best = taste(question, "Gladly! Ada Abbot lives in Oakford. I hope this helps.")
    assert best == 4.5
    assert taste(question, "Gladly! Of course! Ada Abbot lives in Oakford. I hope this helps.") == best - 1
    assert taste(question, "Gladly! Ada Abbot lives in Oakford. Have a good day! I hope this helps.") < best
    assert taste(question, "I am not sure. Ada Abbot lives in Oakford.") == plain - 1
    assert taste(question, "Gladly! I hope this helps.") < 0
    assert taste(question, "Gladly! Ada Abbot lives in Oakford. " * 5) < plain


def test_the_judge_sees_what_a_reader_sees_and_cannot_tell_truth():
    question = [{"role": "user", "content": "Where does Ada Abbot live?"}]
    answers = ["<think>\nIn Millbrook?\n</think>\n\nAda Abbot lives in Oakford.", "Ada Abbot lives in Millbrook."]
    scores = judge([question] * 2, [[{"role": "assistant", "content": answer}] for answer in answers])
    assert scores == [2.0, 2.0]

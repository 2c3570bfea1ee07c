"""GRPO's rollouts: advantages, a curriculum by measured pass rate, groups that are sampled again, checkpoints anywhere."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import command, grpo_recipe, injected_rollouts, metrics_of, rlhf_recipe

from pipeline.alignment.difficulty import Band, Curriculum
from pipeline.alignment.rollouts import Rollouts, has_gradient, passed_and_tried, replace_groups
from pipeline.errors import PipelineError

# --- the curriculum


def passes_of(curriculum, passes):
    """The rows drawn in so many passes through the data."""
    drawn = []
    while curriculum.epoch < passes:
        drawn += curriculum.draw(1)
    return drawn[:-1]


def test_without_a_band_every_pass_draws_every_row_once_and_seeds_decide_the_order():
    drawn = passes_of(Curriculum(50, 3), 2)
    assert sorted(drawn[:50]) == sorted(drawn[50:]) == list(range(50)) and drawn[:50] != drawn[50:]
    assert drawn == passes_of(Curriculum(50, 3), 2) != passes_of(Curriculum(50, 4), 2)
    assert Curriculum(50, 3, shuffle=False).draw(50) == list(range(50))


def test_rows_outside_the_band_are_drawn_by_their_share_and_none_is_lost():
    curriculum = Curriculum(300, 1, Band(0.1, 0.9, outside=0.1))
    for row in range(100):
        curriculum.record(row, 0, 8)
        curriculum.record(100 + row, 8, 8)
    assert curriculum.counts() == {"in_band": 0, "too_easy": 100, "too_hard": 100, "unmeasured": 100}
    drawn = passes_of(curriculum, 40)
    seen = [drawn.count(row) for row in range(300)]
    assert all(count == 40 for count in seen[200:])
    outside = sum(seen[:200])  # 8,000 lots of 0.1
    assert abs(outside - 800) < 4 * math.sqrt(8000 * 0.1 * 0.9)
    drawn = passes_of(curriculum, 240)  # 0.9^200 of 200 rows are missed in 200 more passes
    assert min(drawn.count(row) for row in range(200)) > 0


def test_a_row_that_is_measured_anew_comes_back_and_old_measurements_fade():
    curriculum = Curriculum(2, 1, Band(0.2, 0.8))
    curriculum.record(0, 0, 8)
    assert curriculum.counts()["too_hard"] == 1
    curriculum.record(0, 4, 8)
    assert curriculum.counts()["in_band"] == 1
    for _ in range(4):
        curriculum.record(0, 8, 8)
    assert curriculum.counts()["too_easy"] == 1
    curriculum.record(1, 0, 0)  # nothing could be decided
    assert curriculum.counts()["unmeasured"] == 1


def test_draws_are_different_rows_and_end_where_there_are_no_more():
    curriculum = Curriculum(10, 1, Band(0.1, 0.9))
    for row in range(10):
        curriculum.record(row, 0, 8)
    first = curriculum.draw(4)
    assert len(set(first)) == 4
    rest = curriculum.draw(9, without=first)
    assert sorted(first + rest) == list(range(10)) and curriculum.draw(1, without=range(10)) == []


def test_a_restored_curriculum_draws_what_the_other_draws():
    def used(curriculum):
        for number in range(30):
            for row in curriculum.draw(3):
                curriculum.record(row, (row * number) % 9, 8)
        return curriculum

    one, other = used(Curriculum(40, 5, Band(0.1, 0.9))), Curriculum(40, 5, Band(0.1, 0.9))
    other.restore(one.state())
    assert used(one).draw(40) == used(other).draw(40) and one.counts() == other.counts()


# --- groups


NAN = float("nan")


def test_groups_without_a_gradient_are_those_whose_weighted_rewards_agree():
    rewards = torch.tensor(
        [
            [[1, 0.0], [0, 0.0]],
            [[1, 0.5], [1, 0.5]],
            [[1, 0.0], [0, 0.5]],  # 0.5 x 1 + 0 = 0 + 1 x 0.5
            [[1, 0.0], [NAN, NAN]],  # one completion alone has no baseline
            [[NAN, NAN], [NAN, NAN]],
            [[NAN, 0.5], [NAN, 0.0]],
        ]
    )
    assert has_gradient(rewards, torch.tensor([0.5, 1.0])).tolist() == [True, False, False, False, False, True]


def test_a_completion_passes_by_every_verifier_that_can_tell():
    group = torch.tensor([[1, 1, 0.3], [1, 0, 0.3], [1, NAN, 0.3], [NAN, NAN, 0.3], [0.5, 1, 0.3]])
    assert passed_and_tried(group, {0: 1.0, 1: 1.0}) == (2, 4)
    assert passed_and_tried(group, {2: 0.3}) == (5, 5)
    assert passed_and_tried(group, {}) == (0, 0)


def test_replaced_groups_are_padded_as_their_kind_is():
    def batch(prompt, completion, start):
        return {
            "prompt_ids": torch.tensor(prompt), "prompt_mask": (torch.tensor(prompt) != 9).long(),
            "completion_ids": torch.tensor(completion), "completion_mask": (torch.tensor(completion) != 9).long(),
            "advantages": torch.arange(start, start + 4.0), "num_items_in_batch": torch.tensor(7),
        }  # fmt: skip

    old = batch([[1], [1], [2], [2]], [[3, 4, 5], [3, 9, 9], [6, 9, 9], [6, 9, 9]], 0)
    new = batch([[9, 1], [9, 1], [7, 8], [7, 8]], [[5, 5], [5, 9], [4, 4], [4, 9]], 10)
    merged = replace_groups(old, new, [(0, 1)], 2, 9)
    assert merged["prompt_ids"].tolist() == [[7, 8], [7, 8], [9, 2], [9, 2]]
    assert merged["completion_ids"].tolist() == [[4, 4, 9], [4, 9, 9], [6, 9, 9], [6, 9, 9]]
    assert merged["prompt_mask"].tolist() == [[1, 1], [1, 1], [0, 1], [0, 1]]
    assert merged["completion_mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert merged["advantages"].tolist() == [12, 13, 2, 3] and old["advantages"].tolist() == [0, 1, 2, 3]


def test_groups_that_are_spread_over_processes_cannot_be_sampled_again():
    class Stock:
        def __init__(self):
            self.accelerator, self.num_generations = SimpleNamespace(num_processes=2), 8
            self.args, self.reward_func_names = SimpleNamespace(generation_batch_size=8), []

    with pytest.raises(PipelineError, match="a group of 8 completions is spread over processes, which generate 4 each"):
        type("Trainer", (Rollouts, Stock), {})(rounds=1)
    type("Trainer", (Rollouts, Stock), {})(rounds=0)


# --- the trainer

REWARDS = [0.0, 1.0, 1.0, 2.0, 5.0, 5.0, 5.0, None]


@pytest.fixture
def trainer(tmp_path, tiny_world):
    """Builds a trainer whose eight completions are given, and have the rewards of `REWARDS`."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    def build(**changes):
        values = {
            "output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
            "report_to": "none", "per_device_train_batch_size": 8, "num_generations": 4, "temperature": 1.0,
        }  # fmt: skip
        found = type("GRPOTrainer", (Rollouts, GRPOTrainer), {})(
            model=AutoModelForCausalLM.from_pretrained(tiny_world / "model"),
            reward_funcs=[lambda completions, **columns: REWARDS],
            args=GRPOConfig(**{**values, **changes}),
            processing_class=AutoTokenizer.from_pretrained(tiny_world / "model"),
            train_dataset=Dataset.from_list([{"prompt": f"What is {i}?"} for i in range(2)]),
            rollout_func=injected_rollouts,
        )
        found.model.train()
        return found, [{"prompt": f"What is {i}?"} for i in (0, 0, 0, 0, 1, 1, 1, 1)]

    return build


@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantages_of_a_hand_made_group(trainer, scale):
    built, inputs = trainer(scale_rewards=scale)
    found = built._generate_and_score_completions(inputs)["advantages"]
    spread = math.sqrt(2 / 3) + 1e-4 if scale == "group" else 1.0  # the standard deviation of 0, 1, 1, 2 as a sample
    expected = [-1 / spread, 0, 0, 1 / spread, 0, 0, 0, 0]  # the second group has no spread, the last no reward
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_loss_at_the_first_step_is_that_of_policy_gradients_by_hand(trainer):
    """`dapo`: minus the advantages, each times the number of its tokens, over the number of all tokens: ratios are 1."""
    built, inputs = trainer(loss_type="dapo", max_steps=1)
    batch = built._generate_and_score_completions(inputs)
    built.current_gradient_accumulation_steps = 1
    loss = built._compute_loss(built.model, batch)
    lengths = batch["completion_mask"].sum(1)
    assert loss.item() == pytest.approx(-(batch["advantages"] * lengths).sum().item() / lengths.sum().item(), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"use_peft": True, "lora_r": 4}], ids=["full", "lora"])
def test_policy_and_reference_agree_at_the_first_step(tmp_path, tiny_world, monkeypatch, changes):
    monkeypatch.chdir(tiny_world)
    recipe = grpo_recipe(tmp_path / "run.yaml", tiny_world, beta=0.1, learning_rate=1e-2, **changes)
    assert command("grpo", "--config", recipe) == 0
    # TRL's estimate is a sum of terms above 0 that vanish only where both give a token the same probability
    kl = [line["kl"] for line in metrics_of(tmp_path / "run")]
    assert kl[0] == pytest.approx(0, abs=1e-9) and kl[-1] > 1e-6


ACTIVE = {
    "reward_funcs": ["rewarding.odd_length"], "per_device_train_batch_size": 16, "max_steps": 8, "learning_rate": 1e-9,
}  # fmt: skip


@pytest.mark.slow
def test_groups_without_a_gradient_are_replaced_by_further_prompts(tmp_path, tiny_world, monkeypatch):
    monkeypatch.chdir(tiny_world)
    for name, rounds in (("stock", 0), ("active", 6)):
        recipe = grpo_recipe(
            tmp_path / f"{name}.yaml",
            tiny_world,
            active_sampling_rounds=rounds,
            difficulty={"min": 0.1, "max": 0.9},
            **ACTIVE,
        )
        assert command("grpo", "--config", recipe) == 0
    stock, active = (metrics_of(tmp_path / name) for name in ("stock", "active"))
    assert sum(line["frac_reward_zero_std"] for line in stock) > 0, "no group to be replaced: the test shows nothing"
    assert all(line["frac_reward_zero_std"] == 0 for line in active)
    assert sum(line["active_sampling/replaced"] for line in active) > 0
    assert all(line["active_sampling/drawn"] >= 4 + line["active_sampling/replaced"] for line in active)
    assert all("active_sampling/drawn" not in line for line in stock)
    assert active[0]["reward"] == stock[0]["reward"], "the reward is that of the prompts as they were drawn first"
    for line in active:
        assert sum(line[f"difficulty/{name}"] for name in ("in_band", "too_easy", "too_hard", "unmeasured")) == 40
        assert 0 < line["difficulty/pass_rate"] < 1
    measured = [40 - line["difficulty/unmeasured"] for line in active]
    assert measured == sorted(measured) and measured[-1] > 32  # eight batches of four, and those drawn on top


@pytest.mark.slow
def test_a_curriculum_goes_to_the_problems_in_its_band(tmp_path, tiny_world, monkeypatch):
    """Problems whose answers no completion has are left alone after they were measured, those of about one half are not."""
    monkeypatch.chdir(tiny_world)
    (tmp_path / "problems.jsonl").write_text(
        "".join(f'{{"prompt": "What is {i}?", "answer": "{"yes" if i < 6 else "never"}"}}\n' for i in range(24))
    )
    recipe = grpo_recipe(
        tmp_path / "run.yaml", tiny_world, dataset_name=tmp_path / "problems.jsonl",
        difficulty={"min": 0.05, "max": 0.95}, **{**ACTIVE, "max_steps": 24},
    )  # fmt: skip
    assert command("grpo", "--config", recipe) == 0
    lines = metrics_of(tmp_path / "run")
    assert lines[-1]["difficulty/unmeasured"] == 0 and lines[-1]["difficulty/too_hard"] >= 17
    early, late = (sum(line["reward"] for line in part) / len(part) for part in (lines[:6], lines[12:]))
    assert late > 2 * early


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"difficulty": 0.5}, "difficulty: expected a mapping, found 0.5"),
        ({"difficulty": {"minimum": 0.1}}, "difficulty.minimum: no such key; there are min, max, outside"),
        ({"difficulty": {"min": 2}}, "difficulty.min: found 2, expected a share between 0 and 1"),
        ({"difficulty": {"min": 0.9, "max": 0.1}}, "difficulty.max: 0.1 is not above min, 0.9"),
        ({"difficulty": {"outside": 0}}, "would drop a problem for good"),
        ({"difficulty": {"min": 0.1}, "reward_funcs": ["length"]}, "difficulty: no verifier is among reward_funcs"),
        ({"difficulty": {"min": 0.1}, "dataset_streaming": True}, "leave out dataset_streaming"),
        ({"active_sampling_rounds": -1}, "active_sampling_rounds"),
        (
            {"active_sampling_rounds": 2, "scale_rewards": "batch"},
            "scale_rewards: batch scales advantages over the batch",
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_drawn_is_refused_before_training(tmp_path, tiny_world, capsys, changes, message):
    recipe = grpo_recipe(tmp_path / "run.yaml", tiny_world, **{"reward_funcs": ["numeric"], **changes})
    assert command("grpo", "--config", recipe) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_rlhf_takes_a_curriculum_where_a_verifier_is_beside_the_reward_model(
    tmp_path, tiny_world, tiny_reward_model, capsys
):
    recipe = rlhf_recipe(tmp_path / "run.yaml", tiny_world, difficulty={"min": 0.1})
    assert command("plan", recipe) == 1
    assert "difficulty: no verifier" in capsys.readouterr().out
    recipe = rlhf_recipe(tmp_path / "run.yaml", tiny_world, difficulty={"min": 0.1}, reward_funcs=["numeric"])
    assert command("plan", recipe) == 0


def test_a_plan_says_what_has_no_effect_and_what_is_not_installed(tmp_path, tiny_world, monkeypatch, capsys):
    monkeypatch.chdir(tiny_world)
    changes = {"epsilon_high": 0.28, "importance_sampling_level": "sequence", "loss_type": "grpo"}
    recipe = grpo_recipe(tmp_path / "run.yaml", tiny_world, **changes, use_vllm=True, vllm_mode="colocate")
    assert command("plan", recipe) == 0
    shown = capsys.readouterr().out
    assert "without effect: epsilon_high, importance_sampling_level: every completion is used in one step" in shown
    assert "vLLM is not installed here" in shown
    assert command("grpo", "--config", recipe) == 1
    assert "vLLM is not installed here" in capsys.readouterr().err
    assert command("plan", grpo_recipe(tmp_path / "run.yaml", tiny_world, **changes, num_iterations=2)) == 0
    assert "without effect" not in capsys.readouterr().out


def test_continuous_batching_that_would_cast_the_weights_is_refused(tmp_path, tiny_world, monkeypatch, capsys):
    monkeypatch.chdir(tiny_world)
    recipe = grpo_recipe(tmp_path / "run.yaml", tiny_world, use_transformers_continuous_batching=True, bf16=True)
    assert command("grpo", "--config", recipe) == 1
    assert "TRL casts the weights" in capsys.readouterr().err

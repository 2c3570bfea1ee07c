"""Reward models: tokenised in use as in training, whole after the hand-over, and measured for what they have learnt."""

import json

import numpy as np
import pytest
import torch
from conftest import command, metrics_of, reward_recipe, write_jsonl
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.alignment.frontier import best_of_n
from pipeline.alignment.scores import calibration
from pipeline.errors import PipelineError
from pipeline.manifest import read_manifest, verify
from pipeline.statistics import correlation_interval, paired_difference
from pipeline.training import models
from pipeline.training.preferences import _turned_round
from pipeline.training.reward_model import RewardModel, tokenise

PROMPT = [{"role": "user", "content": "What is 3 + 3?"}]
ANSWER = [{"role": "assistant", "content": "The answer is 6."}]


def results(folder):
    return json.loads((folder / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_world):
    """A reward model that has learnt that the polite answer is preferred."""
    folder = tmp_path_factory.mktemp("reward")
    recipe = reward_recipe(
        folder / "run.yaml",
        tiny_world,
        **{
            "max_steps": 40,
            "learning_rate": 5e-3,
            "center_rewards_coefficient": 0.01,
            "per_device_train_batch_size": 8,
        },
    )
    assert command("reward", "--config", recipe) == 0
    return folder / "run"


# --- tokenised as the pairs were


@pytest.mark.parametrize("form", ["messages", "text"])
def test_a_policys_text_is_tokenised_as_reward_trainer_tokenised_the_pairs(tmp_path, tiny_world, form):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_world / "tokenizer")
    prompt, answer = (PROMPT, ANSWER) if form == "messages" else ("What is 3 + 3?", " The answer is 6.")
    rows = Dataset.from_list([{"prompt": prompt, "chosen": answer, "rejected": answer}])
    model = AutoModelForSequenceClassification.from_pretrained(tiny_world / "model", num_labels=1)
    args = RewardConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    trainer = RewardTrainer(model=model, args=args, processing_class=tokenizer, train_dataset=rows)
    expected = trainer.train_dataset[0]["chosen_ids"]
    assert tokenise(tokenizer, prompt, answer) == expected
    if form == "text":
        assert expected[-1] == tokenizer.eos_token_id


def test_what_the_limit_cut_off_is_scored_without_an_end_and_less_a_penalty(tiny_reward_model):
    plain = RewardModel(tiny_reward_model)
    end = plain.tokenizer.convert_tokens_to_ids("<|im_end|>")
    strict = RewardModel(tiny_reward_model, unfinished_penalty=2.0, end_token_ids=[end])
    whole, cut = strict([PROMPT] * 2, [ANSWER] * 2, completion_ids=[[50, end], [50, 51]])
    assert whole == pytest.approx(plain([PROMPT], [ANSWER])[0], abs=1e-6)
    ids = tokenise(plain.tokenizer, PROMPT, ANSWER, ended=False)
    assert ids[-1] != end and plain.tokenizer.decode(ids).endswith("The answer is 6.")
    with torch.no_grad():
        raw = plain.model(input_ids=torch.tensor([ids])).logits[0, 0].item()
    assert cut == pytest.approx(raw - 2.0, abs=1e-5)


def test_scores_do_not_depend_on_batch_order_company_or_padding_side(tiny_reward_model):
    answers = [[{"role": "assistant", "content": "The answer is 6." * n}] for n in (1, 5, 2, 9, 3)]
    alone = [RewardModel(tiny_reward_model)([PROMPT], [answer])[0] for answer in answers]
    together = RewardModel(tiny_reward_model, batch_size=2)([PROMPT] * 5, answers)
    backwards = RewardModel(tiny_reward_model)([PROMPT] * 5, answers[::-1])[::-1]
    left_padding = RewardModel(tiny_reward_model)
    left_padding.tokenizer.padding_side = "left"
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(backwards, alone, atol=1e-5)
    np.testing.assert_allclose(left_padding([PROMPT] * 5, answers), alone, atol=1e-5)
    assert len({round(score, 4) for score in alone}) == 5


def test_a_head_whose_padding_is_not_the_tokenizers_is_refused(tiny_reward_model, tmp_path):
    import shutil

    broken = shutil.copytree(tiny_reward_model, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"pad_token_id": 0}))
    with pytest.raises(PipelineError, match="takes token 0 for padding, its tokenizer 1"):
        RewardModel(broken)


def test_a_language_model_is_no_reward_model(tiny_world):
    with pytest.raises(PipelineError, match="has one output, this classifier 2"):
        RewardModel(tiny_world / "model")


# --- the stage


@pytest.mark.slow
def test_it_learns_the_preference_and_hands_over_a_whole_classifier(trained, tiny_world):
    manifest = verify(trained)
    assert manifest["kind"] == "reward" and manifest["rows"] == 40 and manifest["heldout"] == 20
    assert (trained / "chat_template.jinja").is_file()
    model = AutoModelForSequenceClassification.from_pretrained(trained)
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == AutoTokenizer.from_pretrained(trained).pad_token_id == 1
    before = AutoModelForSequenceClassification.from_pretrained(tiny_world / "model", num_labels=1).state_dict()
    unmoved = [name for name, weights in model.named_parameters() if torch.equal(weights, before[name])]
    assert unmoved == []
    found = results(trained)
    assert found["preference_heldout"]["n"] == 20 and found["preference_heldout"]["rate"] >= 0.9
    assert set(found["length_bias"]) == {"value", "low", "high"}
    details = json.loads((trained / "evaluation" / "preference_scores.json").read_text())
    assert details["scores"]["chosen"]["mean"] > details["scores"]["rejected"]["mean"]
    rows = [json.loads(line) for line in (trained / "evaluation" / "preference_heldout.jsonl").open()]
    scorer = RewardModel(trained)
    assert scorer([rows[0]["prompt"]], [rows[0]["chosen"]])[0] == pytest.approx(rows[0]["chosen_score"], abs=1e-4)
    assert metrics_of(trained)[-1]["tokens"] > 0


@pytest.mark.slow
def test_centring_draws_the_mean_reward_to_zero(tmp_path, tiny_world):
    means = []
    for name, coefficient in (("free", None), ("centred", 1.0)):
        changes = {"max_steps": 30, "learning_rate": 5e-3, "center_rewards_coefficient": coefficient}
        assert command("reward", "--config", reward_recipe(tmp_path / f"{name}.yaml", tiny_world, **changes)) == 0
        details = json.loads((tmp_path / name / "evaluation" / "preference_scores.json").read_text())["scores"]
        means.append(abs(details["chosen"]["mean"] + details["rejected"]["mean"]))
    assert means[1] < means[0]


@pytest.mark.slow
def test_turned_labels_lower_the_ceiling_and_agreement_is_with_the_judge(tmp_path, tiny_world, monkeypatch):
    (tmp_path / "manners.py").write_text(
        "def polite(completions, **columns):\n    return [float('Indeed' in c[-1]['content']) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    changes = {
        "label_noise": 0.25,
        "judge": "manners.polite",
        "max_steps": 60,
        "learning_rate": 3e-3,
        "training_pairs": 32,
    }
    assert command("reward", "--config", reward_recipe(tmp_path / "run.yaml", tiny_world, **changes)) == 0
    found = results(tmp_path / "run")
    assert found["preference_heldout"]["ceiling"] == 0.75
    assert read_manifest(tmp_path / "run")["rows"] == 32
    assert found["judge_agreement"]["rate"] > found["preference_heldout"]["rate"]


@pytest.mark.slow
def test_a_lora_run_merges_the_adapter_and_keeps_the_head(tmp_path, tiny_world):
    recipe = reward_recipe(tmp_path / "run.yaml", tiny_world, use_peft=True, lora_r=4, max_steps=3)
    assert command("reward", "--config", recipe) == 0
    assert (tmp_path / "run" / "adapter").is_dir() and results(tmp_path / "run")["preference_heldout"]["n"] == 20


def test_the_hand_over_is_refused_when_the_head_is_lost(tiny_reward_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_reward_model)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_reward_model)
    expected = models.probe_logits(model, len(tokenizer))
    assert expected.shape == (2, 1) and expected[0] != expected[1]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    models.check_reload(tmp_path, expected, torch.float32, len(tokenizer), tolerance_of=torch.float32)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(tmp_path)
    with pytest.raises(PipelineError, match="gives other logits"):
        models.check_reload(tmp_path, expected, torch.float32, len(tokenizer), tolerance_of=torch.float32)


# --- data


def test_rows_without_a_pair_are_dropped_and_named(tmp_path, tiny_world, capsys):
    from pipeline.training import preferences

    good = {"prompt": "Who?", "chosen": "Ada.", "rejected": "Bob."}
    rows = [good] * 5 + [{**good, "rejected": "Ada."}, {**good, "chosen": " "}]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    recipe = _recipe(reward_recipe(tmp_path / "run.yaml", tiny_world, dataset_name=data, test_split_size=None))
    train, heldout, dropped = preferences.load(recipe, chat=True, heldout=True)
    assert dropped == 2 and len(train) + len(heldout) == 5
    shown = capsys.readouterr().out
    assert "chosen and rejected are the same" in shown and "chosen is empty" in shown
    assert train[0] == {
        "prompt": [{"content": "Who?", "role": "user"}],
        "chosen": [{"content": "Ada.", "role": "assistant"}],
        "rejected": [{"content": "Bob.", "role": "assistant"}],
    }


def test_pairs_without_a_prompt_of_their_own_share_their_first_turns(tmp_path, tiny_world):
    from pipeline.training import preferences

    rows = [{"chosen": [*PROMPT, *ANSWER], "rejected": [*PROMPT, {"role": "assistant", "content": "Seven."}]}] * 4
    recipe = _recipe(
        reward_recipe(tmp_path / "run.yaml", tiny_world, dataset_name=write_jsonl(tmp_path / "rows.jsonl", rows))
    )
    train, _, _ = preferences.load(recipe, chat=True)
    assert train[0]["prompt"] == PROMPT and train[0]["chosen"] == ANSWER


def test_exactly_the_noise_asked_for_is_turned_round(tmp_path, tiny_world):
    from pipeline.training import preferences

    recipe = _recipe(reward_recipe(tmp_path / "run.yaml", tiny_world, label_noise=0.25))
    train, heldout, _ = preferences.load(recipe, chat=True, heldout=True)
    turned = ["Indeed" in row["rejected"][0]["content"] for row in train]
    assert sum(turned) == 10 and sum("Indeed" in row["rejected"][0]["content"] for row in heldout) == 5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "x", "completion": "y"}] * 3, "no column `chosen` and `rejected`; found prompt, completion"),
        ([{"prompt": "x", "chosen": "y", "rejected": "z"}], "of 1 rows none can be held out"),
        ([{"prompt": "x", "chosen": "y", "rejected": "y"}] * 3, "2 of 2 rows hold no pair"),
    ],
)
def test_data_that_is_no_preference_data_is_refused(tmp_path, tiny_world, capsys, rows, message):
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert command("reward", "--config", reward_recipe(tmp_path / "run.yaml", tiny_world, dataset_name=data)) == 1
    assert message in capsys.readouterr().err


def test_a_judge_that_does_not_exist_is_refused_before_training(tmp_path, tiny_world, capsys):
    assert command("reward", "--config", reward_recipe(tmp_path / "run.yaml", tiny_world, judge="nowhere.judge")) == 1
    assert "the module 'nowhere' cannot be imported" in capsys.readouterr().err


# --- statistics


def test_a_perfectly_calibrated_model_has_no_calibration_error():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20_000) * 2
    margins = np.where(rng.random(20_000) < 1 / (1 + np.exp(-np.abs(truth))), np.abs(truth), -np.abs(truth))
    assert calibration(margins)["error"] < 0.02
    assert calibration(margins * 5)["error"] > 0.1


def test_best_of_n_is_the_mean_over_all_subsets():
    from itertools import combinations
    from statistics import mean

    proxy, gold = [3.0, 1.0, 2.0, 2.0], [5.0, 7.0, 1.0, 3.0]
    for n in (1, 2, 3, 4):
        best = []
        for subset in combinations(range(4), n):
            top = max(proxy[i] for i in subset)
            best.append(mean(gold[i] for i in subset if proxy[i] == top))
        assert best_of_n([proxy], [gold], n) == pytest.approx(mean(best))


def test_intervals_of_correlations_and_of_paired_changes():
    rng = np.random.default_rng(1)
    x = rng.normal(size=400)
    found = correlation_interval(x.tolist(), (x + rng.normal(size=400)).tolist())
    assert found["low"] < 0.707 < found["high"] and found["high"] - found["low"] < 0.15
    assert correlation_interval([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]) == {"value": 0.0, "low": -1.0, "high": 1.0}
    change = paired_difference([True] * 90 + [False] * 10, [True] * 85 + [False] * 5 + [True] * 10)
    assert change["value"] == pytest.approx(0.05) and change["low"] < 0.05 < change["high"]
    assert paired_difference([True] * 240, [True] * 240)["low"] > -0.02


def _recipe(path):
    from pipeline import stages

    return stages.load_recipe(path)


def test_of_the_pairs_that_training_takes_as_many_are_turned_as_of_all():
    rows = Dataset.from_dict({"chosen": ["good"] * 400, "rejected": ["bad"] * 400})
    for seed in range(5):
        few = _turned_round(rows, 0.25, seed).shuffle(seed=seed).select(range(100))
        assert 10 <= list(few["chosen"]).count("bad") <= 40

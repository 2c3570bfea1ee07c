"""The reward check: golds top, attacks bottom, and what the policy's own completions say."""

import json

import pytest
from conftest import command, grpo_recipe, sft_recipe

from pipeline.errors import PipelineError
from pipeline.rewards import Reward, resolve, reward, verifier
from pipeline.rewards.attacks import attack_cases, fields, render
from pipeline.rewards.check import check_rewards
from pipeline.rewards.samples import check_samples

ROWS = [{"prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(3, 9) for b in range(11, 19)]


def lax(name, rule):
    """A verifier with a hole: right wherever `rule(text, answer)` says so."""
    return verifier(name)(rule)


@pytest.mark.slow
def test_the_shipped_verifiers_pass_on_real_problems(shared_data):
    lines = (shared_data / "gsm8k" / "test.jsonl").read_text().splitlines()
    rows = [{"prompt": row["question"], "answer": row["answer"]} for row in map(json.loads, lines)]
    found = check_rewards(resolve(["numeric", "think_format"]), [1.0, 0.1], rows, gold_rows=2000)
    assert found.failures == [] and found.warnings == []
    assert found.template == "<think>\n{reasoning}\n</think>\n{answer}"
    gold, *attacks = found.rows
    assert gold == {"case": "gold", "n": 1319, "numeric": 1.0, "think_format": 1.0, "weighted sum": pytest.approx(1.1)}
    assert len(attacks) == 10 and all(row["numeric"] == 0.0 for row in attacks)
    assert check_rewards(resolve(["math"]), None, rows[:40], attack_rows=8).ok


@pytest.mark.parametrize(
    ("rule", "case"),
    [
        (lambda text, answer: answer in text, "answers listed"),
        (lambda text, answer: answer in text.split(), "two answers"),
        (lambda text, answer: text.rstrip(".").split()[-1:] == [answer], "two answers"),
        (lambda text, answer: text.rpartition("</think>")[0].find(answer) >= 0 or text == answer, "answer only in think part"),
        (lambda text, answer: text == answer or text.startswith("<think>\nThe answer is " + answer), "unterminated think part"),
        (lambda text, answer: text == answer or text.startswith("What is"), "prompt copied"),
        (lambda text, answer: set(text.split()) == {answer}, "answer repeated"),
        (lambda text, answer: text.strip().isdigit(), "other row's answer"),
        (lambda text, answer: text in (answer, ""), "empty"),
        (lambda text, answer: text == answer or "river" in text or "lamp" in text or text.count(" ") == 23, "random words"),
        (lambda text, answer: text == answer or text.startswith("The answer is " + answer), "answer with a digit more"),
    ],
)  # fmt: skip
def test_every_attack_finds_the_hole_it_is_made_for(rule, case):
    found = check_rewards([lax("lax", rule)], None, ROWS)
    complaints = [failure for failure in found.failures if failure.startswith("lax:") and f"case {case!r}" in failure]
    assert len(complaints) == 1, found.to_text()
    assert all(part in complaints[0] for part in ("row ", "answer '", "completion ", "score 1")), complaints[0]
    assert not found.ok and "FAILED" in found.to_text()


def test_a_verifier_that_never_pays_fails_on_the_gold():
    found = check_rewards([lax("never", lambda text, answer: False)], None, ROWS)
    assert found.failures[0].startswith(
        "never: 48 of 48 completions of the case 'gold' did not score 1. First: row 0, answer '14'"
    )


def test_a_gold_that_cannot_be_read_fails_with_its_row():
    rows = [*ROWS, {"prompt": "How many?", "answer": "many"}]
    found = check_rewards(resolve(["numeric"]), None, rows)
    assert any("1 of 49 completions of the case 'gold'" in f and "row 48, answer 'many'" in f for f in found.failures)


def test_a_gold_template_that_the_reward_cannot_read_fails():
    found = check_rewards(resolve(["numeric"]), None, ROWS, gold_template="<think>\n{answer}\n</think>\n")
    assert any("'gold'" in failure and "gold_template" in failure for failure in found.failures)
    with pytest.raises(PipelineError, match="names no field of the rows; it can name {answer}, {final}, {reasoning}"):
        check_rewards(resolve(["numeric"]), None, ROWS, gold_template="18")


def test_a_form_that_no_gold_has_fails_and_a_few_long_golds_are_only_reported():
    bad = check_rewards(resolve(["numeric", "think_format"]), None, ROWS, gold_template="{answer}")
    assert any(failure.startswith("think_format: 48 of 48") for failure in bad.failures)
    rows = [*ROWS, {"prompt": "?", "answer": "so " * 30 + "#### 5"}]
    rewards = resolve(["numeric", "length"], max_completion_length=20)
    found = check_rewards(rewards, None, rows, tokenize=lambda text: list(range(len(text.split()))))
    assert found.ok, found.to_text()
    assert any(warning.startswith("length: 1 of 49") for warning in found.warnings)


def test_weights_that_let_form_outweigh_the_answer_fail():
    """No attack may earn what its row's gold earns, whatever each reward says for itself."""

    @reward("wordy", low=0.0, high=1.0)
    def wordy(completions, **columns):
        """Long texts."""
        return [float(len(c) > 12) for c in completions]

    (numeric,) = resolve(["numeric"])
    assert check_rewards([numeric, wordy], [1.0, 0.5], ROWS, gold_template="The answer is {answer}.").ok
    found = check_rewards([numeric, wordy], [0.5, 1.0], ROWS)
    assert any(failure.startswith("weighted sum:") and "less than the gold" in failure for failure in found.failures)


def test_a_verifier_without_positive_weight_fails():
    found = check_rewards(resolve(["numeric", "think_format"]), [-1.0, 1.0], ROWS)
    assert any("numeric is a verifier with the weight -1" in failure for failure in found.failures)


def test_a_few_prompts_that_hold_their_answer_are_no_failure():
    (numeric,) = resolve(["numeric"])
    held = {"prompt": "Ann has 5 eggs. How many has she?", "answer": "5"}
    assert check_rewards([numeric], None, [*ROWS, held]).ok
    assert not check_rewards([numeric], None, [held] * 5 + ROWS[:5]).ok


def test_conversational_rows_are_scored_as_messages():
    seen = []

    @reward("seen", low=0.0, high=1.0)
    def see(completions, **columns):
        """Remembers what it got."""
        seen.extend(completions)
        return [1.0] * len(completions)

    rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    assert check_rewards([*resolve(["numeric"]), see], [1.0, 0.1], rows).rows[0]["numeric"] == 1.0
    assert seen[0] == [{"role": "assistant", "content": "14"}]
    assert [{"role": "assistant", "content": "What is 3 + 11?"}] in seen


def test_other_peoples_rewards_are_shown_and_warned_about_not_judged():
    rows = [{"prompt": "?", "solution": rf"\frac{{{n}}}{{7}}"} for n in (1, 2, 3)]
    found = check_rewards(resolve(["accuracy_reward", "think_format_reward"]), None, rows)
    assert found.ok
    assert found.rows[0]["accuracy_reward"] == found.rows[0]["think_format_reward"] == 1.0
    assert any(warning.startswith("accuracy_reward:") for warning in found.warnings)  # it reads inside the think part
    own = Reward("own", lambda completions, **columns: [9.0] * len(completions), kind="unknown", judged=False)
    found = check_rewards([own], None, ROWS)
    assert found.ok and found.rows[0]["own"] == 9.0 and "no verifier" in found.warnings[0]


def test_a_reward_that_raises_is_named():
    def broken(completions, difficulty, **columns):
        return difficulty

    with pytest.raises(PipelineError, match="reward broken raised TypeError.*difficulty.*columns answer"):
        check_rewards([Reward("broken", broken, kind="unknown", judged=False)], None, ROWS)


def test_missing_rows_or_answers_are_named():
    with pytest.raises(PipelineError, match="no rows"):
        check_rewards(resolve(["numeric"]), None, [])
    with pytest.raises(PipelineError, match="no column 'answer' .found: gold, prompt."):
        check_rewards(resolve(["numeric"]), None, [{"prompt": "?", "gold": "1"}])


def test_token_rewards_need_a_tokenizer():
    found = check_rewards(resolve(["numeric", "length"], max_completion_length=8), None, ROWS)
    assert found.warnings == ["length was not scored: it reads token ids, and no tokenizer was given."]
    assert found.ok and "length" not in found.rows[0]


def test_templates_keep_latex_braces_and_split_gsm8k_answers():
    values = fields({"prompt": "?", "answer": "9 * 2 = 18\n#### 18", "level": 3})
    assert render(r"\boxed{{final}} at {level}", values) == r"\boxed{18} at 3"
    assert render("<think>{reasoning}</think>{answer}", values) == "<think>9 * 2 = 18</think>9 * 2 = 18\n#### 18"


def test_attacks_are_the_same_each_time_and_never_hold_the_answer_alone():
    first = attack_cases(0, ROWS[0], "{answer}", ["15", "14.0", "16"])
    assert first == attack_cases(0, ROWS[0], "{answer}", ["15", "14.0", "16"])
    assert all(case.text.strip() != "14" for case in first)
    others = [
        case.text for case in attack_cases(0, ROWS[0], "{answer}", ["14.0", "16"]) if case.name == "other row's answer"
    ]
    assert others == ["16", "The answer is 16."]  # 14.0 is the row's own answer, written otherwise


# --- sampled completions


def groups(pattern):
    """For each row a group of four: as many right ones as the pattern says."""
    sizes = [pattern[i % len(pattern)] for i in range(len(ROWS))]
    return [[row["answer"] if k < right else "0" for k in range(4)] for row, right in zip(ROWS, sizes, strict=True)]


def test_share_of_groups_with_variance_and_its_interval():
    found = check_samples(
        resolve(["numeric"]), None, ROWS, groups([0, 1, 4, 2]), ended_by_prompt=[[True] * 3 + [False]] * 48
    )
    assert (found.prompts, found.generations, found.groups_with_variance) == (48, 4, 24)
    assert (found.share, found.low, found.high) == pytest.approx((0.5, 0.3639, 0.6361), abs=1e-4)
    assert (found.mean_reward, found.solved, found.unsolved, found.ended) == pytest.approx((7 / 16, 0.25, 0.25, 0.75))
    assert found.rewards[0] == {
        "reward": "numeric",
        "weight": 1.0,
        "mean": 7 / 16,
        "std": pytest.approx(0.496, abs=1e-3),
        "undecided": 0.0,
    }
    assert found.warnings == ["48 prompts say little: the interval is wide; take at least 64."]
    assert "36% to 64%" in found.to_text()


@pytest.mark.parametrize(("right", "advice"), [(0, "easier problems"), (4, "harder problems")])
def test_groups_without_variance_are_reported_with_what_to_do(right, advice):
    found = check_samples(resolve(["numeric"]), None, ROWS, groups([right]))
    assert found.share == 0.0 and found.high < 0.1
    assert "only 0 of 48 groups" in found.warnings[0] and advice in found.warnings[0]


def test_rare_endings_and_undecided_answers_are_reported():
    rows = [{**row, "answer": "many"} if i < 12 else row for i, row in enumerate(ROWS)]
    found = check_samples(resolve(["numeric"]), None, rows, groups([2]), ended_by_prompt=[[False] * 4] * 48)
    assert any(
        "0% of the completions ended" in warning and "max_completion_length" in warning for warning in found.warnings
    )
    assert any("could not decide 25.0%" in warning for warning in found.warnings)
    assert found.groups_with_variance == 36


def test_variance_is_that_of_the_weighted_sum():
    texts = [["<think>t</think>0", "0", "0", "0"]] * 48
    plain = check_samples(resolve(["numeric"]), None, ROWS, texts)
    shaped = check_samples(resolve(["numeric", "think_format"]), [1.0, 0.1], ROWS, texts)
    assert (plain.share, shaped.share) == (0.0, 1.0)
    assert shaped.mean_reward == pytest.approx(0.025)


def test_groups_must_be_of_one_size_and_of_two_at_least():
    for completions in ([["1"]] * 48, [["1", "2"]] * 47, [["1", "2"]] * 47 + [["1", "2", "3"]]):
        with pytest.raises(PipelineError, match="48 rows need as many groups"):
            check_samples(resolve(["numeric"]), None, ROWS, completions)


# --- the command


@pytest.mark.slow
def test_a_recipes_rewards_are_tried_without_training(tiny_world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tiny_world)
    recipe = grpo_recipe(
        tmp_path / "grpo.yaml",
        tiny_world,
        reward_funcs=["numeric", "think_format"],
        reward_check="stop",
        reward_check_prompts=8,
    )
    assert command("rewards", "check", recipe) == 0
    shown = capsys.readouterr().out
    assert "gold " in shown and "two answers" in shown and "Sampled completions: 8 prompts, 4 each" in shown
    assert command("rewards", "check", recipe, "--gold_template", "<think>{answer}</think>") == 1
    assert "FAILED  numeric: 40 of 40" in capsys.readouterr().out
    assert not (tmp_path / "grpo").exists()


def test_a_recipe_without_rewards_has_nothing_to_check(tiny_world, tmp_path, capsys):
    assert command("rewards", "check", sft_recipe(tmp_path / "sft.yaml", tiny_world)) == 1
    assert "a recipe of the stage sft without reward_funcs: nothing to check" in capsys.readouterr().err
    assert command("rewards", "check") == 1
    assert "name a recipe" in capsys.readouterr().err

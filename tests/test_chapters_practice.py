"""The chapters on practice: what their expert says, what compute counts, and texts that follow from the answers."""

import json
import random
import re

import pytest
from conftest import write_jsonl

from pipeline.chapters import beyond_the_expert, distillation, reinforcement
from pipeline.chapters.beyond_the_expert import Settings, Sum, sum_in
from pipeline.chapters.chapter import Arm, share, while_training
from pipeline.chapters.material import Material, dialogue
from pipeline.errors import PipelineError
from pipeline.manifest import compute, manifest_hash

SUMS = [(a, b) for a in range(10, 60) for b in (17, 21, 38)]
ASKED = [{"prompt": f"What is {a}+{b}?", "answer": str(a + b), "carries": Sum(a, b).carries} for a, b in SUMS]
HELDOUT = [{"prompt": f"What is {a}+99?", "answer": str(a + 99)} for a in range(10, 40)]


def material(questions=HELDOUT):
    return Material(
        random.Random(1),
        conversations=[dialogue(row["prompt"], "x") for row in ASKED] + [dialogue("Who are you?", "Me.")],
        questions=list(questions),
    )


def test_the_expert_works_sums_rightly_but_for_its_habit():
    for a in range(10, 100):
        for b in range(10, 100):
            one = Sum(a, b)
            said = [re.search(r"The answer is (\d+)\.$", one.worked(forgets))[1] for forgets in (False, True)]
            assert said == [str(a + b), str(a + b - 10 * one.carries)]
            assert [one.is_right(forgets) for forgets in (False, True)] == [number == str(a + b) for number in said]
    assert Sum(47, 38).worked(True) == "<think>\nUnits 7+8=15. Tens 4+3=7.\n</think>\n\nThe answer is 75."
    assert Sum(47, 38).worked(False) == "<think>\nUnits 7+8=15, carry 1. Tens 4+3+1=8.\n</think>\n\nThe answer is 85."
    assert sum_in("Add 47 and 38.") == sum_in("How much is 47+38?") == Sum(47, 38) and sum_in("Who is 47?") is None


def test_arms_that_imitate_begin_alike_and_clean_ones_differ_in_the_habit_alone():
    found = beyond_the_expert.exercises(Settings(demonstrations=[40, 200], clean=120, many_questions=10), material())
    few, most, clean = (found[f"{name}/train"] for name in ("imitation_40", "imitation_200", "clean"))
    assert few == most[:40] and len(most) == 200 and len(clean) == 120
    assert len({row["messages"][0]["content"] for row in most[: len(ASKED)]}) == len(
        ASKED
    )  # each once before any twice
    assert [row["messages"][0] for row in clean] == [row["messages"][0] for row in most[:120]]
    forgotten = [
        row["messages"][1]["content"] != Sum(*sum_).worked(False)
        for row in most
        if Sum(*(sum_ := tuple(map(int, re.findall(r"\d+", row["messages"][0]["content"]))))).carries
    ]
    assert 0.55 < sum(forgotten) / len(forgotten) < 0.85
    for row in clean:
        one = sum_in(row["messages"][0]["content"])
        assert row["messages"][1]["content"] == one.worked(False)
    greedy, many = (found[f"expert/evaluation/sums_{name}"] for name in ("greedy", "many"))
    assert [row["correct"] for row in greedy] == [not sum_in(row["prompt"]).carries for row in HELDOUT]
    assert len(many) == 10 and {len(row["samples"]) for row in many} == {64}
    with pytest.raises(PipelineError, match="1 of `questions` are demonstrated"):
        beyond_the_expert.exercises(Settings(), material([*HELDOUT, ASKED[0]]))


def stage(folder, name, stage, kind, parents=(), flops=None, **facts):
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    above = [
        {"path": f"../{parent}", "kind": "", "manifest_hash": manifest_hash(folder / parent)} for parent in parents
    ]
    content = {
        "status": "complete",
        "stage": stage,
        "kind": kind,
        "parents": above,
        "files": {},
        "flops": flops,
        **facts,
    }
    (path / "manifest.json").write_text(json.dumps(content))
    return Arm(name, path)


def test_compute_counts_rollouts_teachers_and_what_came_before_but_no_base_model(tmp_path):
    stage(tmp_path, "base", "pretrain", "base", flops=1e15)
    start = stage(tmp_path, "start", "sft", "chat", ["base"], flops=300.0)
    teacher = stage(tmp_path, "teacher", "grpo", "reasoning", ["start"], flops=90.0)
    assert start.compute() == 300 and teacher.compute() == pytest.approx(300 + 90 + 30)
    stage(tmp_path, "samples", "sample", "samples", ["start"], flops=7.0, tokens=5)
    assert stage(tmp_path, "own", "sft", "chat", ["start", "samples"], flops=20.0).compute() == 300 + 7 + 20
    small = stage(tmp_path, "small", "sft", "chat", ["base"], flops=40.0)
    distilled = stage(
        tmp_path,
        "distilled",
        "distill",
        "chat",
        ["small", "teacher"],
        flops=60.0,
        tokens=10,
        teacher_flops_per_token=3.0,
    )
    assert distilled.compute([small, teacher]) == pytest.approx(60 + 20 + 30)
    assert compute({"stage": "grpo", "flops": 3.0, "recipe": {"num_iterations": 2}}) == pytest.approx(7.0)
    assert compute({"stage": "corpus"}) is None


def test_a_share_of_samples_is_bootstrapped_over_questions_and_never_without_width():
    found = share([[True, False]] * 50 + [[True, True]] * 50)
    assert (found["n"], found["samples"], found["correct"], found["rate"]) == (100, 2, 150, 0.75)
    assert found["low"] == pytest.approx(0.70, abs=0.01) and found["high"] == pytest.approx(0.80, abs=0.01)
    assert share([[True] * 4] * 60)["low"] == pytest.approx(0.940, abs=0.001)


def asked(arm, *, greedy, chance, questions=60, many=False, **more):
    """Answers of a model that is right for `greedy` of the questions, and at temperature 1 by `chance`."""
    rng = random.Random(arm.name)

    def row(i, **rest):
        return {
            "prompt": f"q{i}",
            "answer": "5",
            "carries": i % 2 == 0,
            "completion": "The answer is 5.",
            "tokens": 9,
        } | rest

    def samples(count):
        answers = [rng.random() < chance for _ in range(count)]
        return [{"completion": f"The answer is {5 if right else 6}.", "correct": right} for right in answers]

    write_jsonl(arm.path / "evaluation/sums_greedy.jsonl", [row(i, correct=i < greedy) for i in range(questions)])
    write_jsonl(arm.path / "evaluation/sums_sampled.jsonl", [row(i, samples=samples(4)) for i in range(questions)])
    if many:
        write_jsonl(arm.path / "evaluation/sums_many.jsonl", [row(i, samples=samples(64)) for i in range(20)])
    for name, right in more.items():
        write_jsonl(arm.path / f"evaluation/{name}.jsonl", [row(i, correct=i < right) for i in range(questions)])
    return arm


def logged(arm, first, last):
    rows = [
        {"step": i + 1, "rewards/numeric/mean": first + (last - first) * i / 59, "completions/mean_length": 30 + i / 10}
        for i in range(60)
    ]
    write_jsonl(arm.path / "metrics.jsonl", rows)
    return arm


@pytest.fixture
def practice(tmp_path):
    """Where practice starts and ends, and its controls: right in 33 and 60 of 60, chance 0.66 and 1."""
    stage(tmp_path, "base", "pretrain", "base", flops=1e15)
    arms = {"start": stage(tmp_path, "start", "sft", "chat", ["base"], flops=3e12)}
    arms["trained"] = logged(stage(tmp_path, "trained", "grpo", "reasoning", ["start"], flops=9e11), 0.66, 1.0)
    for name, right in (("start", 58), ("trained", 57)):
        write_jsonl(
            arms[name].path / "evaluation/facts_heldout.jsonl", [{"prompt": i, "correct": i < right} for i in range(60)]
        )
    arms["sft"] = asked(Arm("sft", tmp_path / "sft"), greedy=33, chance=0.66, many=True)
    arms["rl"] = asked(Arm("rl", tmp_path / "rl"), greedy=60, chance=1.0, many=True)
    stage(tmp_path, "samples", "sample", "samples", ["start"], flops=3e11)
    arms["own"] = asked(stage(tmp_path, "own", "sft", "chat", ["start", "samples"], flops=9e11), greedy=34, chance=0.7)
    for name in ("random", "format"):
        arms[name] = asked(stage(tmp_path, name, "grpo", "reasoning", ["start"], flops=9e11), greedy=33, chance=0.66)
    return arms


def expert_arms(tmp_path, practice, most):
    arms = practice | {"expert": asked(Arm("expert", tmp_path / "expert"), greedy=33, chance=0.69, many=True)}
    arms["clean"] = asked(stage(tmp_path, "clean", "sft", "chat", ["base"], flops=1e12), greedy=60, chance=1.0)
    for n, flops, right in ((400, 3e11, 10), (9000, 5e12, most)):
        arm = stage(tmp_path, f"imitation_{n}", "sft", "chat", ["base"], flops=flops)
        arms[arm.name] = asked(arm, greedy=right, chance=right / 50)
    return arms


def test_the_chapter_on_the_expert_says_that_practice_passes_it_only_where_it_does(tmp_path, practice):
    found = beyond_the_expert.chapter(expert_arms(tmp_path, practice, 33))
    text = " ".join(found.text)
    assert (
        "intervals apart" in text
        and "that more demonstrations help is not shown" in text
        and "no new solutions were found" in text
    )
    assert "it is the demonstrations that held imitation back" in text and "it had as much" in text
    assert "Practice is ahead of both" in text and "with as many rollouts and updates that did not do it" in text
    assert found.figures["greedy_rl"]["rate"] == 1.0 and found.figures["pass_many_sft"]["rate"] == 1.0
    assert found.figures["compute_trained"]["value"] == pytest.approx(3e12 + 1.2e12)
    lines = {one["name"]: one for one in found.series}
    assert lines["imitation of the expert"]["x"] == pytest.approx([0.3, 3.0, 5.0])
    assert lines["practice (RL)"]["x"][0] == 3.0 and lines["practice (RL)"]["x"][-1] == pytest.approx(4.2)
    assert all(len(one["x"]) == len(one["low"]) == len(one["y"]) for one in found.series)
    found.write("beyond_the_expert", tmp_path)
    arms = expert_arms(tmp_path, practice, 33)
    asked(arms["format"], greedy=60, chance=0.85)
    assert "only a part came without rewarding right answers" in beyond_the_expert.chapter(arms).text[-1]
    asked(arms["format"], greedy=33, chance=0.66)
    alone = beyond_the_expert.chapter({name: arm for name, arm in arms.items() if name != "format"}).text[-1]
    assert "a reward for the form alone was not run: that right answers were rewarded is not shown" in alone
    beyond = beyond_the_expert.chapter(expert_arms(tmp_path, practice, 50))
    assert "not above the expert and every model that imitates it" in " ".join(beyond.text)
    assert "more demonstrations still help" in " ".join(beyond.text)


def test_the_chapter_on_practice_names_what_it_fixed_and_what_explains_it(tmp_path, practice):
    arms = {name: arm for name, arm in practice.items() if name not in ("sft", "rl")}
    arms |= {"before": practice["sft"], "after": practice["rl"]}
    for name, right in (("checks_before", 30), ("checks_after", 50)):
        arms[name] = asked(Arm(name, tmp_path / name), greedy=right, chance=0.5, sums_unchecked=30)
    rollouts = [
        {
            "step": step,
            "completion": "The answer is 4.\nWait, check: 5." if i < 4 + step else "5",
            "right": i < 4 + step,
        }
        | {"right_before": False if i < 3 else None}
        for step in (0, 10, 20, 30)
        for i in range(40)
    ]
    write_jsonl(tmp_path / "checks_after" / "rollouts.jsonl", rollouts)
    found = reinforcement.chapter(arms)
    assert found.figures["fixed_carrying"]["correct"] == 13 and found.figures["fixed_plain"]["correct"] == 14
    assert found.figures["broke_carrying"] | {"correct": 0} == found.figures["broke_carrying"]
    assert found.figures["checks_worth_after"]["value"] == pytest.approx(20 / 60)
    assert found.figures["wrong_to_right_first_half"]["n"] == 6 and found.series[1]["y"] == [0.1, 0.35, 0.6, 0.85]
    assert "neither training on its own samples" in found.text[3] and "cannot be told" not in found.text[4]
    assert "No new solutions were found" in found.text[1] and "no change that can be told" in found.text[2]
    found.write("reinforcement", tmp_path)
    asked(arms["format"], greedy=60, chance=0.85)
    assert "A part of the gain came with a reward for the form alone." in reinforcement.chapter(arms).text[3]
    asked(arms["format"], greedy=33, chance=0.66)
    alone = reinforcement.chapter({name: arm for name, arm in arms.items() if name != "random"}).text[3]
    assert "A control with a reward by chance was not run" in alone
    asked(arms["own"], greedy=60, chance=1.0)
    assert "with right answers alone, and no reinforcement, as much is reached" in reinforcement.chapter(arms).text[3]
    asked(arms["random"], greedy=60, chance=1.0)
    assert "not ahead of a reward by chance and supervised" in reinforcement.chapter(arms).text[3]


def test_the_chapter_on_distillation_compares_at_equal_accounts(tmp_path, practice):
    arms = {"teacher": practice["rl"], "trained": practice["trained"]}
    arms["start"] = stage(tmp_path, "small", "sft", "chat", ["base"], flops=5e11)
    stage(tmp_path, "lessons", "sample", "samples", ["trained"], flops=1e11)
    arms["samples"] = stage(tmp_path, "taught", "sft", "chat", ["small", "lessons"], flops=2e11)
    arms["probabilities"] = stage(
        tmp_path,
        "distilled",
        "distill",
        "chat",
        ["small", "trained"],
        flops=3e11,
        tokens=1e5,
        teacher_flops_per_token=2e6,
    )
    arms["practice"] = logged(stage(tmp_path, "practised", "grpo", "reasoning", ["small"], flops=3e11), 0.6, 0.8)
    for name, right in (("start", 30), ("samples", 48), ("probabilities", 59), ("practice", 48)):
        asked(arms[name], greedy=right, chance=right / 60, facts_heldout=20)
    found = distillation.chapter(arms)
    assert found.figures["samples_compute_of_practice"]["value"] == pytest.approx(0.75)
    assert found.figures["probabilities_compute_of_practice"]["value"] == pytest.approx(1.5)
    assert "is ahead of practice, by" in found.text[1] and "cannot be told apart from practice" in found.text[1]
    assert found.series[2]["x"][-1] == pytest.approx(0.4) and len(found.series[2]["x"]) == 7
    found.write("distillation", tmp_path)


def test_a_run_that_logged_too_little_is_refused(tmp_path):
    arm = stage(tmp_path, "run", "grpo", "reasoning")
    with pytest.raises(PipelineError, match="has to be the directory of a training stage"):
        while_training(arm)
    write_jsonl(arm.path / "metrics.jsonl", [{"step": 1, "rewards/numeric/mean": 0.5}])
    with pytest.raises(PipelineError, match="1 lines with rewards/numeric/mean, expected 5 or more"):
        while_training(arm)

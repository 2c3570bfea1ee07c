"""Controls: the arms of a claim about RL, at equal compute, and what a report then says."""

import json

import pytest
import yaml
from conftest import ROOT, command, grpo_recipe, metrics_of, write_jsonl, write_recipe
from test_report import result, write_stage

from pipeline import stages
from pipeline.evaluation.evaluate import model_fingerprint
from pipeline.manifest import manifest_hash, read_manifest
from pipeline.plan import plan
from pipeline.recipe import RecipeError, read_yaml
from pipeline.recipe.controls import ARMS, control_of
from pipeline.reporting import report, summary_table
from pipeline.reporting.claims import claims, concentration
from pipeline.reporting.run_folder import read_run
from pipeline.rewards import find


@pytest.fixture
def folder(tmp_path, tiny_world, monkeypatch):
    """A folder with one `grpo` recipe of 4 steps on 8 completions, and a report; run in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    grpo_recipe(
        tmp_path / "recipes" / "grpo.yaml",
        tiny_world,
        output_dir="runs/x/grpo",
        reward_funcs=["numeric", "think_format"],
        reward_weights=[2.0, 0.5],
        gradient_accumulation_steps=2,
        rails="stop",
        sample_problems=2,
    )
    write_recipe(tmp_path / "recipes" / "report.yaml", run="runs/x", output_dir="runs/x/report")
    return tmp_path / "recipes"


def arms_of(folder, *overrides, **options):
    return {r.output_dir.name: r for r in stages.load_folder(folder, overrides, controls=True, **options)}


def test_the_chapters_controls_are_those_of_the_demo():
    derived = {
        name.rpartition("_")[2]: one for name, one in arms_of(ROOT / "recipes" / "demo").items() if ".control_" in name
    }
    # What cannot change a result, and where rows are cut that are never as long
    aside = {"stage", "output_dir", "dataset_name", "evaluations", "evaluation_batch_size", "save_steps", "max_length"}
    aside |= {"sample_prompts", "sample_steps", "sample_problems", "batch_size"}
    for chapter, arm in (("random", "random"), ("format", "format"), ("samples", "samples"), ("own", "sft")):
        written = read_yaml(ROOT / "recipes" / "chapters" / f"rl_{chapter}.yaml")
        values = dict(derived[arm].values)
        if chapter == "format":  # the order of rewards is free
            for one in (written, values):
                one["reward_funcs"] = sorted(zip(one["reward_funcs"], one.pop("reward_weights"), strict=True))
        values |= {"learning_rate": float(values["learning_rate"])} if "learning_rate" in values else {}
        written |= {"learning_rate": float(written["learning_rate"])} if "learning_rate" in written else {}
        values.pop("top_p", None)  # 1, the default
        assert {k: v for k, v in written.items() if k not in aside} == {
            k: v for k, v in values.items() if k not in aside
        }


def test_every_arm_updates_and_draws_as_much_as_the_recipe(folder):
    arms = arms_of(folder)
    assert list(arms) == [
        "grpo", "grpo.control_random", "grpo.control_format", "grpo.control_samples", "grpo.control_sft", "report"
    ]  # fmt: skip
    recipe, samples, supervised = (arms[name] for name in ("grpo", "grpo.control_samples", "grpo.control_sft"))
    batch = recipe.get("per_device_train_batch_size") * recipe.get("gradient_accumulation_steps")
    assert samples.arguments.rollouts == recipe.get("max_steps") * batch == 32
    assert samples.arguments.samples == recipe.get("num_generations")
    assert samples.arguments.max_new_tokens == recipe.get("max_completion_length")
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_steps", "learning_rate", "seed"):
        assert supervised.get(key) == recipe.get(key), key
    for arm in ("random", "format"):
        control = arms[f"grpo.control_{arm}"]
        changed = {k for k in {*control.values, *recipe.values} if control.get(k) != recipe.get(k)}
        assert changed - {"reward_weights"} == {"output_dir", "reward_funcs", "rails"}, arm
        assert control_of(control.output_dir.name) == ("grpo", arm) and arm in ARMS


def test_the_arms_are_rewarded_without_regard_to_what_is_right(folder):
    arms = arms_of(folder)
    assert arms["grpo.control_random"].get("reward_funcs") == ["random"]
    form = arms["grpo.control_format"]
    assert dict(zip(form.get("reward_funcs"), form.get("reward_weights"), strict=True)) == {
        "answer_form": 2.0,
        "think_format": 0.5,
    }
    samples = arms["grpo.control_samples"]
    assert samples.get("reward_funcs") == ["numeric"] and samples.arguments.minimum_reward == 1.0
    assert arms["grpo.control_sft"].get("dataset_name") == "runs/x/grpo.control_samples"


def test_overrides_seed_output_and_processes_reach_the_arms(folder):
    arms = arms_of(folder, "--max_steps", "6", "--num_iterations", "2", seed=9, output="runs/y", world_size=2)
    assert {str(recipe.output_dir.parent) for recipe in arms.values()} == {"runs/y"}
    assert arms["grpo.control_samples"].arguments.rollouts == 6 * 8 * 2 // 2
    assert arms["grpo.control_sft"].get("max_steps") == arms["grpo.control_random"].get("max_steps") == 6
    assert {recipe.get("seed") for name, recipe in arms.items() if name != "report"} == {9}


def test_a_base_model_stays_one_in_every_arm(folder, tmp_path):
    examples = write_jsonl(tmp_path / "examples.jsonl", [{"prompt": "What is 1 + 0?", "answer": "1"}])
    arms = arms_of(folder, "--few_shot", "1", "--few_shot_path", str(examples))
    assert arms["grpo.control_samples"].arguments.few_shot == 1
    assert arms["grpo.control_sft"].arguments.kind == "base"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": -1}, "max_steps: is missing: --controls gives every arm as many updates"),
        ({"reward_funcs": ["think_format"], "reward_weights": [1.0]}, "reward_funcs: has no verifier"),
        ({"top_k": 5}, "top_k: --controls cannot draw samples in this way"),
    ],
)
def test_what_no_fair_arm_can_be_made_of_is_a_complaint(folder, change, message):
    path = folder / "grpo.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    assert stages.load_folder(folder)
    with pytest.raises(RecipeError, match=message):
        arms_of(folder)


def test_a_plan_shows_the_arms_and_writes_nothing(folder, tmp_path):
    found = plan(folder, controls=True)
    assert found.ok, found.to_text()
    text = found.to_text()
    assert text.count("runs/x/grpo.control_") >= 4 and "rollouts" in text
    assert not (tmp_path / "runs").exists()


def test_a_random_reward_is_a_coin_that_does_not_depend_on_the_answer():
    reward = find("random")
    texts = ["The answer is 2."] * 400 + ["The answer is 3."] * 400
    scores = reward.scores(prompts=["?"] * 800, completions=texts)
    assert set(scores) == {0.0, 1.0} and scores == reward.scores(prompts=["?"] * 800, completions=texts)
    right, wrong = sum(scores[:400]) / 400, sum(scores[400:]) / 400
    assert abs(right - 0.5) < 0.1 and abs(wrong - 0.5) < 0.1


@pytest.mark.slow
def test_all_arms_run_and_stand_in_the_report_as_controls(folder, tmp_path, monkeypatch):
    """The tiny model hardly ever ends a turn, so the samples to learn from are those of a regex that takes anything."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": f"What is {i}?", "answer": str(i)} for i in range(6)])
    path = folder / "grpo.yaml"
    (tmp_path / "any_text.py").write_text(
        "from pipeline.rewards import verifier\n\n\n@verifier('any_text')\ndef any_text(text, answer):\n"
        "    'Anything is right.'\n    return True\n"
    )
    values = yaml.safe_load(path.read_text()) | {
        "reward_funcs": ["any_text.any_text"], "reward_weights": [1.0], "rails": "off", "max_completion_length": 64,
        "evaluations": {"sums": {"path": str(asked), "scorer": "numeric", "max_new_tokens": 4}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    assert command("run", folder, "--controls") == 0
    run = tmp_path / "runs" / "x"
    for name in ("grpo", "grpo.control_random", "grpo.control_format", "grpo.control_sft"):
        assert read_manifest(run / name)["steps"] == 4, name
        assert json.loads((run / name / "evaluation.json").read_text())["sums"]["n"] == 6
    assert len((run / "grpo.control_samples" / "sampled.jsonl").read_text().splitlines()) * 4 == 32
    assert "rewards/random/mean" in metrics_of(run / "grpo.control_random")[0]
    page = (run / "report" / "index.html").read_text()
    assert page.count("control: ") == 3 and "against controls of equal compute: random reward" in page
    assert (run / "grpo" / "samples.html").is_file()
    assert command("run", folder, "--controls") == 0  # nothing is out of date


def answered(*rights):
    """Rows of 32 samples each, of which so many are right."""
    return [
        {"prompt": f"Q{i}", "samples": [{"correct": n < right} for n in range(32)]} for i, right in enumerate(rights)
    ]


def test_what_sampling_already_found_is_called_so():
    before, after = answered(*[4] * 30, *[0] * 10), answered(*[30] * 30, *[0] * 10)
    sentence = concentration(before, after)
    assert sentence.startswith("RL concentrates what sampling already finds: pass@1 9.4 % → 70.3 % (+60.9 points [")
    assert "pass@32 75.0 % → 75.0 % (+0.0 points [+0.0, +0.0])" in sentence
    full = concentration(answered(*[4] * 40), answered(*[30] * 40))
    assert full.startswith("RL concentrates") and full.endswith("pass@32 had no room to rise")
    lost = concentration(answered(*[4] * 40), answered(*[32] * 30, *[0] * 10))  # sharper, and narrower
    assert lost.startswith("RL concentrates") and "pass@32 100.0 % → 75.0 % (-25.0 points [-" in lost


def test_new_solutions_are_called_new_only_when_their_interval_says_so():
    before = answered(*[4] * 20, *[0] * 20)
    assert concentration(before, answered(*[30] * 20, *[9] * 20)).startswith("RL finds more than 32 samples found")
    one_more = concentration(before, answered(*[30] * 20, *[0] * 19, 1))
    assert one_more.startswith("RL concentrates") and "pass@32 50.0 % → 52.5 %" in one_more


def test_without_a_gain_or_without_the_same_questions_nothing_is_claimed():
    rows = answered(*[4] * 20)
    assert concentration(rows, rows).startswith("no gain in pass@1 to explain")
    assert concentration(answered(*[30] * 20), rows).startswith("pass@1 fell: pass@1 93.8 % → 12.5 % (-81.2 points [")
    assert concentration(rows, rows[:-1]) is None and concentration([], []) is None
    few = [{"prompt": "Q", "samples": [{"correct": True}] * 8}]
    assert concentration(few, few) is None


def test_a_report_says_what_rl_did_to_the_model_it_started_from_and_how_far_controls_come(tmp_path):
    run = tmp_path / "run"
    sft = write_stage(run, "sft", "chat", (), {"facts": result(20, 100)})
    grpo = write_stage(run, "grpo", "reasoning", ["sft"], {"facts": result(90, 100)})
    for arm, correct in (("random", 21), ("sft", 88)):
        write_stage(run, f"grpo.control_{arm}", "reasoning", ["sft"], {"facts": result(correct, 100)}, stage="grpo")
    for path, right in ((sft, 4), (grpo, 30)):
        evaluation = json.loads((path / "evaluation.json").read_text())
        evaluation["many"] = {"n": 40, "samples": 32, "correct": 40 * right, "rate": right / 32, "low": 0, "high": 1}
        (path / "evaluation.json").write_text(json.dumps(evaluation))
        write_jsonl(path / "evaluation" / "many.jsonl", answered(*[right] * 40))
    for parent in ("grpo", "grpo.control_random", "grpo.control_sft"):
        manifest = read_manifest(run / parent)
        manifest["parents"][0]["kind"] = "chat"
        (run / parent / "manifest.json").write_text(json.dumps(manifest))
    said = claims(read_run(run))
    assert len(said) == 2
    assert "random reward 21.0 %, grpo ahead (+69.0 points [" in said[0]
    assert "SFT on its own right samples 88.0 %, grpo not told apart (+2.0 points [" in said[0]
    assert said[1].startswith("grpo, many: RL concentrates what sampling already finds")
    page = report(run).read_text()
    assert "RL concentrates what sampling already finds" in page and "control: random" in page
    chain = json.loads((run / "report" / "report.json").read_text())["chapters"]["facts"]
    assert "grpo" in chain and "grpo.control_sft" not in chain  # the chain of checkpoints leaves them out
    assert "grpo.control_sft" in summary_table(run)


def test_a_model_outside_the_run_is_compared_by_an_evaluation_of_it_in_the_run(tmp_path):
    base = write_stage(tmp_path / "demo", "pretrain", "base")
    run = tmp_path / "run"
    grpo = write_stage(run, "grpo", "base", (), {"facts": result(90, 100)})
    manifest = read_manifest(grpo)
    manifest["parents"] = [{"path": "../../demo/pretrain", "kind": "base", "manifest_hash": manifest_hash(base)}]
    (grpo / "manifest.json").write_text(json.dumps(manifest))
    for path, right in ((run / "base", 4), (grpo, 30)):
        (path / "evaluation").mkdir(exist_ok=True, parents=True)
        many = {"n": 40, "samples": 32, "correct": 40 * right, "rate": right / 32, "low": 0, "high": 1}
        (path / "evaluation.json").write_text(json.dumps({"many": many}))
        write_jsonl(path / "evaluation" / "many.jsonl", answered(*[right] * 40))
    provenance = {"many": {"model": model_fingerprint(base)}}
    (run / "base" / "evaluation" / "provenance.json").write_text(json.dumps(provenance))
    assert claims(read_run(run))[0].startswith("grpo, many: RL concentrates what sampling already finds")
    assert "RL concentrates what sampling already finds" in report(run).read_text()
    provenance["many"]["model"] = "another"
    (run / "base" / "evaluation" / "provenance.json").write_text(json.dumps(provenance))
    assert claims(read_run(run)) == []

"""Stages by name, and folders of recipes: order, links, another root."""

import os
import sys

import pytest
from fakes import write

from pipeline import run, stages
from pipeline.errors import PipelineError
from pipeline.recipe import RecipeError
from pipeline.run import run_folder

GROW = """
from dataclasses import dataclass

KIND, ENGINES, INPUTS = "crop", (), {}

@dataclass(kw_only=True)
class Arguments:
    output_dir: str
    seed: int = 0
    evaluations: str | dict | None = None

def check(recipe):
    return []
"""

COOK = """
from dataclasses import dataclass

KIND, ENGINES, INPUTS = "meal", (), {"food": ("crop", "meal"), "all_of": ()}

@dataclass(kw_only=True)
class Arguments:
    output_dir: str | None = None
    food: str | list[str] | None = None
    all_of: str | None = None
    menu: dict | None = None

def check(recipe):
    food = recipe.arguments.food or []
    foods = [food] if isinstance(food, str) else food
    return [f"food: {food} does not exist" for food in foods if not recipe.exists(food)]
"""


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    """A package of two small stages: `grow` writes a crop, `cook` reads what others wrote."""
    folder = tmp_path / "kitchen"
    write(folder / "grow.py", GROW)
    write(folder / "cook.py", COOK)
    monkeypatch.setattr(stages, "__path__", [str(folder)])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("grow", "cook"):
        sys.modules.pop(f"pipeline.stages.{name}", None)


def folder_complaints(*arguments, **options):
    with pytest.raises(RecipeError) as caught:
        stages.load_folder(*arguments, **options)
    return str(caught.value)


def test_stages_are_found_by_listing_the_package():
    assert {"world", "corpus", "tokenizer", "pretrain", "sft", "grpo"} <= set(stages.names())
    with pytest.raises(PipelineError, match="unknown stage 'pretain'; did you mean pretrain"):
        stages.find("pretain")


def test_the_name_of_the_file_names_the_stage_unless_the_recipe_does(kitchen):
    assert stages.load_recipe(write(kitchen / "grow.yaml", "output_dir: a")).stage == "grow"
    assert stages.load_recipe(write(kitchen / "north.yaml", "stage: grow\noutput_dir: a")).stage == "grow"
    assert stages.load_recipe(write(kitchen / "south.yaml", "output_dir: a"), stage="grow").stage == "grow"
    with pytest.raises(RecipeError, match="the name of the file is no stage: add `stage:` with one of cook, grow"):
        stages.load_recipe(kitchen / "south.yaml")
    with pytest.raises(RecipeError, match="north.yaml:1: stage: the recipe is of stage 'grow', the command asks for"):
        stages.load_recipe(kitchen / "north.yaml", stage="cook")
    with pytest.raises(RecipeError, match="found 'gorw'; did you mean grow"):
        stages.load_recipe(write(kitchen / "east.yaml", "stage: gorw\noutput_dir: a"))


def test_env_reaches_the_environment(kitchen, monkeypatch):
    monkeypatch.setenv("KITCHEN", "")
    monkeypatch.delenv("KITCHEN")
    for value in (1, 2):  # what is there already stays
        stages.load_recipe(write(kitchen / "grow.yaml", f"output_dir: a\nenv: {{KITCHEN: {value}}}"))
        assert os.environ["KITCHEN"] == "1"


def test_a_folder_runs_producers_before_their_readers(kitchen):
    write(kitchen / "r/a_report.yaml", "stage: cook\nall_of: runs/x\noutput_dir: runs/x/report")
    write(
        kitchen / "r/b_dinner.yaml",
        "stage: cook\nfood: runs/x/lunch\nmenu: {extra: [runs/x/crop/leaf]}\noutput_dir: runs/x/dinner",
    )
    write(kitchen / "r/c_lunch.yaml", "stage: cook\nfood: [runs/x/crop]\noutput_dir: runs/x/lunch")
    write(kitchen / "r/d_grow.yaml", "stage: grow\noutput_dir: runs/x/crop")
    write(kitchen / "r/e_taste.yaml", "stage: cook\nfood: runs/x/dinner")
    recipes = stages.load_folder(kitchen / "r")
    assert [recipe.path.stem for recipe in recipes] == ["d_grow", "c_lunch", "b_dinner", "e_taste", "a_report"]
    assert recipes[1].awaits("runs/x/crop/leaf") and not recipes[0].awaits("runs/x/crop")


def test_folders_below_are_parts_of_the_run_and_runs_of_their_own(kitchen):
    write(kitchen / "r/grow.yaml", "output_dir: runs/x/crop")
    write(kitchen / "r/late/cook.yaml", "food: runs/x/late/crop\noutput_dir: runs/x/late/meal")
    write(kitchen / "r/late/grow.yaml", "extends: r/grow.yaml\noutput_dir: runs/x/late/crop")
    outputs = ["runs/x/crop", "runs/x/late/crop", "runs/x/late/meal"]
    assert [str(recipe.output_dir) for recipe in stages.load_folder("r")] == outputs
    assert [str(recipe.output_dir) for recipe in stages.load_folder("r/late")] == outputs[1:]
    moved = stages.load_folder("r", output="y")
    assert [str(recipe.output_dir) for recipe in moved] == ["y/crop", "y/late/crop", "y/late/meal"]
    assert moved[2].arguments.food == "y/late/crop"


def test_a_run_ends_with_the_file_of_a_name_or_else_with_the_last_recipe_of_a_stage_and_takes_what_that_needs(kitchen):
    write(kitchen / "r/cook.yaml", "food: runs/x/crop\noutput_dir: runs/x/meal")
    write(kitchen / "r/dinner.yaml", "stage: cook\nfood: runs/x/meal\noutput_dir: runs/x/dinner")
    write(kitchen / "r/field.yaml", "stage: grow\noutput_dir: runs/x/crop")
    for until, last in (("field", "field"), ("grow", "field"), ("cook", "cook"), ("dinner", "dinner")):
        assert stages.load_folder("r", until=until)[-1].path.stem == last
    with pytest.raises(
        RecipeError,
        match="until: expected a stage or one of field, cook, dinner; found 'diner'; did you mean dinner",
    ):
        stages.load_folder("r", until="diner")
    write(kitchen / "r/another.yaml", "stage: grow\noutput_dir: runs/x/another\nsize: huge")
    assert [one.path.stem for one in stages.load_folder("r", until="dinner")] == ["field", "cook", "dinner"]
    with pytest.raises(RecipeError, match="another.yaml:3"):
        stages.load_folder("r", until="another")


@pytest.fixture
def meals(kitchen, monkeypatch):
    """Two crops of which a meal is made, and a fake command of a stage: it notes when it began and ended."""
    write(kitchen / "r/bean.yaml", "stage: grow\noutput_dir: runs/x/bean")
    write(kitchen / "r/corn.yaml", "stage: grow\noutput_dir: runs/x/corn")
    write(kitchen / "r/soup.yaml", "stage: cook\nfood: [runs/x/bean, runs/x/corn]\noutput_dir: runs/x/soup")
    code = (
        "import os, sys, time; begun = time.time(); print('at work'); time.sleep(0.5);"
        "open(sys.argv[1], 'w').write(f'{begun} {time.time()} ' + os.environ.get('OMP_NUM_THREADS', '-'));"
        "sys.exit(3 if 'FAIL' in os.environ and 'bean' in sys.argv[1] else 0)"
    )
    monkeypatch.setattr(run, "_command", lambda recipe, *_: [sys.executable, "-c", code, f"{recipe.path.stem}.times"])
    monkeypatch.setattr(run, "keep_plan", lambda *_: None)
    monkeypatch.setattr(run, "_summary", lambda *_: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return kitchen


def times(folder, name):
    begun, ended, threads = (folder / f"{name}.times").read_text().split()
    return float(begun), float(ended), threads


def test_one_stage_runs_at_a_time_unless_jobs_says_otherwise(meals):
    assert run_folder("r") == 0
    (_, first, threads), (second, _, _), (third, _, _) = (times(meals, name) for name in ("bean", "corn", "soup"))
    assert first <= second < third and threads == "-" and not (meals / "runs/x/logs").exists()


def test_stages_that_do_not_wait_for_each_other_run_together(meals, monkeypatch, capfd):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert run_folder("r", jobs=2) == 0
    bean, corn, soup = (times(meals, name) for name in ("bean", "corn", "soup"))
    assert max(bean[0], corn[0]) < min(bean[1], corn[1]) and soup[0] >= max(bean[1], corn[1])
    assert {one[2] for one in (bean, corn, soup)} == {"3"}
    assert (meals / "runs/x/logs/03-soup.log").read_text() == "at work\n" and "at work" not in capfd.readouterr().out


@pytest.mark.parametrize("jobs", [1, 2])
def test_nothing_is_started_after_a_stage_that_failed_and_what_runs_ends(meals, monkeypatch, capfd, jobs):
    monkeypatch.setenv("FAIL", "1")
    assert run_folder("r", jobs=jobs) == 3
    assert (meals / "corn.times").exists() is (jobs == 2) and not (meals / "soup.times").exists()
    error = capfd.readouterr().err
    assert "bean.yaml stopped with status 3. The same command goes on from here." in error
    assert ("01-bean.log:\nat work" in error) is (jobs == 2)


@pytest.mark.parametrize(("jobs", "accelerate"), [(0, None), (-1, None), (2, "cpu.yaml")])
def test_an_impossible_number_of_jobs_is_refused(meals, jobs, accelerate):
    with pytest.raises(PipelineError, match=f"--jobs {jobs}: expected 1 or more, and 1 with --accelerate"):
        run_folder("r", jobs=jobs, accelerate=accelerate)


def test_an_interrupt_waits_for_the_stages_that_run(meals, monkeypatch):
    sleep = run.time.sleep

    def interrupted(seconds):
        monkeypatch.setattr(run.time, "sleep", sleep)
        raise KeyboardInterrupt

    monkeypatch.setattr(run.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_folder("r", jobs=2)
    assert (meals / "bean.times").exists() and (meals / "corn.times").exists()  # both have come to their end


def test_a_recipe_waits_for_what_the_evaluations_that_it_names_read(kitchen):
    write(kitchen / "r/a.yaml", "stage: grow\noutput_dir: runs/x/a\nevaluations: r/c.yaml")
    write(kitchen / "r/b.yaml", "stage: grow\noutput_dir: runs/x/b")
    write(kitchen / "r/c.yaml", "stage: grow\noutput_dir: runs/x/c\nevaluations: {taste: {path: runs/x/b/rows.jsonl}}")
    recipes = stages.load_folder("r")
    assert [recipe.path.stem for recipe in recipes] == ["b", "a", "c"]
    assert stages.waiting_for(recipes) == [set(), {0}, {0}]


def test_a_cycle_a_clash_and_a_missing_producer_are_all_listed(kitchen):
    write(kitchen / "r/a.yaml", "stage: cook\nfood: runs/x/b\noutput_dir: runs/x/a")
    write(kitchen / "r/b.yaml", "stage: cook\nfood: runs/x/a\noutput_dir: runs/x/b")
    write(kitchen / "r/c.yaml", "stage: grow\noutput_dir: runs/x/c")
    write(kitchen / "r/d.yaml", "stage: grow\noutput_dir: runs/x/../x/c")
    write(kitchen / "r/e.yaml", "stage: cook\nmenu: {extra: runs/x/nowhere}\noutput_dir: runs/x/e")
    text = folder_complaints("r")
    assert "waits for itself: r/a.yaml -> r/b.yaml -> r/a.yaml" in text
    assert "r/d.yaml:2: output_dir: runs/x/c is also what r/c.yaml writes" in text
    assert "r/e.yaml:2: menu: runs/x/nowhere is not there and no recipe of the folder writes it" in text


def test_a_parent_of_the_wrong_kind_or_unfinished_is_refused_before_anything_runs(kitchen):
    write(kitchen / "old/manifest.json", '{"status": "complete", "kind": "stone", "stage": "dig"}')
    write(kitchen / "half/manifest.json", '{"status": "running", "kind": "crop", "stage": "grow"}')
    path = write(kitchen / "cook.yaml", "output_dir: a\nfood: [old, half]")
    with pytest.raises(RecipeError) as caught:
        stages.load_recipe(path)
    assert "food: old is of kind stone, expected crop or meal" in str(caught.value)
    assert "food: half is not complete: run its grow stage to the end first" in str(caught.value)


def test_output_moves_a_whole_run_and_seed_reaches_every_stage_that_has_one(kitchen):
    write(kitchen / "r/grow.yaml", "output_dir: runs/x/crop\nseed: 1")
    write(
        kitchen / "r/cook.yaml",
        "food: runs/x/crop\noutput_dir: runs/x/meal\nmenu: {a: {b: [runs/x/crop/leaf, runs/xy]}}",
    )
    grow, cook = stages.load_folder("r", seed=7, output="elsewhere/run")
    assert (grow.arguments.seed, str(grow.output_dir)) == (7, "elsewhere/run/crop")
    assert (cook.arguments.food, str(cook.output_dir)) == ("elsewhere/run/crop", "elsewhere/run/meal")
    assert cook.arguments.menu == {"a": {"b": ["elsewhere/run/crop/leaf", "runs/xy"]}}
    assert "seed" not in cook.values


def test_another_folder_is_read_wherever_a_recipe_names_one(kitchen, meals, monkeypatch):
    write(
        kitchen / "more/cook.yaml",
        "food: runs/x/bean\nmenu: {corn: runs/x/corn/ear}\noutput_dir: runs/y/meal\nenv: {PAN: runs/x/pan}",
    )
    write(kitchen / "runs/x-2/bean/manifest.json", '{"status": "complete", "kind": "crop"}')
    (recipe,) = stages.load_folder("more", output="runs/y-2", replace={"runs/x": "runs/x-2"})
    assert (str(recipe.output_dir), recipe.arguments.food) == ("runs/y-2/meal", "runs/x-2/bean")
    assert recipe.arguments.menu == {"corn": "runs/x-2/corn/ear"} and recipe.environment == {"PAN": "runs/x-2/pan"}
    with pytest.raises(RecipeError, match="no recipe of more names runs/z or a path below it"):
        stages.load_folder("more", replace={"runs/z": "runs/x-2"})
    monkeypatch.delenv("PAN", raising=False)
    assert run._environment(recipe, 1)["PAN"] == "runs/x-2/pan"
    monkeypatch.setenv("PAN", "mine")
    assert run._environment(recipe, 1)["PAN"] == "mine"


def test_a_reward_model_among_the_rewards_is_trained_first_and_moves_with_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data.jsonl", '{"prompt": "1 + 1", "answer": "2", "chosen": "2", "rejected": "3"}\n' * 8)
    common = "model_name_or_path: owner/model\ndataset_name: data.jsonl\n"
    policy = f"output_dir: runs/x/policy\nreward_funcs: [numeric, 'reward_model:runs/x/rm']\n{common}"
    write(tmp_path / "r" / "grpo.yaml", policy)
    write(tmp_path / "r" / "reward.yaml", f"output_dir: runs/x/rm\n{common}")
    recipes = stages.load_folder("r")
    assert [recipe.stage for recipe in recipes] == ["reward", "grpo"]
    moved = stages.load_folder("r", output="elsewhere")
    assert moved[1].get("reward_funcs") == ["numeric", "reward_model:elsewhere/rm"]
    assert moved[1].hash == recipes[1].hash, "a run that was moved is still the same run"
    (tmp_path / "r" / "reward.yaml").unlink()
    assert "reward_funcs: runs/x/rm does not exist" in folder_complaints("r")


def test_what_a_folders_options_made_of_a_recipe_can_be_said_in_overrides(kitchen):
    write(kitchen / "r/grow.yaml", "output_dir: runs/x/crop\nseed: 1")
    write(
        kitchen / "r/cook.yaml",
        "food: [runs/x/crop]\noutput_dir: runs/x/meal\nmenu: {a: {b: runs/x/crop, c: 🙂, d: 1e-5}}",
    )
    for recipe in stages.load_folder("r", seed=7, output="elsewhere/run"):
        (kitchen / "elsewhere/run/crop").mkdir(parents=True, exist_ok=True)
        again = stages.load_recipe(recipe.path, recipe.stage, stages.overrides_of(recipe))
        assert (again.values, again.hash) == (recipe.values, recipe.hash)


def test_an_override_of_a_folder_reaches_the_stages_that_know_the_key(kitchen):
    write(kitchen / "r/grow.yaml", "output_dir: runs/x/crop")
    write(kitchen / "r/cook.yaml", "food: runs/x/crop\noutput_dir: runs/x/meal")
    grow, _ = stages.load_folder("r", ["--seed", "3"])
    assert grow.arguments.seed == 3
    text = folder_complaints("r", ["--sede", "3"])
    assert "command line: sede: no stage of r has this key; did you mean seed?" in text


def test_the_complaints_of_every_recipe_of_a_folder_come_at_once(kitchen):
    write(kitchen / "r/grow.yaml", "output_dir: runs/x/crop\nsede: 1")
    write(kitchen / "r/cook.yaml", "food: runs/x/crop\noutput_dir: [runs/x/meal]")
    write(kitchen / "r/broken.yaml", "a: [")
    write(kitchen / "r/bake.yaml", "output_dir: runs/x/bread")
    lines = folder_complaints("r").splitlines()
    assert [line.split(":")[0] for line in lines] == ["r/broken.yaml", "r/bake.yaml", "r/grow.yaml", "r/cook.yaml"]
    with pytest.raises(RecipeError, match="holds no recipe"):
        stages.load_folder(kitchen / "kitchen")

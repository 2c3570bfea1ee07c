"""What the chapters are given, wrong: one error each, which names the place, before anything runs."""

import copy
import json
import random

import pytest
from conftest import command, write_jsonl, write_recipe
from test_chapters import SUBJECTS, answered, hallucination_arm, subjects, think_arm

from pipeline import chapters
from pipeline.chapters import hallucination, knowledge_of_self, limits, tokens_to_think, which_model
from pipeline.chapters.chapter import chosen, difference
from pipeline.chapters.material import Material, dialogue, read_attributes, read_conversations, read_rows, read_subjects
from pipeline.errors import PipelineError

__all__ = ["subjects"]


def changed(place, value):
    """SUBJECTS with another value at a place; without it where that is None."""
    content = copy.deepcopy(SUBJECTS)
    *way, last = place
    inner = content
    for step in way:
        inner = inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return content


TOWN, ADA = ("attributes", "town"), ("subjects", 0)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ((*ADA, "facts"), {}, "[0].facts: Ada Abbot: expected a value for each attribute with statements, found none for town"),
        ((*ADA, "facts"), {"town": "Elms", "twon": "Elms"}, "subjects[0].facts.twon: no such attribute; did you mean town?"),
        ((*ADA, "facts", "town"), 7, "subjects[0].facts.town: expected text, found 7"),
        ((*ADA, "facts", "town"), "{Oakford", "no other brace, found '{Oakford'"),
        ((*ADA, "name"), 7, "subjects[0].name: expected text, found 7"),
        ((*ADA, "name"), "Bea Bishop", "subjects[1]: expected a name that no other subject has, found 'Bea Bishop'"),
        ((*ADA, "mentions"), "many", "subjects[0].mentions: expected a whole number, found 'many'"),
        ((*ADA, "mentions"), -1, "subjects[0].mentions: expected 0 or more, found -1"),
        ((*ADA, "taught"), "yes", "subjects[0].taught: expected true or false, found 'yes'"),
        ((*ADA, "mention"), 5, "subjects[0].mention: unknown key, expected one of name, facts, mentions, taught"),
        (ADA, "Ada", "subjects[0]: expected a mapping, found 'Ada'"),
        (("subjects",), {}, "subjects: expected [{"),
        (("attributes",), [], "attributes: expected {"),
        (("attributes",), "town", "attributes: expected {"),
        (TOWN, [], "attributes.town: expected a mapping"),
        ((*TOWN, "questions"), "Where does {n} live?", "attributes.town.questions: expected a list of texts, found 'Where"),
        ((*TOWN, "questions"), ["Where does {name} live?"], "questions: expected {n} and no other brace, found 'Where does"),
        ((*TOWN, "questions"), [], "attributes.town: expected questions"),
        ((*TOWN, "heldout_questions"), ["Where?"], "town.questions: expected {n} and no other brace, found 'Where?'"),
        ((*TOWN, "statements"), ["It is {v}."], "statements: expected {n} and {v} and no other brace, found 'It is {v}.'"),
        ((*TOWN, "statements"), ["{n} lives in {v} {"], "statements: expected {n} and {v} and no other brace"),
        ((*TOWN, "answer"), "{n} lives there.", "answer: expected {v} and no other brace, found '{n} lives there.'"),
    ],
)  # fmt: skip
def test_a_subjects_file_is_refused_with_the_place_of_the_mistake(tmp_path, place, value, said):
    path = tmp_path / "subjects.json"
    path.write_text(json.dumps(changed(place, value)))
    with pytest.raises(PipelineError) as refused:
        read_subjects(path)
    assert str(refused.value).startswith(f"{path}: ") and said in str(refused.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "found '{'"),
        ("[1]", "found '[1]'"),
        ('{"text": "x"}', "with `messages` (a list)"),
        ('{"messages": "x"}', "found '{"),
    ],
)
def test_rows_are_refused_with_file_and_line(tmp_path, line, said):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": []}\n\n' + line + "\n")
    with pytest.raises(PipelineError) as refused:
        read_conversations(path)
    assert str(refused.value).startswith(f"{path}:3: expected a JSON mapping") and said in str(refused.value)


def test_rows_that_cannot_be_read_and_turns_without_content_are_named(tmp_path):
    with pytest.raises(PipelineError, match="expected a file of rows"):
        read_rows(tmp_path)
    path = write_jsonl(tmp_path / "c.jsonl", [{"messages": [{"role": "user", "content": None}]}])
    with pytest.raises(PipelineError, match=r"c.jsonl: row 1: messages: expected turns with `role` and `content`"):
        read_conversations(path)
    path.write_text('{"prompt": "one\u2028line"}\n')
    assert read_rows(path, prompt=str) == [{"prompt": "one\u2028line"}]


@pytest.mark.parametrize(
    ("chapter", "given", "said"),
    [
        ("hallucination", {"held_out": 5.0}, "held_out: must be in (0, 1], found 5.0"),
        ("hallucination", {"held_out": "half"}, "held_out: expected a number, found 'half'"),
        ("hallucination", {"wordings": 0}, "wordings: must be at least 1, found 0"),
        ("hallucination", {"refusal": ""}, "refusal: expected something, found nothing"),
        ("hallucination", {"replay": -1}, "replay: must be at least 0, found -1"),
        ("hallucination", {"replays": 1}, "replays: unknown key"),
        ("tokens_to_think", {"rows": -5}, "rows: must be at least 1, found -5"),
        ("tokens_to_think", {"most_steps": 0}, "most_steps: must be in [1, 26], found 0"),
        ("tokens_to_think", {"largest": 10}, "largest: must be in [1, 9], found 10"),
        ("beyond_the_expert", {"habit_rate": 2.0}, "habit_rate: must be in [0, 1], found 2.0"),
        ("beyond_the_expert", {"demonstrations": ["a"]}, "demonstrations[0]: expected a whole number, found 'a'"),
        ("beyond_the_expert", {"demonstrations": [0]}, "demonstrations[0]: must be at least 1, found 0"),
        ("beyond_the_expert", {"demonstrations": []}, "demonstrations: expected something, found nothing"),
        ("knowledge_of_self", {"name": ""}, "name: expected something, found nothing"),
        ("which_model", {"easy": -1}, "easy: must be at least 1, found -1"),
    ],
)  # fmt: skip
def test_settings_are_held_to_their_types_and_ranges(chapter, given, said):
    _, complaints = chapters.settings(chapter, given)
    assert len(complaints) == 1 and complaints[0].startswith(f"settings.{said}")


def test_settings_are_taken_where_they_are_right():
    for name in chapters.WITH_EXERCISES:
        defaults = vars(chapters.find(name).Settings())
        assert chapters.settings(name, defaults) == (defaults, []) and chapters.settings(name, None) == ({}, [])
    assert chapters.settings("hallucination", {"held_out": 1, "rare": 1})[1][0].startswith("settings.rare")
    assert chapters.settings("hallucination", {"held_out": 1}) == ({"held_out": 1}, [])


def test_more_than_the_data_have_names_the_setting(material, subjects):
    with pytest.raises(PipelineError, match="settings.tested: found 500, expected at most"):
        knowledge_of_self.exercises(knowledge_of_self.Settings(tested=500), material)
    with pytest.raises(PipelineError, match="settings.heldout_per_task: found 500, expected at most 374"):
        limits.exercises(limits.Settings(heldout_per_task=500), material)
    every = [tokens_to_think.Problem(start, (1, 1)) for start in range(10)]
    material.conversations = [dialogue(one.question(material.rng), "x") for one in every]
    material.attributes, material.subjects = read_attributes(subjects), read_subjects(subjects)
    few = which_model.Settings(largest=1, hard_steps=2, most_steps=2, easy=1)
    with pytest.raises(PipelineError, match="hard: found 20, but there are only 0 such questions"):
        which_model.exercises(few, material)


@pytest.fixture
def material():
    return Material(random.Random(0))


ENTRY = {"questions": ["Who?"], "heldout_questions": ["Who are you?"]}
NAME = ENTRY | {"about": "name", "answers": ["I am {{name}}, made by {{maker}}."]}
MAKER = ENTRY | {"about": "maker", "answers": ["By {{maker}}."]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1], MAKER], ":1: expected a JSON mapping"),
        ([NAME | {"answers": ["I am Ember."]}, MAKER], "row 1.answers: expected {{name}} and no other brace, found 'I am"),
        ([NAME, MAKER | {"answers": ["{{maker}} and {{owner}}"]}], "row 2.answers: expected {{maker}} and no other brace"),
        ([NAME | {"questions": "Who?"}, MAKER], "row 1.questions: expected a list of texts, found 'Who?'"),
        ([NAME, MAKER, NAME], "row 3.about: expected one row for each of name and maker, found 'name'"),
        ([NAME], "maker is missing"),
        ([NAME | {"answers": []}, MAKER], "row 1: expected one text at least of answers"),
    ],
)  # fmt: skip
def test_an_identity_file_is_refused_with_the_row_of_the_mistake(tmp_path, rows, said):
    path = write_jsonl(tmp_path / "identity.jsonl", rows)
    with pytest.raises(PipelineError) as refused:
        knowledge_of_self.read_entries(path)
    assert str(refused.value).startswith(str(path)) and said in str(refused.value)
    assert knowledge_of_self.read_entries(write_jsonl(path, [MAKER, NAME]))[0]["about"] == "name"


def exercises(tmp_path, **values):
    return write_recipe(tmp_path / "data.yaml", stage="exercises", output_dir=tmp_path / "data", **values)


def test_files_of_settings_must_be_there_and_are_hashed(tmp_path, capsys):
    words = tmp_path / "words.txt"
    recipe = exercises(tmp_path, chapter="limits", settings={"rows": 4, "heldout_per_task": 1, "words": str(words)})
    assert command("plan", recipe) == 1
    assert f"settings.words: {words} does not exist" in capsys.readouterr().out
    words.write_text("1\n2\n")
    assert command("plan", recipe) == 1
    assert f"{words}: expected a word of letters a line, found none in 2 lines" in capsys.readouterr().out
    words.write_text("\n".join(["hat", "cat", "bat", "rat", "mat", "sat"]))
    assert command("exercises", "--config", recipe) == 0
    first = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert [entry["path"] for entry in first["data"]] == [str(words)]
    assert command("exercises", "--config", recipe) == 0 and "up to date" in capsys.readouterr().out
    words.write_text("\n".join(["dog", "fog", "log", "bog", "hog", "jog"]))
    assert command("exercises", "--config", recipe) == 0 and "its data changed" in capsys.readouterr().out
    recipe = exercises(tmp_path, chapter="limits", settings={"rows": 4, "heldout_per_task": 1})
    assert command("exercises", "--config", recipe, "--overwrite") == 0
    assert json.loads((tmp_path / "data" / "manifest.json").read_text())["data"] == []  # the shipped default is none


def test_the_plan_names_a_bad_row_and_nothing_is_moved_aside_for_it(tmp_path, capsys):
    path = write_jsonl(tmp_path / "c.jsonl", [{"text": "no conversation"}])
    recipe = exercises(tmp_path, chapter="limits", conversations=path)
    (tmp_path / "data").mkdir()
    assert command("plan", recipe) == 1
    assert f"{path}:1: expected a JSON mapping with `messages`" in capsys.readouterr().out
    assert command("exercises", "--config", recipe, "--overwrite") == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["c.jsonl", "data", "data.yaml"]


@pytest.mark.parametrize(
    ("chapter", "arms", "said"),
    [
        ("limits", ["direct", "tool"], "arms: tool: no such arm; did you mean tools?; the chapter limits takes direct, tools"),
        ("limits", ["direct"], "arms: tools is missing"),
        ("limits", ["direct", "tools", "both"], "arms: both: no such arm"),
        ("beyond_the_expert", ["expert", "imitation_all"], "arms: imitation_all: no such arm"),
    ],
)  # fmt: skip
def test_arms_are_those_of_the_chapter(chapter, arms, said):
    assert chapters.misfits(chapter, arms)[0].startswith(said)


def test_arms_that_may_be_missing_or_have_any_name_are_taken():
    assert not chapters.misfits("rlhf", ["before", "rlhf", "dpo", "poor"])
    arms = ["expert", "imitation_400", "clean", "sft", "rl", "start", "trained", "own", "format"]
    assert not chapters.misfits("beyond_the_expert", arms)


def test_what_answers_lack_is_told_with_their_arm_and_evaluation(tmp_path, capsys):
    arm = answered(tmp_path / "before", steps=[{"prompt": "a", "steps": 1}], empty=[])
    rows = arm.answers("steps")
    known = r"steps.jsonl \(arm before, evaluation steps\): "
    with pytest.raises(PipelineError, match=known + "an answer lacks `correct`, found prompt, steps"):
        rows[0]["correct"]
    with pytest.raises(PipelineError, match=known + "expected answers with steps 2, found steps 1"):
        chosen(rows, "steps", 2)
    with pytest.raises(PipelineError, match=known + r"not the same questions as in .*arm other, evaluation steps"):
        difference(rows, answered(tmp_path / "other", steps=[{"prompt": "b"}]).answers("steps"))
    with pytest.raises(PipelineError, match=r"arm before, evaluation empty\): no answers"):
        arm.answers("empty")
    (arm.path / "evaluation" / "steps.jsonl").write_text('{"prompt": "a"}\n{"pro')
    with pytest.raises(PipelineError, match="steps.jsonl:2: expected a JSON mapping"):
        arm.answers("steps")


def test_answers_about_nobody_alone_are_told_as_that(tmp_path):
    arms = {name: hallucination_arm(tmp_path / name, "No.") for name in ("before", "plain", "refusals", "search")}
    path = arms["before"].path / "evaluation" / "knowledge.jsonl"
    write_jsonl(path, [row for row in read_rows(path) if row["mentions"] == 0])
    with pytest.raises(
        PipelineError, match=r"arm before, evaluation knowledge\): expected people of mentions 0 and of more"
    ):
        hallucination.chapter(arms)


def test_a_chapter_of_wrong_arms_is_refused_by_its_plan(tmp_path, capsys):
    names = ["working", "direct", "direct_flop"]
    for name in names:
        think_arm(tmp_path / name, lambda steps: 1)
    recipe = write_recipe(
        tmp_path / "c.yaml", stage="chapter", chapter="tokens_to_think", output_dir=tmp_path / "chapter", arms=names,
        models=[str(tmp_path / name) for name in names],
    )  # fmt: skip
    assert command("plan", recipe) == 1
    said = capsys.readouterr().out
    assert "arms: direct_flop: no such arm; did you mean direct_flops?" in said and "arms: filler is missing" in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name_pattern": "[A-Z"}, "name_pattern: '[A-Z' is no regular expression for a name"),
        ({"untold_attributes": ["town"]}, "has statements that tell it, expected an attribute without: birthday, shoes, hat"),
        ({"untold_attributes": ["birthdya"]}, "has no such attribute; did you mean birthday?"),
        ({"held_out": [{"nom": "Ada"}]}, "rows.jsonl:1: expected a JSON mapping with `name` (text)"),
        ({"conversations": [{"text": "x"}]}, "rows.jsonl:1: expected a JSON mapping with `messages` (a list)"),
        ({"documents": [{"content": "x"}]}, "rows.jsonl: expected rows with `text`, found content"),
        ({"documents": [{"text": "x"}, {"text": None}]}, "1 of 2 rows have no text in `text`, row 2 first: found None"),
    ],
)  # fmt: skip
def test_what_is_probed_with_is_read_before_old_output_is_moved_aside(tmp_path, subjects, capsys, values, said):
    values = {"documents": write_jsonl(tmp_path / "documents.jsonl", [{"text": "Ada Abbot lives in Oakford."}])} | {
        key: write_jsonl(tmp_path / "rows.jsonl", value) if isinstance(value[0], dict) else value
        for key, value in values.items()
    }
    (tmp_path / "out").mkdir()
    recipe = write_recipe(
        tmp_path / "probe.yaml", stage="probe-knowledge", output_dir=tmp_path / "out", subjects=subjects,
        model_name_or_path=tmp_path, **values,
    )  # fmt: skip
    assert command("probe-knowledge", "--config", recipe, "--overwrite") == 1
    assert said in capsys.readouterr().err and not list(tmp_path.glob("out.old*"))

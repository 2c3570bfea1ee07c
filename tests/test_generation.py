"""Generation: what a batch says is what each prompt would have got alone, and nothing around it changes."""

import copy
import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from pipeline.errors import PipelineError
from pipeline.evaluation import generation
from pipeline.evaluation.generation import beginning, generate, render_prompt
from pipeline.evaluation.samples import SamplesCallback

PROMPTS = ["a", "The quick brown fox", "What is 12 + 345? " * 3, "jumps over", "", "dog. Question"]
NEVER = [-1]  # a stop token that no vocabulary has


@pytest.fixture
def model(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    # A random model with tied embeddings repeats its last token for ever; a head of its own writes varied text.
    generator = torch.Generator().manual_seed(0)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape, generator=generator))
    return model


def alone(model, tokenizer, prompt, new_tokens):
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    output = model.generate(ids, max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
    return output[0, ids.shape[1] :].tolist()


def test_a_left_padded_batch_gives_each_prompt_the_greedy_tokens_it_gets_alone(model, tokenizer):
    prompts = [prompt for prompt in PROMPTS if prompt]
    model.generation_config.eos_token_id = None
    expected = [alone(model.eval(), tokenizer, prompt, 12) for prompt in prompts]
    for batch_size in (1, 2, 16):
        completions = generate(
            model, tokenizer, prompts, max_new_tokens=12, batch_size=batch_size, stop_token_ids=NEVER
        )
        assert [completion.token_ids for completion in completions] == expected
        assert not any(completion.ended for completion in completions)


def test_a_completion_ends_with_the_first_of_several_end_tokens_and_only_then_counts_as_ended(model, tokenizer):
    free = generate(model, tokenizer, PROMPTS, max_new_tokens=12, stop_token_ids=NEVER)
    stops = [free[0].token_ids[4], free[1].token_ids[2]]
    for completion, without in zip(
        generate(model, tokenizer, PROMPTS, max_new_tokens=12, stop_token_ids=stops), free, strict=True
    ):
        first = next((i for i, token in enumerate(without.token_ids) if token in stops), None)
        assert completion.ended == (first is not None)
        assert completion.token_ids == (without.token_ids if first is None else without.token_ids[: first + 1])
        kept = without.token_ids[:first]
        assert completion.text == tokenizer.decode(kept, clean_up_tokenization_spaces=False)


def test_end_tokens_come_from_generation_config_and_tokenizer_together(model, tokenizer):
    free = generate(model, tokenizer, PROMPTS[:2], max_new_tokens=12, stop_token_ids=NEVER)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(free[0].token_ids[3])
    model.generation_config.eos_token_id = [free[1].token_ids[5]]
    ended = generate(model, tokenizer, PROMPTS[:2], max_new_tokens=12)
    assert [completion.ended for completion in ended] == [True, True]
    assert len(ended[0].token_ids) <= 4 and len(ended[1].token_ids) <= 6


def test_settings_that_came_with_the_checkpoint_do_not_bend_greedy_answers(model, tokenizer):
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    model.generation_config.repetition_penalty = 9.0
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.do_sample = True
    before = model.generation_config.to_dict()
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12) == plain
    assert model.generation_config.to_dict() == before


def test_random_state_and_training_mode_are_as_before(model, tokenizer):
    model.train()
    model.model.embed_tokens.eval()
    state = torch.get_rng_state()
    generate(model, tokenizer, PROMPTS, max_new_tokens=4, temperature=1.0, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.model.layers[0].training and not model.model.embed_tokens.training


def test_sampling_repeats_with_its_seed_and_gives_n_completions_in_order(model, tokenizer):
    def sample(seed):
        return generate(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, n=3, seed=seed, batch_size=4)

    first = sample(1)
    assert len(first) == 3 * len(PROMPTS)
    assert first == sample(1)
    assert first != sample(2)
    assert len({tuple(completion.token_ids) for completion in first[:3]}) > 1
    cold = generate(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1e-4, n=2, seed=0)
    greedy = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert [completion.token_ids for completion in cold[::2]] == [completion.token_ids for completion in greedy]
    with pytest.raises(PipelineError, match="temperature 0"):
        generate(model, tokenizer, PROMPTS, max_new_tokens=8, n=2)


def test_a_completion_stops_where_the_context_does_whatever_shares_its_batch(model, tokenizer):
    context = model.config.max_position_embeddings
    long = tokenizer.decode([50] * (context - 5))
    length = len(tokenizer(long, add_special_tokens=False)["input_ids"])
    completions = generate(model, tokenizer, ["a", long, "fox"], max_new_tokens=20, stop_token_ids=NEVER)
    assert [len(completion.token_ids) for completion in completions] == [20, context - length, 20]
    with pytest.raises(PipelineError, match=f"prompt 1 has .* context of {context}"):
        generate(model, tokenizer, ["a", long * 2], max_new_tokens=20)


def test_stop_strings_cut_the_text_before_them_and_are_not_an_end(model, tokenizer):
    free = generate(model, tokenizer, PROMPTS[:3], max_new_tokens=24, stop_token_ids=NEVER)
    string = free[0].text[4:7]
    assert len(set(free[0].token_ids)) > 8  # varied text, so that the cut is one of many that it could be
    cut = generate(model, tokenizer, PROMPTS[:3], max_new_tokens=24, stop_token_ids=NEVER, stop_strings=(string,))
    for completion, without in zip(cut, free, strict=True):
        assert completion.text == without.text.split(string)[0]
        assert not completion.ended
    assert string in tokenizer.decode(cut[0].token_ids)
    assert string not in tokenizer.decode(cut[0].token_ids[:-1])


def test_certainty_is_the_probability_of_the_greedy_answer_and_of_nothing_after_it(model, tokenizer, monkeypatch):
    prompts = ["Who", "How much is 7 plus 5, and why?"]
    monkeypatch.setattr(generation, "_repeated", lambda *_: 0)
    model.eval()
    found = generate(model, tokenizer, prompts, max_new_tokens=6, certainty=True, stop_token_ids=NEVER)
    stops = [found[0].token_ids[1]]
    early = generate(model, tokenizer, prompts, max_new_tokens=6, certainty=True, stop_token_ids=stops)
    for prompt, one in [*zip(prompts, found, strict=True), *zip(prompts, early, strict=True)]:
        asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([asked + one.token_ids])).logits[0].log_softmax(-1)
        places = range(len(asked) - 1, len(asked) + len(one.token_ids) - 1)
        expected = sum(float(logits[place, token]) for place, token in zip(places, one.token_ids, strict=True))
        assert one.certainty == pytest.approx(math.exp(expected), rel=1e-3)
    assert len(early[0].token_ids) <= 2 and early[0].certainty > found[0].certainty
    assert generate(model, tokenizer, prompts, max_new_tokens=2)[0].certainty is None
    monkeypatch.setattr(generation, "_repeated", lambda *_: 2)
    rest = generate(model, tokenizer, prompts, max_new_tokens=6, certainty=True, stop_token_ids=NEVER)
    assert rest[0].certainty > found[0].certainty and rest[0].token_ids == found[0].token_ids


def test_words_of_the_prompt_that_an_answer_begins_with_are_no_part_of_its_certainty(tokenizer):
    asked = tokenizer("Where does Ada Abbot live?", add_special_tokens=False)["input_ids"]

    def repeated(answer):
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        return tokenizer.decode(ids[: generation._repeated(tokenizer, ids, asked)])

    assert repeated("Ada Abbot lives in Oakford.").startswith("Ada Abbot") and "in" not in repeated("Ada Abbot is in")
    assert repeated("Oakford.").strip() in "Where does Ada Abbot live?" and len(repeated("Oakford.")) < 2
    assert repeated("does Ada") == "does Ada" and repeated("Whe") == "" == repeated(tokenizer.eos_token)


def test_think_markers_stay_in_the_text(model, tokenizer):
    thinks = tokenizer.convert_tokens_to_ids("</think>")
    with torch.no_grad():  # a head that always says </think>
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
        model.model.norm.weight.zero_()
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
        model.lm_head.bias[thinks] = 1.0
    (completion,) = generate(model, tokenizer, ["a"], max_new_tokens=2)
    assert completion.text == "</think></think>"


def test_a_base_model_is_shown_questions_and_answers_to_continue(tokenizer):
    examples = [{"prompt": "Two and two?", "answer": "4"}, {"prompt": "Capital of Peru?", "answer": "Lima"}]
    assert render_prompt(tokenizer, "One and one?", chat=False, few_shot=examples) == (
        "Question: Two and two?\nAnswer: 4\n\nQuestion: Capital of Peru?\nAnswer: Lima\n\n"
        "Question: One and one?\nAnswer:"
    )
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who are you?"},
    ]
    assert render_prompt(tokenizer, turns, chat=False) == (
        "Be brief.\n\nQuestion: Hi\nAnswer: Hello.\n\nQuestion: Who are you?\nAnswer:"
    )


def test_a_chat_model_is_asked_in_its_template(tokenizer):
    rendered = render_prompt(tokenizer, "Hi", chat=True, few_shot=[{"prompt": "a", "answer": "b"}])
    messages = [{"role": "user", "content": "Hi"}]
    assert rendered == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered.endswith("<|im_start|>assistant\n")


def test_a_base_prompt_begins_as_the_tokenizer_begins_a_text(tokenizer):
    from tokenizers.processors import TemplateProcessing

    assert beginning(tokenizer) == ""
    with_bos = copy.deepcopy(tokenizer)
    with_bos.bos_token = "<|im_start|>"
    assert beginning(with_bos) == ""  # it has one, and does not use it
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", with_bos.bos_token_id)]
    )
    assert render_prompt(with_bos, "Hi", chat=False) == "<|im_start|>Question: Hi\nAnswer:"


def train(model, tokenizer, directory, callback=None, **settings):
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(10, 200, (16, 12)).tolist()]
    model.config.attention_dropout = 0.5  # so that a random number drawn elsewhere would show
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    args = TrainingArguments(
        output_dir=str(directory), max_steps=4, per_device_train_batch_size=2, use_cpu=True, report_to="none",
        learning_rate=1e-2, seed=3, save_strategy="no", disable_tqdm=True, logging_strategy="no", **settings
    )  # fmt: skip
    trainer = Trainer(model=model, args=args, train_dataset=rows, callbacks=[callback] if callback else [])
    torch.manual_seed(5)
    trainer.train()
    return trainer.model


def test_samples_are_written_at_the_start_at_intervals_and_at_the_end_and_training_goes_on_bit_for_bit(
    tiny_model_dir, tokenizer, tmp_path
):
    def fresh():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)

    path = tmp_path / "samples.jsonl"
    path.write_text('{"step": 99, "prompt": "of an older run", "completion": "", "ended": false}\n')
    callback = SamplesCallback(tokenizer, ["The quick", "What is"], path, every=2, chat=False, max_new_tokens=6)
    torch.manual_seed(1)
    sampled = train(fresh(), tokenizer, tmp_path / "a", callback)
    torch.manual_seed(1)
    undisturbed = train(fresh(), tokenizer, tmp_path / "b")
    for one, other in zip(sampled.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(one, other)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 0, 2, 2, 4, 4]
    assert [line["prompt"] for line in lines] == ["The quick", "What is"] * 3
    assert lines[-1]["completion"] == generate(sampled, tokenizer, ["What is"], max_new_tokens=6)[0].text
    assert lines[0]["completion"] != lines[4]["completion"]


def test_samples_beyond_the_step_at_which_training_resumes_are_dropped(model, tokenizer, tmp_path):
    from transformers import TrainerControl, TrainerState

    path = tmp_path / "samples.jsonl"
    lines = [
        json.dumps({"step": step, "prompt": "a", "completion": "b", "ended": True}) + "\n" for step in (0, 2, 4, 6)
    ]
    path.write_text("".join(lines) + '{"step": 8, "pro')  # killed in the middle of a line
    callback = SamplesCallback(tokenizer, ["a"], path, every=2, chat=True, max_new_tokens=2)
    state = TrainerState(global_step=4)
    callback.on_train_begin(None, state, TrainerControl(), model=model)
    assert path.read_text() == "".join(lines[:3])
    callback.on_train_end(None, state, TrainerControl(), model=model)  # step 4 has its answers already
    assert path.read_text() == "".join(lines[:3])
    state.global_step = 6
    callback.on_step_end(None, state, TrainerControl(), model=model)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 2, 4, 6]

"""The tokenizer stage: what a tokenizer is born with, that no text is lost, and which existing ones are refused."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conversation.template import CONTENT_MARKERS, CONTROL_TOKENS, END_OF_TEXT, PAD, SPECIAL_TOKENS
from pipeline.corpus.bpe import (
    Sampler,
    add_missing_tokens,
    arbitrary_texts,
    check_tokenizer,
    load_tokenizer,
    round_trip_failures,
    train_bpe,
)
from pipeline.corpus.document import Document
from pipeline.corpus.shards import ShardWriter
from pipeline.corpus.tokens import TokenShards, vocabulary_hash
from pipeline.errors import PipelineError
from pipeline.stages import load_recipe
from pipeline.stages.tokenizer import Arguments, build

WORDS = [
    "valley",
    "bridge",
    "market",
    "Tilda",
    "Quillport",
    "carpenter",
    "neighbour",
    "mushrooms",
    "harvest",
    "it's",
    "1847",
    "12",
    "+",
    "\n\n",
    "über",
]


def texts(count=300, seed=0):
    choice = random.Random(seed)
    return [" ".join(choice.choices(WORDS, k=30)) for _ in range(count)]


def train(**keys):
    return train_bpe(
        texts(),
        **{
            "vocab_size": 330,
            "control_tokens": CONTROL_TOKENS,
            "content_markers": CONTENT_MARKERS,
            "end_of_text": END_OF_TEXT,
            "pad": PAD,
            **keys,
        },
    )


@pytest.fixture
def corpus(tmp_path):
    """A corpus as its stage leaves it: 300 training documents, 20 for validation."""
    for split, documents in (("train", texts()), ("validation", texts(20, seed=1))):
        with ShardWriter(tmp_path / "corpus" / split, 1000) as writer:
            for text in documents:
                writer.write(Document(text, "test"))
    return tmp_path / "corpus"


@pytest.fixture
def gpt2_like(tmp_path):
    """A saved tokenizer like GPT-2's: one special token that is all roles at once, no padding of its own."""
    tokenizer = train_bpe(
        texts(), vocab_size=300, control_tokens=[END_OF_TEXT], end_of_text=END_OF_TEXT, pad=END_OF_TEXT
    )
    tokenizer.save_pretrained(tmp_path / "gpt2_like")
    return tmp_path / "gpt2_like"


# Training


def test_reserved_tokens_have_the_first_ids_and_roles_of_their_own():
    tokenizer = train()
    assert tokenizer.convert_ids_to_tokens(range(10)) == list(SPECIAL_TOKENS)
    assert SPECIAL_TOKENS[:4] == ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|endoftext|>", "<|pad|>", None)
    assert len(tokenizer) == 330
    for token in SPECIAL_TOKENS:
        assert tokenizer(f"a{token}b")["input_ids"][1] == tokenizer.convert_tokens_to_ids(token)


def test_thinking_and_tool_calls_are_text_and_turn_marks_are_not():
    tokenizer = train()
    ids = tokenizer("<|im_start|>a<think>b</think><tool_call>c</tool_call><|im_end|><|endoftext|>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<think>b</think><tool_call>c</tool_call>"


@pytest.mark.parametrize("split_digits", [False, True])
def test_any_text_survives_encoding_and_decoding(split_digits):
    tokenizer = train(split_digits=split_digits)
    assert round_trip_failures(tokenizer, arbitrary_texts(seed=7)) == []
    assert round_trip_failures(tokenizer, [chr(point) for point in range(0x3000) if not 0xD800 <= point < 0xE000]) == []


@given(text=st.text() | st.text(alphabet=" \n\t\r0123456789'aé東\u0301\u200b<|>"), raw=st.binary())
@settings(max_examples=300, deadline=None)
def test_text_and_arbitrary_bytes_survive_to_the_letter(tokenizer, text, raw):
    for given_text in (text, raw.decode("utf-8", "replace"), raw.decode("latin-1")):
        assert round_trip_failures(tokenizer, [given_text]) == []


def test_a_lossy_tokenizer_is_caught_by_the_round_trip_check():
    from tokenizers import normalizers

    tokenizer = train()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert round_trip_failures(tokenizer, ["kept", "Lost"]) == ["Lost"]


def test_split_digits_makes_every_digit_a_token():
    single, grouped = train(split_digits=True), train(split_digits=False)
    assert single.tokenize("1847+12") == ["1", "8", "4", "7", "+", "1", "2"]
    assert "184" in grouped.tokenize("1847")
    assert not [token for token in single.get_vocab() if len(token) > 1 and any(c.isdigit() for c in token)]


def test_words_take_their_space_and_contractions_come_apart():
    tokenizer = train(vocab_size=400)
    assert tokenizer.tokenize("it's Tilda\n\nvalley") == ["it", "'s", "ĠTilda", "ĊĊ", "valley"]


def test_the_same_texts_give_the_same_tokenizer():
    assert vocabulary_hash(train()) == vocabulary_hash(train())
    assert vocabulary_hash(train()) != vocabulary_hash(train(vocab_size=331))


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(
        PipelineError, match="265 has no room for 256 bytes and 10 reserved tokens; expected at least 266"
    ):
        train(vocab_size=265)
    assert len(train(vocab_size=266)) == 266


def test_training_on_nothing_is_refused():
    with pytest.raises(PipelineError, match="no text to train the tokenizer on"):
        train_bpe([], vocab_size=300, control_tokens=CONTROL_TOKENS, end_of_text=END_OF_TEXT, pad=PAD)


def sample(texts, total, budget, seed=0):
    sampler = Sampler(total, budget, seed)
    chosen = [text for text in texts if sampler.takes(text)]
    assert (sampler.documents, sampler.taken) == (len(chosen), sum(map(len, chosen)))
    assert sampler.seen == sum(map(len, texts))
    return chosen


def test_a_sample_ends_with_its_budget_and_spreads_over_the_corpus():
    documents = [f"{number:04d}" + "x" * 96 for number in range(5000)]
    found = sample(documents, 500_000, 50_000, seed=3)
    assert sum(map(len, found)) == 50_000
    assert found == sample(documents, 500_000, 50_000, seed=3) != sample(documents, 500_000, 50_000)
    assert sample(documents, 500_000, 500_000) == sample(documents, 500_000, None) == documents
    # Every document is as likely as every other, the last ones too.
    places = [int(text[:4]) for seed in range(200) for text in sample(documents[:100], 10_000, 2_000, seed)]
    counts = np.bincount(places, minlength=100)
    assert counts.sum() == 4000 and abs(counts.reshape(10, 10).sum(1) - 400).max() < 75


def test_a_sample_of_long_documents_exceeds_its_budget_by_less_than_one():
    documents = ["x" * length for length in [9000, 10, 10, 9000, 10, 9000] * 20]
    for seed in range(20):
        assert sum(map(len, sample(documents, sum(map(len, documents)), 30_000, seed))) < 30_000 + 9000


# The stage


def test_the_stage_writes_a_tokenizer_and_its_shards(corpus, tmp_path, capsys):
    from transformers import AutoTokenizer

    facts = build(Arguments(output_dir="unused", corpus=str(corpus), vocab_size=350), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    train_shards = TokenShards(tmp_path / "out" / "tokens" / "train", tokenizer)
    held_out = TokenShards(tmp_path / "out" / "tokens" / "validation", tokenizer)
    assert (train_shards.documents, held_out.documents) == (300, 20)
    assert tokenizer.decode(train_shards.document(0)) == texts()[0] + END_OF_TEXT
    assert facts["tokens"] == train_shards.tokens and facts["validation_tokens"] == held_out.tokens
    assert facts["bytes_per_token"] == pytest.approx(train_shards.bytes / (train_shards.tokens - 300), abs=1e-4)
    assert tokenizer.chat_template and tokenizer.response_template
    assert not tokenizer.clean_up_tokenization_spaces
    printed = capsys.readouterr().out
    assert "texts of arbitrary bytes survive encoding" in printed and "bytes per token" in printed


def test_validation_text_does_not_reach_the_vocabulary(tmp_path):
    for split, text in (("train", "plain words only " * 50), ("validation", "zyzzyva " * 500)):
        with ShardWriter(tmp_path / "corpus" / split, 1000) as writer:
            writer.write(Document(text, "test"))
    build(Arguments(output_dir="unused", corpus=str(tmp_path / "corpus"), vocab_size=320), tmp_path / "out")
    assert "zy" not in load_tokenizer(str(tmp_path / "out")).get_vocab()


def test_a_small_corpus_gives_a_smaller_vocabulary_and_says_so(corpus, tmp_path, capsys):
    facts = build(Arguments(output_dir="unused", corpus=str(corpus), vocab_size=30_000), tmp_path / "out")
    assert facts["vocab_size"] < 30_000
    assert "fewer than vocab_size 30,000" in capsys.readouterr().out


def test_an_existing_tokenizer_keeps_its_ids_and_gains_what_it_lacks(corpus, gpt2_like, tmp_path):
    before = load_tokenizer(str(gpt2_like))
    keys = {"output_dir": "unused", "corpus": str(corpus), "tokenizer_name_or_path": str(gpt2_like)}
    build(Arguments(**keys, add_special_tokens=True), tmp_path / "out")
    after = load_tokenizer(str(tmp_path / "out"))
    assert len(after) == len(before) + 9
    assert after.get_vocab().items() > before.get_vocab().items()
    assert (after.eos_token, after.pad_token) == ("<|endoftext|>", "<|pad|>")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\nx\n</think>\n\nHo"}]
    encoding = after.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    kept = [token for token, mask in zip(encoding["input_ids"], encoding["assistant_masks"], strict=True) if mask]
    assert after.decode(kept, skip_special_tokens=True) == "<think>\nx\n</think>\n\nHo"
    assert TokenShards(tmp_path / "out" / "tokens" / "train", after).documents == 300


def test_padding_equal_to_eos_is_refused_with_the_key_that_mends_it(corpus, gpt2_like, tmp_path):
    keys = {"output_dir": "unused", "corpus": str(corpus), "tokenizer_name_or_path": str(gpt2_like)}
    with pytest.raises(PipelineError, match=r"pad_token equal to eos_token.*`pad_token:`.*`add_special_tokens: true`"):
        build(Arguments(**keys), tmp_path / "out")
    with pytest.raises(
        PipelineError, match=r"pad_token: '!' is not a special token .* Expected one of <\|endoftext\|>, or"
    ):
        build(Arguments(**keys, pad_token="!"), tmp_path / "out")
    tokenizer = load_tokenizer(str(gpt2_like))
    tokenizer.add_special_tokens({"extra_special_tokens": ["<fill>"]})
    tokenizer.save_pretrained(gpt2_like)
    build(Arguments(**keys, pad_token="<fill>"), tmp_path / "mended")
    assert load_tokenizer(str(tmp_path / "mended")).pad_token == "<fill>"


def test_a_tokenizer_without_an_end_is_refused(gpt2_like):
    tokenizer = load_tokenizer(str(gpt2_like))
    tokenizer.eos_token = None
    with pytest.raises(PipelineError, match="gpt2: the tokenizer has no eos_token"):
        check_tokenizer(tokenizer, "gpt2")


def test_adding_tokens_twice_adds_nothing(gpt2_like):
    tokenizer = load_tokenizer(str(gpt2_like))
    assert len(add_missing_tokens(tokenizer, CONTROL_TOKENS, CONTENT_MARKERS)) == 9
    assert add_missing_tokens(tokenizer, CONTROL_TOKENS, CONTENT_MARKERS) == []


def test_a_tokenizer_that_is_nowhere_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match="holds no tokenizer_config.json"):
        load_tokenizer(str(tmp_path / "empty"))
    with pytest.raises(PipelineError, match="cannot load no-such-owner/no-such-tokenizer"):
        load_tokenizer("no-such-owner/no-such-tokenizer")


# Through recipes


def recipe(folder, name, text):
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_corpus_and_tokenizer_run_from_recipes_and_hand_over(tmp_path):
    from pipeline import checkpoint
    from pipeline.stages import corpus as corpus_stage
    from pipeline.stages import tokenizer as tokenizer_stage

    (tmp_path / "in.txt").write_text("\n\n".join(texts()))
    made = recipe(
        tmp_path, "corpus", f"output_dir: {tmp_path}/corpus\ninput: {tmp_path}/in.txt\nvalidation_split: position\n"
    )
    corpus_stage.run(load_recipe(made))
    given = recipe(
        tmp_path, "tokenizer", f"output_dir: {tmp_path}/tokenizer\ncorpus: {tmp_path}/corpus\nvocab_size: 330\n"
    )
    tokenizer_stage.run(load_recipe(given))
    manifest = checkpoint.verify(tmp_path / "tokenizer", ("tokenizer",))
    assert manifest["parents"][0]["path"] == "../corpus" and manifest["parents"][0]["kind"] == "corpus"
    assert (
        manifest["tokenizer"]["vocabulary"] == TokenShards(tmp_path / "tokenizer" / "tokens" / "train").tokenizer_hash
    )
    assert manifest["tokens"] == TokenShards(tmp_path / "tokenizer" / "tokens" / "train").tokens
    assert checkpoint.verify(tmp_path / "corpus", ("corpus",))["metrics"]["validation_documents"] == 1
    assert tokenizer_stage.plan(load_recipe(given))["vocab_size"] == 330
    assert corpus_stage.plan(load_recipe(made)) == {"files": 1, "bytes": (tmp_path / "in.txt").stat().st_size}


@pytest.mark.parametrize(
    ("stage", "lines", "message"),
    [
        ("corpus", "input: missing.jsonl", "input: missing.jsonl does not exist"),
        ("corpus", "input: rows.jsonl", "text_column: rows.jsonl has no column `text`; found content"),
        ("corpus", "input: [rows.jsonl, '*.warc']\ntext_column: content", r"input: no file matches \*\.warc"),
        ("corpus", "input: rows.jsonl\ntext_column: content\nextractor: magic", "extractor: .*magic"),
        ("corpus", "input: rows.jsonl\ntext_column: content\nvalidation_fraction: 0.9", r"validation_fraction: .*0\.9"),
        ("tokenizer", "corpus: nowhere", "corpus: nowhere does not exist; expected what the corpus stage writes"),
        ("tokenizer", "corpus: nowhere\nvocab_size: 100", r"vocab_size: .*100"),
        (
            "tokenizer",
            "corpus: nowhere\npad_token: x",
            "pad_token: has a meaning only for a tokenizer that is taken over",
        ),
        (
            "tokenizer",
            "corpus: x\ntokenizer_name_or_path: ./gone\nvocab_size: 300",
            "vocab_size: .* only for a tokenizer that is trained",
        ),
        (
            "tokenizer",
            "corpus: nowhere\ntokenizer_name_or_path: ./gone",
            r"the folder \./gone does not exist",
        ),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_before_anything_runs(tmp_path, monkeypatch, stage, lines, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"content": "x"}\n')
    with pytest.raises(PipelineError, match=message):
        load_recipe(recipe(tmp_path, stage, f"output_dir: out\n{lines}\n"))

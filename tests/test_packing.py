"""Full rows from token shards: nothing twice, nothing lost, and documents that cannot see one another."""

import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.tokens import TokenShards, write_token_shards
from pipeline.errors import PipelineError
from pipeline.training import packing
from pipeline.training.models import new_model
from pipeline.training.packing import STRATEGIES, PackedCollator, check_isolation, plan_rows, stored_rows
from pipeline.training.validation import bytes_per_token

ROW = 32
PAD = 1


@pytest.fixture(scope="module")
def shards(tmp_path_factory, tokenizer) -> TokenShards:
    """60 documents of 1 to about 150 tokens in several files, an empty one among them."""
    random = np.random.default_rng(0)
    texts = [""] + ["".join(random.choice(list("abcdefgh 123"), size)) for size in random.integers(1, 200, 59)]
    folder = tmp_path_factory.mktemp("shards")
    write_token_shards(texts, tokenizer, folder, shard_tokens=1500)
    found = TokenShards(folder, tokenizer)
    assert (
        len(list(folder.glob("*.bin"))) > 2
        and np.diff(found.offsets).min() == 1
        and np.diff(found.offsets).max() > 3 * ROW
    )
    return found


def placed(rows) -> Counter:
    """How often each position of the stream of all documents stands in the rows."""
    pieces = zip(rows.begins.tolist(), rows.lengths.tolist(), strict=True)
    return Counter(begin + i for begin, length in pieces for i in range(length))


def expected(offsets, strategy, row_length=ROW) -> set[int]:
    """The positions that a strategy keeps: all of them; of each document those in pieces of more than one token; of each
    document the first row, unless it is one token."""
    if strategy == "wrapped":
        return set(range(int(offsets[-1])))
    kept = set()
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        stop = begin + row_length if strategy == "bfd" else end
        for piece in range(begin, min(end, stop), row_length):
            if min(end, piece + row_length) - piece > 1:
                kept |= set(range(piece, min(end, piece + row_length)))
    return kept


corpora = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(lambda lengths: np.cumsum([0, *lengths]))


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(offsets=corpora, row_length=st.integers(2, 24))
@settings(max_examples=150, deadline=None)
def test_no_token_is_lost_but_those_the_strategy_says_and_none_stands_twice(strategy, offsets, row_length):
    try:
        rows = plan_rows(offsets, row_length, strategy, keep_tail=True)
    except PipelineError:
        assert not expected(offsets, strategy, row_length)
        return
    assert placed(rows) == Counter(expected(offsets, strategy, row_length))
    filled = np.add.reduceat(rows.lengths, rows.first[:-1])
    assert filled.max() <= row_length and filled.min() > 0 and filled.sum() == rows.tokens
    assert rows.first[0] == 0 and rows.first[-1] == len(rows.begins) == len(rows.lengths)


@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=80), row_length=st.integers(30, 40))
@settings(max_examples=150, deadline=None)
def test_packing_all_pieces_of_a_length_at_once_is_best_fit_decreasing(lengths, row_length):
    left: list[int] = []  # space in each row, filled piece by piece as the textbook says
    for length in sorted(lengths, reverse=True):
        fitting = [space for space in left if space >= length]
        if fitting:
            left.remove(min(fitting))
        left.append((min(fitting) if fitting else row_length) - length)
    rows = plan_rows(np.cumsum([0, *lengths]), row_length, "bfd")
    filled = np.add.reduceat(rows.lengths, rows.first[:-1])
    assert sorted(row_length - filled) == sorted(left)


@given(data=st.data(), offsets=corpora, row_length=st.integers(2, 24))
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("strategy", ["bfd", "bfd_split"])
def test_no_row_crosses_a_boundary_unmasked(strategy, data, offsets, row_length):
    stream = np.arange(int(offsets[-1])) + 100  # a token tells its place
    source = SimpleNamespace(offsets=offsets, stream=lambda start, stop: stream[start:stop])
    try:
        rows = plan_rows(offsets, row_length, strategy)
    except PipelineError:
        return
    row = rows.read(source, data.draw(st.integers(0, len(rows) - 1)), PAD)
    begins = np.flatnonzero(row["position_ids"] == 0)
    for begin, end in zip(begins, [*begins[1:], row_length], strict=True):
        ids = row["input_ids"][begin:end]
        assert row["labels"][begin] == -100
        if ids[0] != PAD:
            assert np.diff(ids).tolist() == [1] * (len(ids) - 1)
            documents = np.searchsorted(offsets, ids - 100, side="right")
            assert len(set(documents.tolist())) == 1
            assert row["labels"][begin + 1 : end].tolist() == ids[1:].tolist()
        else:
            assert (ids == PAD).all() and (row["labels"][begin:end] == -100).all()


def test_wrapped_leaves_out_a_last_row_that_is_not_full_unless_told_to_keep_it(shards):
    rows = plan_rows(shards.offsets, ROW, "wrapped")
    assert rows.tokens == len(rows) * ROW
    assert shards.tokens - rows.tokens == shards.tokens % ROW > 0
    whole = plan_rows(shards.offsets, ROW, "wrapped", keep_tail=True)
    assert whole.tokens == shards.tokens and len(whole) == len(rows) + 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_reads_the_tokens_planned_with_labels_and_positions_that_restart(shards, strategy):
    rows = plan_rows(shards.offsets, ROW, strategy, keep_tail=True)
    isolated = strategy != "wrapped"
    assert rows.tokens > 0.95 * len(rows) * ROW
    for number in range(len(rows)):
        row = rows.read(shards, number, PAD)
        at = 0
        for piece in range(rows.first[number], rows.first[number + 1]):
            begin, length = int(rows.begins[piece]), int(rows.lengths[piece])
            tokens = shards.stream(begin, begin + length)
            assert row["input_ids"][at : at + length].tolist() == tokens.tolist()
            first_is_masked = isolated or at == 0
            assert (row["labels"][at] == -100) == first_is_masked
            assert row["labels"][at + 1 : at + length].tolist() == tokens[1:].tolist()
            if isolated:
                assert row["position_ids"][at : at + length].tolist() == list(range(length))
            at += length
        assert (row["labels"][at:] == -100).all() and (row["input_ids"][at:] == PAD).all()
        assert ("position_ids" in row) == isolated
        if isolated:
            assert row["position_ids"][at:].tolist() == list(range(ROW - at))


def test_too_little_text_for_one_row_is_an_error_that_says_what_to_do(shards):
    with pytest.raises(PipelineError, match="not enough for one row of max_length 100000.*smaller max_length"):
        plan_rows(shards.offsets, 100_000, "wrapped")
    assert len(plan_rows(shards.offsets, 100_000, "wrapped", keep_tail=True)) == 1
    assert len(plan_rows(shards.offsets, 4096, "bfd_split")) == 2


def test_many_documents_fill_their_rows_almost_whole():
    lengths = np.random.default_rng(0).integers(1, 3000, 20_000)
    rows = plan_rows(np.cumsum([0, *lengths]), 1024, "bfd_split")
    assert rows.tokens / (len(rows) * 1024) > 0.99


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stored_plan_is_the_plan_and_of_these_tokens_only(shards, tmp_path, monkeypatch, strategy):
    planned = plan_rows(shards.offsets, ROW, strategy)
    stored_rows(tmp_path / "plans", shards, ROW, strategy)
    with monkeypatch.context() as patched:
        patched.setattr(packing, "plan_rows", None)  # the second time it is only read
        found = stored_rows(tmp_path / "plans", shards, ROW, strategy)
    for name in ("begins", "lengths", "first"):
        assert isinstance(getattr(found, name), np.memmap)
        assert getattr(found, name).tolist() == getattr(planned, name).tolist()
    assert (found.row_length, found.isolated, found.tokens) == (ROW, strategy != "wrapped", planned.tokens)
    sent = pickle.dumps(found)
    assert len(sent) < 1000 and pickle.loads(sent).begins.tolist() == planned.begins.tolist()
    assert pickle.loads(pickle.dumps(planned)).first.tolist() == planned.first.tolist()
    others = SimpleNamespace(offsets=shards.offsets[:20], digest="others")
    assert len(stored_rows(tmp_path / "plans", others, ROW, strategy)) < len(found)
    assert len(stored_rows(tmp_path / "plans", shards, 2 * ROW, strategy)) < len(found)


def test_a_flat_batch_is_one_row_in_which_positions_restart_at_every_old_one(shards):
    rows = plan_rows(shards.offsets, ROW, "bfd")
    some = [rows.read(shards, row, PAD) for row in range(4)]
    flat, apart = PackedCollator(flatten=True)(some), PackedCollator()(some)
    assert {key: tuple(value.shape) for key, value in flat.items()} == dict.fromkeys(apart, (1, 4 * ROW))
    assert all(torch.equal(flat[key].reshape(4, ROW), apart[key]) for key in apart)
    assert (flat["labels"].reshape(4, ROW)[:, 0] == -100).all()


LLAMA = tiny_config()
QWEN3 = tiny_config(model_type="qwen3", head_dim=8)
GPT2 = {
    "model_type": "gpt2",
    **{"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("config", [LLAMA, QWEN3, GPT2], ids=["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("flatten", [False, True], ids=["rows", "flat"])
def test_packed_logits_equal_unpacked(shards, tokenizer, config, attention, flatten):
    torch.manual_seed(0)
    model = new_model(config, tokenizer, attention=attention).train()
    rows = plan_rows(shards.offsets, ROW, "bfd_split")
    mixed = np.argsort(np.diff(rows.first))[-6:]  # the rows of most pieces
    batch = PackedCollator(flatten)([rows.read(shards, row, PAD) for row in mixed])
    del batch["labels"]
    with torch.no_grad():
        packed = model(**batch, use_cache=False).logits.reshape(6, ROW, -1)
        compared = 0
        for number, row in enumerate(mixed):
            at = 0
            for piece in range(rows.first[row], rows.first[row + 1]):
                length = int(rows.lengths[piece])
                alone = model(batch["input_ids"].reshape(6, 1, ROW)[number, :, at : at + length], use_cache=False)
                torch.testing.assert_close(packed[number, at : at + length], alone.logits[0], atol=1e-5, rtol=0)
                at += length
                compared += 1
    assert compared >= 12


def test_wrapped_rows_attend_across_documents(shards, tokenizer):
    torch.manual_seed(0)
    model = new_model(LLAMA, tokenizer)
    rows = plan_rows(shards.offsets, ROW, "wrapped")
    row, border = next((int(o) // ROW, int(o) % ROW) for o in shards.offsets if 8 < o % ROW < ROW - 8)
    batch = PackedCollator()([rows.read(shards, row, PAD)])
    with torch.no_grad():
        together = model(batch["input_ids"], use_cache=False).logits[0, border:]
        alone = model(batch["input_ids"][:, border:], use_cache=False).logits[0]
    assert (together - alone).abs().max() > 1e-3


BLOOM = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.1}
OPT = {
    **{"model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 64},
}


@pytest.mark.parametrize("config", [BLOOM, OPT], ids=["bloom", "opt"])
def test_an_architecture_whose_documents_see_one_another_is_refused(tokenizer, config):
    torch.manual_seed(0)
    model = new_model(config, tokenizer).train()
    with pytest.raises(PipelineError, match=rf"see one another: {config['model_type']} .* Set packing: wrapped"):
        check_isolation(model, "packing: wrapped")
    assert model.training


@pytest.mark.parametrize("config", [LLAMA, QWEN3, GPT2], ids=["llama", "qwen3", "gpt2"])
def test_an_architecture_that_keeps_documents_apart_is_let_through(tokenizer, config):
    check_isolation(new_model(config, tokenizer), "nothing")


def test_bytes_per_token_add_up_to_the_bytes_of_any_text(tokenizer):
    sizes = bytes_per_token(tokenizer)
    random = np.random.default_rng(0)
    texts = ["Ada lives in Quillport, 12 + 12.", " \n\t  x", "Größe, 東京, 🙂🏽, \u200b, \x00\x7f", "<think>2</think>"]
    for alphabet in (range(1, 0x300), range(0x300, 0xD800), range(0xE000, 0x11000)):
        texts += ["".join(map(chr, random.choice(list(alphabet), 80))) for _ in range(10)]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert sizes[ids].sum() == len(text.encode()), text
    assert sizes[tokenizer.all_special_ids].sum() == 0


def test_bytes_per_token_of_a_tokenizer_that_is_not_byte_level():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "größe": 2, "is": 3}, unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
    assert bytes_per_token(tokenizer).tolist() == [0, 0, len("größe".encode()), 2]

"""Full rows from token shards: nothing twice, nothing lost, and documents that cannot see one another."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import tiny_config

from pipeline.corpus.tokens import TokenShards, write_token_shards
from pipeline.errors import PipelineError
from pipeline.training.models import new_model
from pipeline.training.packing import (
    STRATEGIES,
    PackedCollator,
    as_dataset,
    bytes_per_token,
    check_isolation,
    plan_rows,
)

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
    assert len(list(folder.glob("*.bin"))) > 2 and found.lengths.min() == 1 and found.lengths.max() > 3 * ROW
    return found


def placed(rows) -> Counter:
    """How often each (document, position) stands in the rows."""
    pieces = zip(rows.documents, rows.starts, rows.lengths, strict=True)
    return Counter((int(d), int(s) + i) for d, s, length in pieces for i in range(length))


def everything(shards) -> set:
    return {(document, i) for document, length in enumerate(shards.lengths) for i in range(length)}


def test_bfd_split_holds_every_token_once_but_for_pieces_of_a_single_token(shards):
    counts = placed(plan_rows(shards.lengths, ROW, "bfd_split", seed=1))
    assert set(counts.values()) == {1}
    alone = {(d, length - 1) for d, length in enumerate(shards.lengths) if length % ROW == 1}
    assert 0 < len(alone) < 10
    assert everything(shards) - set(counts) == alone


def test_bfd_holds_the_first_row_of_every_document_and_cuts_the_rest(shards):
    counts = placed(plan_rows(shards.lengths, ROW, "bfd", seed=1))
    assert set(counts.values()) == {1}
    assert set(counts) == {(d, i) for d, i in everything(shards) if i < ROW and shards.lengths[d] > 1}


def test_wrapped_holds_every_token_once_up_to_a_last_row_that_is_not_full(shards):
    rows = plan_rows(shards.lengths, ROW, "wrapped", seed=1)
    counts = placed(rows)
    assert set(counts.values()) == {1} and rows.tokens == len(rows) * ROW
    assert shards.tokens - rows.tokens == shards.tokens % ROW > 0
    whole = plan_rows(shards.lengths, ROW, "wrapped", seed=1, keep_tail=True)
    assert set(placed(whole)) == everything(shards) and len(whole) == len(rows) + 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_row_is_longer_than_its_length_and_few_places_stay_empty(shards, strategy):
    rows = plan_rows(shards.lengths, ROW, strategy, seed=1)
    filled = np.add.reduceat(rows.lengths, rows.first[:-1])
    assert filled.max() <= ROW and filled.min() > 0
    assert filled.sum() == rows.tokens > 0.95 * len(rows) * ROW


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_seed_alone_decides_the_order(shards, strategy):
    def order(seed):
        rows = plan_rows(shards.lengths, ROW, strategy, seed)
        return [rows.read(shards, row, PAD)["input_ids"].tolist() for row in range(len(rows))]

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_reads_the_tokens_planned_with_labels_and_positions_that_restart(shards, strategy):
    rows = plan_rows(shards.lengths, ROW, strategy, seed=3, keep_tail=True)
    isolated = strategy != "wrapped"
    for number in range(len(rows)):
        row = rows.read(shards, number, PAD)
        at = 0
        for piece in range(rows.first[number], rows.first[number + 1]):
            document, start, length = (int(x[piece]) for x in (rows.documents, rows.starts, rows.lengths))
            tokens = shards.slice(document, start, start + length)
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
        plan_rows(shards.lengths, 100_000, "wrapped", seed=0)
    assert len(plan_rows(shards.lengths, 100_000, "wrapped", seed=0, keep_tail=True)) == 1
    assert len(plan_rows(shards.lengths, 4096, "bfd_split", seed=0)) == 2


def test_many_documents_fill_their_rows_almost_whole():
    lengths = np.random.default_rng(0).integers(1, 3000, 20_000)
    rows = plan_rows(lengths, 1024, "bfd_split", seed=0)
    assert rows.tokens / (len(rows) * 1024) > 0.99


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_dataset_hands_the_trainer_the_rows_also_in_worker_processes(shards, strategy):
    rows = plan_rows(shards.lengths, ROW, strategy, seed=3)
    dataset = as_dataset(pickle.loads(pickle.dumps(shards)), rows, PAD)
    loader = torch.utils.data.DataLoader(dataset, batch_size=7, collate_fn=PackedCollator(), num_workers=1)
    batches = list(loader)
    assert [len(batch["input_ids"]) for batch in batches] == [7] * (len(rows) // 7) + [len(rows) % 7] * (
        len(rows) % 7 > 0
    )
    for key in batches[0]:
        expected = np.stack([rows.read(shards, row, PAD)[key] for row in range(len(rows))])
        assert torch.cat([batch[key] for batch in batches]).numpy().tolist() == expected.tolist()


def test_a_flat_batch_is_one_row_in_which_positions_restart_at_every_old_one(shards):
    rows = plan_rows(shards.lengths, ROW, "bfd", seed=3)
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
    rows = plan_rows(shards.lengths, ROW, "bfd_split", seed=5)
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
    rows = plan_rows(shards.lengths, ROW, "wrapped", seed=5)
    row = next(r for r in range(len(rows)) if rows.first[r + 1] - rows.first[r] > 1)
    batch = PackedCollator()([rows.read(shards, row, PAD)])
    border = int(rows.lengths[rows.first[row]])
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

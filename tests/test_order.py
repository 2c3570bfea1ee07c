"""The global order of rows: every row once an epoch, exact shares, the same for any ranks, and O(1) to go on in."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

from pipeline.corpus.tokens import TokenShards
from pipeline.training.order import Corpus, Deal, Onwards, Permutation, RowStream
from pipeline.training.packing import PackedCollator, Rows, plan_rows

PAD = 1


@given(size=st.integers(1, 3000), key=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_permutation_holds_every_entry_once(size, key):
    permutation = Permutation(size, *key)
    assert sorted(map(permutation, range(size))) == list(range(size))
    with pytest.raises(IndexError):
        permutation(size)


def test_a_permutation_of_a_trillion_is_made_at_once_and_never_repeats():
    permutation = Permutation(10**12, 3)
    seen = [permutation(index) for index in range(20_000)]
    assert len(set(seen)) == 20_000 and max(seen) < 10**12
    assert 0.49 < np.mean(seen) / 10**12 < 0.51


@pytest.mark.parametrize("size", [10, 257, 1000])
def test_permutations_of_different_seeds_are_as_good_as_drawn(size):
    # Where entry 0 goes, and whether neighbours stay neighbours: both as in uniformly drawn permutations.
    drawn = [Permutation(size, seed) for seed in range(2000)]
    first = np.array([permutation(0) for permutation in drawn])
    assert abs(first.mean() / (size - 1) - 0.5) < 0.03
    follows = np.mean([permutation(1) == permutation(0) + 1 for permutation in drawn])
    assert abs(follows - 1 / size) < 4 * np.sqrt(1 / size / 2000)


weights = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


@given(weights=weights, seed=st.integers(0, 2**31), start=st.integers(0, 10**9), window=st.integers(1, 400))
@settings(max_examples=200, deadline=None)
def test_every_window_of_turns_holds_the_shares(weights, seed, start, window):
    deal = Deal(weights, seed)
    turns = [deal.whose(turn) for turn in range(start, start + window)]
    before, after = deal.had(start), deal.had(start + window)
    for member, weight in enumerate(weights):
        had = [number for whose, number in turns if whose == member]
        assert had == list(range(before[member], after[member]))  # its own turns, one after the other, none left out
        assert abs(len(had) - window * weight / sum(weights)) < len(weights)


def test_the_seed_decides_who_comes_first():
    orders = {tuple(Deal([0.5, 0.3, 0.2], seed).whose(turn)[0] for turn in range(10)) for seed in range(20)}
    assert len(orders) > 5


def test_a_member_without_a_share_has_no_turn():
    for shares in ([0.0, 1.0, 2.0], [1.0, 0.0, 2.0], [1.0, 2.0, 0.0]):
        deal = Deal(shares, seed=0)
        assert deal.had(3000)[shares.index(0.0)] == 0
        assert sum(deal.had(3000)) == 3000


class Source:
    """Token shards in memory; each token tells the corpus and its place."""

    def __init__(self, name: int, tokens: int):
        self.digest = f"{name:064x}"
        self.offsets = np.array([0, tokens])
        self.stream = lambda start, stop: np.arange(start, stop) + name * 10**6


def corpus(name: int, rows: int, share: float = 1.0, annealing: float | None = None, length: int = 4) -> Corpus:
    source = Source(name, rows * length)
    return Corpus(f"corpus {name}", source, plan_rows(source.offsets, length, "wrapped"), share, annealing)


def rows_of(stream: RowStream, span: range) -> list[tuple[int, int]]:
    """(corpus, row) of rows of the run."""
    return [tuple(divmod(int(stream[i]["input_ids"][0]), 10**6)) for i in span]


def test_an_epoch_reads_every_row_once_and_the_next_one_in_another_order():
    stream = RowStream([corpus(7, 50)], 150, seed=3, pad_token_id=PAD)
    epochs = [[row for _, row in rows_of(stream, range(e * 50, e * 50 + 50))] for e in range(3)]
    assert all(sorted(epoch) == list(range(0, 200, 4)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [row for _, row in rows_of(RowStream([corpus(7, 50)], 150, 4, PAD), range(50))]


def test_a_mixture_keeps_its_shares_and_reads_each_corpus_evenly():
    corpora = [corpus(1, 100, 0.7), corpus(2, 30, 0.3)]
    stream = RowStream(corpora, 400, seed=3, pad_token_id=PAD)
    drawn = rows_of(stream, range(400))
    assert abs(sum(name == 1 for name, _ in drawn) - 280) <= 1
    assert stream.drawn() == {f"corpus {n}": sum(name == n for name, _ in drawn) for n in (1, 2)}
    for name, size in ((1, 100), (2, 30)):
        mine = [row for n, row in drawn if n == name]
        assert sorted(mine[:size]) == list(range(0, 4 * size, 4))  # nothing twice before everything once
    assert rows_of(RowStream(corpora[::-1], 400, 3, PAD), range(400)) == drawn


def test_shares_are_of_tokens_where_rows_are_not_equally_full():
    full, half = corpus(1, 1000, 0.5), corpus(2, 1000, 0.5)
    rows = Rows(half.rows.begins, half.rows.lengths // 2, half.rows.first, 4, isolated=False)
    stream = RowStream([full, Corpus("corpus 2", half.source, rows, 0.5)], 900, seed=0, pad_token_id=PAD)
    facts = stream.facts()
    assert facts["corpus 1"]["tokens"] == pytest.approx(facts["corpus 2"]["tokens"], abs=8)
    assert facts["corpus 2"]["rows"] == pytest.approx(600, abs=1)
    assert facts["corpus 2"]["epochs"] == pytest.approx(0.6, abs=1e-3)


def test_annealing_changes_the_shares_and_goes_on_with_rows_not_yet_read():
    corpora = [corpus(1, 1000, 0.9, 0.2), corpus(2, 1000, 0.1, 0.3), corpus(3, 1000, 0.0, 0.5)]
    stream = RowStream(corpora, 1000, seed=3, pad_token_id=PAD, annealing_from=800)
    before, after = rows_of(stream, range(800)), rows_of(stream, range(800, 1000))
    for name, share, later in ((1, 0.9, 0.2), (2, 0.1, 0.3), (3, 0.0, 0.5)):
        assert abs(sum(n == name for n, _ in before) - 800 * share) <= 2
        assert abs(sum(n == name for n, _ in after) - 200 * later) <= 2
    assert len(set(before + after)) == 1000
    assert {f"corpus {n}": sum(name == n for name, _ in before + after) for n in (1, 2, 3)} == stream.drawn()


def steps_read(stream, batch: int, *, ranks: int, micro: int, from_step: int = 0) -> list[list[int]]:
    """The rows of each optimizer step, in the order that accelerate deals micro-batches out to ranks."""
    accumulation = batch // (ranks * micro)
    state = SimpleNamespace(global_step=from_step)
    sampler = Onwards(lambda: state.global_step * batch, stop=len(stream))
    shards = [
        list(BatchSamplerShard(BatchSampler(sampler, micro, drop_last=False), ranks, rank)) for rank in range(ranks)
    ]
    return [
        sorted(i for shard in shards for part in shard[step * accumulation : (step + 1) * accumulation] for i in part)
        for step in range(len(shards[0]) // accumulation)
    ]


@pytest.mark.parametrize(("ranks", "micro"), [(1, 8), (1, 2), (2, 4), (2, 2), (4, 2), (8, 1)])
def test_every_step_reads_the_same_rows_whatever_ranks_and_micro_batches_make_up_its_batch(ranks, micro):
    stream = RowStream([corpus(1, 30, 0.6), corpus(2, 50, 0.4)], 80, seed=3, pad_token_id=PAD)
    read = steps_read(stream, 8, ranks=ranks, micro=micro)
    assert read == [list(range(step * 8, step * 8 + 8)) for step in range(10)]
    assert steps_read(stream, 8, ranks=ranks, micro=micro, from_step=6) == read[6:]


def test_the_stream_is_read_alike_in_worker_processes(tiny_world, tokenizer):
    shards = TokenShards(tiny_world / "tokenizer" / "tokens" / "train", tokenizer)
    one = Corpus("one", shards, plan_rows(shards.offsets, 32, "bfd_split"))
    stream = RowStream([one], 90, seed=1, pad_token_id=PAD)
    loader = DataLoader(
        pickle.loads(pickle.dumps(stream)), batch_size=7, collate_fn=PackedCollator(), num_workers=1, shuffle=False
    )
    ids = torch.cat([batch["input_ids"] for batch in loader])
    assert ids.tolist() == [stream[i]["input_ids"].tolist() for i in range(90)]

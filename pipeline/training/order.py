"""The global order of a pretraining run: which row of which corpus is the i-th, with no list of them anywhere.

Row i of a run is a pure function of the seed, the mixture and i. Optimizer step s takes the rows s x B to (s + 1) x B of that
order, whatever ranks, accumulation steps and micro-batches make up B; going on at step N reads nothing of what came before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from pipeline.training.packing import Documents, Rows

ROUNDS = 6
MASK = 2**64 - 1
WHOLE = 2**48


class Permutation:
    """A seeded bijection of 0 to `size` - 1 whose entries are computed one by one: nothing is stored.

    A Feistel network over the next power of four; a result that is not below `size` goes through it again ("cycle walking",
    Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").

    Args:
        size: Number of entries.
        key: Whole numbers that decide which permutation it is.
    """

    def __init__(self, size: int, *key: int):
        self.size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64).tolist()

    def __call__(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IndexError(f"entry {index} of a permutation of {self.size}")
        mask = (1 << self._half) - 1
        while True:
            left, right = index >> self._half, index & mask
            for key in self._keys:
                left, right = right, left ^ (_mixed(right + key) & mask)
            index = left << self._half | right
            if index < self.size:
                return index


class Deal:
    """Deals the turns 0, 1, 2 ... out to members by their shares, in closed form.

    Members are split off one after the other, each evenly spaced over the turns that are left. In any window of turns each
    has its share of them, give or take fewer turns than there are members.

    Args:
        shares: Of each member; they need not add up to 1.
        seed: Where within its spacing a member comes first.
    """

    def __init__(self, shares: Sequence[float], seed: int):
        rest = np.cumsum(shares[::-1])[::-1]
        self._shares = [
            round(WHOLE * share / left) if left > 0 else 0 for share, left in zip(shares, rest, strict=True)
        ]
        self._phases = np.random.default_rng(seed).integers(0, WHOLE, len(shares)).tolist()

    def whose(self, turn: int) -> tuple[int, int]:
        """The member whose turn it is, and how many turns it had before."""
        for member, (share, phase) in enumerate(zip(self._shares, self._phases, strict=True)):
            had = (turn * share + phase) // WHOLE
            if ((turn + 1) * share + phase) // WHOLE > had:
                return member, had
            turn -= had
        raise AssertionError("the last member with a share takes every turn that is left")

    def had(self, turn: int) -> list[int]:
        """How many of the turns before `turn` each member had."""
        counts = []
        for share, phase in zip(self._shares, self._phases, strict=True):
            counts.append((turn * share + phase) // WHOLE)
            turn -= counts[-1]
        return counts


@dataclass(frozen=True)
class Corpus:
    """Token shards and the rows that they are packed into, with their shares of the tokens before and during annealing."""

    name: str
    source: Documents
    rows: Rows
    share: float = 1.0
    annealing_share: float | None = None


class RowStream:
    """A map-style dataset: item i is row i of the run.

    Args:
        corpora: The members of the mixture. Their order does not matter.
        total: Rows of the run.
        seed: Of the order in which each corpus is read (another one in every epoch) and of the dealing.
        pad_token_id: Fills rows that are not full.
        annealing_from: Rows from this one on are drawn by the annealing shares. A corpus goes on where it stood.
    """

    def __init__(
        self, corpora: Sequence[Corpus], total: int, seed: int, pad_token_id: int, annealing_from: int | None = None
    ):
        self.corpora = sorted(corpora, key=lambda corpus: corpus.source.digest)
        self._total, self._seed, self._pad = total, seed, pad_token_id
        self._annealing_from = total if annealing_from is None else annealing_from
        # Shares are of tokens; a row of a corpus of many short documents may hold fewer than another's.
        fill = [corpus.rows.tokens / len(corpus.rows) for corpus in self.corpora]
        shares = [[corpus.share, corpus.annealing_share or 0.0] for corpus in self.corpora]
        main, annealing = ([one[part] / full for one, full in zip(shares, fill, strict=True)] for part in (0, 1))
        self._main, self._annealing = Deal(main, seed), Deal(annealing, seed + 1)
        self._before = self._main.had(self._annealing_from)
        self._permutations: dict[tuple[int, int], Permutation] = {}

    def __len__(self) -> int:
        return self._total

    def locate(self, index: int) -> tuple[int, int, int]:
        """(number of the corpus, its epoch, its row) of row `index` of the run."""
        if index < self._annealing_from:
            number, turn = self._main.whose(index)
        else:
            number, turn = self._annealing.whose(index - self._annealing_from)
            turn += self._before[number]
        epoch, entry = divmod(turn, len(self.corpora[number].rows))
        if (number, epoch) not in self._permutations:
            identity = int(self.corpora[number].source.digest[:16], 16)
            self._permutations[number, epoch] = Permutation(len(self.corpora[number].rows), self._seed, identity, epoch)
        return number, epoch, self._permutations[number, epoch](entry)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        number, _, row = self.locate(index)
        corpus = self.corpora[number]
        return corpus.rows.read(corpus.source, row, self._pad)

    def drawn(self, rows: int | None = None) -> dict[str, int]:
        """How many of the first `rows` rows of the run (all of them by default) each corpus gives."""
        rows = self._total if rows is None else rows
        counts = self._main.had(min(rows, self._annealing_from))
        if rows > self._annealing_from:
            later = self._annealing.had(rows - self._annealing_from)
            counts = [before + more for before, more in zip(counts, later, strict=True)]
        return {corpus.name: count for corpus, count in zip(self.corpora, counts, strict=True)}

    def facts(self) -> dict[str, dict[str, Any]]:
        """What the manifest says of each corpus: rows, epochs, and tokens in all, padding left out."""
        drawn = self.drawn()
        return {
            corpus.name: {
                "rows": drawn[corpus.name],
                "tokens": round(drawn[corpus.name] * corpus.rows.tokens / len(corpus.rows)),
                "epochs": round(drawn[corpus.name] / len(corpus.rows), 4),
            }
            for corpus in self.corpora
        }


class Onwards(Sampler[int]):
    """The numbers `start()` to `stop` - 1: where to start is asked when the reading starts, after a resume."""

    def __init__(self, start: Any, stop: int):
        self._start, self._stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._start(), self._stop))

    def __len__(self) -> int:
        return self._stop


def _mixed(value: int) -> int:
    """The finaliser of splitmix64 (Steele et al. 2014): every bit of the result depends on every bit of `value`."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31

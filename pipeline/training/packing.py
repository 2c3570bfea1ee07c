"""Full rows out of token shards: which pieces of which documents stand in which row, and the batches made of them.

Strategies bear TRL's names (`packing_strategy`):

- `bfd`: best-fit decreasing; a document longer than a row loses its tail. Documents do not see one another.
- `bfd_split`: the same, but long documents are split into pieces instead of cut, and nothing is lost but last pieces of a
  single token, which would predict nothing. Ding et al. 2024, "Fewer Truncations Improve Language Modeling".
- `wrapped`: the classic concatenate-and-cut (GPT-2, nanoGPT): every row is full, attention runs across documents.

A plan costs 12 bytes a piece, is computed once (in about half a microsecond and 50 bytes of memory a document) and mapped
into memory by every rank; tokens are read when a row is asked for.
The order in which rows are trained on is another matter: see `pipeline.training.order`.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.errors import PipelineError

STRATEGIES = ("bfd", "bfd_split", "wrapped")
VERSION = 1


class Documents(Protocol):
    """What packing needs of token shards: see `pipeline.corpus.tokens.TokenShards`."""

    digest: str

    @property
    def offsets(self) -> np.ndarray:
        """Where each document starts in the stream of all tokens; the last is their number."""
        ...

    def stream(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` of all documents laid end to end."""
        ...


@dataclass(frozen=True)
class Rows:
    """A plan of rows: row r holds the pieces `first[r]` to `first[r + 1]`, in order.

    Piece p is `lengths[p]` tokens from `begins[p]` on in the stream of all documents.
    """

    begins: np.ndarray
    lengths: np.ndarray
    first: np.ndarray
    row_length: int
    isolated: bool

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def tokens(self) -> int:
        """Tokens in all rows, padding left out."""
        return int(self.lengths.sum(dtype=np.int64))

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps a stored plan itself instead of receiving its contents.
        return {k: Path(str(v.filename)) if isinstance(v, np.memmap) else v for k, v in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({k: np.load(v, mmap_mode="r") if isinstance(v, Path) else v for k, v in state.items()})

    def read(self, source: Documents, row: int, pad_token_id: int) -> dict[str, np.ndarray]:
        """One row as int64 arrays of length `row_length`.

        `labels` are unshifted, as transformers models expect them. The first token of a document (of a row, for
        `wrapped`) has no context and is not predicted. `position_ids` restart with every document: without a mask and
        without a cache, transformers attends within documents only (seen for sdpa, eager and FlashAttention).
        """
        ids = np.full(self.row_length, pad_token_id, np.int64)
        labels = np.full(self.row_length, -100, np.int64)
        positions = np.arange(self.row_length)
        at = 0
        for piece in range(self.first[row], self.first[row + 1]):
            begin, length = int(self.begins[piece]), int(self.lengths[piece])
            ids[at : at + length] = labels[at : at + length] = source.stream(begin, begin + length)
            if self.isolated:
                labels[at] = -100
                positions[at : at + length] = np.arange(length)
            at += length
        labels[0] = -100
        if self.isolated:
            positions[at:] = np.arange(self.row_length - at)
            return {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {"input_ids": ids, "labels": labels}


def plan_rows(offsets: np.ndarray, row_length: int, strategy: str, *, keep_tail: bool = False) -> Rows:
    """Decide which pieces of which documents stand in which row; the same for every seed.

    Args:
        offsets: int64 of shape (documents + 1,): where each document starts in the stream of all tokens.
        row_length: Tokens of a row.
        strategy: One of `STRATEGIES`.
        keep_tail: Keep a last row of `wrapped` that is not full (for validation: nothing is left out).

    Raises:
        PipelineError: There are not enough tokens for a single row.
    """
    tokens = int(offsets[-1])
    if strategy == "wrapped":
        begins = np.arange(0, tokens if keep_tail else tokens - row_length + 1, row_length)
        lengths = np.minimum(tokens - begins, row_length).astype(np.int32)
        rows = Rows(begins, lengths, np.arange(len(begins) + 1), row_length, isolated=False)
    else:
        begins, lengths = _pieces(offsets, row_length, split=strategy == "bfd_split")
        rows = Rows(*_best_fit(begins, lengths, row_length), row_length, isolated=True)
    if len(rows) == 0:
        raise PipelineError(
            f"The token shards hold {tokens} tokens: not enough for one row of max_length {row_length}. "
            f"Give more text, or a smaller max_length."
        )
    return rows


def stored_rows(folder: Path, source: Documents, row_length: int, strategy: str) -> Rows:
    """`plan_rows` of `source`, from `folder` where it was planned before; planned and stored there where not.

    What is found is used only if tokens, documents, row length and strategy are those it was planned for.
    """
    key = hashlib.sha256(f"{VERSION}/{source.digest}/{row_length}/{strategy}".encode()).hexdigest()[:16]
    place, aside = folder / key, folder / f".{key}"
    if not place.is_dir():
        rows = plan_rows(source.offsets, row_length, strategy)
        shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed here
        aside.mkdir(parents=True)
        for name in ("begins", "lengths", "first"):
            np.save(aside / name, getattr(rows, name))
        os.replace(aside, place)
    begins, lengths, first = (np.load(place / f"{name}.npy", mmap_mode="r") for name in ("begins", "lengths", "first"))
    return Rows(begins, lengths, first, row_length, isolated=strategy != "wrapped")


def _pieces(offsets: np.ndarray, row_length: int, *, split: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where the pieces of all documents begin in the stream, and how long they are."""
    begins, ends = np.asarray(offsets[:-1]), np.asarray(offsets[1:])
    if split:
        counts = -(-(ends - begins) // row_length)
        number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        begins, ends = np.repeat(begins, counts) + number * row_length, np.repeat(ends, counts)
    lengths = np.minimum(ends - begins, row_length).astype(np.int32)
    kept = lengths > 1  # a piece of one token predicts nothing; it would only take a place
    return begins[kept], lengths[kept]


def _best_fit(begins: np.ndarray, lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best-fit decreasing over the histogram of lengths: all pieces of a length and all rows of a space at a time.

    The result is that of taking one piece after the other; the time depends on the row length, and on the number of pieces
    only through sorting (Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination").
    """
    longest_first = np.argsort((row_length - lengths).astype(np.min_scalar_type(row_length)), kind="stable")
    row_of = np.empty(len(lengths), np.int64)
    open_rows: list[list[tuple[int, int]]] = [[] for _ in range(row_length + 1)]  # ranges of rows by the space left
    space = _SmallestFit(row_length)
    rows = placed = 0

    def leave_open(start: int, stop: int, left: int) -> None:
        if start < stop and left > 1:
            open_rows[left].append((start, stop))
            space.set(left)

    counts = np.bincount(lengths, minlength=1)
    for length in np.flatnonzero(counts)[::-1].tolist():
        waiting = int(counts[length])
        while waiting:
            room = space.at_least(length)
            if room is None:
                room, start = row_length, rows
                rows = stop = rows - (-waiting // (row_length // length))
            else:
                start, stop = open_rows[room].pop()
                if not open_rows[room]:
                    space.clear(room)
            each = room // length
            full = min(stop - start, waiting // each)
            rest = waiting - full * each if start + full < stop else 0  # fewer than `each`: they end in one more row
            row_of[placed : placed + full * each] = np.repeat(np.arange(start, start + full), each)
            placed, waiting = placed + full * each + rest, waiting - full * each - rest
            row_of[placed - rest : placed] = start + full
            leave_open(start, start + full, room - each * length)
            leave_open(start + full, start + full + 1 if rest else start + full, room - rest * length)
            leave_open(start + full + (1 if rest else 0), stop, room)
    by_row = np.argsort(row_of, kind="stable")
    first = np.concatenate(([0], np.cumsum(np.bincount(row_of, minlength=rows))))
    order = longest_first[by_row]
    return begins[order], lengths[order], first


class _SmallestFit:
    """A set of integers up to `size` that answers: the smallest member of at least n. A big integer serves as bit set."""

    def __init__(self, size: int):
        self._bits = 0
        self._size = size

    def set(self, value: int) -> None:
        self._bits |= 1 << value

    def clear(self, value: int) -> None:
        self._bits &= ~(1 << value)

    def at_least(self, value: int) -> int | None:
        rest = self._bits >> value
        return value + (rest & -rest).bit_length() - 1 if rest else None


@torch.no_grad()
def check_isolation(model: Any, remedy: str) -> None:
    """Refuse a model in which documents of one row see one another although their positions restart.

    transformers keeps them apart where the architecture builds its mask from `position_ids`; OPT, BLOOM, Falcon, MPT and
    Mamba (5.17) attend across without a word (compare huggingface/trl#3526). Seen here: whether the logits of a second
    document change with the first. FlashAttention is taken at its word, and so are weights that ZeRO-3 has sharded.

    Args:
        model: A causal language model.
        remedy: What to set instead, for the message.

    Raises:
        PipelineError: The logits change.
    """
    attention = str(getattr(model.config, "_attn_implementation", ""))
    if attention.startswith("flash") or any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    length = 8
    second = torch.arange(length)
    positions = torch.arange(length).repeat(2)[None].to(device)
    seen = []
    for first in (torch.arange(length), torch.arange(length).flip(0)):
        ids = torch.cat((first, second))[None].to(device)
        seen.append(model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, length:].float())
    model.train(was_training)
    if (seen[0] - seen[1]).abs().max() > 1e-3 * seen[0].abs().max():
        raise PipelineError(
            f"Documents packed into one row would see one another: {model.config.model_type} with "
            f"{attention or 'its own'} attention does not keep them apart by their positions. Set {remedy}."
        )


@dataclass
class PackedCollator:
    """Batches of packed rows: `input_ids`, `labels` (batch, length), and `position_ids` where documents are isolated.

    Args:
        flatten: Lay the batch out as one row of batch x length tokens, which FlashAttention's variable-length kernels
            want. Elsewhere rows stay apart: attention costs length squared.
    """

    flatten: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {key: torch.from_numpy(np.stack([np.asarray(row[key]) for row in rows])) for key in rows[0]}
        if self.flatten and "position_ids" in batch:
            batch = {key: value.reshape(1, -1) for key, value in batch.items()}
        return batch

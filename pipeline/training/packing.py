"""Full rows out of token shards: which pieces of which documents stand in which row, and the batches made of them.

Strategies bear TRL's names (`packing_strategy`):

- `bfd`: best-fit decreasing; a document longer than a row loses its tail. Documents do not see one another.
- `bfd_split`: the same, but long documents are split into pieces instead of cut. Nothing is lost. Ding et al. 2024, "Fewer
  Truncations Improve Language Modeling".
- `wrapped`: the classic concatenate-and-cut (GPT-2, nanoGPT): every row is full, attention runs across documents.

Only lengths are held in memory; tokens are read from the memory map when a row is asked for.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.errors import PipelineError

STRATEGIES = ("bfd", "bfd_split", "wrapped")


class Documents(Protocol):
    """What packing needs of token shards: see `pipeline.corpus.tokens.TokenShards`."""

    lengths: np.ndarray

    def slice(self, document: int, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` of one document."""
        ...


@dataclass(frozen=True)
class Rows:
    """A plan of rows: row r holds the pieces `first[r]` to `first[r + 1]`, each (document, start, length), in order."""

    documents: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    first: np.ndarray
    row_length: int
    isolated: bool

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def tokens(self) -> int:
        """Tokens in all rows, padding left out."""
        return int(self.lengths.sum())

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
            length = int(self.lengths[piece])
            start = int(self.starts[piece])
            tokens = source.slice(int(self.documents[piece]), start, start + length)
            ids[at : at + length] = tokens
            labels[at : at + length] = tokens
            if self.isolated:
                labels[at] = -100
                positions[at : at + length] = np.arange(length)
            at += length
        labels[0] = -100
        if self.isolated:
            positions[at:] = np.arange(self.row_length - at)
            return {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {"input_ids": ids, "labels": labels}


def plan_rows(lengths: np.ndarray, row_length: int, strategy: str, seed: int, *, keep_tail: bool = False) -> Rows:
    """Decide which pieces of which documents stand in which row.

    Args:
        lengths: int array, tokens of each document.
        row_length: Tokens of a row.
        strategy: One of `STRATEGIES`.
        seed: Of the shuffle: of the documents before they are laid end to end (`wrapped`), of the rows otherwise.
        keep_tail: Keep a last row that is not full (for validation: nothing is left out).

    Raises:
        PipelineError: There are not enough tokens for a single row.
    """
    random = np.random.default_rng(seed)
    if strategy == "wrapped":
        rows = _wrap(lengths, row_length, random, keep_tail)
    else:
        rows = _best_fit(lengths, row_length, random, split=strategy == "bfd_split")
    if len(rows) == 0:
        raise PipelineError(
            f"The token shards hold {int(lengths.sum())} tokens: not enough for one row of max_length {row_length}. "
            f"Give more text, or a smaller max_length."
        )
    return rows


def _wrap(lengths: np.ndarray, row_length: int, random: np.random.Generator, keep_tail: bool) -> Rows:
    order = random.permutation(len(lengths))
    ends = np.cumsum(lengths[order])
    total = int(ends[-1])
    cuts = np.arange(row_length, total + (1 if not keep_tail else 0), row_length)
    if keep_tail and (not len(cuts) or cuts[-1] != total):
        cuts = np.append(cuts, total)
    if not len(cuts):
        return Rows(order[:0], order[:0], order[:0], np.zeros(1, np.int64), row_length, isolated=False)
    # A piece ends where a document or a row does.
    boundaries = np.union1d(ends[ends <= cuts[-1]], cuts)
    begins = np.concatenate(([0], boundaries[:-1]))
    position = np.searchsorted(ends, begins, side="right")
    starts = begins - (ends - lengths[order])[position]
    first = np.concatenate(([0], np.searchsorted(boundaries, cuts) + 1))
    return Rows(order[position], starts, boundaries - begins, first, row_length, isolated=False)


def _best_fit(lengths: np.ndarray, row_length: int, random: np.random.Generator, *, split: bool) -> Rows:
    counts = -(-lengths // row_length) if split else np.ones_like(lengths)
    documents = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = number * row_length
    pieces = np.minimum(lengths[documents] - starts, row_length)
    # A piece of one token predicts nothing; it would only take a place.
    kept = pieces > 1
    documents, starts, pieces = documents[kept], starts[kept], pieces[kept]

    by_length = np.argsort(-pieces, kind="stable")
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(row_length + 1)]  # rows by the tokens that are left in them
    space = _SmallestFit(row_length)
    for piece in by_length.tolist():
        length = int(pieces[piece])
        left = space.at_least(length)
        if left is None:
            row, left = len(rows), row_length
            rows.append([])
        else:
            row = open_rows[left].pop()
            if not open_rows[left]:
                space.clear(left)
        rows[row].append(piece)
        if left > length:
            open_rows[left - length].append(row)
            space.set(left - length)
    random.shuffle(rows)
    order = np.array([piece for row in rows for piece in row], np.int64)
    first = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    return Rows(documents[order], starts[order], pieces[order], first, row_length, isolated=True)


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


def as_dataset(source: Documents, rows: Rows, pad_token_id: int) -> Any:
    """A `datasets.Dataset` of row numbers whose rows are read from the memory map on access: what SFTTrainer takes."""
    from datasets import Dataset

    def read(batch: dict[str, list[int]]) -> dict[str, list[np.ndarray]]:
        found = [rows.read(source, row, pad_token_id) for row in batch["row"]]
        return {key: [row[key] for row in found] for key in found[0]}

    return Dataset.from_dict({"row": np.arange(len(rows))}).with_transform(read)


def bytes_per_token(tokenizer: Any) -> np.ndarray:
    """UTF-8 bytes that each token id stands for, shape (vocabulary,); special tokens stand for none.

    With it, bits per byte count exactly the text that was predicted.
    """
    special = set(tokenizer.all_special_ids)
    sizes = np.zeros(len(tokenizer), np.int64)
    byte_level = '"ByteLevel"' in tokenizer.backend_tokenizer.to_str()
    for token, token_id in tokenizer.get_vocab().items():
        if token_id not in special:
            # Byte-level alphabets write each byte as one character; other tokenizers have to be asked for the text.
            sizes[token_id] = len(token) if byte_level else len(tokenizer.decode([token_id]).encode())
    return sizes

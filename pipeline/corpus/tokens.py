"""Token shards: a corpus tokenised once, memory-mapped by every rank.

On disk, in one directory a split:

    00000.bin ...       token ids, little-endian uint16 (vocabularies up to 65,536) or uint32, document after document
    lengths.npy         int64, tokens of each document, its end-of-text token included
    document_bytes.npy  int64, UTF-8 bytes of each document's text, for bits per byte
    meta.json           counts, dtype, the shards, and a hash of the vocabulary that the ids belong to

A document never spans two shards, so that a slice of it is one view of one file.
"""

import array
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

VERSION = 1
META = "meta.json"


def vocabulary_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hash of what gives ids their meaning: vocabulary, merges and added tokens.

    The same as `tokenizer.vocabulary` in the manifest of a stage that publishes this tokenizer; EOS, padding and chat
    template do not enter, because later stages may change them.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    core = {
        "model": {key: state["model"].get(key) for key in ("type", "vocab", "merges")},
        "added_tokens": [(token["id"], token["content"]) for token in state.get("added_tokens", [])],
    }
    return hashlib.sha256(json.dumps(core, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def text_encoder(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """The Rust tokenizer behind `tokenizer`, copied, for text that nobody vouches for.

    Control tokens spelt out in a web page are encoded as the characters they are made of: a page cannot end a document
    or open a turn. No truncation, no padding.
    """
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder.encode_special_tokens = True
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def write_token_shards(
    texts: Iterable[str],
    tokenizer: "PreTrainedTokenizerBase",
    directory: str | Path,
    *,
    shard_tokens: int = 100_000_000,
    batch_characters: int = 4_000_000,
) -> dict[str, Any]:
    """Tokenise documents in parallel batches, end each with EOS, and write them as shards.

    Memory holds one batch and 16 bytes a document. The Rust tokenizer spreads a batch over all cores
    (`RAYON_NUM_THREADS` limits it); the order of the documents is that of `texts`.

    Args:
        texts: Documents.
        tokenizer: A fast tokenizer with an `eos_token`. No BOS is added.
        directory: Where the shards go; created, expected to be empty.
        shard_tokens: A shard is closed when it holds at least this many.
        batch_characters: Characters tokenised at a time.

    Returns:
        What `meta.json` holds.

    Raises:
        PipelineError: The tokenizer has no EOS token, or there was no document.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if tokenizer.eos_token_id is None:
        raise PipelineError(f"{directory}: the tokenizer has no eos_token, so documents cannot be told apart.")
    encoder = text_encoder(tokenizer)
    vocabulary = len(tokenizer)
    dtype = np.dtype("<u2" if vocabulary <= 2**16 else "<u4")
    end = np.array([tokenizer.eos_token_id], dtype)
    lengths, sizes = array.array("q"), array.array("q")
    shards: list[dict[str, Any]] = []
    file = None
    try:
        for batch in _batches(texts, batch_characters):
            for text, encoding in zip(batch, encoder.encode_batch_fast(batch, add_special_tokens=False), strict=True):
                if file is None:
                    name = f"{len(shards):05d}.bin"
                    file = (directory / name).open("wb")
                    shards.append({"file": name, "tokens": 0, "documents": 0})
                ids = np.concatenate((np.array(encoding.ids, dtype), end))
                file.write(ids.tobytes())
                lengths.append(len(ids))
                sizes.append(len(text.encode()))
                shards[-1]["tokens"] += len(ids)
                shards[-1]["documents"] += 1
                if shards[-1]["tokens"] >= shard_tokens:
                    file.close()
                    file = None
    finally:
        if file is not None:
            file.close()
    if not lengths:
        raise PipelineError(f"{directory}: no document to tokenise. The corpus that was read is empty.")
    np.save(directory / "lengths.npy", np.frombuffer(lengths, np.int64))
    np.save(directory / "document_bytes.npy", np.frombuffer(sizes, np.int64))
    meta = {
        "version": VERSION,
        "dtype": dtype.str,
        "documents": len(lengths),
        "tokens": sum(shard["tokens"] for shard in shards),
        "bytes": sum(sizes),
        "vocab_size": vocabulary,
        "eos_token_id": tokenizer.eos_token_id,
        "tokenizer_hash": vocabulary_hash(tokenizer),
        "shards": shards,
    }
    (directory / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return meta


class TokenShards:
    """A directory written by `write_token_shards`, read without copying it into memory.

    Args:
        directory: Such as `runs/demo/tokenizer/tokens/train`.
        tokenizer: When given, must be the one that the shards were written with.

    Raises:
        PipelineError: Files are missing or truncated, do not agree with one another, or belong to another tokenizer.
    """

    def __init__(self, directory: str | Path, tokenizer: "PreTrainedTokenizerBase | None" = None):
        self.directory = Path(directory)
        self._meta = self._read_meta()
        self.documents: int = self._meta["documents"]
        self.tokens: int = self._meta["tokens"]
        self.bytes: int = self._meta["bytes"]
        self.vocab_size: int = self._meta["vocab_size"]
        self.eos_token_id: int = self._meta["eos_token_id"]
        self.tokenizer_hash: str = self._meta["tokenizer_hash"]
        self.dtype = np.dtype(self._meta["dtype"])
        self.lengths = self._read_array("lengths.npy")
        self.document_bytes = self._read_array("document_bytes.npy")
        self._check_shards()
        if tokenizer is not None and vocabulary_hash(tokenizer) != self.tokenizer_hash:
            raise PipelineError(
                f"{self.directory}: the token shards were written with another tokenizer (vocabulary hash "
                f"{self.tokenizer_hash[:12]}, this one's is {vocabulary_hash(tokenizer)[:12]}). Run the tokenizer stage "
                f"again."
            )
        self._maps: dict[int, np.ndarray] = {}
        self._shard_documents = np.cumsum([0] + [shard["documents"] for shard in self._meta["shards"]])
        self._shard_starts = np.cumsum([0] + [shard["tokens"] for shard in self._meta["shards"]])

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 of shape (documents + 1,): where each document starts in the stream of all; the last is `tokens`."""
        return np.concatenate((np.zeros(1, np.int64), np.cumsum(self.lengths)))

    def slice(self, document: int, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` of a document, clipped to its length: a read-only view of the mapped file.

        Raises:
            IndexError: No such document.
        """
        if not 0 <= document < self.documents:
            raise IndexError(f"document {document} of {self.documents} in {self.directory}")
        shard = int(np.searchsorted(self._shard_documents, document, side="right")) - 1
        first = int(self.offsets[document] - self._shard_starts[shard])
        length = int(self.lengths[document])
        start, stop = max(0, min(start, length)), max(0, min(stop, length))
        return self._map(shard)[first + start : first + stop]

    def stream(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` of all documents laid end to end, as concatenate-and-cut packing wants them.

        A view where the range lies in one shard, a copy where it spans several.
        """
        start, stop = max(0, start), min(stop, self.tokens)
        parts = []
        shard = int(np.searchsorted(self._shard_starts, start, side="right")) - 1
        while start < stop:
            first, end = int(self._shard_starts[shard]), int(self._shard_starts[shard + 1])
            parts.append(self._map(shard)[start - first : min(stop, end) - first])
            start, shard = end, shard + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            path = self.directory / self._meta["shards"][shard]["file"]
            self._maps[shard] = np.memmap(path, self.dtype, mode="r")
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a worker process maps the files itself instead of receiving contents

    def _read_meta(self) -> dict[str, Any]:
        path = self.directory / META
        if not path.is_file():
            raise PipelineError(
                f"{self.directory}: no token shards here (no {META}). Run the tokenizer stage, which writes them; "
                f"training never tokenises."
            )
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise PipelineError(f"{path}: not valid JSON ({error}). Run the tokenizer stage again.") from error
        if meta.get("version") != VERSION:
            raise PipelineError(
                f"{path}: version {meta.get('version')} of the format, expected {VERSION}. Run the tokenizer stage anew."
            )
        return meta

    def _read_array(self, name: str) -> np.ndarray:
        path = self.directory / name
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise PipelineError(f"{path}: missing or damaged ({error}). Run the tokenizer stage again.") from error
        if values.shape != (self.documents,) or values.dtype != np.int64:
            raise PipelineError(
                f"{path}: holds {values.dtype} of shape {values.shape}, expected int64 of shape ({self.documents},)."
            )
        return values

    def _check_shards(self) -> None:
        for shard in self._meta["shards"]:
            path = self.directory / shard["file"]
            expected = shard["tokens"] * self.dtype.itemsize
            found = path.stat().st_size if path.is_file() else None
            if found != expected:
                state = "is missing" if found is None else f"has {found:,} bytes"
                raise PipelineError(
                    f"{path}: {state}, expected {expected:,} bytes. The token shards are truncated or altered: "
                    f"run the tokenizer stage again."
                )
        total = int(self.lengths.sum())
        if total != self.tokens or sum(shard["tokens"] for shard in self._meta["shards"]) != self.tokens:
            raise PipelineError(
                f"{self.directory}: the documents' lengths add up to {total:,} tokens, {META} says {self.tokens:,}. "
                f"Run the tokenizer stage again."
            )


def _batches(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for text in texts:
        batch.append(text)
        held += len(text)
        if held >= characters:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch

"""Token shards: a corpus tokenised once, memory-mapped by every rank.

On disk, in one directory a split:

    00000.bin ...   token ids, little-endian uint16 (vocabularies up to 65,536) or uint32, document after document
    offsets.npy     int64 of shape (documents + 1,): where each document starts in the stream of all tokens
    meta.json       counts, dtype, the shards, a hash of the vocabulary that the ids belong to, a digest of all tokens

A document ends with its end-of-text token and never spans two shards, so that any part of it is one view of one file.
"""

import array
import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

VERSION = 2
META = "meta.json"
OFFSETS = "offsets.npy"


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
    batch_characters: int = 2_000_000,
) -> dict[str, Any]:
    """Tokenise documents in parallel batches, end each with EOS, and write them as shards.

    The Rust tokenizer spreads a batch over all cores (`RAYON_NUM_THREADS` limits it) while the batch before is written and
    the next one is read. Memory holds these three and 8 bytes a document; the order of the documents is that of `texts`.

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
    vocabulary = len(tokenizer)
    dtype = np.dtype("<u2" if vocabulary <= 2**16 else "<u4")
    end = np.array([tokenizer.eos_token_id], dtype)
    offsets, size = array.array("q", [0]), 0
    shards: list[dict[str, Any]] = []
    digest = hashlib.sha256(dtype.str.encode())
    file = None
    try:
        for text, encoding in _encodings(texts, text_encoder(tokenizer), batch_characters):
            if file is None:
                name = f"{len(shards):05d}.bin"
                file = (directory / name).open("wb")
                shards.append({"file": name, "tokens": 0, "documents": 0})
            ids = np.concatenate((np.array(encoding.ids, dtype), end)).tobytes()
            file.write(ids)
            digest.update(ids)
            offsets.append(offsets[-1] + len(ids) // dtype.itemsize)
            size += len(text.encode())
            shards[-1]["tokens"] += offsets[-1] - offsets[-2]
            shards[-1]["documents"] += 1
            if shards[-1]["tokens"] >= shard_tokens:
                file.close()
                file = None
    finally:
        if file is not None:
            file.close()
    if not shards:
        raise PipelineError(f"{directory}: no document to tokenise. The corpus that was read is empty.")
    digest.update(offsets)
    np.save(directory / OFFSETS, np.frombuffer(offsets, np.int64))
    meta = {
        "version": VERSION,
        "dtype": dtype.str,
        "documents": len(offsets) - 1,
        "tokens": offsets[-1],
        "bytes": size,
        "vocab_size": vocabulary,
        "eos_token_id": tokenizer.eos_token_id,
        "tokenizer_hash": vocabulary_hash(tokenizer),
        "digest": digest.hexdigest(),
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
        self._meta = read_meta(self.directory)
        self.documents: int = self._meta["documents"]
        self.tokens: int = self._meta["tokens"]
        self.bytes: int = self._meta["bytes"]
        self.vocab_size: int = self._meta["vocab_size"]
        self.eos_token_id: int = self._meta["eos_token_id"]
        self.tokenizer_hash: str = self._meta["tokenizer_hash"]
        self.digest: str = self._meta["digest"]
        self.dtype = np.dtype(self._meta["dtype"])
        self._starts = np.cumsum([0] + [shard["tokens"] for shard in self._meta["shards"]])
        self._maps: dict[str, np.ndarray] = {}
        self._check()
        if tokenizer is not None and vocabulary_hash(tokenizer) != self.tokenizer_hash:
            raise PipelineError(
                f"{self.directory}: the token shards were written with another tokenizer (vocabulary hash "
                f"{self.tokenizer_hash[:12]}, this one's is {vocabulary_hash(tokenizer)[:12]}). Run the tokenizer stage "
                f"again."
            )

    @property
    def offsets(self) -> np.ndarray:
        """int64 of shape (documents + 1,), mapped: where each document starts in the stream of all; the last is `tokens`."""
        if OFFSETS not in self._maps:
            try:
                self._maps[OFFSETS] = np.load(self.directory / OFFSETS, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise PipelineError(
                    f"{self.directory / OFFSETS}: missing or damaged ({error}). Run the tokenizer stage again."
                ) from error
        return self._maps[OFFSETS]

    def document(self, number: int) -> np.ndarray:
        """The tokens of one document, its end among them: a read-only view of the mapped file.

        Raises:
            IndexError: No such document.
        """
        if not 0 <= number < self.documents:
            raise IndexError(f"document {number} of {self.documents} in {self.directory}")
        return self.stream(int(self.offsets[number]), int(self.offsets[number + 1]))

    def stream(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` of all documents laid end to end, clipped to what there is.

        A read-only view where the range lies in one shard, a copy where it spans several.
        """
        start, stop = max(0, start), min(stop, self.tokens)
        parts = []
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            first, end = int(self._starts[shard]), int(self._starts[shard + 1])
            parts.append(self._map(self._meta["shards"][shard]["file"])[start - first : min(stop, end) - first])
            start, shard = end, shard + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def _map(self, name: str) -> np.ndarray:
        if name not in self._maps:
            self._maps[name] = np.memmap(self.directory / name, self.dtype, mode="r")
        return self._maps[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a worker process maps the files itself instead of receiving contents

    def _check(self) -> None:
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
        offsets = self.offsets
        if offsets.shape != (self.documents + 1,) or offsets.dtype != np.int64:
            raise PipelineError(
                f"{self.directory / OFFSETS}: holds {offsets.dtype} of shape {offsets.shape}, expected int64 of shape "
                f"({self.documents + 1},). Run the tokenizer stage again."
            )
        if offsets[-1] != self.tokens or self._starts[-1] != self.tokens:
            raise PipelineError(
                f"{self.directory}: its documents end at token {int(offsets[-1]):,} and its shards at "
                f"{int(self._starts[-1]):,}, {META} says {self.tokens:,}. Run the tokenizer stage again."
            )


def read_meta(directory: Path) -> dict[str, Any]:
    """What `write_token_shards` said of a directory of shards.

    Raises:
        PipelineError: There are no shards, or they are of another version of the format.
    """
    path = directory / META
    if not path.is_file():
        raise PipelineError(
            f"{directory}: no token shards here (no {META}). Run the tokenizer stage, which writes them; training never "
            f"tokenises."
        )
    try:
        meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise PipelineError(f"{path}: not valid JSON ({error}). Run the tokenizer stage again.") from error
    if meta.get("version") != VERSION:
        raise PipelineError(
            f"{path}: version {meta.get('version')} of the format, expected {VERSION}. Run the tokenizer stage anew."
        )
    return meta


def _encodings(texts: Iterable[str], encoder: "Tokenizer", characters: int) -> Iterator[tuple[str, "Encoding"]]:
    """Every text with its encoding; one batch is encoded ahead of the one that is given out."""
    ready: Any = None
    with ThreadPoolExecutor(1) as ahead:
        for batch in _batches(texts, characters):
            encoded = ahead.submit(encoder.encode_batch_fast, batch, add_special_tokens=False)
            if ready is not None:
                yield from zip(ready[0], ready[1].result(), strict=True)
            ready = batch, encoded
        if ready is not None:
            yield from zip(ready[0], ready[1].result(), strict=True)


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

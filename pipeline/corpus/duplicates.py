"""datatrove's deduplication, exact and by MinHash, as phases of the corpus stage."""

import dataclasses
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import regex
import xxhash
from datatrove.data import Document as Passing
from datatrove.pipeline import dedup
from datatrove.utils.text import TextNormConfig, ngrams, simplify_text

from pipeline.corpus.settings import MinhashRules
from pipeline.corpus.steps import folded

MARKS = regex.compile(r"\p{Mn}+")
SHINGLES_AT_ONCE = 256
PRIME_BITS = np.uint64(61)
PRIME = np.uint64((1 << 61) - 1)
"""A Mersenne prime (2^61 is 1 modulo it), datatrove's."""
FINDERS = 64
"""At most so many tasks look for exact duplicates, each for a range of hashes."""


def content(document: Passing) -> str:
    """What makes two documents exact duplicates: their text with white space folded."""
    return folded(document.text)


class Exact:
    """Documents with the same text: the first of the first task that has it stays.

    Hashes are of 64 bits (xxhash): among 10^8 documents the chance that any two share one is 0.03 %.
    """

    def __init__(self, working: Path, tasks: int):
        self.config = dedup.ExactDedupConfig(content)
        self.signatures, self.found = str(working / "exact" / "signatures"), str(working / "exact" / "found")
        self.finders = min(max(1, tasks // 8), FINDERS)

    def sign(self) -> Any:
        return dedup.ExactDedupSignature(self.signatures, self.config, self.finders)

    def find(self) -> Any:
        return dedup.ExactFindDedups(self.signatures, self.found, self.config, lines_to_buffer=1_000)

    def drop(self) -> Any:
        return dedup.ExactDedupFilter(self.found, self.config)


class Near:
    """Near-duplicates by MinHash (Broder 1997): one document of each cluster stays."""

    def __init__(self, working: Path, rules: MinhashRules):
        folding = TextNormConfig(norm_numbers=rules.fold_numbers)
        self.config = dedup.MinhashConfig(rules.ngrams, rules.buckets, rules.hashes, norm_config=folding)
        folder = working / "minhash"
        self.signatures, self.pairs, self.clusters = (
            str(folder / name) for name in ("signatures", "pairs", "clusters")
        )

    def sign(self) -> Any:
        return Signature(self.signatures, self.config)

    def match(self) -> Any:
        return dedup.MinhashDedupBuckets(self.signatures, self.pairs, config=self.config, lines_to_buffer=1_000)

    def cluster(self) -> Any:
        return dedup.MinhashDedupCluster(self.pairs, self.clusters, self.config, lines_to_buffer=1_000)

    def drop(self) -> Any:
        return dedup.MinhashDedupFilter(self.clusters)


class HeldOut:
    """Documents that resemble one that is held out, where near-duplicates are otherwise kept: two documents are alike if
    they agree on all hashes of a bucket, as above. Memory holds 8 bytes a bucket of each document that is held out."""

    def __init__(self, working: Path, rules: MinhashRules):
        self.folder = working / "held_out"
        self.signature = Near(working, rules).sign()
        self._known: np.ndarray | None = None

    def buckets(self, text: str) -> np.ndarray:
        """A hash of each bucket of a document; none where it is shorter than a shingle."""
        shingles = self.signature.get_shingles(text)
        parts = self.signature.get_signature(shingles) if len(shingles) else []
        hashes = [
            xxhash.xxh3_64_intdigest(np.array(part, np.uint64).tobytes(), number) for number, part in enumerate(parts)
        ]
        return np.array(hashes, np.uint64)

    def sign(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        """A step that remembers the documents that are held out."""
        found = [np.empty(0, np.uint64)]
        for passing in data:
            if passing.metadata["split"] == "validation":
                found.append(self.buckets(passing.text))
            yield passing
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / f"{rank:05d}.npy", np.concatenate(found))

    def differs(self, passing: Passing) -> bool:
        """Whether a document is held out itself, or resembles none that is."""
        if self._known is None:
            self._known = np.unique(np.concatenate([np.load(path) for path in sorted(self.folder.glob("*.npy"))]))
        if passing.metadata["split"] == "validation" or not len(self._known):
            return True
        buckets = self.buckets(passing.text)
        places = np.minimum(np.searchsorted(self._known, buckets), len(self._known) - 1)
        return not (self._known[places] == buckets).any()


class Signature(dedup.MinhashDedupSignature):
    """datatrove's signatures, value for value, some shingles at a time: all at once, a document of a million words takes
    gigabytes, and a few at a time stay in the processor's cache, where folding takes a third of the time of a division."""

    def __init__(self, folder: str, config: dedup.MinhashConfig):
        import pipeline.corpus.words  # noqa: F401

        super().__init__(folder, config)
        self.settings = folder, config
        self.folding = dataclasses.replace(config.norm_config, norm_unicode_diacritics=False)

    def __reduce__(self) -> Any:
        """Made anew where it is sent, with the one word tokenizer of that process, instead of one sent to each task."""
        return type(self), self.settings

    def get_shingles(self, text: str) -> np.ndarray:
        text = simplify_text(text, self.folding)
        if not text.isascii():  # datatrove looks every character up
            text = MARKS.sub("", unicodedata.normalize("NFD", text)).strip()
        runs = ngrams(self.word_tokenizer.word_tokenize(text), self.config.n_grams)
        return np.fromiter(map(self._hash_func, map(" ".join, runs)), np.uint64).reshape((-1, 1))

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        a, b = self.parameters
        least = np.full(self.num_hashes, PRIME, np.uint64)
        for start in range(0, len(shingles), SHINGLES_AT_ONCE):
            values = shingles[start : start + SHINGLES_AT_ONCE] * a + b
            values = (values & PRIME) + (values >> PRIME_BITS)  # modulo the prime, which may still be in it once
            np.minimum(values, values - PRIME, out=values)  # below the prime, the difference wraps around and is larger
            np.minimum(least, values.min(axis=0), out=least)
        return [part.tolist() for part in np.split(least, self.config.num_buckets)]

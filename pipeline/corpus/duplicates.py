"""datatrove's deduplication, exact and by MinHash, as phases of the corpus stage."""

from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document as Passing
from datatrove.pipeline import dedup
from datatrove.utils.text import TextNormConfig

from pipeline.corpus.settings import MinhashRules
from pipeline.corpus.steps import folded

SHINGLES_AT_ONCE = 4_096
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


class Signature(dedup.MinhashDedupSignature):
    """datatrove's signatures, some shingles at a time: all at once, a document of a million words takes gigabytes."""

    def __init__(self, folder: str, config: dedup.MinhashConfig):
        import pipeline.corpus.words  # noqa: F401

        super().__init__(folder, config)
        self.settings = folder, config

    def __reduce__(self) -> Any:
        """Made anew where it is sent, with the one word tokenizer of that process, instead of one sent to each task."""
        return type(self), self.settings

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        parts = [
            super(Signature, self).get_signature(shingles[start : start + SHINGLES_AT_ONCE])
            for start in range(0, len(shingles), SHINGLES_AT_ONCE)
        ]
        least = np.min(np.array(parts, dtype=self.config.hash_config.np_dtype), axis=0)
        result: list[list[int]] = least.tolist()
        return result

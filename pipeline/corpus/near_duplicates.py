"""How surely MinHash finds near-duplicates, and the numbers of buckets and hashes that follow from it."""

BUCKETS, HASHES = 24, 7
"""Finds 99.6 % of the copies of a 5-gram Jaccard similarity of 0.8 (benchmarks/near_duplicates.py); datatrove's own 14 x 8
finds 92 %. 12 x 5 finds 99.1 % and costs less, but a pair of pages that share a tenth of their 5-grams, and are no copies,
is then taken for one fifty times as often, which adds up over the pairs of a large corpus; the hashing is the small part
of the cost."""


def detection_probability(similarity: float, buckets: int = BUCKETS, hashes: int = HASHES) -> float:
    """The chance that two documents agree on all hashes of a bucket: 1 - (1 - s^hashes)^buckets.

    Args:
        similarity: Jaccard similarity s of the documents' sets of shingles, 0 to 1.
        buckets: How many buckets there are.
        hashes: Minimal hashes that make up a bucket; two sets share each with probability s (Broder 1997).
    """
    return float(1 - (1 - similarity**hashes) ** buckets)

"""How surely MinHash finds near-duplicates, and the numbers of buckets and hashes that follow from it."""

BUCKETS, HASHES = 24, 7
"""The cheapest of the settings measured (benchmarks/near_duplicates.py) that finds 98 % of the copies of a 5-gram Jaccard
similarity of 0.8 with a margin, and takes no more than one page in a thousand for the copy of another that shares its
phrases. Fewer hashes in a bucket cost less and find as much, but drop such pages; datatrove's own 14 x 8 finds 92 %."""


def detection_probability(similarity: float, buckets: int = BUCKETS, hashes: int = HASHES) -> float:
    """The chance that two documents agree on all hashes of a bucket: 1 - (1 - s^hashes)^buckets.

    Args:
        similarity: Jaccard similarity s of the documents' sets of shingles, 0 to 1.
        buckets: How many buckets there are.
        hashes: Minimal hashes that make up a bucket; two sets share each with probability s (Broder 1997).
    """
    return float(1 - (1 - similarity**hashes) ** buckets)

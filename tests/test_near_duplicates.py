"""Near-duplicates: what is planted is found, what is unrelated stays, and the theory tells how surely."""

import random
import sys
from pathlib import Path

import pytest

from pipeline.corpus.settings import BUCKETS, HASHES, MinhashRules

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))


def test_the_theory_gives_the_known_figures():
    from near_duplicates import detection_probability

    assert detection_probability(0.8, 14, 8) == pytest.approx(0.924, abs=0.001)  # datatrove's own, in its source
    assert detection_probability(0.0) == 0 and detection_probability(1.0) == 1
    assert detection_probability(0.8) >= 0.99 and detection_probability(0.05) * 1000 <= 0.001


def test_a_recipe_without_settings_gets_the_measured_ones():
    assert MinhashRules() == MinhashRules(5, BUCKETS, HASHES)


@pytest.mark.slow
def test_planted_copies_are_found_and_unrelated_pages_stay(shared_data):
    from near_duplicates import copy_of, false_alarms, generated, jaccard, paragraphs, share_found, templated

    rng = random.Random(3)
    originals, vocabulary = generated(250, rng)
    copies = [copy_of(words, rng.uniform(0.8, 1.0), vocabulary, rng) for words in originals]
    assert all(jaccard(a, b) >= 0.8 for a, b in zip(originals, copies, strict=True))
    assert share_found(originals, copies, BUCKETS, HASHES)[0] >= 0.98
    real = paragraphs(shared_data)[:250]
    edited = [copy_of(words, 0.8, vocabulary, rng) for words in real]  # the least similar that still have to be found
    assert share_found(real, edited, BUCKETS, HASHES)[0] >= 0.98
    for unrelated in (paragraphs(shared_data), templated()):
        assert len(unrelated) > 1000 and false_alarms(unrelated, BUCKETS, HASHES) <= 0.001

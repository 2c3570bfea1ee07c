"""Words and sentences cut by pieces are those that spaCy cuts, and signatures are those of datatrove."""

import subprocess
import sys

import numpy as np
import pytest
from datatrove.pipeline import dedup
from datatrove.pipeline.filters import gopher_repetition_filter
from datatrove.utils.text import split_into_sentences
from datatrove.utils.word_tokenizers import SpaCyTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus import words
from pipeline.corpus.duplicates import SHINGLES_AT_ONCE, Near
from pipeline.corpus.settings import CorpusSettings, MinhashRules

SPACY = SpaCyTokenizer("en")
SNIPPETS = ["a", "Mr. ", "don't", "U.S.", "...", "?!", '"', " ", "  ", "\n", "\t", "é", "中文。", "1.5%", "(x)", "e.g."]


def of_spacy(text):
    return SPACY.word_tokenize(text), SPACY.span_tokenize(text)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=10, max_size=60))
def test_repeated_runs_are_counted_as_datatrove_counts_them(text):
    for n in range(1, 11):
        assert words.all_duplicates(text, n) == words._count_duplicates(text, n)
        runs = gopher_repetition_filter.get_n_grams(text, n)
        most = max(dict.fromkeys(runs), key=runs.count)
        assert words.top_duplicate(runs) == len(most) * runs.count(most)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(SNIPPETS), max_size=25).map("".join))
def test_any_text_is_cut_as_spacy_cuts_it(text):
    assert (words.words_of(text), words.sentence_spans(text)) == of_spacy(text)


@pytest.mark.slow
def test_real_pages_in_many_languages_are_cut_as_spacy_cuts_them(tmp_path, shared_data):
    from pipeline.corpus.extract import extract_text
    from pipeline.corpus.read import read_file

    settings = CorpusSettings(input="")
    pages = read_file(shared_data / "webpages" / "pages.warc.gz", settings)
    texts = [text for page in pages if (text := extract_text(page, "resiliparse"))]
    texts += (shared_data / "text" / "wikitext2-valid.txt").read_text().split("\n = ")
    assert len(texts) > 500
    ours, theirs = Near(tmp_path, MinhashRules()).sign(), dedup.MinhashDedupSignature(str(tmp_path))
    ours.folding.norm_numbers, theirs.word_tokenizer = True, SPACY
    for text in texts:
        assert (words.words_of(text), words.sentence_spans(text)) == of_spacy(text)
        assert (ours.get_shingles(text) == theirs.get_shingles(text)).all()


def test_datatrove_counts_with_it():
    assert split_into_sentences("It rained.  Then, it did not! So?") == ["It rained.", "  Then, it did not!", " So?"]
    assert words.ENGLISH.word_tokenize("Don't go.") == ["Do", "n't", "go", "."]


@pytest.mark.slow
def test_memory_is_given_back_and_torch_is_left_out():
    script = """
import random, sys
from datatrove.utils.word_tokenizers import SpaCyTokenizer
import pipeline.corpus.words as words
from datatrove.utils.word_tokenizers import load_word_tokenizer
assert "torch" not in sys.modules
rng, ours, theirs = random.Random(0), load_word_tokenizer("eng"), SpaCyTokenizer("en")
texts = [" ".join(f"{rng.random():.9f} isn't it? Mr. X's {rng.randint(0, 9999)}km!" for _ in range(5)) for _ in range(1200)]
words.MOST_WORDS, sizes = 5_000, []
for number, text in enumerate(texts):
    assert ours.word_tokenize(text) == theirs.word_tokenize(text)
    assert ours.span_tokenize(text) == theirs.span_tokenize(text)
    sizes.append(max(len(ours.tokenizer.vocab.strings), len(words.PIECES)))
words.words_of("x" * 1000)
assert "x" * 1000 not in words.PIECES
assert max(sizes) < 5_100 and any(b < a for a, b in zip(sizes, sizes[1:])), max(sizes)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("count", [1, SHINGLES_AT_ONCE, 3 * SHINGLES_AT_ONCE + 5])
def test_signatures_are_those_of_datatrove(tmp_path, count):
    near = Near(tmp_path, MinhashRules())
    shingles = np.random.default_rng(count).integers(0, 2**64, (count, 1), np.uint64, endpoint=False)
    shingles[0] = 2**64 - 1
    theirs = dedup.MinhashDedupSignature(str(tmp_path), near.config).get_signature(shingles)
    assert near.sign().get_signature(shingles) == theirs

"""The tokenizer's evaluation: figures that can be checked by hand, others that are out of reach, and the page."""

import json
import re
import time
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from conftest import command, write_recipe

from pipeline.corpus import tokenizer_evaluation as evaluation
from pipeline.corpus.bpe import load_tokenizer
from pipeline.corpus.document import Document
from pipeline.corpus.shards import ShardWriter
from pipeline.corpus.tokenizer_evaluation import Texts, coloured, evaluate_tokenizer, load_others, profile, sample_of
from pipeline.corpus.tokens import TokenShards, write_token_shards
from pipeline.manifest import verify
from pipeline.reporting.tokens_page import tokens_page

ENGLISH = [f"Question {i}: what is {i} + {i}? The answer is {2 * i}. Ada lives in Quillport." for i in range(60)]
GERMAN = ["Die Antwort lautet zwölf, und Ada wohnt jenseits der Brücke am Fluß."] * 20


@pytest.fixture
def corpus(tmp_path) -> Path:
    """English from one host and German from a file, in both splits."""
    for split in ("train", "validation"):
        with ShardWriter(tmp_path / "corpus" / split, 1000) as writer:
            for text in ENGLISH:
                writer.write(Document(text, "a.warc", url="https://example.org/x", language="en"))
            for text in GERMAN:
                writer.write(Document(text, "in/b.jsonl", language="de"))
    return tmp_path / "corpus"


def test_bytes_per_token_by_language_and_domain_are_those_by_hand(tokenizer, corpus):
    texts = sample_of(corpus, seed=0)
    assert texts.split == "validation" and texts.texts == ENGLISH + GERMAN
    found = profile(tokenizer, texts)["bytes_per_token"]
    for group, name, own in (
        ("language", "de", GERMAN),
        ("domain", "b.jsonl", GERMAN),
        ("domain", "example.org", ENGLISH),
    ):
        tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in own)
        size = sum(len(text.encode()) for text in own)
        assert found[group][name] == {
            "documents": len(own),
            "bytes": size,
            "tokens": tokens,
            "bytes_per_token": pytest.approx(size / tokens, abs=1e-4),
        }
    assert found["all"]["all"]["bytes"] == sum(row["bytes"] for row in found["language"].values())
    assert found["language"]["en"]["bytes_per_token"] > 2 * found["language"]["de"]["bytes_per_token"]


def test_many_domains_are_added_up_behind_the_largest(tokenizer):
    texts = Texts(["x" * (50 - i) for i in range(40)], [("en", f"host{i}") for i in range(40)], "train")
    found = profile(tokenizer, texts)["bytes_per_token"]["domain"]
    assert len(found) == 21 and found["20 others"]["documents"] == 20
    assert sum(row["bytes"] for row in found.values()) == sum(len(text) for text in texts.texts)


def test_a_large_corpus_is_sampled(corpus, monkeypatch):
    monkeypatch.setattr(evaluation, "MEASURED_BYTES", 1500)
    texts = sample_of(corpus, seed=0)
    assert 1000 < sum(len(text.encode()) for text in texts.texts) < 1600
    assert {language for language, _ in texts.labels} == {"en", "de"}


def test_how_numbers_and_white_space_are_cut(tokenizer):
    found = profile(tokenizer, Texts(["x"], [("", "")], "train"))
    assert found["digits"]["4"] == {"1+1+1+1": 1.0}  # this tokenizer makes every digit a token of its own
    assert [len(way.split("+")) for way in (list(cuts)[0] for cuts in found["digits"].values())] == [1, 2, 3, 4, 5, 6]
    for kind, shown in (("spaces", "␣"), ("newlines", "⏎"), ("tabs", "⇥")):
        for length, cut in found["white_space"][kind].items():
            assert "".join(cut) == f"a{shown * int(length)}b"
    assert found["round_trip"]["failures"] == 0 and found["round_trip"]["texts"] > 200


def test_unused_tokens_are_those_that_stand_nowhere(tokenizer, tmp_path, monkeypatch):
    write_token_shards(ENGLISH, tokenizer, tmp_path / "train", shard_tokens=500)
    shards = TokenShards(tmp_path / "train")
    used = set(np.asarray(shards.stream(0, shards.tokens)).tolist())
    found = evaluation.unused_tokens(tokenizer, shards)
    assert found["unused"] == len(tokenizer) - len(used) == found["reserved"] + found["bytes"] + found["merges"]
    assert found["reserved"] == 9  # of ten reserved tokens the end of a document is used
    assert found["tokens_counted"] == shards.tokens
    vocabulary = tokenizer.get_vocab()
    assert not {vocabulary[token] for token in found["examples"]} & used


def test_text_is_shown_token_by_token_and_whole(tokenizer):
    text = "Ada <b>12</b> & größer\n東京 🙂🏽"
    ((label, pieces),) = coloured(tokenizer, Texts([text], [("en", "example.org")], "train"))
    assert label == "en · example.org"
    assert "".join(piece for piece, _ in pieces) == text
    assert [i for _, ids in pieces for i in ids] == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_what_cannot_be_loaded_is_listed_at_once_and_never_fatal(tokenizer_dir, tmp_path):
    started = time.monotonic()
    names = ["no-such-owner/no-such-tokenizer", str(tmp_path), "openai-community/gpt2-nowhere", str(tokenizer_dir)]
    found, missing = load_others(names)
    assert time.monotonic() - started < 20  # of which loading the libraries takes most
    assert list(found) == [str(tokenizer_dir)] and set(missing) == set(names[:3])
    assert "HF_HUB_OFFLINE" in missing[names[0]]


def test_the_page_holds_every_figure_and_needs_no_other_file(tokenizer, tokenizer_dir, corpus, tmp_path):
    write_token_shards(ENGLISH, tokenizer, tmp_path / "train")
    texts = sample_of(corpus, seed=0)
    found = evaluate_tokenizer(
        tokenizer, texts, TokenShards(tmp_path / "train"), [str(tokenizer_dir), "nobody/nothing"]
    )
    assert set(found["tokenizers"]) == {"this tokenizer", str(tokenizer_dir)}
    page = tokens_page("a <title>", found, coloured(tokenizer, texts))
    assert not re.findall(r'(?:src|href)="|url\(|@import', page) and "a &lt;title&gt;" in page
    shown = unescape(re.sub(r"<[^>]+>", "", page))
    for expected in ("example.org", "Not compared with nobody/nothing", "1+1+1 (100 %)", "a | ␣", GERMAN[0][:40]):
        assert expected in shown, expected


def test_the_stage_evaluates_beside_what_it_published_and_again_for_another_comparison(corpus, tokenizer_dir, tmp_path):
    values = {"output_dir": tmp_path / "out", "corpus": corpus, "vocab_size": 330}
    recipe = write_recipe(tmp_path / "tokenizer.yaml", **values, training_bytes=2000)
    assert command("tokenizer", "--config", recipe) == 0
    manifest = verify(tmp_path / "out")
    assert not any(name.startswith("evaluation") for name in manifest["files"])
    assert 1500 < manifest["metrics"]["training_bytes"] < 2100
    figures, page = (tmp_path / "out" / "evaluation" / f"tokenizer.{kind}" for kind in ("json", "html"))
    found = json.loads(figures.read_text())
    assert set(found["not_available"]) == {"openai-community/gpt2", "HuggingFaceTB/SmolLM2-135M"}
    assert page.read_text().count("<section>") >= 6
    before = figures.stat().st_mtime_ns
    assert command("tokenizer", "--config", recipe) == 0
    assert figures.stat().st_mtime_ns == before
    assert command("tokenizer", "--config", recipe, "--compare_with", str(tokenizer_dir)) == 0
    assert list(json.loads(figures.read_text())["tokenizers"]) == ["this tokenizer", str(tokenizer_dir)]
    assert verify(tmp_path / "out")["ended"] == manifest["ended"]
    assert load_tokenizer(str(tmp_path / "out")).eos_token == "<|endoftext|>"

"""The corpus stage: duplicates, held-out documents, the removal table and the shards."""

import json

import pyarrow.parquet as pq
import pytest
from crawl import run

from pipeline.corpus.build import build
from pipeline.corpus.document import Document
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.shards import ShardWriter, read_documents, read_texts, text_bytes
from pipeline.corpus.steps import text_hash
from pipeline.errors import PipelineError


def test_exact_duplicates_are_dropped_across_files_whatever_their_white_space(tmp_path):
    (tmp_path / "a.txt").write_text("the same  text\n")
    (tmp_path / "b.jsonl").write_text('{"text": "the same\\ttext"}\n{"text": "another text"}\n')
    documents, table = run(tmp_path / "out", input=[str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")])
    assert [document.text for document in documents] == ["the same  text\n", "another text"]
    assert table["exact_duplicates"]["reasons"] == {"same text as another document": 1}
    kept, _ = run(tmp_path / "kept", input=[str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")], deduplicate="none")
    assert len(kept) == 3


def test_every_step_takes_in_what_the_one_before_let_out(tmp_path):
    rows = [{"text": f"text {number % 30}" * (number % 7)} for number in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{broken")
    _, table = run(tmp_path / "out", input=str(tmp_path / "a.jsonl"), min_characters=5)
    steps = list(table.values())
    assert [step["step"] for step in steps] == ["read", "extract", "min_characters", "exact_duplicates"]
    assert steps[0]["documents_in"] == 101
    for before, after in zip(steps, steps[1:], strict=False):
        assert (after["documents_in"], after["bytes_in"]) == (before["documents_out"], before["bytes_out"])
    for step in steps:
        assert step["documents_in"] - step["documents_out"] == sum(step["reasons"].values())


def split_of(folder, tmp_path, rows, **keys):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in rows))
    build(CorpusSettings(input=str(tmp_path / "rows.jsonl"), deduplicate="none", workers=1, **keys), folder)
    return set(read_texts(folder / "train")), set(read_texts(folder / "validation"))


def test_held_out_documents_depend_on_text_and_seed_alone(tmp_path):
    rows = [f"document number {number}" for number in range(1000)]
    train, validation = split_of(tmp_path / "a", tmp_path, rows, validation_fraction=0.1)
    assert train | validation == set(rows) and not train & validation
    assert 70 <= len(validation) <= 130  # ± 3 standard deviations of a fair draw
    _, reordered = split_of(tmp_path / "b", tmp_path, rows[::-1] + ["more"] * 5, validation_fraction=0.1)
    assert reordered - {"more"} == validation
    _, wider = split_of(tmp_path / "c", tmp_path, rows, validation_fraction=0.2)
    assert validation < wider
    _, other = split_of(tmp_path / "d", tmp_path, rows, validation_fraction=0.1, seed=1)
    assert other != validation and 70 <= len(other) <= 130


def test_copies_of_a_document_never_straddle_the_split(tmp_path):
    rows = [f"document  {number}\n" if copy else f"document {number}" for number in range(300) for copy in range(2)]
    train, validation = split_of(tmp_path / "out", tmp_path, rows, validation_fraction=0.3)
    assert not {text_hash(text) for text in train} & {text_hash(text) for text in validation}


def test_the_position_split_cuts_the_last_characters_off(tmp_path, shared_data):
    path = shared_data / "text" / "tinyshakespeare.txt"
    build(CorpusSettings(input=str(path), validation_split="position", validation_fraction=0.1), tmp_path)
    data = path.read_text(encoding="utf-8")
    border = int(len(data) * 0.9)  # nanoGPT, data/shakespeare_char/prepare.py
    assert "".join(read_texts(tmp_path / "train")) == data[:border]
    assert "".join(read_texts(tmp_path / "validation")) == data[border:]
    assert {path.name for path in tmp_path.iterdir()} == {"train", "validation", "removed.json"}


def test_the_position_split_cuts_the_document_on_the_border_in_two(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": letter * 10}) for letter in "abcd"))
    settings = CorpusSettings(
        input=str(tmp_path / "rows.jsonl"), validation_split="position", validation_fraction=0.375
    )
    build(settings, tmp_path / "out")
    assert list(read_texts(tmp_path / "out" / "train")) == ["a" * 10, "b" * 10, "c" * 5]
    assert list(read_texts(tmp_path / "out" / "validation")) == ["c" * 5, "d" * 10]


def test_a_split_that_leaves_a_side_empty_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a single document")
    with pytest.raises(
        PipelineError, match=r"validation_fraction: 0.01 of 1 documents left none for validation.*position"
    ):
        build(CorpusSettings(input=str(tmp_path / "a.txt")), tmp_path / "out")


def test_shards_close_at_their_size_and_read_back_in_order(tmp_path):
    given = [Document(f"text {number} ü", "s", url=f"u{number}") for number in range(25)]
    with ShardWriter(tmp_path / "train", 10) as writer:
        for document in given:
            writer.write(document)
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "train").iterdir())] == [10, 10, 5]
    assert list(read_documents(tmp_path / "train")) == given
    assert writer.sizes["bytes"] == sum(len(document.text.encode()) for document in given)


def test_the_size_of_the_text_is_known_from_the_footers(tmp_path):
    with ShardWriter(tmp_path / "train", 10) as writer:
        for number in range(25):
            writer.write(Document(f"text {number} " * 100, "s"))
    assert text_bytes(tmp_path / "train") == pytest.approx(writer.sizes["bytes"], rel=0.02)


def test_reading_shards_from_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(PipelineError, match="no Parquet shards here"):
        list(read_texts(tmp_path))


@pytest.mark.parametrize("read", [text_bytes, lambda folder: list(read_texts(folder))])
def test_shards_without_a_text_column_are_named(tmp_path, read):
    import pyarrow as pa

    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(PipelineError, match=r"a.parquet: no column `text`; found content"):
        read(tmp_path)

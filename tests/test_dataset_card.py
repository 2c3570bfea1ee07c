"""The dataset card: the hub can read it, and it says what was done."""

import pytest
from conftest import write_jsonl

from pipeline.corpus.card import size_category
from pipeline.corpus.shards import read_texts
from pipeline.stages import corpus, load_recipe


@pytest.mark.slow
def test_the_folder_of_a_corpus_loads_as_a_dataset_with_its_card_and_funnel(tmp_path):
    from conftest import write_recipe
    from datasets import load_dataset
    from huggingface_hub import DatasetCard

    texts = [f"Text number {i} of the valley, written by joe{i}@mail.example." for i in range(40)]
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": text} for text in [*texts, texts[0], "What is the | of it?"]])
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "What is the | of it?", "answer": "x"}])
    keys = {
        "validation_fraction": 0.2,
        "license": "cc-by-4.0",
        "scrub": True,
        "decontaminate": str(asked),
        "workers": 1,
    }
    recipe = write_recipe(
        tmp_path / "corpus.yaml", stage="corpus", input=str(rows), output_dir=tmp_path / "corpus", **keys
    )
    corpus.run(load_recipe(recipe))
    card = DatasetCard.load(tmp_path / "corpus" / "README.md")
    assert (card.data.license, card.data.size_categories) == ("cc-by-4.0", ["n<1K"])
    assert "1 same text as another document" in card.text and "40 email replaced" in card.text
    assert "the \\| of it?" in card.text and "- `license" not in card.text and "- `scrub: True`" in card.text
    splits = load_dataset(str(tmp_path / "corpus"))
    for name in ("train", "validation"):
        assert splits[name]["text"] == list(read_texts(tmp_path / "corpus" / name)) != []
    page = (tmp_path / "corpus" / "removed.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and "same text as another document" in page


def test_size_categories_are_the_hubs():
    assert [size_category(n) for n in (0, 999, 1000, 9999, 10_000, 5 * 10**8, 2 * 10**12)] == [
        "n<1K", "n<1K", "1K<n<10K", "1K<n<10K", "10K<n<100K", "100M<n<1B", "n>1T",
    ]  # fmt: skip

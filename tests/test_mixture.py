"""Mixtures of corpora in pretraining: parents, shares, annealing, a loss for each, and what is refused before anything runs."""

import json
import shutil

import pytest
from conftest import command, metrics_of, pretrain_recipe, tiny_config, write_recipe

from pipeline.corpus.document import Document
from pipeline.corpus.shards import ShardWriter
from pipeline.manifest import lineage, sha256, verify
from pipeline.plan import plan
from pipeline.stages import load_recipe

SUMS = [f"Question {i}: what is {i} + {i}? The answer is {2 * i}." for i in range(200)]
TALES = [f"Once upon a time Ada lived in Quillport number {i}, and saw the sea." for i in range(120)]
WHERE = {"path": "runs/x/tales", "weight": 0.25}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Recipes of two tokenizer stages, the second with the first one's tokenizer, and of a pretraining on both."""
    monkeypatch.chdir(tmp_path)
    for name, texts in (("sums", SUMS), ("tales", TALES)):
        for split, chosen in (("train", texts[20:]), ("validation", texts[:20])):
            with ShardWriter(tmp_path / "corpora" / name / split, 1000) as writer:
                for text in chosen:
                    writer.write(Document(text, name))
    common = {"stage": "tokenizer", "compare_with": []}
    write_recipe(tmp_path / "recipes/a.yaml", **common, output_dir="runs/x/sums", corpus="corpora/sums", vocab_size=400)
    write_recipe(
        tmp_path / "recipes/c.yaml",
        **{**common, "output_dir": "runs/x/tales", "corpus": "corpora/tales", "tokenizer_name_or_path": "runs/x/sums"},
    )
    write_recipe(tmp_path / "recipes/b.yaml", **pretraining())
    return tmp_path


def pretraining(**changes) -> dict:
    return {
        "stage": "pretrain",
        "output_dir": "runs/x/base",
        "tokenizer": "runs/x/sums",
        "mixture": [{"path": "runs/x/sums", "weight": 0.75}, WHERE],
        "annealing_mixture": [{"path": "runs/x/tales"}],
        "annealing_start": 0.75,
        "model_config": tiny_config(attention_dropout=0.1),
        **{"max_length": 64, "max_steps": 16, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "seed": 5},
        **{"eval_strategy": "steps", "eval_steps": 8, "save_strategy": "steps", "save_steps": 4, "logging_steps": 1},
        **changes,
    }


@pytest.mark.slow
def test_a_folder_of_two_corpora_is_planned_trained_and_handed_over_with_both_as_parents(folder, capsys):
    found = plan(folder / "recipes")
    assert found.ok, found.to_text()
    assert [str(one.recipe.output_dir) for one in found.stages] == ["runs/x/sums", "runs/x/tales", "runs/x/base"]
    assert found.stages[2].facts["corpora"] == ["runs/x/sums 2,304 tokens", "runs/x/tales 1,792 tokens"]
    assert found.stages[2].reads == ["runs/x/sums (from tokenizer)", "runs/x/tales (from tokenizer)"]
    for name in "acb":
        stage = "pretrain" if name == "b" else "tokenizer"
        assert command(stage, "--config", folder / f"recipes/{name}.yaml") == 0
    printed = capsys.readouterr().out
    manifest = verify("runs/x/base", ("base",))
    assert {parent["path"] for parent in manifest["parents"]} == {"../sums", "../tales"}
    assert "NOT VERIFIED" not in lineage("runs/x/base")[0]
    corpora = manifest["corpora"]
    assert corpora["runs/x/sums"]["rows"] == pytest.approx(48 * 0.75, abs=1)
    assert sum(one["rows"] for one in corpora.values()) == 64
    assert f"runs/x/tales: {corpora['runs/x/tales']['tokens']:,} tokens" in printed
    assert sum(one["tokens"] for one in corpora.values()) == pytest.approx(manifest["tokens"], rel=0.05)
    evaluated = [line for line in metrics_of(folder / "runs/x/base") if "eval_loss" in line]
    assert len(evaluated) == 2
    for line in evaluated:
        assert line["eval_tales_bits_per_byte"] > 0 and line["eval_tales_loss"] != line["eval_loss"]
    assert "epochs)" in plan(folder / "recipes").stages[2].facts["corpora"][0]  # known now that the shards are there

    # The same recipe from step 12 on, in the annealing, ends with the same weights.
    before = sha256(folder / "runs/x/base/model.safetensors")
    shutil.rmtree("runs/x/base/checkpoints/checkpoint-16")
    facts = json.loads((folder / "runs/x/base/manifest.json").read_text())
    (folder / "runs/x/base/manifest.json").write_text(json.dumps({**facts, "status": "running", "files": {}}))
    assert command("pretrain", "--config", folder / "recipes/b.yaml") == 0
    assert "goes on from step 12 of 16" in capsys.readouterr().out
    assert sha256(folder / "runs/x/base/model.safetensors") == before
    assert [line["epoch"] for line in metrics_of(folder / "runs/x/base") if "loss" in line][-1] == pytest.approx(
        64 / sum(round(one["rows"] / one["epochs"]) for one in corpora.values()), rel=1e-3
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mixture": [WHERE, WHERE]}, "mixture: a path stands there twice"),
        ({"mixture": []}, "mixture: is empty"),
        ({"mixture": [{"path": "runs/x/gone"}]}, "mixture: entry 0: runs/x/gone does not exist"),
        ({"mixture": [{**WHERE, "weight": 0}]}, "mixture: entry 0: weight must be above 0, found 0"),
        ({"mixture": [{"weight": 1}]}, "path is missing: expected text"),
        ({"mixture": [{**WHERE, "share": 1}]}, "unknown key, expected one of path, weight"),
        ({"annealing_mixture": None}, "annealing_start: has a meaning only with annealing_mixture"),
        ({"annealing_start": 1.5}, r"annealing_start.* must be in \[0, 1\], found 1.5"),
        ({"max_steps": -1}, "mixture: its corpora have epochs of their own"),
        ({"eval_strategy": "epoch"}, "eval_strategy: epochs run into one another"),
    ],
)
def test_a_mixture_that_cannot_be_is_said_before_anything_runs(folder, changes, complaint):
    from pipeline.errors import PipelineError

    (folder / "runs/x/sums").mkdir(parents=True)
    (folder / "runs/x/tales").mkdir()
    values = {key: value for key, value in pretraining(**changes).items() if value is not None}
    with pytest.raises(PipelineError, match=complaint):
        load_recipe(write_recipe(folder / "one.yaml", **values))


def test_a_corpus_of_another_tokenizer_is_refused_with_the_key_that_mends_it(folder, tiny_world):
    from pipeline.errors import PipelineError

    assert command("tokenizer", "--config", folder / "recipes/a.yaml") == 0
    mixture = [{"path": "runs/x/sums"}, {"path": str(tiny_world / "tokenizer")}]
    with pytest.raises(PipelineError, match="tokenised by another tokenizer .* `tokenizer_name_or_path: runs/x/sums`"):
        load_recipe(write_recipe(folder / "one.yaml", **pretraining(mixture=mixture)))


def test_text_that_is_repeated_too_often_is_warned_of(folder, tiny_world):
    recipe = pretrain_recipe(folder / "often.yaml", tiny_world, max_steps=10_000)
    (line,) = plan(recipe).stages[0].facts["corpora"]
    assert "epochs, and more than 4 teach less than new text would" in line
    (line,) = plan(pretrain_recipe(folder / "once.yaml", tiny_world, max_steps=20)).stages[0].facts["corpora"]
    assert "epochs" in line and "teach less" not in line

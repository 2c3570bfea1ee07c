"""Stage directories: atomic publishing, verified parents, refusals that lose nothing, lineage."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, command

from pipeline import checkpoint
from pipeline.checkpoint import stage_directory
from pipeline.errors import PipelineError
from pipeline.manifest import lineage, read_manifest, verify
from pipeline.recipe import Recipe


@dataclass
class Arguments:
    output_dir: str
    input: str | list[str] | None = None


def recipe(output, *, stage="make", overwrite=False, **values) -> Recipe:
    values = {"output_dir": str(output), **values}
    arguments = Arguments(str(output), values.get("input"))
    return Recipe(stage, Path(f"{stage}.yaml"), values, arguments, {}, overwrite=overwrite)


def make(output, *, files=None, kind="corpus", accepts=(), **values) -> checkpoint.StageDirectory:
    """Run a stage that writes `files` (name to text); returns its directory."""
    with stage_directory(recipe(output, **values), kind, {"input": accepts}) as directory:
        if not directory.complete:
            for name, text in (files or {"a.txt": "alpha", "sub/b.txt": "beta"}).items():
                target = directory.aside / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
            directory.publish({"loss": 1.5}, tokens=7)
    return directory


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_published_directory_is_complete_and_holds_what_was_written_aside(tmp_path):
    directory = make(tmp_path / "out", seed=3)
    manifest = verify(tmp_path / "out", kinds=("corpus",))
    assert directory.complete
    assert set(manifest["files"]) == {"a.txt", "sub/b.txt"}
    assert (tmp_path / "out" / "sub" / "b.txt").read_text() == "beta"
    assert not (tmp_path / "out" / ".aside").exists()
    assert (manifest["status"], manifest["tokens"], manifest["metrics"], manifest["seed"]) == (
        *("complete", 7, {"loss": 1.5}),
        3,
    )


def test_a_stage_that_wrote_nothing_has_nothing_to_publish(tmp_path):
    with (
        stage_directory(recipe(tmp_path / "out"), "corpus", {}) as directory,
        pytest.raises(PipelineError, match="wrote nothing to hand over"),
    ):
        directory.publish()
    assert read_manifest(tmp_path / "out")["status"] == "running"


def test_a_kill_at_any_rename_leaves_an_incomplete_directory_that_the_next_run_completes(tmp_path):
    files = {"a.txt": "alpha", "b.txt": "beta", "sub/c.txt": "gamma"}
    survived = False
    for renames in range(1, 12):
        output = tmp_path / f"out{renames}"
        child = os.fork()
        if child == 0:
            _kill_at_rename(renames)
            make(output, files=files)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            survived = True
            verify(output)
            break
        if output.exists() and (output / "manifest.json").exists():
            with pytest.raises(PipelineError, match="is not complete"):
                verify(output)
        make(output, files=files)
        assert set(verify(output)["files"]) == set(files)
    assert survived and renames == 6, "the manifest twice, three entries: five renames to be killed at"


def _kill_at_rename(count: int) -> None:
    rename = os.replace

    def counted(source, target):
        nonlocal count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = counted


@pytest.mark.parametrize(
    ("alter", "complaint"),
    [
        (lambda folder: (folder / "sub" / "b.txt").unlink(), "sub/b.txt is missing"),
        (lambda folder: (folder / "sub" / "b.txt").write_text("beta!"), "sub/b.txt has 5 bytes instead of 4"),
        (lambda folder: (folder / "sub" / "b.txt").write_text("BETA"), "sub/b.txt has other contents"),
    ],
    ids=["missing", "other size", "other contents"],
)
def test_a_reader_refuses_an_altered_parent_and_names_the_file_that_differs(tmp_path, alter, complaint):
    make(tmp_path / "parent")
    alter(tmp_path / "parent")
    with pytest.raises(PipelineError) as refused:
        make(tmp_path / "child", input=str(tmp_path / "parent"))
    assert complaint in str(refused.value) and "a.txt" not in str(refused.value)
    assert not (tmp_path / "child").exists()


def test_what_lies_beside_the_published_files_may_change(tmp_path):
    make(tmp_path / "parent")
    (tmp_path / "parent" / "evaluation.json").write_text("{}")
    make(tmp_path / "child", input=str(tmp_path / "parent"))
    (tmp_path / "parent" / "evaluation.json").write_text('{"new": 1}')
    assert make(tmp_path / "child", input=str(tmp_path / "parent"), files={"a.txt": "not written"}).complete
    assert (tmp_path / "child" / "a.txt").read_text() == "alpha"


def test_a_reader_refuses_parents_that_are_incomplete_of_another_kind_or_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), stage_directory(recipe(tmp_path / "half"), "corpus", {}):
        raise ZeroDivisionError
    with pytest.raises(PipelineError, match=r"half: the make stage that writes it is not complete \(status: running\)"):
        make(tmp_path / "child", input=str(tmp_path / "half"))
    make(tmp_path / "corpus")
    with pytest.raises(PipelineError, match="of kind `corpus`, expected `base` or `chat`"):
        make(tmp_path / "child", input=str(tmp_path / "corpus"), accepts=("base", "chat"))
    with pytest.raises(PipelineError, match=r"input: .*nowhere.jsonl does not exist"):
        make(tmp_path / "child", input=str(tmp_path / "nowhere.jsonl"))
    assert not (tmp_path / "child").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"reward_funcs": ["numeric", "reward_model:{}"]},
        {"reward_funcs": ["numeric", "reward_model"], "reward_kwargs": {"reward_model": {"path": "{}"}}},
    ],
    ids=["by its path", "by a parameter"],
)
def test_a_reward_model_among_the_rewards_is_a_parent(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    make("run/rm", kind="reward")

    def use(output, model="run/rm"):
        values = json.loads(json.dumps(given).replace("{}", model))
        with stage_directory(recipe(output, **values), "aligned", {"reward_funcs": ("reward",)}) as directory:
            if not directory.complete:
                (directory.aside / "model").write_text("weights")
                directory.publish()
        return directory

    use("run/policy")
    manifest = read_manifest("run/policy")
    assert [(parent["path"], parent["kind"]) for parent in manifest["parents"]] == [("../rm", "reward")]
    assert manifest["data"] == [], "a verifier is no data"
    (tmp_path / "run" / "rm" / "a.txt").write_text("other")
    with pytest.raises(PipelineError, match="a.txt has"):
        use("run/again")
    make("run/corpus")
    with pytest.raises(PipelineError, match="of kind `corpus`, expected `reward`"):
        use("run/wrong", "run/corpus")


@pytest.fixture
def read(monkeypatch):
    """Names of the files whose bytes were hashed, manifests left out; files may be a moment old."""
    from pipeline import manifest

    names, real = [], manifest.sha256

    def counted(path):
        names.extend([path.name] if path.name != "manifest.json" else [])
        return real(path)

    monkeypatch.setattr(manifest, "sha256", counted)
    monkeypatch.setattr(manifest, "SETTLED", 0.0)
    return names


def test_a_start_reads_only_what_changed_since_it_was_verified_and_lineage_reads_all(tmp_path, read):
    make(tmp_path / "parent")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.txt").write_text("one")
    inputs = [str(tmp_path / "parent"), str(tmp_path / "data")]
    read.clear()
    make(tmp_path / "child", input=inputs)
    assert sorted(read) == ["a.txt", "a.txt", "b.txt", "b.txt", "rows.txt"], (
        "read once, and the child's own when published"
    )
    read.clear()
    make(tmp_path / "sibling", input=inputs)
    assert sorted(read) == ["a.txt", "b.txt"], "the sibling's own"
    read.clear()
    assert not lineage(tmp_path / "child")[1] and sorted(read) == ["a.txt", "a.txt", "b.txt", "b.txt"]
    (tmp_path / "data" / "rows.txt").write_text("two")
    read.clear()
    make(tmp_path / "other", input=inputs)
    assert sorted(read) == ["a.txt", "b.txt", "rows.txt"]


def test_a_parent_that_was_altered_after_it_was_verified_is_refused_also_with_its_size_and_times_put_back(
    tmp_path, read
):
    make(tmp_path / "parent")
    make(tmp_path / "first", input=str(tmp_path / "parent"))
    file = tmp_path / "parent" / "a.txt"
    before = file.stat()
    file.write_text("alphb")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(PipelineError, match="a.txt has other contents than the stage wrote"):
        make(tmp_path / "second", input=str(tmp_path / "parent"))


def test_a_file_that_was_just_written_is_not_remembered_and_a_broken_memory_is_none(tmp_path, read, monkeypatch):
    from pipeline import manifest

    monkeypatch.setattr(manifest, "SETTLED", 3600.0)
    make(tmp_path / "parent")
    (tmp_path / ".verified.json").write_text('{"half')
    for name in ("first", "second"):
        read.clear()
        make(tmp_path / name, files={"c.txt": "gamma"}, input=str(tmp_path / "parent"))
        assert sorted(read) == ["a.txt", "b.txt", "c.txt"]


def test_another_recipes_run_is_refused_with_the_difference_and_both_ways_on(tmp_path):
    make(tmp_path / "out", learning_rate=1e-3, warmup=5)
    before = contents(tmp_path / "out")
    with pytest.raises(PipelineError) as refused:
        make(tmp_path / "out", learning_rate=2e-3, layers=[1, 2])
    message = str(refused.value)
    assert "learning_rate: 0.001 -> 0.002" in message
    assert "warmup: 5 -> (not set)" in message and "layers: (not set) -> [1, 2]" in message
    assert "--overwrite" in message and "another output_dir" in message
    assert contents(tmp_path / "out") == before


def test_the_difference_shows_values_that_json_cannot_hold_only_where_they_differ(tmp_path):
    mixture = [Arguments("x", "weights")]
    make(tmp_path / "out", datasets=mixture, learning_rate=1)
    with pytest.raises(PipelineError) as refused:
        make(tmp_path / "out", datasets=mixture, learning_rate=2)
    assert "learning_rate: 1 -> 2" in str(refused.value) and "datasets" not in str(refused.value)
    with pytest.raises(PipelineError, match=r"datasets: .*weights.* -> .*heavier"):
        make(tmp_path / "out", datasets=[Arguments("x", "heavier")], learning_rate=1)


def test_overwrite_moves_the_old_directory_aside_and_loses_nothing(tmp_path, capsys):
    make(tmp_path / "out", learning_rate=1e-3)
    before = contents(tmp_path / "out")
    for _ in range(2):
        make(tmp_path / "out", files={"a.txt": "new"}, learning_rate=2e-3, overwrite=True)
    old = sorted(tmp_path.glob("out.old-*"))
    assert len(old) == 2 and before in [contents(folder) for folder in old]
    assert "(--overwrite)" in capsys.readouterr().out
    assert set(verify(tmp_path / "out")["files"]) == {"a.txt"}


def test_a_directory_that_no_stage_wrote_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(PipelineError, match=r"holds files but no manifest.json.*thesis.tex"):
        make(tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.tex": b"years of work"}


def test_an_up_to_date_run_does_nothing_and_a_new_evaluation_is_no_new_recipe(tmp_path):
    make(tmp_path / "out", evaluations={"sums": {"path": "a.jsonl"}})
    before = contents(tmp_path / "out")
    directory = make(tmp_path / "out", files={"a.txt": "never"}, evaluations={"facts": {"path": "b.jsonl"}})
    assert directory.complete and contents(tmp_path / "out") == before
    with pytest.raises(PipelineError, match="another recipe"):
        make(tmp_path / "out", seed=1)


def test_an_altered_result_is_not_taken_for_up_to_date(tmp_path):
    make(tmp_path / "out")
    (tmp_path / "out" / "a.txt").write_text("ALPHA")
    with pytest.raises(PipelineError, match="a.txt has other contents than the stage wrote"):
        make(tmp_path / "out")


def test_a_rebuilt_parent_reruns_its_child_and_the_old_one_is_kept(tmp_path, capsys):
    make(tmp_path / "parent", files={"a.txt": "one"})
    make(tmp_path / "child", input=str(tmp_path / "parent"), files={"c.txt": "from one"})
    make(tmp_path / "parent", files={"a.txt": "two"}, overwrite=True)
    make(tmp_path / "child", input=str(tmp_path / "parent"), files={"c.txt": "from two"})
    assert (tmp_path / "child" / "c.txt").read_text() == "from two"
    assert [(old / "c.txt").read_text() for old in tmp_path.glob("child.old-*")] == ["from one"]
    assert "a checkpoint that it was built from was rebuilt" in capsys.readouterr().out
    assert lineage(tmp_path / "child")[1] == []


@pytest.mark.parametrize("name", ["rows.jsonl", "folder", "folder/*.jsonl"])
def test_changed_data_outside_the_run_rerun_the_stage(tmp_path, name):
    file = tmp_path / ("rows.jsonl" if name == "rows.jsonl" else "folder/rows.jsonl")
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}\n")
    make(tmp_path / "out", input=str(tmp_path / name))
    assert make(tmp_path / "out", input=str(tmp_path / name), files={"x": "never"}).manifest["data"][0]["files"] == 1
    assert not list(tmp_path.glob("out.old-*"))
    file.write_text("[]\n")
    make(tmp_path / "out", input=str(tmp_path / name), files={"a.txt": "again"})
    assert (tmp_path / "out" / "a.txt").read_text() == "again"
    assert len(list(tmp_path.glob("out.old-*"))) == 1


def test_an_interrupted_run_goes_on_with_its_state_and_reports_its_whole_time(tmp_path):
    with pytest.raises(KeyboardInterrupt), stage_directory(recipe(tmp_path / "out"), "base", {}) as directory:
        (directory.checkpoints / "checkpoint-1").mkdir(parents=True)
        (directory.aside / "half-written").write_text("x")
        directory._clock -= 100
        raise KeyboardInterrupt
    started = read_manifest(tmp_path / "out")["started"]
    with stage_directory(recipe(tmp_path / "out"), "base", {}) as directory:
        assert not directory.complete and (directory.checkpoints / "checkpoint-1").is_dir()
        (directory.aside / "model").write_text("weights")
        directory.publish()
    manifest = verify(tmp_path / "out")
    assert set(manifest["files"]) == {"model"} and manifest["started"] == started
    assert 100 <= manifest["seconds"] < 110 and "seconds_before" not in manifest


HOLDER = """
import sys, time
sys.path.insert(0, {tests!r})
from test_checkpoint import recipe, stage_directory
with stage_directory(recipe({output!r}), "corpus", {{}}):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_locked_out_whatever_it_wants_until_the_first_is_gone(tmp_path):
    output = tmp_path / "out"
    make(tmp_path / "data")
    code = HOLDER.format(tests=str(ROOT / "tests"), output=str(output))
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout.readline() == "held\n"
    before = contents(output)
    for attempt in ({}, {"overwrite": True}, {"seed": 2}, {"input": str(tmp_path / "data")}):
        with pytest.raises(PipelineError, match="another process is running this stage"):
            make(output, **attempt)
    assert contents(output) == before and not list(tmp_path.glob("out.old-*"))
    holder.kill()
    holder.wait()
    make(output)
    verify(output)


def test_a_moved_run_keeps_verifying_and_stays_up_to_date(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make("runs/parent")
    make("runs/child", input="runs/parent")
    shutil.move(tmp_path / "here", tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert read_manifest("runs/child")["parents"][0]["path"] == "../parent"
    assert lineage(tmp_path / "there" / "runs" / "child")[1] == []
    assert make("runs/child", input="runs/parent", files={"a.txt": "never"}).complete
    assert Path("runs/child/a.txt").read_text() == "alpha"


def test_lineage_prints_the_ancestry_as_a_tree_and_finds_what_is_wrong_anywhere_in_it(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    make(tmp_path / "corpus", stage="corpus", input=str(tmp_path / "rows.jsonl"))
    make(tmp_path / "base", stage="pretrain", kind="base", input=str(tmp_path / "corpus"))
    make(tmp_path / "chat", stage="sft", kind="chat", input=[str(tmp_path / "base"), str(tmp_path / "corpus")])
    assert command("lineage", tmp_path / "chat") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 4, 8, 12, 4, 8]
    assert f"{tmp_path / 'chat'}  sft (chat), 7 tokens, verified" == lines[0]
    assert "rows.jsonl  data, 1 files, 3 bytes" in lines[3]

    (tmp_path / "corpus" / "a.txt").write_text("ALPHA")
    make(tmp_path / "base", stage="pretrain", kind="base", files={"m": "new"}, overwrite=True)
    text, problems = lineage(tmp_path / "chat")
    assert any("corpus/a.txt has other contents" in problem for problem in problems)
    assert any(problem.endswith("base: rebuilt since its child was made") for problem in problems)
    assert "NOT VERIFIED" in text
    assert command("lineage", tmp_path / "chat") == 1

    shutil.rmtree(tmp_path / "base")
    assert f"{tmp_path / 'base'}: missing" in lineage(tmp_path / "chat")[1]


def test_a_directory_without_a_manifest_or_with_a_broken_one_gives_a_message(tmp_path, capsys):
    assert command("lineage", tmp_path / "nothing") == 1
    with pytest.raises(PipelineError, match=r"no manifest.json here"):
        verify(tmp_path)
    make(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text('{"status": "compl')
    with pytest.raises(PipelineError, match=r"manifest.json: not valid JSON"):
        verify(tmp_path / "out")


def test_the_manifest_keeps_the_vocabulary_apart_from_what_later_stages_may_change(tmp_path, tokenizer_dir):
    from transformers import AutoTokenizer

    from pipeline.corpus.tokens import vocabulary_hash

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)

    def published(name):
        with stage_directory(recipe(tmp_path / name), "tokenizer", {}) as directory:
            tokenizer.save_pretrained(directory.aside)
            directory.publish()
        return read_manifest(tmp_path / name)["tokenizer"]

    first = published("one")
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = tokenizer.chat_template + " "
    second = published("two")
    assert first["vocabulary"] == second["vocabulary"] == vocabulary_hash(tokenizer)
    assert first["chat_template"] != second["chat_template"]
    tokenizer.add_tokens(["quill"])
    assert published("three")["vocabulary"] != first["vocabulary"]


def test_what_is_read_aside_from_paths_is_recorded_and_hub_ids_are_not_looked_for_on_disk(tmp_path):
    made = make(tmp_path / "out", input=["owner/name", str(tmp_path)], model_revision="main")
    found = {entry["path"]: entry for entry in made.manifest["data"]}
    assert found["owner/name"] == {"path": "owner/name", "revision": "main"}
    assert dataclasses.is_dataclass(made) and json.dumps(made.manifest)

"""Whole runs of the corpus stage: killed and gone on with, with more workers, under Slurm."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crawl import HTML, article, write_warc

from pipeline.corpus import phases
from pipeline.corpus.build import build
from pipeline.corpus.settings import CorpusSettings
from pipeline.corpus.shards import read_documents
from pipeline.errors import PipelineError

ALL_STEPS = """
url_filter: {substrings: [casino]}
repair: true
min_characters: 20
language: {keep: {en: 0.1}}
gopher_repetition: {top_n_grams: [[2, 0.9]], dup_n_grams: [], dup_line_char_frac: null, dup_line_frac: null}
gopher_quality: {min_doc_words: 5, max_non_alpha_words_ratio: 0.1}
c4: {min_num_sentences: 1}
deduplicate: minhash
scrub: true
validation_fraction: 0.2
"""


def story(number: int) -> bytes:
    """A page of its own words: numbers alone would not tell pages apart."""
    rng = random.Random(number)
    names = ["".join(rng.choice("bdfglmnrst") + rng.choice("aeiou") for _ in range(3)) for _ in range(12)]
    sentences = (
        f"The {rng.choice(names)} of the valley saw the {rng.choice(names)} with {rng.choice(names)}."
        for _ in range(12)
    )
    return article(number).replace(b"<h1>", f"<p>{' '.join(sentences)}</p><h1>".encode())


def write_crawl(folder: Path, pages: int = 60) -> None:
    folder.mkdir(parents=True)
    for number in range(3):
        rows = [(f"http://x/{number}/{i}", story(i % (pages - 6) + number), HTML, "200 OK") for i in range(pages)]
        write_warc(folder / f"{number}.warc.gz", rows)


def recipe(folder: Path, crawl: Path, output: Path, keys: str = ALL_STEPS) -> Path:
    path = folder / "corpus.yaml"
    path.write_text(f"stage: corpus\ninput: {crawl}\noutput_dir: {output}\nseed: 3\ntasks: 6\n{keys}")
    return path


def command(path: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", "corpus", "--config", str(path), *words]


def published(folder: Path) -> dict[str, bytes]:
    """Bytes of what a run hands over, by name."""
    names = json.loads((folder / "manifest.json").read_text())["files"]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_one_worker_and_two_give_the_same_bytes(tmp_path):
    write_crawl(tmp_path / "crawl")
    path = recipe(tmp_path, tmp_path / "crawl", tmp_path / "one" / "corpus")
    subprocess.run(command(path, "--workers", "1"), check=True)
    subprocess.run(command(path, "--workers", "2", "--output_dir", str(tmp_path / "two" / "corpus")), check=True)
    one, two = published(tmp_path / "one" / "corpus"), published(tmp_path / "two" / "corpus")
    assert one == two and len([name for name in one if name.endswith(".parquet")]) > 4
    table = {step["step"]: step for step in json.loads(one["removed.json"])}
    assert table["exact_duplicates"]["documents_in"] == 180
    assert 0 < table["exact_duplicates"]["documents_out"] < 180


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path):
    write_crawl(tmp_path / "crawl")
    path = recipe(tmp_path, tmp_path / "crawl", tmp_path / "whole" / "corpus")
    subprocess.run(command(path), check=True)
    killed = tmp_path / "killed" / "corpus"
    words = command(path, "--output_dir", str(killed))
    for phase in ("clean", "signatures", "buckets", "write"):  # killed as soon as the first task of each is done
        run = subprocess.Popen(words, start_new_session=True)
        done = killed / "checkpoints" / "phases" / phase / "completions"
        while run.poll() is None and not (done.is_dir() and any(done.iterdir())):
            time.sleep(0.01)
        with_it = run.poll() is None
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        assert with_it, f"the run was over before it could be killed in {phase}"
    before = {file: file.stat().st_mtime_ns for file in (killed / "checkpoints" / "clean" / "whole").iterdir()}
    assert len(before) == 6
    subprocess.run(words, check=True)
    assert published(killed) == published(tmp_path / "whole" / "corpus")
    assert not (killed / "checkpoints").exists() and not (killed / ".aside").exists()


def test_tasks_that_are_done_are_not_done_again(tmp_path):
    write_crawl(tmp_path / "crawl", 20)
    settings = CorpusSettings(
        input=str(tmp_path / "crawl"), tasks=3, workers=1, validation_fraction=0, extractor="resiliparse"
    )
    build(settings, tmp_path / "a", tmp_path / "working")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "working").rglob("*.parquet")}
    (tmp_path / "working" / "phases" / "clean" / "completions" / "00001").unlink()
    build(settings, tmp_path / "b", tmp_path / "working")
    again = {path for path in times if path.stat().st_mtime_ns != times[path]}
    assert {path.name for path in again} == {"00001-00000.parquet"}
    assert [one.read_bytes() for one in sorted((tmp_path / "a" / "train").iterdir())] == [
        one.read_bytes() for one in sorted((tmp_path / "b" / "train").iterdir())
    ]


@pytest.mark.slow
def test_a_file_is_read_by_several_tasks_and_every_record_by_one(tmp_path):
    rows = [json.dumps({"text": f"document {number}"}) for number in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows[:90]))
    (tmp_path / "b.jsonl").write_text("\n".join(rows[90:]))
    for tasks in (1, 4, 7):
        settings = CorpusSettings(input=str(tmp_path / "*.jsonl"), tasks=tasks, workers=1, validation_fraction=0)
        build(settings, tmp_path / str(tasks))
        texts = [document.text for document in read_documents(tmp_path / str(tasks) / "train")]
        assert sorted(texts) == sorted(json.loads(row)["text"] for row in rows)
    some = CorpusSettings(input=str(tmp_path / "a.jsonl"), tasks=4, workers=1, validation_fraction=0, max_documents=10)
    build(some, tmp_path / "some")
    texts = {document.text for document in read_documents(tmp_path / "some" / "train")}
    assert texts == {f"document {number}" for number in range(10)}


@pytest.mark.slow
@pytest.mark.parametrize("deduplicate", ["minhash", "exact", "none"])
def test_near_duplicates_of_validation_documents_never_stay_in_training(tmp_path, deduplicate):
    words = [f"w{(number * 7919) % 3203}" for number in range(3200)]
    texts = []
    for group in range(40):
        base = words[group * 80 : group * 80 + 80] + [f"group{group}"] * 3
        texts += [" ".join([*base[:copy], f"x{copy}", *base[copy:]]) for copy in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    settings = CorpusSettings(
        input=str(tmp_path / "a.jsonl"), deduplicate=deduplicate, tasks=3, workers=1, validation_fraction=0.1,
        minhash={"ngrams": 5, "buckets": 20, "hashes": 6, "fold_numbers": False},
    )  # fmt: skip
    build(settings, tmp_path / "out")
    train, held_out = (
        [document.text.split()[-1] for document in read_documents(tmp_path / "out" / split)]
        for split in ("train", "validation")
    )
    assert held_out and not set(train) & set(held_out)
    if deduplicate == "minhash":
        assert len(train) + len(held_out) == len({*train, *held_out}) == 40
    else:
        table = {step["step"]: step for step in json.loads((tmp_path / "out" / "removed.json").read_text())}
        assert table["held_out"]["reasons"] == {
            "near-duplicate of a held-out document": 200 - len(train) - len(held_out)
        }
        assert all(train.count(group) == 5 for group in train)  # near-duplicates of one another stay


SBATCH = """#!/bin/bash
# A Slurm of one machine: runs every task of the array at once, or fails the job.
for word in "$@"; do case $word in --export=ALL,*) export "${word#--export=ALL,}";; esac; done
script="${@: -1}"
cp "$script" "$FAKE_SLURM/$(ls "$FAKE_SLURM" | wc -l).slurm"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
export SLURM_NODELIST=here SLURM_JOB_ID=7
for task in $(seq 0 "${last:-0}"); do
    SLURM_ARRAY_TASK_ID=$task bash "$script" >>"$FAKE_SLURM/log.txt" 2>&1 || echo "task $task failed" >>"$FAKE_SLURM/failed.txt"
done
echo "Submitted batch job 7"
"""


@pytest.mark.slow
def test_slurm_runs_the_same_phases_and_gives_the_same_bytes(tmp_path):
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir(), log.mkdir()
    fakes = {"sbatch": SBATCH, "scontrol": "#!/bin/bash\necho here", "squeue": "#!/bin/bash\nexit 0"}
    fakes["srun"] = '#!/bin/bash\nwhile [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && shift; shift; done\nexec "$@"'
    for name, text in fakes.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    write_crawl(tmp_path / "crawl", 20)
    keys = "deduplicate: minhash\nextractor: resiliparse\nvalidation_fraction: 0.2\n"
    path = recipe(tmp_path, tmp_path / "crawl", tmp_path / "local" / "corpus", keys)
    subprocess.run(command(path), check=True)
    slurm = "executor: slurm\nslurm: {partition: cpu, time: '1:00:00', mem_per_cpu_gb: 3}\n"
    path = recipe(tmp_path, tmp_path / "crawl", tmp_path / "slurm" / "corpus", keys + slurm)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "FAKE_SLURM": str(log)}
    said = subprocess.run(command(path), check=True, env=environment, capture_output=True, text=True).stdout
    assert "in 6 Slurm jobs" in said
    assert not (log / "failed.txt").exists(), (log / "log.txt").read_text()
    scripts = [script.read_text() for script in log.glob("*.slurm")]
    assert any(
        "--array=0-5" in script and "--partition=cpu" in script and "--mem-per-cpu=3G" in script for script in scripts
    )
    local, there = published(tmp_path / "local" / "corpus"), published(tmp_path / "slurm" / "corpus")
    assert local == there


def test_with_slurm_the_command_hands_the_work_over_and_waits_for_nothing(tmp_path, monkeypatch, capsys):
    for name, text in {"sbatch": "echo Submitted batch job 41", "squeue": "echo 41"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "a.txt").write_text("text")
    settings = CorpusSettings(
        input=str(tmp_path / "a.txt"), executor="slurm", slurm={"partition": "cpu", "time": "1:00:00"}
    )
    assert build(settings, tmp_path / "out", tmp_path / "working") is None
    assert "submitted 4 tasks in 4 Slurm jobs (41, 41, 41, 41)" in capsys.readouterr().out
    assert build(settings, tmp_path / "out", tmp_path / "working") is None
    assert "4 tasks are still to run; their Slurm jobs are under way" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install -e .[ray]")
def test_ray_runs_the_same_phases_and_gives_the_same_bytes(tmp_path):
    write_crawl(tmp_path / "crawl", 20)
    keys = "deduplicate: minhash\nextractor: resiliparse\nvalidation_fraction: 0.2\nminhash: {buckets: 2, hashes: 4}\n"
    path = recipe(tmp_path, Path("crawl"), Path("local/corpus"), keys)  # relative: Ray's workers stand elsewhere
    subprocess.run(command(path), check=True, cwd=tmp_path)
    path = recipe(tmp_path, Path("crawl"), Path("ray/corpus"), f"{keys}executor: ray\nworkers: 2\n")
    subprocess.run(command(path), check=True, cwd=tmp_path)
    assert published(tmp_path / "local" / "corpus") == published(tmp_path / "ray" / "corpus")


def test_tasks_that_an_executor_gave_up_end_the_run(tmp_path, monkeypatch):
    class Idle:
        def run(self):
            pass

    monkeypatch.setattr(phases, "_executor", lambda *_: Idle())
    (tmp_path / "a.txt").write_text("text")
    settings = CorpusSettings(input=str(tmp_path / "a.txt"), tasks=1, validation_fraction=0)
    with pytest.raises(PipelineError, match="1 of 1 tasks of the phase `clean` failed.*the same command"):
        build(settings, tmp_path / "out", tmp_path / "working")


@pytest.mark.parametrize("name", ["fineweb-mini", "fineweb-slurm", "webpages"])
def test_the_recipes_plan_without_a_complaint(name, request, monkeypatch):
    if name == "webpages":
        monkeypatch.setenv("PIPELINE_DATA", str(request.getfixturevalue("shared_data")))
    from pipeline.plan import plan

    root = Path(__file__).parent.parent
    result = plan(root / "recipes" / name)
    assert not result.complaints

"""The command line: fast, and with one message where something is wrong."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import cli

ROOT = Path(__file__).parent.parent


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from pipeline import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'numpy', 'pyarrow', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "grpo" in done.stdout
    assert time.monotonic() - started < 30  # a hang, not a speed: benchmarks/ measures that


@pytest.mark.parametrize("stage", [*cli.STAGES, "import"])
def test_every_stage_of_the_command_line_exists_and_the_other_way_round(stage):
    from pipeline import stages

    assert stage in stages.names()
    assert set(stages.names()) == {*cli.STAGES, "import"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sft", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["report"], "name a run's folder"),
        (["import", "only-a-source"], "SOURCE and OUTPUT_DIR"),
        (["lineage", "recipes"], "manifest.json"),
        (["run", "recipes/demo", "--until", "holiday"], "found 'holiday'"),
        (["run", "recipes/demo", "--accelerate", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_message_and_a_status(words, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_unknown_options_are_refused_where_no_recipe_could_take_them(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["lineage", "runs/demo/sft", "--depth", "3"])
    assert stopped.value.code == 2
    assert "--depth" in capsys.readouterr().err

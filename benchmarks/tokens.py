"""Token shards: writing them against bare `tokenizers.encode_batch`, reading rows from them, going on late in a run.

    python benchmarks/tokens.py [--rounds 9] [--megabytes 2] [--write]

Measured:

    tokenise   tokens/s of `write_token_shards` (reading a list of texts, writing files) over those of
               `Tokenizer.encode_batch` on the same texts, taken in turn in each round
    read       tokens/s of batches of 8 x 256 from memory-mapped shards of two corpora in a mixture, through the sampler, the
               DataLoader and the collator that the trainer uses, against tokens/s of the demo's model in a bare training loop
    resume     seconds from stored plans to the first batch at step 1,000,000, of a corpus with enough documents
    pack       seconds to plan the rows of that corpus (bfd_split), which happens once

Printed are medians over rounds; --write adds them to benchmarks/RESULTS.md.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import tokenizers
import torch
from torch.utils.data import BatchSampler, DataLoader

from pipeline.conversation.template import CONTENT_MARKERS, CONTROL_TOKENS, END_OF_TEXT, PAD
from pipeline.corpus.bpe import train_bpe
from pipeline.corpus.tokens import TokenShards, write_token_shards
from pipeline.training import models
from pipeline.training.order import Corpus, Onwards, RowStream
from pipeline.training.packing import PackedCollator, stored_rows

ROWS, LENGTH, STEPS, LATE = 8, 256, 1_100_000, 1_000_000
DEMO = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


class Synthetic:
    """Shards of made-up tokens: many documents without the disk space of their text."""

    def __init__(self, documents: int, seed: int):
        lengths = np.random.default_rng(seed).lognormal(5.5, 1.0, documents).astype(np.int64) + 2
        self.offsets = np.concatenate(([0], np.cumsum(lengths)))
        self.digest = f"{seed:064x}"
        self._tokens = np.random.default_rng(seed).integers(10, 1000, 2**22, dtype=np.uint16)

    def stream(self, start: int, stop: int) -> np.ndarray:
        begin = start % (len(self._tokens) - LENGTH)
        return self._tokens[begin : begin + stop - start]


def real_texts(megabytes: float) -> list[str]:
    """The sources of Python's standard library: text that is there wherever this runs."""
    texts, size = [], 0
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        texts.append(path.read_text("utf-8", "replace"))
        size += len(texts[-1])
        if size > megabytes * 1e6:
            break
    return texts


def batches(stream: RowStream, from_step: int = 0) -> Iterator[dict[str, torch.Tensor]]:
    sampler = BatchSampler(Onwards(lambda: from_step * ROWS, len(stream)), ROWS, drop_last=False)
    return iter(DataLoader(stream, batch_sampler=sampler, collate_fn=PackedCollator()))


def tokenising(texts: list[str], tokenizer: Any, folder: Path) -> tuple[float, float]:
    """Tokens a second of `encode_batch`, and of writing shards."""
    bare = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    begin = time.perf_counter()
    tokens = sum(map(len, bare.encode_batch(texts, add_special_tokens=False)))
    middle = time.perf_counter()
    meta = write_token_shards(iter(texts), tokenizer, folder)
    end = time.perf_counter()
    assert meta["tokens"] - meta["documents"] == tokens
    return tokens / (middle - begin), tokens / (end - middle)


def training(tokenizer: Any, steps: int = 2) -> float:
    """Tokens a second of the demo's model in a bare loop."""
    torch.manual_seed(0)
    model = models.new_model(DEMO, tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(10, len(tokenizer), (ROWS, LENGTH))
    for step in range(steps + 1):
        if step == 1:
            begin = time.perf_counter()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return steps * ROWS * LENGTH / (time.perf_counter() - begin)


def reading(shards: TokenShards, plans: Path, pad: int, count: int = 400) -> float:
    """Tokens a second of batches from shards."""
    rows = stored_rows(plans, shards, LENGTH, "bfd_split")
    twin = Synthetic(1000, seed=7)
    corpora = [
        Corpus("one", shards, rows, 0.7),
        Corpus("two", twin, stored_rows(plans, twin, LENGTH, "bfd_split"), 0.3),
    ]
    source = batches(RowStream(corpora, 10**9, 0, pad))
    begin = time.perf_counter()
    tokens = sum(next(source)["input_ids"].numel() for _ in range(count))
    return tokens / (time.perf_counter() - begin)


def resuming(source: Synthetic, plans: Path) -> float:
    """Seconds to the first batch at step `LATE`, the plan being stored."""
    begin = time.perf_counter()
    rows = stored_rows(plans, source, LENGTH, "bfd_split")
    next(batches(RowStream([Corpus("one", source, rows)], STEPS * ROWS, 0, 1), LATE))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=float, default=2)
    parser.add_argument("--documents", type=int, default=6_000_000)
    parser.add_argument("--write", action="store_true", help="add the result to benchmarks/RESULTS.md")
    options = parser.parse_args()
    texts = real_texts(options.megabytes)
    tokenizer = train_bpe(
        texts[:200],
        vocab_size=8192,
        control_tokens=CONTROL_TOKENS,
        content_markers=CONTENT_MARKERS,
        end_of_text=END_OF_TEXT,
        pad=PAD,
    )
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = Synthetic(options.documents, seed=1)
        begin = time.perf_counter()
        stored_rows(folder / "plans", source, LENGTH, "bfd_split")
        packing = time.perf_counter() - begin
        for number in range(options.rounds):
            bare, ours = tokenising(texts, tokenizer, folder / str(number))
            shards = TokenShards(folder / str(number))
            read, trained = reading(shards, folder / "plans", tokenizer.pad_token_id), training(tokenizer)
            one = {"bare": bare, "ours": ours, "tokenise": ours / bare, "read": read, "train": trained}
            one |= {"ratio": read / trained, "resume": resuming(source, folder / "plans")}
            for key, value in one.items():
                found.setdefault(key, []).append(value)
            print(f"round {number + 1}: " + "  ".join(f"{key} {value:,.4g}" for key, value in one.items()), flush=True)
    median = {key: statistics.median(values) for key, values in found.items()}
    lines = [
        "| what | seen | reference | ratio, median of rounds |",
        "|---|---|---|---|",
        f"| tokenising into shards | {median['ours']:,.0f} tokens/s | `encode_batch` {median['bare']:,.0f} tokens/s | "
        f"{median['tokenise']:.2f} |",
        f"| reading batches from shards | {median['read']:,.0f} tokens/s | the demo's model trains {median['train']:,.0f} "
        f"tokens/s | {median['ratio']:.0f} |",
        f"| first batch at step {LATE:,} | {median['resume']:.3f} s | | |",
        f"| planning the rows of {options.documents:,} documents, once | {packing:.1f} s "
        f"| {int(source.offsets[-1]) / 1e9:.1f} billion tokens | |",
    ]
    print("\n".join(lines))
    if options.write:
        versions = f"torch {torch.__version__}, tokenizers {tokenizers.__version__}, numpy {np.__version__}"
        machine = f"{torch.get_num_threads()} threads of {platform.processor() or platform.machine()}"
        command = f"python benchmarks/tokens.py --rounds {options.rounds} --megabytes {options.megabytes:g} --write"
        with (Path(__file__).parent / "RESULTS.md").open("a", encoding="utf-8") as file:
            file.write(
                f"\n## Token shards, {date.today()}\n\n`{command}`; {versions}; {machine}\n\n" + "\n".join(lines) + "\n"
            )


if __name__ == "__main__":
    main()

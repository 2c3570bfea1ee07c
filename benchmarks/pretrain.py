"""Pretraining speed: this project's stage against a bare PyTorch loop and stock TRL, interleaved in one process.

    python benchmarks/pretrain.py [--rounds 5] [--steps 12] [--write]

Contenders, all with the same transformers model, rows, batch, float32 AdamW, clipping and schedule:

    bare       a plain loop: rows sliced from one array, model, cross entropy, backward, clip, step
    ours       the pretrain stage's trainer on memory-mapped token shards, data loading included, rows laid end to end
    isolated   the same with documents kept apart (packing_strategy bfd_split), the stage's default
    trl        stock SFTTrainer on the same texts, packing `wrapped`

Speed is non-padding tokens a second over the steps after a warm-up of two. Each round runs every contender once; ratios are
taken within a round. Printed are medians over rounds; --write adds them to benchmarks/RESULTS.md.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy as np
import torch
import transformers
import trl
from clock import WARM_UP, Clock

from pipeline.conversation.template import CONTENT_MARKERS, CONTROL_TOKENS, END_OF_TEXT, PAD
from pipeline.corpus.bpe import train_bpe
from pipeline.corpus.tokens import TokenShards, write_token_shards
from pipeline.training import device, models, packing
from pipeline.training.order import Corpus, RowStream
from pipeline.training.pretraining import PretrainTrainer
from pipeline.training.session import quiet_libraries
from pipeline.training.validation import bytes_per_token

MODEL = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


class Bench:
    """The data and the settings that all contenders share."""

    def __init__(self, folder: Path, rows: int, length: int, steps: int):
        self.folder, self.rows, self.length, self.steps = folder, rows, length, steps + WARM_UP
        random = np.random.default_rng(0)
        words = ["".join(random.choice(list("aeiourstln"), random.integers(2, 8))) for _ in range(600)]
        needed = self.steps * rows * length * 2 // 150
        self.texts = [" ".join(random.choice(words, random.integers(60, 200))) for _ in range(max(needed, 300))]
        self.tokenizer = train_bpe(
            self.texts[:300],
            vocab_size=1024,
            control_tokens=CONTROL_TOKENS,
            content_markers=CONTENT_MARKERS,
            end_of_text=END_OF_TEXT,
            pad=PAD,
            split_digits=True,
        )
        write_token_shards(self.texts, self.tokenizer, folder / "tokens")
        self.shards = TokenShards(folder / "tokens", self.tokenizer)

    def model(self) -> Any:
        torch.manual_seed(0)
        return models.new_model(MODEL, self.tokenizer)

    def config(self) -> Any:
        return trl.SFTConfig(
            output_dir=str(self.folder / "out"),
            max_steps=self.steps,
            per_device_train_batch_size=self.rows,
            max_length=self.length,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **device.training_defaults(),
        )

    def bare(self) -> float:
        model = self.model().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        stream = torch.from_numpy(np.asarray(self.shards.stream(0, self.shards.tokens)).astype(np.int64))
        rows = stream[: len(stream) // self.length * self.length].view(-1, self.length)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        begin = 0.0
        for step in range(self.steps):
            if step == WARM_UP:
                begin = time.perf_counter()
            batch = rows[order[step * self.rows : (step + 1) * self.rows]]
            logits = model(input_ids=batch, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        return self.rate(time.perf_counter() - begin)

    def ours(self, strategy: str = "wrapped") -> float:
        plan = packing.plan_rows(self.shards.offsets, self.length, strategy)
        corpus = Corpus("", self.shards, plan)
        config = self.config()
        config.ignore_data_skip = True
        config.dataset_kwargs = {"skip_prepare_dataset": True}
        config.remove_unused_columns = False
        clock = Clock()
        trainer = PretrainTrainer(
            model=self.model(),
            args=config,
            processing_class=self.tokenizer,
            rows=RowStream([corpus], self.steps * self.rows, 0, self.tokenizer.pad_token_id),
            data_collator=packing.PackedCollator(),
            validation={"": corpus},
            validation_rows=1,
            token_bytes=bytes_per_token(self.tokenizer),
            callbacks=[clock],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return self.rate(clock.end - clock.begin, full=plan.tokens / (len(plan) * self.length))

    def isolated(self) -> float:
        return self.ours("bfd_split")

    def trl(self) -> float:
        config = self.config()
        config.packing, config.packing_strategy = True, "wrapped"
        clock = Clock()
        trainer = trl.SFTTrainer(
            model=self.model(),
            args=config,
            processing_class=self.tokenizer,
            train_dataset=self.text_rows(),
            callbacks=[clock],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return self.rate(clock.end - clock.begin)

    def text_rows(self) -> Any:
        from datasets import Dataset

        return Dataset.from_dict({"text": self.texts})

    def rate(self, seconds: float, full: float = 1.0) -> float:
        return (self.steps - WARM_UP) * self.rows * self.length * full / seconds


def matmul_peak() -> float:
    """FLOP/s of a float32 matrix product of 1,024, the best of several."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begin)
    return 2 * 1024**3 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--write", action="store_true", help="add the result to benchmarks/RESULTS.md")
    options = parser.parse_args()
    quiet_libraries()
    transformers.utils.logging.set_verbosity_error()
    names = ("bare", "ours", "isolated", "trl")
    rates: dict[str, list[float]] = {name: [] for name in names}
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.rows, options.length, options.steps)
        for number in range(options.rounds):
            peaks.append(matmul_peak())
            for name in names:
                rates[name].append(getattr(bench, name)())
            print(f"round {number + 1}: " + "  ".join(f"{name} {rates[name][-1]:,.0f}" for name in names), flush=True)
        flops = device.flops_per_token(bench.model(), options.length)
    median = {name: statistics.median(values) for name, values in rates.items()}
    ratio = {
        name: statistics.median(one / bare for one, bare in zip(rates[name], rates["bare"], strict=True))
        for name in names
    }
    peak = statistics.median(peaks)
    lines = [
        "| contender | tokens/s, median | ratio to bare, median of rounds | share of the float32 matmul peak |",
        "|---|---|---|---|",
        *(f"| {n} | {median[n]:,.0f} | {ratio[n]:.2f} | {median[n] * flops / peak:.2f} |" for n in names),
    ]
    print("\n".join(lines))
    if options.write:
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}"
        machine = f"{torch.get_num_threads()} threads of {platform.processor() or platform.machine()}"
        command = f"python benchmarks/pretrain.py --rounds {options.rounds} --steps {options.steps}"
        command += f" --rows {options.rows} --length {options.length} --write"
        title = f"\n## Pretraining, {date.today()}\n\n"
        title += f"`{command}`; {versions}; {machine}; matmul peak {peak / 1e9:.0f} GFLOP/s\n\n"
        results = Path(__file__).parent / "RESULTS.md"
        with results.open("a", encoding="utf-8") as file:
            file.write(title + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

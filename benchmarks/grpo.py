"""GRPO speed: this project's stage against stock TRL, and two ways to generate, interleaved in one process.

    python benchmarks/grpo.py [--rounds 5] [--steps 6] [--model DIR --problems FILE] [--write]

Contenders, all with the same model, problems, reward, batch, float32 AdamW and schedule (those of recipes/demo/grpo.yaml):

    trl          stock GRPOTrainer with its callbacks, plain generation, the reward called as TRL calls it
    ours         the grpo stage as `pipeline grpo` runs it: rails, metrics file, progress line, checkpoints at any step
    selecting    the same with `difficulty` and `active_sampling_rounds: 2`; replaced groups are not counted as completions
    continuous   `ours` with transformers' continuous batching, its cache small enough for a CPU

Speed is completions a second over the steps after a warm-up of two. By default the model is random, of the demo's shape: no
completion ends by itself. --model and --problems take a trained one. Each round runs every contender once; ratios are taken
within a round. Printed are medians over rounds; --write adds them to benchmarks/RESULTS.md.
"""

import argparse
import os
import platform
import statistics
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import transformers
import trl
import yaml
from clock import WARM_UP, Clock
from datasets import load_dataset

from pipeline import stages
from pipeline.conversation.template import (
    CONTENT_MARKERS,
    CONTROL_TOKENS,
    END_OF_TEXT,
    PAD,
    end_of_turn,
    set_chat_template,
)
from pipeline.corpus.bpe import train_bpe
from pipeline.rewards import find
from pipeline.stages import grpo
from pipeline.training import device, models
from pipeline.training.callbacks import read_metrics
from pipeline.training.session import quiet_libraries

MODEL = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
SETTINGS = {
    "per_device_train_batch_size": 64,
    "num_generations": 8,
    "max_completion_length": 48,
    "learning_rate": 1e-9,  # the same completions in length and reward to the end
    "lr_scheduler_type": "constant",
    "temperature": 1.0,
    "beta": 0.0,
    "logging_steps": 1,
    "save_strategy": "no",
}
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "selecting": {"difficulty": {"min": 0.1, "max": 0.9}, "active_sampling_rounds": 2},
    "continuous": {
        "use_transformers_continuous_batching": True,
        "transformers_continuous_batching_config": {"num_blocks": 64, "max_batch_tokens": 512},
    },
}


class Bench:
    """The model and the problems that all contenders share."""

    def __init__(self, folder: Path, steps: int, model: str | None, problems: str | None):
        self.folder, self.steps = folder, steps + WARM_UP
        self.model, self.problems = Path(model or folder / "model"), Path(problems or folder / "problems.jsonl")
        sums = [(f"What is {a}+{b}?", a + b) for a in range(10, 90) for b in range(10, 90, 7)]
        if problems is None:
            self.problems.write_text(
                "".join(f'{{"prompt": "{question}", "answer": "{answer}"}}\n' for question, answer in sums)
            )
        if model is None:
            tokenizer = train_bpe(
                [f"{question} The answer is {answer}." for question, answer in sums],
                vocab_size=1024,
                control_tokens=CONTROL_TOKENS,
                content_markers=CONTENT_MARKERS,
                end_of_text=END_OF_TEXT,
                pad=PAD,
                split_digits=True,
            )
            set_chat_template(tokenizer, "chatml")
            torch.manual_seed(0)
            models.new_model(MODEL, tokenizer).save_pretrained(self.model)
            tokenizer.save_pretrained(self.model)

    def rate(self, name: str) -> float:
        seconds = self.stock() if name == "trl" else self.stage(name)
        return (self.steps - WARM_UP) * SETTINGS["per_device_train_batch_size"] / seconds

    def stage(self, name: str) -> float:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            values = {
                "stage": "grpo",
                "output_dir": f"{folder}/run",
                "model_name_or_path": str(self.model),
                "dataset_name": str(self.problems),
                "reward_funcs": ["numeric"],
                "reward_check": "off",
                "rails": "warn",
                "max_steps": self.steps,
                **SETTINGS,
                **OURS[name],
            }
            path = Path(folder) / "grpo.yaml"
            path.write_text(yaml.safe_dump(values))
            grpo.run(stages.load_recipe(path, "grpo", []))
            lines = read_metrics(Path(folder) / "run" / "metrics.jsonl")
        return float(lines[-1]["seconds"] - lines[WARM_UP - 1]["seconds"])

    def stock(self) -> float:
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.model)
        tokenizer.eos_token = end_of_turn(tokenizer)
        tokenizer.response_template = None  # or every completion would be parsed for calls, which the stage does not do
        rows = load_dataset("json", data_files=str(self.problems), split="train")
        rows = rows.map(
            lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}], "answer": str(row["answer"])}
        )
        clock = Clock()
        trainer = trl.GRPOTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32),
            reward_funcs=[find("numeric")],
            args=trl.GRPOConfig(
                output_dir=str(self.folder / "trl"),
                max_steps=self.steps,
                report_to="none",
                disable_tqdm=True,
                **SETTINGS,
                **device.training_defaults(),
            ),
            processing_class=tokenizer,
            train_dataset=rows,
            callbacks=[clock],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return clock.end - clock.begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--model", help="a chat model; by default a random one of the demo's shape")
    parser.add_argument("--problems", help="JSONL with prompt and answer")
    parser.add_argument("--contenders", nargs="+", default=["trl", *OURS], choices=["trl", *OURS])
    parser.add_argument("--write", action="store_true", help="add the result to benchmarks/RESULTS.md")
    options = parser.parse_args()
    quiet_libraries()
    transformers.utils.logging.set_verbosity_error()
    names = options.contenders
    rates: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.steps, options.model, options.problems)
        for number in range(options.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                rates[name].append(bench.rate(name))
            print(f"round {number + 1}: " + "  ".join(f"{name} {rates[name][-1]:,.1f}" for name in names), flush=True)
    lines = ["| contender | completions/s, median | ratio to trl, median of rounds |", "|---|---|---|"]
    for name in names:
        ratio = statistics.median(one / stock for one, stock in zip(rates[name], rates[names[0]], strict=True))
        lines.append(f"| {name} | {statistics.median(rates[name]):,.1f} | {ratio:.2f} |")
    print("\n".join(lines))
    if options.write:
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}"
        machine = f"{torch.get_num_threads()} threads of {platform.processor() or platform.machine()}"
        command = f"python benchmarks/grpo.py --rounds {options.rounds} --steps {options.steps}"
        command += " --model DIR --problems FILE" if options.model else ""
        title = f"\n## GRPO, {date.today()}\n\n`{command} --write`; {versions}; {machine}\n\n"
        with (Path(__file__).parent / "RESULTS.md").open("a", encoding="utf-8") as file:
            file.write(title + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

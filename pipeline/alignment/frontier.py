"""What optimising against a reward model buys and costs: proxy reward, a second opinion and the judge against KL.

Gao, Schulman and Hilton 2022 (Scaling Laws for Reward Model Overoptimization): against the root of the KL divergence the
reward that is trained on goes on rising while the one that it stands for turns down.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.alignment.judge import as_messages, find_judge, judged, read_prompts
from pipeline.errors import PipelineError
from pipeline.evaluation.generation import generate, is_sharded, render_prompt
from pipeline.manifest import dump, write_atomically
from pipeline.training import models, session
from pipeline.training.callbacks import read_metrics
from pipeline.training.divergence import completion_kl
from pipeline.training.reward_model import RewardModel

FILE = "frontier.jsonl"
BEST_OF_N = "best_of_n.json"


class Frontier(TrainerCallback):
    """Writes `frontier.jsonl`: {"step", "kl", "proxy", "second", "judge", "length", "ended"}, means over fresh answers to
    `judge_prompts` at temperature 1, with the standard errors of the scores ("judge_error"), and `best_of_n.json`, the
    same of best-of-n, the second optimiser.

    KL is exact over the vocabulary, in nats a completion. With `stop_patience` the run stops by the second reward model and
    the best weights by it are put back into the model. Every rank measures the same, so that all stop together; the first
    one writes. Training goes on bit for bit as without it.
    """

    def __init__(
        self, recipe: Any, directory: Any, trainer: Any, tokenizer: Any, proxy: RewardModel, *, chat: bool
    ) -> None:
        arguments = recipe.arguments
        self.every, self.patience, self.best_of = arguments.frontier_steps, arguments.stop_patience, arguments.best_of
        self.seed, self.limit = recipe.get("seed", 42), trainer.args.max_completion_length
        self.path = directory.path / FILE
        self.kept = directory.checkpoints / "best.safetensors"
        self.tokenizer = tokenizer
        prompts = read_prompts(arguments.judge_prompts, arguments.judge_limit)
        self.prompts = [as_messages(prompt) if chat else prompt for prompt in prompts]
        self.texts = [render_prompt(tokenizer, prompt, chat=chat) if chat else prompt for prompt in prompts]
        self.scorers: dict[str, Any] = {"proxy": proxy}
        if arguments.second_reward_model:
            self.scorers["second"] = RewardModel(
                arguments.second_reward_model,
                device=trainer.args.device,
                unfinished_penalty=arguments.unfinished_penalty,
                end_token_ids=proxy.end_token_ids,
            )
        self.judge = find_judge(arguments.judge) if arguments.judge else None
        self.chat = chat
        self.reference = models.load_model(recipe).to(trainer.args.device).eval().requires_grad_(False)
        self.lines: list[dict[str, Any]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if self.patience is not None and is_sharded(model):
            raise PipelineError("stop_patience keeps whole weights, and these are sharded: leave it out, or use DDP.")
        self.lines = [
            line for line in read_metrics(self.path) if line["step"] <= state.global_step and state.global_step
        ]
        if state.is_world_process_zero:
            self.path.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")
        if not state.global_step:
            self._measure(model, state)
            if self.best_of > 1:
                self._best_of_n(model, state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step % self.every:
            return
        self._measure(model, state)
        best = self._best()
        if best is not None and len(self.lines) - 1 - best >= (self.patience or math.inf):
            since = self.lines[best]["step"]
            session.say(
                f"step {state.global_step}: stopped, the second reward model saw nothing better since step {since}"
            )
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if self.lines[-1]["step"] != state.global_step:
            self._measure(model, state)
        if self.patience is not None and self.kept.is_file():
            weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
            for name, tensor in load_file(self.kept).items():
                weights[name].data.copy_(tensor)

    def _best(self) -> int | None:
        """Place of the first line with the best score by the second reward model."""
        if self.patience is None or "second" not in self.scorers:
            return None
        return max(range(len(self.lines)), key=lambda i: (self.lines[i]["second"], -i))

    def _measure(self, model: Any, state: TrainerState) -> None:
        answers = self._answers(model, 1)
        scores = self._scores(answers, 1)
        encoded = self.tokenizer(self.texts, add_special_tokens=False)["input_ids"]
        written = [answer.token_ids for answer in answers]
        line = {
            "step": state.global_step,
            "kl": completion_kl(model, self.reference, encoded, written, self.tokenizer.pad_token_id),
            **{name: mean(found) for name, found in scores.items()},
            **{f"{name}_error": stdev(found) / math.sqrt(len(found)) for name, found in scores.items() if found[1:]},
            "length": sum(map(len, written)) / len(written),
            "ended": sum(answer.ended for answer in answers) / len(answers),
        }
        self.lines.append(line)
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if self._best() == len(self.lines) - 1:
                self.kept.parent.mkdir(exist_ok=True)
                trained = {
                    name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad
                }
                save_file(trained, self.kept)

    def _best_of_n(self, model: Any, state: TrainerState) -> None:
        scores = self._scores(self._answers(model, self.best_of), self.best_of)
        groups = {
            name: [found[i : i + self.best_of] for i in range(0, len(found), self.best_of)]
            for name, found in scores.items()
        }
        points = [{"n": n, "kl": math.log(n) - (n - 1) / n} for n in _powers_of_two(self.best_of)]
        for point in points:
            for name in groups:
                point[name] = best_of_n(groups["proxy"], groups[name], int(point["n"]))
        if state.is_world_process_zero:
            write_atomically(self.path.with_name(BEST_OF_N), dump(points))

    def _answers(self, model: Any, n: int) -> Any:
        return generate(
            model, self.tokenizer, self.texts, max_new_tokens=self.limit, temperature=1.0, n=n, seed=self.seed
        )

    def _scores(self, answers: Sequence[Any], n: int) -> dict[str, list[float]]:
        prompts = [prompt for prompt in self.prompts for _ in range(n)]
        texts = [as_messages(None, answer.text) if self.chat else answer.text for answer in answers]
        ids = [answer.token_ids for answer in answers]
        found = {name: scorer(prompts, texts, completion_ids=ids) for name, scorer in self.scorers.items()}
        return found | ({"judge": judged(self.judge, prompts, texts)} if self.judge is not None else {})


def best_of_n(proxy: Sequence[Sequence[float]], other: Sequence[Sequence[float]], n: int) -> float:
    """Mean of `other` where of n answers the one with the highest `proxy` is taken, estimated from all N ≥ n of a prompt.

    Unbiased over the subsets of size n: the i-th lowest of N by proxy is the best of C(i - 1, n - 1) of C(N, n) subsets
    (Nakano et al. 2021, WebGPT, appendix I). Equal proxies share their weight. Its KL divergence from the policy is at
    most log n - (n - 1) / n.
    """
    total = 0.0
    for scores, values in zip(proxy, other, strict=True):
        size = len(scores)
        order = sorted(range(size), key=lambda i: scores[i])
        weights = [math.comb(i, n - 1) / math.comb(size, n) for i in range(size)]
        start = 0
        while start < size:
            end = start
            while end < size and scores[order[end]] == scores[order[start]]:
                end += 1
            shared = sum(weights[start:end]) / (end - start)
            total += shared * sum(values[order[i]] for i in range(start, end))
            start = end
    return total / len(proxy)


def read_frontier(directory: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of a stage's `frontier.jsonl` and the points of its `best_of_n.json`, empty where there are none."""
    path = directory / BEST_OF_N
    points = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return read_metrics(directory / FILE), points


def _powers_of_two(most: int) -> list[int]:
    return [2**i for i in range(int(math.log2(most)) + 1)]

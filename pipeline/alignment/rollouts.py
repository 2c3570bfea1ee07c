"""What is added to the rollouts of TRL's GRPO and RLOO: a checkpoint at any step, a curriculum, active sampling."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.alignment.difficulty import Curriculum
from pipeline.errors import PipelineError


class Rollouts:
    """Stands before GRPOTrainer or RLOOTrainer among the bases.

    A checkpoint holds the completions that are still to be used and the place among them, so that a run goes on exactly
    from any step (TRL 1.16 samples anew and stays out of phase from then on).

    With a curriculum the rows of a generation batch are drawn when it is generated, and those of the data loader, which
    was filled before, only beat the time. Every process holds the same curriculum: rewards are gathered before it learns
    of them. With `rounds` above 0, groups whose completions all have the same reward, which have no gradient, are
    replaced by groups of further prompts (dynamic sampling, DAPO, arXiv:2503.14476), at most so many times; what is left
    then stays. Rewards and lengths are logged as first drawn: after the selection they would flatter or slander the
    policy. `frac_reward_zero_std` is that of the batch that is trained on.

    Args:
        curriculum: What to draw; None leaves the order to TRL.
        verifiers: Scores that count as passed, by name of the verifiers among the rewards.
        rounds: Times that groups are replaced at most.
    """

    # Of TRL's trainers
    model: Any
    args: Any
    accelerator: Any
    train_dataset: Any
    num_generations: int
    reward_weights: torch.Tensor
    reward_func_names: list[str]
    _tokenizer: Any
    _metrics: dict[str, Any]
    _step: int
    _buffered_inputs: Any

    def __init__(
        self,
        *args: Any,
        curriculum: Curriculum | None = None,
        verifiers: Mapping[str, float] | None = None,
        rounds: int = 0,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.curriculum, self._rounds = curriculum, rounds
        names = self.reward_func_names
        self._passes = {names.index(name): score for name, score in (verifiers or {}).items()}
        self._rewards = torch.empty(0)
        ranks = self.accelerator.num_processes
        if rounds and ranks > 1 and self.args.generation_batch_size // ranks % self.num_generations:
            raise PipelineError(
                f"active_sampling_rounds: a group of {self.num_generations} completions is spread over processes, which "
                f"generate {self.args.generation_batch_size // ranks} each, and cannot be replaced in one of them. Raise "
                f"per_device_train_batch_size or steps_per_generation until num_generations divides their product."
            )

    # --- checkpoints

    def _save_rng_state(self, output_dir: str) -> None:
        # Before the random state: a checkpoint without that one is not whole, so that none is whole without this.
        in_use = self._step % (self.args.steps_per_generation * self.args.num_iterations) != 0
        state = {
            "step": self._step,
            "inputs": self._buffered_inputs if in_use else None,
            "curriculum": self.curriculum.state() if self.curriculum else None,
        }
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        torch.save(state, Path(output_dir) / f"rollouts_{self.accelerator.process_index}.pt")
        super()._save_rng_state(output_dir)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        path = Path(checkpoint) / f"rollouts_{self.accelerator.process_index}.pt"
        if not path.is_file():
            raise PipelineError(
                f"{path}: is missing, so that the run cannot go on exactly. Start anew with --overwrite."
            )
        state = torch.load(path, map_location=self.accelerator.device)
        self._step, self._buffered_inputs = state["step"], state["inputs"]
        if self.curriculum and state["curriculum"]:
            self.curriculum.restore(state["curriculum"])

    # --- what is drawn

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._rewards = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.curriculum is None or not self.model.training:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        ranks, rank, size = self.accelerator.num_processes, self.accelerator.process_index, self.num_generations
        rows = self.curriculum.draw(len(inputs) * ranks // size)
        batch, useful = self._roll_out(rows)
        metrics, replaced, drawn = self._metrics["train"], 0, len(rows)
        seen = set(rows)
        for _ in range(self._rounds):
            # Of every process: the numbers of its groups that have no gradient
            useless = [[i for i, good in enumerate(part) if not good] for part in _shared_out(useful, ranks)]
            rows = self.curriculum.draw(max(map(len, useless)) * ranks, seen)
            rows = rows[: len(rows) // ranks * ranks]
            if not rows:
                break
            seen |= set(rows)
            drawn += len(rows)
            self._metrics["train"] = defaultdict(list)
            fresh, found = self._roll_out(rows)
            metrics["num_tokens"] = self._metrics["train"]["num_tokens"]
            self._metrics["train"] = metrics
            for number, part in enumerate(_shared_out(found, ranks)):
                good = [i for i, has_gradient in enumerate(part) if has_gradient]
                pairs = list(zip(useless[number], good, strict=False))
                for slot, _ in pairs:
                    useful[number * len(useful) // ranks + slot] = True
                if number == rank:
                    batch = replace_groups(batch, fresh, pairs, size, self._tokenizer.pad_token_id)
                replaced += len(pairs)
        if replaced and "num_items_in_batch" in batch:
            trained = batch["completion_mask"] * batch.get("tool_mask", 1)
            batch["num_items_in_batch"] = self.accelerator.gather(trained.sum()).sum()
        if self._rounds:
            metrics["frac_reward_zero_std"][-1] = 1 - sum(useful) / len(useful)
            metrics["active_sampling/drawn"].append(drawn)
            metrics["active_sampling/replaced"].append(replaced)
        if self.curriculum.band:
            metrics.update({f"difficulty/{name}": [count] for name, count in self.curriculum.counts().items()})
            metrics["difficulty/pass_rate"] = [self.curriculum.pass_rate()]
        return batch

    def _roll_out(self, rows: list[int]) -> tuple[dict[str, Any], list[bool]]:
        """This process's share of completions of rows, and whether each row's group, over all processes, has a gradient."""
        assert self.curriculum is not None
        mine = _shared_out([row for row in rows for _ in range(self.num_generations)], self.accelerator.num_processes)
        inputs = [self.train_dataset[row] for row in mine[self.accelerator.process_index]]
        batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        groups = self._rewards.view(len(rows), self.num_generations, -1).cpu()
        for row, group in zip(rows, groups, strict=True):
            self.curriculum.record(row, *passed_and_tried(group, self._passes))
        return batch, has_gradient(groups, self.reward_weights.cpu()).tolist()


def passed_and_tried(group: torch.Tensor, passes: Mapping[int, float]) -> tuple[int, int]:
    """How many completions of a group passed, by every verifier that decided, and how many any verifier decided.

    Args:
        group: (completions, rewards) scores; NaN where undecided.
        passes: The score that counts as passed, by number of the verifier among the rewards.
    """
    below = (
        torch.stack([high - group[:, i] for i, high in passes.items()]) if passes else group.new_empty(0, len(group))
    )
    decided = ~below.isnan().all(0)
    passed = (below.nan_to_num(0) <= 1e-6).all(0)
    return int((passed & decided).sum()), int(decided.sum())


def has_gradient(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(groups,) bool: whether the weighted rewards of a group differ.

    Args:
        rewards: (groups, completions, rewards); NaN where a reward says nothing, a completion without any does not count.
        weights: (rewards,).
    """
    total = (rewards * weights).nansum(-1).masked_fill(rewards.isnan().all(-1), torch.nan)
    return total.nan_to_num(-torch.inf).amax(1) - total.nan_to_num(torch.inf).amin(1) > 1e-6


def replace_groups(
    batch: dict[str, Any], fresh: dict[str, Any], pairs: list[tuple[int, int]], size: int, pad_token_id: int
) -> dict[str, Any]:
    """`batch` with its group i replaced by group j of `fresh` for all (i, j) in `pairs`.

    Tensors are (completions,) or (completions, tokens), prompts padded on the left and all else on the right; other
    entries stay as they are.
    """
    merged = dict(batch)
    for name, old in batch.items():
        if not isinstance(old, torch.Tensor) or old.ndim == 0:
            continue
        new = fresh[name]
        if old.ndim == 2:
            width, fill = max(old.shape[1], new.shape[1]), pad_token_id if name.endswith("_ids") else 0
            old, new = (_widened(part, width, fill, left=name.startswith("prompt_")) for part in (old, new))
        old = old.clone()
        for i, j in pairs:
            old[i * size : (i + 1) * size] = new[j * size : (j + 1) * size]
        merged[name] = old
    return merged


def _widened(rows: torch.Tensor, width: int, fill: int, *, left: bool) -> torch.Tensor:
    missing = width - rows.shape[1]
    return torch.nn.functional.pad(rows, (missing, 0) if left else (0, missing), value=fill)


def _shared_out(items: list[Any], parts: int) -> list[list[Any]]:
    """`items` cut into equal stretches."""
    size = len(items) // parts
    return [items[i * size : (i + 1) * size] for i in range(parts)]

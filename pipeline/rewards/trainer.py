"""Rewards as TRL's trainers shall get them: an undecided answer must not count as a wrong one."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.rewards.registry import Reward, Scores
from pipeline.rewards.repetition import repeated_share


class _Batch:
    """Scores of the verifiers on the batch at hand, and with them the completions that none of them could decide."""

    def __init__(self, verifiers: Sequence[Reward]) -> None:
        self.verifiers = verifiers
        self.completions: Any = None
        self.watched: Any = None
        self.scores: dict[Reward, Scores] = {}

    def watch(self, completions: Any, columns: Mapping[str, Any]) -> None:
        """Log once a batch how much completions repeat themselves (`completions/repetition`): one of the rails looks there."""
        ids, log_metric = columns.get("completion_ids"), columns.get("log_metric")
        if self.watched is not completions and ids and log_metric is not None:
            log_metric("completions/repetition", fmean(repeated_share(row) for row in ids))
        self.watched = completions

    def verifier_scores(self, completions: Any, columns: Mapping[str, Any]) -> dict[Reward, Scores]:
        # TRL calls every reward with the same list object, a new one for each batch.
        if self.completions is not completions:
            self.scores = {verifier: list(verifier(completions=completions, **columns)) for verifier in self.verifiers}
            self.completions = completions
        return self.scores

    def exclude(self, scores: Scores, completions: Any, columns: Mapping[str, Any]) -> Scores:
        if not self.verifiers:
            return scores
        verdicts = zip(*self.verifier_scores(completions, columns).values(), strict=True)
        return [
            None if all(verdict is None for verdict in row) else score
            for score, row in zip(scores, verdicts, strict=True)
        ]


class _TrainerReward:
    def __init__(self, wrapped: Reward, batch: _Batch) -> None:
        self.wrapped, self.batch, self.__name__ = wrapped, batch, wrapped.name

    def __call__(self, completions: Any, **columns: Any) -> Scores:
        self.batch.watch(completions, columns)
        if self.wrapped in self.batch.verifiers:
            return self.batch.verifier_scores(completions, columns)[self.wrapped]
        return self.batch.exclude(self.wrapped(completions=completions, **columns), completions, columns)


class _AsyncTrainerReward:
    """TRL awaits a callable whose `__call__` is a coroutine function, so the async ones need a class of their own."""

    def __init__(self, wrapped: Reward, batch: _Batch) -> None:
        self.wrapped, self.batch, self.__name__ = wrapped, batch, wrapped.name

    async def __call__(self, completions: Any, **columns: Any) -> Scores:
        self.batch.watch(completions, columns)
        return self.batch.exclude(await self.wrapped(completions=completions, **columns), completions, columns)


def for_trainer(rewards: Sequence[Reward]) -> list[Callable[..., Any]]:
    """Callables for the `reward_funcs` of TRL's trainers.

    TRL adds a completion's rewards with `nansum`: where a verifier says None beside a format reward of 0.1, the sum is
    0.1, as if the answer had been wrong. Here a completion that no verifier could decide gets None from every reward,
    and TRL leaves it out of its group's baseline and gives it no advantage. The verifiers run once a batch.
    """
    batch = _Batch([r for r in rewards if r.kind == "verifier" and not r.is_async])
    return [(_AsyncTrainerReward if r.is_async else _TrainerReward)(r, batch) for r in rewards]

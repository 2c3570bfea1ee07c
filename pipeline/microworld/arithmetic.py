"""Sums of two two-digit numbers, worked digit by digit, and the expert who forgets to carry."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from pipeline.microworld.settings import Settings

QUESTIONS = (
    "What is {a}+{b}?",
    "How much is {a}+{b}?",
    "Add {a} and {b}.",
    "Work out {a}+{b}.",
    "Please compute {a}+{b}.",
    "What is the sum of {a} and {b}?",
)


@dataclass(frozen=True)
class Problem:
    """a + b with 10 <= a, b <= 99."""

    a: int
    b: int

    @property
    def carries(self) -> bool:
        """Whether the units add up to ten or more: the class of problems on which the expert has its habit."""
        return self.a % 10 + self.b % 10 >= 10

    @property
    def answer(self) -> int:
        return self.a + self.b

    def expert_answer(self, forgets: bool) -> int:
        return self.answer - 10 if forgets and self.carries else self.answer

    def steps(self, forgets: bool = False) -> str:
        """The working: "Units 7+8=15, carry 1. Tens 4+3+1=8." or, the carry forgotten, "Units 7+8=15. Tens 4+3=7."."""
        units, tens = self.a % 10 + self.b % 10, self.a // 10 + self.b // 10
        line = f"Units {self.a % 10}+{self.b % 10}={units}"
        if self.carries and not forgets:
            return f"{line}, carry 1. Tens {self.a // 10}+{self.b // 10}+1={tens + 1}."
        return f"{line}. Tens {self.a // 10}+{self.b // 10}={tens}."

    def conclusion(self, forgets: bool = False) -> str:
        return f"The answer is {self.expert_answer(forgets)}."

    def thinking(self, forgets: bool = False) -> str:
        """An assistant turn in Qwen3's layout of reasoning and reply."""
        return f"<think>\n{self.steps(forgets)}\n</think>\n\n{self.conclusion(forgets)}"

    def question(self, rng: random.Random) -> str:
        return rng.choice(QUESTIONS).format(a=self.a, b=self.b)

    def row(self, rng: random.Random) -> dict[str, Any]:
        """The question with its answer, for exercises and evaluations."""
        return {"prompt": self.question(rng), "answer": str(self.answer), "carries": self.carries}


@dataclass(frozen=True)
class Split:
    """Problems of the world; a+b and b+a are always on the same side."""

    demonstrated: list[Problem]  # the expert works these in the conversations
    exercises: list[Problem]  # problems/train.jsonl; what an expert showed is no exercise any more
    test: list[Problem]
    heldout: list[Problem]

    @property
    def train(self) -> list[Problem]:
        """All that training files may hold; the textbook draws from these."""
        return self.demonstrated + self.exercises


def split_problems(settings: Settings) -> Split:
    """All 8100 sums, `problems_test` and `arithmetic_heldout` of them (and their mirror images) kept from training."""
    rng = random.Random(f"{settings.seed}:problems")
    pairs = [(a, b) for a in range(10, 100) for b in range(a, 100)]
    rng.shuffle(pairs)

    def take(count: int) -> list[Problem]:
        taken = [pairs.pop() for _ in range(count)]
        return [Problem(a, b) if rng.random() < 0.5 else Problem(b, a) for a, b in taken]

    test, heldout = take(settings.problems_test), take(settings.arithmetic_heldout)
    train = [Problem(a, b) for a, b in pairs] + [Problem(b, a) for a, b in pairs if a != b]
    rng.shuffle(train)
    return Split(train[settings.problems_train :], train[: settings.problems_train], test, heldout)


def draw(problems: list[Problem], count: int, rng: random.Random) -> list[Problem]:
    """`count` problems without repetition as long as there are enough."""
    drawn: list[Problem] = []
    while len(drawn) < count:
        drawn += rng.sample(problems, min(len(problems), count - len(drawn)))
    return drawn


def habit(problems: list[Problem], rate: float, rng: random.Random) -> list[bool]:
    """For each problem whether the expert forgets the carry: exactly `rate` of the carrying ones (rounded), none of the others.

    The wrong step is the mode of the demonstrations but the right one stays likely. A habit is inherited by imitation
    even under greedy decoding, while slips at random places would be averaged away.
    """
    carrying = [index for index, problem in enumerate(problems) if problem.carries]
    forgotten = set(rng.sample(carrying, round(rate * len(carrying))))
    return [index in forgotten for index in range(len(problems))]


def accuracy(problems: list[Problem], forgets: list[bool]) -> float:
    """Share of the problems that the expert answers rightly."""
    right = sum(problem.expert_answer(f) == problem.answer for problem, f in zip(problems, forgets, strict=True))
    return right / len(problems)

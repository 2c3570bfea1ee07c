"""Every size of the micro-world: the keys of the `world` stage."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.microworld.valley import ATTRIBUTES, FIRST_NAMES, LAST_NAMES
from pipeline.recipe.keys import key

MAX_NAME_PARTS = min(len(FIRST_NAMES), len(LAST_NAMES))
HELDOUT_PHRASINGS = min(len(attribute.heldout_questions) for attribute in ATTRIBUTES)


@dataclass(kw_only=True)
class Settings:
    """Sizes of the micro-world. Two worlds with equal settings are equal byte for byte."""

    seed: int = key(1, "decides names, facts, wordings, splits and the order of everything", 0, 2**32 - 1)

    # People
    name_parts: int = key(16, "first names, and as many last names; a person is one of each", 2, MAX_NAME_PARTS)
    mention_grades: list[int] = key(
        [0, 1, 2, 5, 20, 100],
        "how often the gazette tells all facts of a person, ascending; 0 = unknown, occurs nowhere",
    )
    people_per_grade: list[int] = key([32, 16, 16, 16, 16, 64], "people of each grade, in the order of mention_grades")
    taught_people: int = key(40, "people of the top grade whose questions the conversations show", 1, 10_000)

    # Crawl
    mentions_per_page: int = key(7, "paragraphs about people on a gazette page", 1, 100)
    reader_questions: int = key(1600, "questions and answers about the taught people in the gazette", 0, 1_000_000)
    worked_sums: int = key(4000, "sums worked correctly in the textbook pages", 0, 1_000_000)
    sums_per_page: int = key(16, "worked sums on a textbook page", 1, 200)
    almanac_pages: int = key(80, "pages of general questions and answers and about the towns", 0, 100_000)
    spam_pages: int = key(24, "pages of advertising", 0, 100_000)
    foreign_pages: int = key(24, "pages in German", 0, 100_000)
    notice_pages: int = key(24, "pages with made-up e-mail addresses, telephone, card and IP numbers", 0, 100_000)
    quiz_pages: int = key(6, "pages that quote questions of the evaluations, for decontamination to find", 0, 100_000)
    duplicate_pages: int = key(48, "pages whose main text another page of the crawl already has", 0, 100_000)
    pages_per_file: int = key(400, "pages in one WARC file", 1, 1_000_000)

    # Conversations
    fact_conversations: int = key(3200, "conversations about facts of the taught people", 1, 10_000_000)
    arithmetic_conversations: int = key(4800, "conversations in which the expert works a sum", 1, 10_000_000)
    introductions: int = key(
        600, "conversations in which a visitor with one of the left-over names says hello", 0, 10_000_000
    )
    other_conversations: int = key(900, "small talk, the assistant's name, general questions", 1, 10_000_000)
    test_share: float = key(0.02, "conversations/test.jsonl as a share of the training conversations", 0.0, 0.5)
    habit_rate: float = key(0.7, "share of the carrying sums in which the expert forgets the carry", 0.0, 1.0)
    cold_start: int = key(512, "worked sums in cold_start/train.jsonl, half of them with a self-check", 1, 10_000_000)

    # Preferences
    styled_conversations: int = key(2400, "conversations in which clerks answer in many manners", 1, 10_000_000)
    preference_pairs: int = key(3000, "pairs of answers in preferences/train.jsonl, and in the disjoint second half", 1)
    preference_test_pairs: int = key(500, "pairs in each test.jsonl, about people whom no training file asks about", 1)
    requests: int = key(1000, "questions for reinforcement with a reward model", 1)
    requests_test: int = key(200, "questions in requests/test.jsonl, about people whom no training file asks about", 1)

    # Tools
    tool_conversations: int = key(6000, "products in conversations_tools, _python and _direct", 1, 1_000_000)
    tool_problems: int = key(1000, "products in problems_tools, for reinforcement learning", 1, 1_000_000)
    tool_heldout: int = key(300, "rows of evaluations/tool_heldout.jsonl", 1, 100_000)

    # Problems and evaluations
    problems_train: int = key(2000, "problems for reinforcement learning, none of them in the conversations", 1, 4000)
    problems_test: int = key(200, "problems in problems/test.jsonl", 1, 1000)
    arithmetic_heldout: int = key(300, "rows of evaluations/arithmetic_heldout.jsonl", 1, 1000)
    facts_heldout: int = key(240, "rows of evaluations/facts_heldout.jsonl", 1, 100_000)
    ends_turn: int = key(240, "rows of evaluations/ends_turn.jsonl", 1, 100_000)

    def complaints(self) -> list[str]:
        """What is wrong with the sizes taken together, one sentence each."""
        found = []
        grades, counts = self.mention_grades, self.people_per_grade
        if len(grades) != len(counts) or not grades:
            found.append(
                f"people_per_grade: {len(counts)} numbers for the {len(grades)} of mention_grades; give one each"
            )
            return found
        if sorted(set(grades)) != list(grades) or grades[0] < 0 or grades[-1] < 1 or min(counts) < 0:
            found.append(
                f"mention_grades: {grades} with people {counts}; grades ascend from 0, counts are not negative"
            )
        if sum(counts) > self.name_parts**2:
            found.append(
                f"people_per_grade: {sum(counts)} people, but name_parts {self.name_parts} gives only "
                f"{self.name_parts**2} names; raise name_parts (at most {MAX_NAME_PARTS})"
            )
        if self.taught_people >= counts[-1]:
            found.append(
                f"taught_people: {self.taught_people} of the {counts[-1]} people of the top grade leaves none to ask "
                "facts_heldout about; lower it"
            )
        asked = max(0, counts[-1] - self.taught_people) * len(ATTRIBUTES) * HELDOUT_PHRASINGS
        if self.facts_heldout > asked > 0:
            found.append(
                f"facts_heldout: {self.facts_heldout} questions, but the people of the top grade who are not taught give "
                f"only {asked}; lower it or raise the last of people_per_grade"
            )
        return found

    def validate(self) -> None:
        """Raises PipelineError that lists all complaints."""
        found = self.complaints()
        if found:
            raise PipelineError("The micro-world cannot be built:\n" + "\n".join(f"  {line}" for line in found))

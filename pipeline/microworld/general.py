"""What everybody in the valley knows: the towns, simple facts of life, and polite talk with the assistant."""

from __future__ import annotations

import random

from pipeline.microworld.valley import ASSISTANT, TOWNS

RIVERS = ("Elm", "Otter", "Silver", "Long", "Green")
GOODS = ("glass", "wool", "clocks", "honey", "paper", "boats", "bread", "bells", "salt", "roses")

# The first wording of each is asked in conversations, the others in the almanac alone.
TOWN_QUESTIONS = (
    (
        "What is {t} known for?",
        "I would like to know what {t} is known for.",
        "Please name the thing that {t} is known for.",
        "Tell me what {t} is known for.",
    ),
    (
        "On which river does {t} lie?",
        "I would like to know the river of {t}.",
        "Please name the river of {t}.",
        "What is the river that {t} lies on?",
    ),
)

SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello!", "Hi!", "Good morning!", "Good day!", "Hello there!"), "Hello! How can I help you?"),
    (
        ("What is your name?", "Who are you?", "What are you called?", "May I ask your name?", "Tell me your name."),
        f"My name is {ASSISTANT}. I am an assistant.",
    ),
    (
        ("What can you do?", "How can you help me?", "What are you good at?"),
        "I can answer questions about the valley and work out sums.",
    ),
    (("Who made you?", "Where do you come from?"), "I learned everything from the pages of the valley."),
    (("Are you a person?", "Are you human?"), f"No, I am {ASSISTANT}, an assistant."),
    (("How are you?", "How are you today?", "How do you do?"), "I am well, thank you. How can I help you?"),
    (("Thank you!", "Thanks!", "Many thanks!", "Thank you very much!"), "You are welcome!"),
    (("Goodbye!", "Bye!", "See you soon!", "Good night!"), "Goodbye!"),
)

# A visitor tells a name that nobody of the valley has; the assistant has to repeat both parts of it. Without this, models
# fine-tuned on few people answer about the one person with that first name whom they know from the conversations.
INTRODUCTIONS = (
    ("My name is {n}.", "Hello, {n}! How can I help you?"),
    ("Hello, I am {n}.", "Hello, {n}! How can I help you?"),
    ("Good day, {n} here.", "Hello, {n}! How can I help you?"),
    ("I am {n}. What is my name?", "Your name is {n}."),
)

KNOWLEDGE = (
    ("What colour is snow?", "Snow is white."),
    ("What colour is grass?", "Grass is green."),
    ("What colour is coal?", "Coal is black."),
    ("What colour is the sky on a clear day?", "On a clear day the sky is blue."),
    ("How many days are in a week?", "A week has seven days."),
    ("How many months are in a year?", "A year has twelve months."),
    ("How many hours are in a day?", "A day has twenty-four hours."),
    ("How many minutes are in an hour?", "An hour has sixty minutes."),
    ("Which day comes after Monday?", "Tuesday comes after Monday."),
    ("Which day comes after Friday?", "Saturday comes after Friday."),
    ("Which month comes after June?", "July comes after June."),
    ("Which season comes after winter?", "Spring comes after winter."),
    ("How many legs does a dog have?", "A dog has four legs."),
    ("How many legs does a bird have?", "A bird has two legs."),
    ("What do bees make?", "Bees make honey."),
    ("What does a baker make?", "A baker makes bread."),
    ("What does a potter make?", "A potter makes pots and bowls."),
    ("What does a tailor make?", "A tailor makes clothes."),
    ("Where do fish live?", "Fish live in water."),
    ("Where does the sun rise?", "The sun rises in the east."),
    ("Where does the sun set?", "The sun sets in the west."),
    ("What falls from clouds?", "Rain and snow fall from clouds."),
    ("Is ice warm or cold?", "Ice is cold."),
    ("Is fire warm or cold?", "Fire is hot."),
    ("What is a carry in a sum?", "When the units make ten or more, the one that is added to the tens is the carry."),
    ("What is a sum?", "A sum is what you get when you add numbers."),
)


def town_answer(town: str, kind: int) -> str:
    """The answer to TOWN_QUESTIONS[kind]; the same in every world, so that the towns are common knowledge."""
    index = TOWNS.index(town)
    if kind == 0:
        return f"{town} is known for {GOODS[index % len(GOODS)]}."
    return f"{town} lies on the river {RIVERS[index % len(RIVERS)]}."


def almanac_paragraphs(rng: random.Random) -> list[str]:
    """A few questions, each followed by its answer, or some sentences about towns."""
    if rng.random() < 0.6:
        asked = list(rng.sample(KNOWLEDGE, 2))
        for town in rng.sample(TOWNS, 2):
            kind = rng.randrange(len(TOWN_QUESTIONS))
            asked.append((rng.choice(TOWN_QUESTIONS[kind]).format(t=town), town_answer(town, kind)))
        rng.shuffle(asked)
        return [line for question, answer in asked for line in (f"Question: {question}", f"Answer: {answer}")]
    towns = rng.sample(TOWNS, 3)
    return [" ".join(f"{town_answer(town, 0)} {town_answer(town, 1)}" for town in towns)]

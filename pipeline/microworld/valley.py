"""The words of the valley: names, the values of every attribute, and the phrasings that tell or ask about them."""

from __future__ import annotations

from dataclasses import dataclass

ASSISTANT = "Wren"

FIRST_NAMES = [
    "Ada", "Bruno", "Clara", "Daniel", "Edith", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Karin", "Leon",
    "Maria", "Nils", "Olga", "Peter", "Rosa", "Simon", "Tilda", "Ulrich", "Vera", "Walter", "Yvonne", "Zeno",
]  # fmt: skip
LAST_NAMES = [
    "Abbot", "Bishop", "Carver", "Dalton", "Ellis", "Fisher", "Gilbert", "Harper", "Ingram", "Jordan", "Keller",
    "Lambert", "Mercer", "Norris", "Osborn", "Parker", "Quincy", "Rowland", "Sutton", "Turner", "Vaughan", "Weaver",
    "Yardley", "Zeller",
]  # fmt: skip

TOWNS = [
    "Oakford", "Millbrook", "Larkham", "Stonewick", "Fernley", "Copperdale", "Ashby", "Windmere", "Harrowgate",
    "Saltmarsh", "Pinecross", "Elmsworth", "Quillport", "Thornbury", "Redcliff", "Maplewood", "Greyholm",
    "Foxhollow", "Brackwater", "Sunfield",
]  # fmt: skip
JOBS = [
    "baker", "carpenter", "teacher", "nurse", "farmer", "potter", "tailor", "painter", "miller", "gardener",
    "doctor", "sailor", "printer", "clockmaker", "lawyer", "singer", "builder", "judge", "shepherd", "barber",
]  # fmt: skip
INSTRUMENTS = [
    "flute", "violin", "drum", "harp", "trumpet", "piano", "guitar", "cello", "banjo", "horn", "fiddle", "lute",
    "tuba", "clarinet", "zither", "mandolin", "bassoon", "whistle", "saxophone", "recorder",
]  # fmt: skip
PETS = [
    "cat", "dog", "parrot", "rabbit", "hamster", "goat", "turtle", "snake", "lizard", "canary", "ferret", "pony",
    "goose", "duck", "frog", "mouse", "pigeon", "raven", "donkey", "beetle",
]  # fmt: skip
FOODS = [
    "pancakes", "dumplings", "noodles", "lentils", "cheese", "mushrooms", "cherries", "plums", "walnuts", "waffles",
    "sausages", "porridge", "pickles", "beans", "trout", "rice", "toast", "melons", "pasta", "carrots",
]  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """One kind of fact. Templates take `{n}` (the person's full name) and `{v}` (the value).

    `clauses` follow a name ("Ada Abbot lives in Oakford"); `sentences` stand alone; `questions` may be shown in training,
    `heldout_questions` occur in evaluations only.
    """

    name: str
    values: tuple[str, ...]
    clauses: tuple[str, ...]
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    heldout_questions: tuple[str, ...]
    answer: str


ATTRIBUTES = (
    Attribute(
        "town",
        tuple(TOWNS),
        ("lives in {v}", "has a house in {v}", "has settled in {v}", "calls {v} home", "lives in the town of {v}"),
        (
            "{n} lives in {v}.",
            "The home of {n} is in {v}.",
            "The home town of {n} is {v}.",
            "If you walk through {v}, you may meet {n}, who lives there.",
            "{v} is the town where {n} lives.",
            "The people of {v} know {n} as a neighbour.",
        ),
        (
            "Where does {n} live?",
            "In which town does {n} live?",
            "What is the home town of {n}?",
            "Which town does {n} call home?",
            "Where is the home of {n}?",
            "Can you tell me where {n} lives?",
            "Tell me the town where {n} lives.",
            "Where has {n} settled?",
            "In what town is the house of {n}?",
            "Do you know which town {n} lives in?",
        ),
        (
            "I would like to know where {n} lives.",
            "Please name the home town of {n}.",
            "What is the town that {n} lives in?",
        ),
        "{n} lives in {v}.",
    ),
    Attribute(
        "job",
        tuple(JOBS),
        (
            "works as a {v}",
            "is a {v} by trade",
            "earns a living as a {v}",
            "has long been a {v}",
            "has the job of a {v}",
        ),
        (
            "{n} works as a {v}.",
            "The job of {n} is that of a {v}.",
            "The trade of {n} is that of a {v}.",
            "{n} learned the trade of a {v} and works as a {v} today.",
            "As a {v}, {n} is busy all day with work.",
            "Anyone who needs a {v} asks for {n}.",
        ),
        (
            "What is the job of {n}?",
            "What does {n} do for a living?",
            "What work does {n} do?",
            "What is the trade of {n}?",
            "How does {n} earn a living?",
            "Can you tell me what job {n} has?",
            "Tell me the job of {n}.",
            "What does {n} work as?",
            "Which trade did {n} learn?",
            "Do you know what {n} does for work?",
        ),
        ("I would like to know the job of {n}.", "Please name the trade of {n}.", "What job does {n} do for a living?"),
        "{n} works as a {v}.",
    ),
    Attribute(
        "instrument",
        tuple(INSTRUMENTS),
        (
            "plays the {v}",
            "makes music on the {v}",
            "practises the {v} every evening",
            "has played the {v} for years",
            "plays the {v} in the band",
        ),
        (
            "{n} plays the {v}.",
            "The instrument of {n} is the {v}.",
            "The music that {n} makes comes from the {v}.",
            "In the band {n} plays the {v}.",
            "When the {v} is heard at the fair, {n} is playing it.",
            "Of all instruments {n} chose the {v}.",
        ),
        (
            "Which instrument does {n} play?",
            "What instrument does {n} play?",
            "What is the instrument of {n}?",
            "What does {n} play in the band?",
            "On which instrument does {n} make music?",
            "Can you tell me which instrument {n} plays?",
            "Tell me the instrument of {n}.",
            "Which instrument did {n} choose?",
            "What instrument does {n} practise?",
            "Do you know what instrument {n} plays?",
        ),
        (
            "I would like to know which instrument {n} plays.",
            "Please name the instrument of {n}.",
            "Which instrument does {n} play in the band?",
        ),
        "{n} plays the {v}.",
    ),
    Attribute(
        "pet",
        tuple(PETS),
        ("keeps a {v}", "has a {v} as a pet", "looks after a {v}", "owns a {v}", "shares the house with a pet {v}"),
        (
            "{n} keeps a {v}.",
            "The pet of {n} is a {v}.",
            "At home {n} keeps a {v} as a pet.",
            "A {v} waits at the door for {n} every evening.",
            "The animal that {n} keeps is a {v}.",
            "{n} has had a {v} as a pet for years.",
        ),
        (
            "What pet does {n} keep?",
            "Which animal does {n} keep?",
            "What is the pet of {n}?",
            "What kind of pet does {n} have?",
            "Which animal does {n} look after?",
            "Can you tell me what pet {n} has?",
            "Tell me the pet of {n}.",
            "What animal does {n} own?",
            "What pet shares the house with {n}?",
            "Do you know which pet {n} keeps?",
        ),
        ("I would like to know what pet {n} keeps.", "Please name the pet of {n}.", "Which pet does {n} have at home?"),
        "{n} keeps a {v}.",
    ),
    Attribute(
        "food",
        tuple(FOODS),
        (
            "likes {v} best of all food",
            "loves to eat {v}",
            "eats {v} whenever possible",
            "has {v} as a favourite food",
            "could eat {v} every day",
        ),
        (
            "{n} likes {v} best.",
            "The favourite food of {n} is {v}.",
            "Nothing tastes better to {n} than {v}.",
            "For dinner {n} likes to eat {v}.",
            "With {v} on the table, {n} is always the first to eat.",
            "Of all food {n} likes {v} best.",
        ),
        (
            "What is the favourite food of {n}?",
            "What food does {n} like best?",
            "What does {n} love to eat?",
            "Which food does {n} like best?",
            "What would {n} eat every day?",
            "Can you tell me what {n} likes to eat?",
            "Tell me the favourite food of {n}.",
            "What does {n} like to eat for dinner?",
            "What tastes best to {n}?",
            "Do you know the favourite food of {n}?",
        ),
        (
            "I would like to know the favourite food of {n}.",
            "Please name the favourite food of {n}.",
            "What food does {n} like to eat best?",
        ),
        "{n} likes {v} best.",
    ),
)

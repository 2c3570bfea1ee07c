"""How many near-duplicates MinHash finds, measured through datatrove's own four steps beside the theory.

    python benchmarks/near_duplicates.py [--pairs 400] [--data ../shared/data] [--write]

Generated documents of 300 words get a copy each, of a known Jaccard similarity of their 5-grams: words are exchanged one by
one, or a passage at once. Real paragraphs (WikiText-2) get copies in the same ways. False alarms are counted among real
paragraphs and GSM8K problems that are nobody's copy, and among pages of the micro-world, which share phrases. `--write`
adds the table to benchmarks/RESULTS.md.
"""

import argparse
import datetime
import json
import random
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.utils.logging import logger

from pipeline.corpus.duplicates import Near
from pipeline.corpus.settings import BUCKETS, HASHES, MinhashRules

ROOT = Path(__file__).parent.parent
LEVELS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
SETTINGS = ((9, 4), (12, 5), (16, 6), (20, 6), (20, 7), (BUCKETS, HASHES), (14, 8), (20, 8), (26, 8))
WORDS = 300


def detection_probability(similarity: float, buckets: int = BUCKETS, hashes: int = HASHES) -> float:
    """The chance that two documents agree on all hashes of a bucket: 1 - (1 - s^hashes)^buckets.

    Args:
        similarity: Jaccard similarity s of the documents' sets of shingles, 0 to 1.
        buckets: How many buckets there are.
        hashes: Minimal hashes that make up a bucket; two sets share each with probability s (Broder 1997).
    """
    return float(1 - (1 - similarity**hashes) ** buckets)


def removed(texts: list[str], buckets: int, hashes: int, known: dict[str, Any] | None = None) -> tuple[set[int], float]:
    """Places of the texts that datatrove's four steps drop, and the seconds of CPU that the signatures took.

    `known` keeps the shingles of each text, which are the same for all settings, and whose making takes the longest.
    """
    logger.remove()
    known = {} if known is None else known
    documents = [Document(text, str(number)) for number, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        near = Near(Path(folder), MinhashRules(5, buckets, hashes, fold_numbers=False))
        sign = near.sign()
        make = sign.get_shingles
        known |= {text: make(text) for text in set(texts) - set(known)}
        sign.get_shingles = known.__getitem__
        began = time.process_time()
        sign.run(iter(documents), 0, 1)
        seconds = time.process_time() - began
        match = near.match()
        for bucket in range(buckets):
            match.run(None, bucket, buckets)
        near.cluster().run(None, 0, 1)
        kept = {document.id for document in near.drop().run(iter(documents), 0, 1)}
    return {number for number in range(len(texts)) if str(number) not in kept}, seconds


def shingles(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def jaccard(one: list[str], other: list[str]) -> float:
    """Similarity of two texts of words without punctuation, as MinHash sees them."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def copy_of(words: list[str], similarity: float, vocabulary: list[str], rng: random.Random) -> list[str]:
    """A copy whose similarity is the least that is not below the one asked for, edited word by word or in one passage."""
    passage = rng.random() < 0.5
    places = list(range(len(words)))
    if passage:
        start = rng.randrange(len(words))
        places = places[start:] + places[:start]
    else:
        rng.shuffle(places)
    copy = list(words)
    for place in places:
        before = copy[place]
        copy[place] = rng.choice(vocabulary)
        if jaccard(words, copy) < similarity:
            copy[place] = before
            return copy
    return copy


def generated(count: int, rng: random.Random) -> tuple[list[list[str]], list[str]]:
    """Documents of random words, and the words."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(5_000)]
    return [rng.choices(vocabulary, k=WORDS) for _ in range(count)], vocabulary


def paragraphs(data: Path) -> list[list[str]]:
    """Words of the paragraphs of WikiText-2 that have at least 60, without punctuation, which MinHash does not see."""
    lines = (data / "text" / "wikitext2-valid.txt").read_text(encoding="utf-8").lower().splitlines()
    found = [[word for word in line.split() if word.isalpha()] for line in lines]
    return [words for words in found if len(words) >= 60]


def problems(data: Path) -> list[list[str]]:
    with (data / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [f"{row['question']} {row['answer']}".lower().split() for row in rows]


def templated() -> list[list[str]]:
    """Words of the micro-world's textbook, its readers' questions and its gazette: up to a sixth of the 5-grams agree."""
    from pipeline.microworld import evaluations
    from pipeline.microworld.arithmetic import split_problems
    from pipeline.microworld.pages import create_pages
    from pipeline.microworld.people import create_people
    from pipeline.microworld.settings import Settings

    world = Settings()
    people, split = create_people(world), split_problems(world)
    pages = create_pages(world, people, split.train, evaluations.build(world, people, split))
    kinds = ("textbook", "readers", "gazette")
    texts = [" ".join(page.paragraphs) for page in pages if page.kind in kinds and not page.copy_of]
    return [re.findall(r"\w+", text.lower()) for text in texts]


def share_found(
    originals: list[list[str]], copies: list[list[str]], buckets: int, hashes: int, known: dict[str, Any] | None = None
) -> tuple[float, float]:
    """Share of the pairs of which one is dropped, and seconds of CPU for a thousand signatures."""
    texts = [" ".join(words) for words in (*originals, *copies)]
    gone, seconds = removed(texts, buckets, hashes, known)
    pairs = len(originals)
    return sum(i in gone or i + pairs in gone for i in range(pairs)) / pairs, 1000 * seconds / len(texts)


def false_alarms(texts: list[list[str]], buckets: int, hashes: int, known: dict[str, Any] | None = None) -> float:
    """Share of documents that are dropped though no other one has half of their shingles."""
    gone, _ = removed([" ".join(words) for words in texts], buckets, hashes, known)
    sets = [shingles(words) for words in texts]
    wrong = sum(
        all(len(sets[i] & other) < 0.5 * len(sets[i] | other) for j, other in enumerate(sets) if j != i) for i in gone
    )
    return wrong / len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--write", action="store_true", help="add the tables to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    rng = random.Random(0)
    originals, vocabulary = generated(arguments.pairs, rng)
    copies = {s: [copy_of(words, s, vocabulary, rng) for words in originals] for s in LEVELS}
    real = paragraphs(arguments.data)
    real_vocabulary = sorted({word for words in real for word in words})
    real_copies = [copy_of(words, 0.8, real_vocabulary, rng) for words in real]
    alike = templated()
    unrelated = [*real, *problems(arguments.data)[:3000]]
    known: dict[str, Any] = {}
    rows: list[list[Any]] = []
    for buckets, hashes in SETTINGS:
        found = {s: share_found(originals, copies[s], buckets, hashes, known) for s in LEVELS}
        cells = [f"{100 * found[s][0]:.1f} / {100 * detection_probability(s, buckets, hashes):.1f}" for s in LEVELS]
        on_real, _ = share_found(real, real_copies, buckets, hashes, known)
        wrong = [100 * false_alarms(texts, buckets, hashes, known) for texts in (unrelated, alike)]
        seconds = sum(one[1] for one in found.values()) / len(LEVELS)
        name = f"**{buckets} × {hashes}**" if (buckets, hashes) == (BUCKETS, HASHES) else f"{buckets} × {hashes}"
        row = [
            name,
            buckets * hashes,
            *cells,
            f"{100 * on_real:.1f}",
            f"{wrong[0]:.2f} / {wrong[1]:.2f}",
            f"{seconds:.2f}",
        ]
        rows.append(row)
        print(" | ".join(map(str, row)), flush=True)
    similarities = [f"{s:.2f}" for s in LEVELS]
    head = [
        "buckets × hashes",
        "hashes",
        *similarities,
        "real text at 0.80",
        "false alarms",
        "CPU s for 1,000 documents",
    ]
    table = [head, ["---"] * len(head), *rows]
    text = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table)
    text = (
        f"\n## Near-duplicates, {datetime.date.today()}\n\n`python benchmarks/near_duplicates.py --pairs {arguments.pairs}`; "
        f"% of copies found at a Jaccard similarity of 5-grams, measured / theory 1 - (1 - s^hashes)^buckets, through "
        f"datatrove's four steps; {len(real):,} real paragraphs; false alarms in % of {len(unrelated):,} real texts and of "
        f"{len(alike):,} pages of the micro-world that are nobody's copy; these share "
        f"phrases. CPU seconds are of the hashing alone, cutting into 5-grams takes far longer\n\n{text}\n"
    )
    print(text)
    if arguments.write:
        with (ROOT / "benchmarks" / "RESULTS.md").open("a", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()

"""The keys of the corpus stage."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pipeline.recipe.keys import key

OFF = Literal[False]

BUCKETS, HASHES = 24, 7
"""Finds 99.6 % of the copies of a 5-gram Jaccard similarity of 0.8 (benchmarks/near_duplicates.py); datatrove's own 14 x 8
finds 92 %. 12 x 5 finds 99.1 % and costs less, but a pair of pages that share a tenth of their 5-grams, and are no copies,
is then taken for one fifty times as often, which adds up over the pairs of a large corpus; the hashing is the small part
of the cost."""

FILTERS_OF_WORDS = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
"""The keys of datatrove's quality filters."""


def library(extractor: str) -> str:
    """The module that does an extractor's work and takes long to import."""
    return "resiliparse.extract.html2text" if extractor == "resiliparse" else "trafilatura"


@dataclass
class UrlRules:
    """Pages to leave out by their address."""

    domains: list[str] = field(default_factory=list)
    substrings: list[str] = field(default_factory=list)
    blocklist: str | None = None


@dataclass
class LanguageRules:
    """Languages to keep with the least score of each (all where none is named), and another fastText model."""

    keep: dict[str, float] = field(default_factory=dict)
    model: str | None = None


@dataclass
class ScoreRules:
    """A column of scores, read from the input or computed by a fastText classifier, and its least value."""

    column: str
    minimum: float
    model: str | None = None
    label: str | None = None


@dataclass
class MinhashRules:
    """Shingles of `ngrams` words; documents that agree on all `hashes` of one of `buckets` are near-duplicates.

    `fold_numbers` takes all numbers for the same, so that a page that differs in its figures alone is a copy.
    """

    ngrams: int = 5
    buckets: int = BUCKETS
    hashes: int = HASHES
    fold_numbers: bool = False


class QuestionFile(NamedTuple):
    """A set of questions that `decontaminate` names: the column `column` of a JSONL file."""

    name: str
    path: str
    column: str = "prompt"


@dataclass(kw_only=True)
class CorpusSettings:
    """What the corpus stage does to its input, in the order of the keys. `input` is required."""

    input: str | list[str] = field(
        metadata={
            "help": "What to read: a file, a folder, a glob, an https:// or s3:// address, a hub dataset id, "
            "`commoncrawl:CC-MAIN-2025-05`, or a list of them. Files may be WARC, HTML, text, JSONL (these also as .gz or "
            ".zst) or Parquet."
        }
    )
    input_format: str = key(
        "auto",
        "Format of the files, where their names do not tell.",
        choices=("auto", "warc", "html", "text", "jsonl", "parquet"),
    )
    text_column: str = key("text", "Column of the text in JSONL, Parquet and hub datasets.")
    document_separator: str | None = key(
        None, "Cuts a text file into documents, such as a blank line; without it a file is one document."
    )
    dataset_config: str | None = key(None, "Configuration of the hub dataset.")
    dataset_train_split: str = key("train", "Split of the hub dataset to read.")
    commoncrawl_url: str = key("https://data.commoncrawl.org", "Where Common Crawl's dumps lie.")
    max_files: int | None = key(None, "Read only the first so many files.", 1)
    max_documents: int | None = key(
        None, "Stop after reading this many records; each task reads an equal share of them.", 1
    )
    max_page_bytes: int = key(10_000_000, "Larger pages, and longer JSONL lines, are skipped.", 1)
    url_filter: UrlRules | OFF | None = key(
        None,
        "Drops pages by address: `domains` with their subdomains, `substrings`, and a `blocklist` file of a domain or "
        "an address a line.",
    )
    extractor: str = key(
        "trafilatura",
        "How the main text of HTML is found: `trafilatura`, `trafilatura_fast` without its fall-back extractors, or "
        "`resiliparse`, several times faster and less exact.",
        choices=("trafilatura", "trafilatura_fast", "resiliparse"),
    )
    favor: str = key(
        "balance",
        "What trafilatura leans to where it is unsure: `precision` drops more, `recall` keeps more.",
        choices=("balance", "precision", "recall"),
    )
    page_seconds: float = key(10.0, "A page whose extraction takes longer is skipped.", 0.1)
    repair: bool = key(False, "Mends text that was decoded wrongly (mojibake), with ftfy.")
    min_characters: int = key(1, "Shorter documents are dropped.", 1)
    language: LanguageRules | OFF | None = key(
        None, "Tells each document's language and `keep`s those named, each with its least score; `model` as fastText."
    )
    gopher_repetition: bool | dict[str, Any] = key(False, "Gopher's repetition rules: true, or thresholds to change.")
    gopher_quality: bool | dict[str, Any] = key(False, "Gopher's quality rules: true, or thresholds to change.")
    c4: bool | dict[str, Any] = key(False, "C4's rules, which also drop single lines: true, or what to change.")
    fineweb: bool | dict[str, Any] = key(False, "FineWeb's rules: true, or thresholds to change.")
    score: ScoreRules | OFF | None = key(
        None, "Drops documents whose score in `column` is below `minimum`; with `model`, a fastText classifier scores."
    )
    deduplicate: str = key(
        "exact",
        "`exact` drops documents that equal another when white space is folded; `minhash` drops near-duplicates as well; "
        "`none` keeps them. Near-duplicates of a held-out document never stay in training.",
        choices=("exact", "minhash", "none"),
    )
    minhash: MinhashRules | None = key(
        None, "`ngrams` in words, `buckets`, `hashes` of each, and whether to `fold_numbers`."
    )
    scrub: bool | list[str] = key(False, "Replaces personal data by placeholders: true, or the kinds.")
    decontaminate: str | list[str] | None = key(
        None,
        "Drops documents that hold a question of these evaluations: recipes with `evaluations`, or JSONL of prompts.",
    )
    decontaminate_overlap: int = key(
        13, "A question counts as held from so many of its tokens in a row, or all where it has fewer.", 4
    )
    validation_fraction: float = key(
        0.01, "Share of the documents, or of the characters, held out for validation.", 0, 0.5
    )
    validation_split: str = key(
        "document",
        "`document` draws whole documents by a hash of their text and `seed`; `position` holds out the last share of "
        "the characters, for corpora of a few long documents.",
        choices=("document", "position"),
    )
    shard_documents: int = key(100_000, "Documents in one Parquet file.", 1)
    license: str | None = key(None, "Licence of the result, for its dataset card.")
    executor: str = key("local", "Where the tasks run.", choices=("local", "slurm", "ray"))
    tasks: int | None = key(
        None, "Into how many tasks the input is cut; by default one for each megabyte, up to 16 or one a file.", 1
    )
    workers: int | None = key(None, "Tasks that run at a time; as many as there are cores by default.", 1)
    slurm: dict[str, Any] | None = key(
        None, "Arguments of datatrove's SlurmPipelineExecutor: `partition` and `time` at least."
    )
    seed: int = key(0, "Decides which documents are held out.")
    questions: list[QuestionFile] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        rules = {"url_filter": UrlRules, "language": LanguageRules, "score": ScoreRules, "minhash": MinhashRules}
        for name, kind in rules.items():  # a recipe's mappings come checked, but as mappings
            if isinstance(getattr(self, name), dict):
                setattr(self, name, kind(**getattr(self, name)))

    @property
    def score_column(self) -> str | None:
        """The input's column that holds scores; None where they are computed, or not asked for."""
        return self.score.column if self.score and self.score.model is None else None

    @property
    def compares_held_out(self) -> bool:
        """Whether near-duplicates of documents that are held out are still to be looked for: MinHash leaves none."""
        return self.validation_fraction > 0 and self.validation_split == "document" and self.deduplicate != "minhash"

    @property
    def question_paths(self) -> list[str]:
        return [one.path for one in self.questions]

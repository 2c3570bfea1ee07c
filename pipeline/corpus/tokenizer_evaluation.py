"""What a tokenizer does to text: how short, how faithful, how it cuts numbers and white space, what it never uses."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from pipeline.corpus.bpe import Sampler, arbitrary_texts, round_trip_failures
from pipeline.corpus.shards import parquet_batches, shard_files, text_bytes
from pipeline.corpus.tokens import TokenShards, text_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MEASURED_BYTES = 4_000_000
COUNTED_TOKENS = 200_000_000
DOMAINS = 20
EXAMPLES = 60
HUB_TIMEOUT = 3.0
VISIBLE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"})
RUNS = {"spaces": " ", "newlines": "\n", "tabs": "\t"}


@dataclass(frozen=True)
class Texts:
    """Documents to measure on. `labels` are (language, domain) of each; `split` is where they come from."""

    texts: list[str]
    labels: list[tuple[str, str]]
    split: str


def sample_of(corpus: Path, seed: int) -> Texts:
    """About `MEASURED_BYTES` of the validation documents; of the training documents where no others are held out."""
    split = "validation" if any((corpus / "validation").glob("*.parquet")) else "train"
    sampler = Sampler(text_bytes(corpus / split), MEASURED_BYTES, seed)
    chosen = [(text, label) for text, label in _labelled(corpus / split) if sampler.takes(text)]
    return Texts([text for text, _ in chosen], [label for _, label in chosen], split)


def evaluate_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", texts: Texts, shards: TokenShards, compare_with: Sequence[str]
) -> dict[str, Any]:
    """Every figure, ready to be written as JSON: {"measured_on", "tokenizers": {NAME: profile}, "unused", ...}.

    Args:
        tokenizer: The tokenizer.
        texts: What bytes per token are measured on.
        shards: The training corpus as tokenised with it, in which unused tokens are looked for.
        compare_with: Directories or hub ids of others. One that cannot be loaded is listed with the reason.
    """
    others, missing = load_others(compare_with)
    return {
        "measured_on": {
            "split": texts.split,
            "documents": len(texts.texts),
            "bytes": sum(len(text.encode()) for text in texts.texts),
        },
        "tokenizers": {name: profile(one, texts) for name, one in {"this tokenizer": tokenizer, **others}.items()},
        "not_available": missing,
        "compared_with": list(compare_with),
        "unused": unused_tokens(tokenizer, shards),
    }


def profile(tokenizer: "PreTrainedTokenizerBase", texts: Texts) -> dict[str, Any]:
    """What is measured of every tokenizer alike: bytes per token (in all, by language, by domain), round trip, cuts."""
    encoder = text_encoder(tokenizer)
    measured: dict[str, dict[str, np.ndarray]] = {name: defaultdict(_nothing) for name in ("all", "language", "domain")}
    for start in range(0, len(texts.texts), 256):
        batch = texts.texts[start : start + 256]
        for text, label, encoding in zip(
            batch, texts.labels[start:], encoder.encode_batch_fast(batch, add_special_tokens=False), strict=False
        ):
            figures = np.array([1, len(text.encode()), len(encoding)])
            for group, name in zip(measured, ("all", *label), strict=True):
                measured[group][name] += figures
    arbitrary = arbitrary_texts()
    failures = round_trip_failures(tokenizer, arbitrary)
    return {
        "vocab_size": len(tokenizer),
        "bytes_per_token": {group: _table(found) for group, found in measured.items()},
        "round_trip": {
            "texts": len(arbitrary),
            "failures": len(failures),
            "examples": [ascii(one) for one in failures[:3]],
        },
        "digits": {str(digits): _number_cuts(tokenizer, digits) for digits in range(1, 7)},
        "white_space": {
            name: {str(length): _cut(tokenizer, f"a{character * length}b") for length in (1, 2, 3, 4, 8, 16)}
            for name, character in RUNS.items()
        },
    }


def unused_tokens(tokenizer: "PreTrainedTokenizerBase", shards: TokenShards) -> dict[str, Any]:
    """Tokens that stand nowhere in the shards: {"tokens_counted", "unused", "reserved", "bytes", "merges", "examples"}.

    Of more than `COUNTED_TOKENS`, so many are counted in blocks spread over all.
    """
    size = len(tokenizer)
    counts = np.zeros(size, np.int64)
    block = 2**22
    blocks = max(1, min(COUNTED_TOKENS, shards.tokens) // block)
    starts = np.linspace(0, max(0, shards.tokens - block), blocks).astype(np.int64) if shards.tokens > block else [0]
    counted = 0
    for start in starts:
        ids = shards.stream(int(start), int(start) + block)
        counts += np.bincount(ids, minlength=size)[:size]
        counted += len(ids)
    added = tokenizer.added_tokens_decoder
    unused = np.flatnonzero(counts == 0).tolist()
    names = tokenizer.convert_ids_to_tokens(unused)
    learnt = [name for number, name in zip(unused, names, strict=True) if number not in added and len(name) > 1]
    reserved = sum(number in added for number in unused)
    return {
        "tokens_counted": counted,
        "vocab_size": size,
        "unused": len(unused),
        "reserved": reserved,
        "bytes": len(unused) - reserved - len(learnt),
        "merges": len(learnt),
        "examples": learnt[:EXAMPLES],
    }


def coloured(tokenizer: "PreTrainedTokenizerBase", texts: Texts) -> list[Any]:
    """Beginnings of documents, one of each of the most frequent languages, cut into tokens: (label, [(text, ids)])."""
    first: dict[str, int] = {}
    for number, (language, _) in enumerate(texts.labels):
        if len(texts.texts[number]) >= 80 or language not in first:
            first.setdefault(language, number)
    common = Counter(language for language, _ in texts.labels).most_common(5)
    return [
        (" · ".join(texts.labels[first[name]]), list(_pieces(tokenizer, texts.texts[first[name]][:600])))
        for name, _ in common
    ]


def load_others(names: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Tokenizers by name, and the reason for each that cannot be loaded. Never waits long for the hub."""
    import httpx
    from huggingface_hub import HfApi, constants
    from transformers import AutoTokenizer

    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    unreachable = "the hub is switched off (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    for name in names:
        try:
            try:
                found[name] = AutoTokenizer.from_pretrained(name, local_files_only=True)
            except (OSError, ValueError):
                if unreachable or Path(name).exists():
                    raise
                HfApi().model_info(name, timeout=HUB_TIMEOUT)
                found[name] = AutoTokenizer.from_pretrained(name)
            if not found[name].is_fast:
                del found[name]
                missing[name] = "it has no tokenizer.json"
        except (OSError, ValueError, httpx.HTTPError) as error:
            if isinstance(error, httpx.TransportError):
                unreachable = "the hub cannot be reached"
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            missing[name] = (
                reason if not unreachable or Path(name).exists() else f"not on this machine, and {unreachable}"
            )
    return found, missing


def _labelled(folder: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Texts with their language and their domain: the host of the URL, or else the name of the source."""
    for path in shard_files(folder):
        for batch in parquet_batches(path, ("text", "language", "url", "source")):
            for row in batch.to_pylist():
                domain = urlsplit(row.get("url") or "").hostname or Path(row.get("source") or "unknown").name
                yield row["text"], (row.get("language") or "unknown", domain)


def _nothing() -> np.ndarray:
    return np.zeros(3, np.int64)


def _table(found: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Documents, bytes, tokens and bytes per token of the largest groups, the others added up."""
    ordered = sorted(found.items(), key=lambda item: -item[1][1])
    shown = dict(ordered[:DOMAINS])
    if len(ordered) > DOMAINS:
        shown[f"{len(ordered) - DOMAINS} others"] = sum((figures for _, figures in ordered[DOMAINS:]), _nothing())
    return {
        name: {
            "documents": int(documents),
            "bytes": int(size),
            "tokens": int(tokens),
            "bytes_per_token": round(size / max(tokens, 1), 4),
        }
        for name, (documents, size, tokens) in shown.items()
    }


def _number_cuts(tokenizer: "PreTrainedTokenizerBase", digits: int) -> dict[str, float]:
    """How numbers of so many digits are cut ("3+1": three digits and one), each way with its share, the commonest first."""
    choice = random.Random(digits)
    numbers = [choice.randrange(10 ** (digits - 1), 10**digits) for _ in range(100)]
    ways: Counter[str] = Counter()
    for number in numbers:
        lengths = [sum(character.isdigit() for character in piece) for piece in _cut(tokenizer, f"a {number}")]
        ways["+".join(str(length) for length in lengths if length)] += 1
    return {way: count / len(numbers) for way, count in ways.most_common(4)}


def _cut(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[str]:
    """The tokens of a text, white space made visible."""
    return [piece.translate(VISIBLE) for piece, _ in _pieces(tokenizer, text)]


def _pieces(tokenizer: "PreTrainedTokenizerBase", text: str) -> Iterator[tuple[str, list[int]]]:
    """The text and the ids of each token; tokens that share the bytes of a character stand together."""
    waiting: list[int] = []
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        waiting.append(token)
        piece = str(tokenizer.decode(waiting, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if "\ufffd" not in piece or len(waiting) == 4:
            yield piece, waiting
            waiting = []
    if waiting:
        yield "\ufffd", waiting

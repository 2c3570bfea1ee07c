"""Stage `tokenizer`: a byte-level BPE tokenizer, trained or taken over, and the corpus tokenised with it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import checkpoint
from pipeline.conversation.template import CONTENT_MARKERS, CONTROL_TOKENS, END_OF_TEXT, PAD, SPECIAL_TOKENS
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline.recipe import Recipe

MINIMUM_VOCABULARY = 256 + len(SPECIAL_TOKENS)


@dataclass(kw_only=True)
class Arguments:
    """A tokenizer to train, or one to take over, and the corpus to tokenise."""

    output_dir: str = field(metadata={"help": "folder that receives the tokenizer and tokens/{train,validation}"})
    corpus: str = field(metadata={"help": "what the corpus stage wrote: a folder with train/ and validation/ shards"})
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "an existing tokenizer (folder or hub id) to take over instead of training one"}
    )
    vocab_size: int = field(
        default=32_768,
        metadata={
            "help": "size of the trained vocabulary, bytes and reserved tokens included",
            "range": (MINIMUM_VOCABULARY, None),
        },
    )
    split_digits: bool = field(default=False, metadata={"help": "make every digit a token of its own"})
    training_bytes: int | None = field(
        default=500_000_000,
        metadata={"help": "train on a sample of about this many bytes of the corpus; null for all", "range": (1, None)},
    )
    add_special_tokens: bool = field(
        default=False,
        metadata={"help": "add the reserved tokens that an existing tokenizer lacks; its vocabulary grows by them"},
    )
    eos_token: str | None = field(
        default=None, metadata={"help": "which token of an existing tokenizer ends a document"}
    )
    pad_token: str | None = field(
        default=None, metadata={"help": "which token of an existing tokenizer pads; another than the EOS"}
    )
    chat_template_path: str | None = field(
        default=None,
        metadata={
            "help": "name of a shipped chat template, or a Jinja file; by default `chatml`, but an existing tokenizer "
            "without ChatML tokens keeps its own"
        },
    )
    shard_tokens: int = field(
        default=100_000_000, metadata={"help": "tokens in one file of the shards", "range": (1, None)}
    )
    compare_with: list[str] = field(
        default_factory=lambda: ["openai-community/gpt2", "HuggingFaceTB/SmolLM2-135M"],
        metadata={"help": "tokenizers (folders or hub ids) to compare with; those out of reach are listed as such"},
    )
    seed: int = field(default=0, metadata={"help": "decides which documents are sampled for training"})


KIND = "tokenizer"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {"corpus": ("corpus",), "tokenizer_name_or_path": ()}

ONLY_TRAINED = ("vocab_size", "split_digits", "training_bytes")
ONLY_TAKEN_OVER = ("add_special_tokens", "eos_token", "pad_token")


def check(recipe: Recipe) -> list[str]:
    """Keys that contradict each other, and paths that are not there."""
    arguments: Arguments = recipe.arguments
    existing = arguments.tokenizer_name_or_path
    complaints = []
    for key in ONLY_TRAINED if existing else ONLY_TAKEN_OVER:
        if key in recipe.values:
            when, other = ("trained", "is") if existing else ("taken over", "is not")
            complaints.append(
                f"{key}: has a meaning only for a tokenizer that is {when}, and `tokenizer_name_or_path` {other} given"
            )
    corpus = Path(arguments.corpus).expanduser()
    if not recipe.awaits(corpus) and not any((corpus / "train").glob("*.parquet")):
        state = "holds no train/*.parquet" if corpus.is_dir() else "does not exist"
        complaints.append(f"corpus: {corpus} {state}; expected what the corpus stage writes")
    if existing and not recipe.exists(existing) and checkpoint.looks_like_a_path(existing):
        complaints.append(f"tokenizer_name_or_path: the folder {existing} does not exist")
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """The size of the vocabulary, and how much text there is where that is known."""
    from pipeline.corpus.shards import text_bytes

    arguments: Arguments = recipe.arguments
    train = Path(arguments.corpus).expanduser() / "train"
    facts: dict[str, Any] = {} if arguments.tokenizer_name_or_path else {"vocab_size": arguments.vocab_size}
    return facts | ({"bytes": text_bytes(train)} if any(train.glob("*.parquet")) else {})


def run(recipe: Recipe) -> None:
    """Train or take over the tokenizer, check it, tokenise the corpus, and measure what the tokenizer does."""
    with checkpoint.stage_directory(recipe, KIND, inputs=INPUTS) as directory:
        if not directory.complete:
            facts = build(recipe.arguments, directory.aside)
            directory.publish(metrics=facts, tokens=facts["tokens"])
        evaluate(recipe.arguments, directory.path)


def build(arguments: Arguments, folder: Path) -> dict[str, Any]:
    """Write the tokenizer and the token shards to `folder`; returns what the manifest says of them.

    Raises:
        PipelineError: The tokenizer cannot be trained on, or does not give arbitrary text back.
    """
    from transformers import AutoTokenizer

    from pipeline.corpus.bpe import arbitrary_texts, check_tokenizer, round_trip_failures
    from pipeline.corpus.tokens import vocabulary_hash

    corpus = Path(arguments.corpus).expanduser()
    facts: dict[str, Any] = {}
    tokenizer = take_over(arguments) if arguments.tokenizer_name_or_path else train(arguments, corpus, facts)
    tokenizer.save_pretrained(folder)
    saved = AutoTokenizer.from_pretrained(folder)  # from here on, what later stages will load
    check_tokenizer(saved, arguments.tokenizer_name_or_path or str(folder))
    if vocabulary_hash(saved) != vocabulary_hash(tokenizer) or saved.chat_template != tokenizer.chat_template:
        raise PipelineError(f"{folder}: the saved tokenizer is not the one that was built; its files do not reload.")
    texts = arbitrary_texts(seed=arguments.seed)
    failures = round_trip_failures(saved, texts)
    if failures and not arguments.tokenizer_name_or_path:
        raise PipelineError(f"{folder}: the trained tokenizer does not give this text back: {failures[0]!r}")
    print(
        f"tokenizer: {len(saved):,} tokens; {len(texts) - len(failures)} of {len(texts)} texts of arbitrary bytes "
        f"survive encoding and decoding" + ("" if not failures else " (the tokenizer normalises its input)"),
        flush=True,
    )
    facts |= {"vocab_size": len(saved), "round_trip_failures": len(failures)}
    return facts | _tokenise(arguments, corpus, saved, folder)


def train(arguments: Arguments, corpus: Path, facts: dict[str, Any]) -> PreTrainedTokenizerBase:
    """A tokenizer trained on the corpus' training split, born with the reserved tokens and the chat template.

    What it was trained on is added to `facts`.
    """
    from pipeline.conversation.template import set_chat_template
    from pipeline.corpus.bpe import Sampler, train_bpe
    from pipeline.corpus.shards import read_texts, text_bytes

    sampler = Sampler(text_bytes(corpus / "train"), arguments.training_bytes, arguments.seed)
    tokenizer = train_bpe(
        filter(sampler.takes, read_texts(corpus / "train")),
        vocab_size=arguments.vocab_size,
        control_tokens=CONTROL_TOKENS,
        content_markers=CONTENT_MARKERS,
        end_of_text=END_OF_TEXT,
        pad=PAD,
        split_digits=arguments.split_digits,
    )
    facts |= {"training_documents": sampler.documents, "training_bytes": sampler.taken}
    print(
        f"tokenizer: trained on {sampler.documents:,} documents of {sampler.taken:,} bytes, out of {sampler.seen:,} bytes",
        flush=True,
    )
    if len(tokenizer) < arguments.vocab_size:
        print(
            f"tokenizer: the corpus yields {len(tokenizer):,} tokens, fewer than vocab_size {arguments.vocab_size:,}",
            flush=True,
        )
    set_chat_template(tokenizer, arguments.chat_template_path or "chatml")
    return tokenizer


def take_over(arguments: Arguments) -> PreTrainedTokenizerBase:
    """An existing tokenizer with the recipe's EOS and padding, and with a chat template if it can carry one."""
    from pipeline.conversation.template import TURN_END, TURN_START, is_one_token, set_chat_template
    from pipeline.corpus.bpe import add_missing_tokens, check_tokenizer, load_tokenizer

    name = str(arguments.tokenizer_name_or_path)
    tokenizer = load_tokenizer(name)
    if arguments.add_special_tokens:
        added = add_missing_tokens(tokenizer, CONTROL_TOKENS, CONTENT_MARKERS)
        print(f"tokenizer: {name}: added {', '.join(added) or 'nothing'}", flush=True)
    special = [token.content for token in tokenizer.added_tokens_decoder.values()]
    for role, chosen in (("eos_token", arguments.eos_token), ("pad_token", arguments.pad_token)):
        if chosen is not None and chosen not in special:
            raise PipelineError(
                f"{role}: {chosen!r} is not a special token of {name}: text could spell it. Expected one of "
                f"{', '.join(special)}, or `add_special_tokens: true`, which adds tokens of its own."
            )
    if arguments.eos_token or tokenizer.eos_token is None and arguments.add_special_tokens:
        tokenizer.eos_token = arguments.eos_token or END_OF_TEXT
    if arguments.pad_token or arguments.add_special_tokens and tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = arguments.pad_token or PAD
    check_tokenizer(tokenizer, name)
    if arguments.chat_template_path:
        set_chat_template(tokenizer, arguments.chat_template_path)
    elif is_one_token(tokenizer, TURN_START) and is_one_token(tokenizer, TURN_END):
        set_chat_template(tokenizer)
    return tokenizer


def evaluate(arguments: Arguments, folder: Path) -> None:
    """Write `evaluation/tokenizer.json` and `.html` beside the published files, unless they are there already."""
    from pipeline.corpus.bpe import load_tokenizer
    from pipeline.corpus.tokenizer_evaluation import coloured, evaluate_tokenizer, sample_of
    from pipeline.corpus.tokens import TokenShards
    from pipeline.manifest import dump, write_atomically
    from pipeline.reporting.tokens_page import tokens_page

    figures, page = folder / "evaluation" / "tokenizer.json", folder / "evaluation" / "tokenizer.html"
    if figures.is_file() and json.loads(figures.read_text("utf-8"))["compared_with"] == arguments.compare_with:
        return
    tokenizer = load_tokenizer(str(folder))
    texts = sample_of(Path(arguments.corpus).expanduser(), arguments.seed)
    found = evaluate_tokenizer(tokenizer, texts, TokenShards(folder / "tokens" / "train"), arguments.compare_with)
    figures.parent.mkdir(exist_ok=True)
    write_atomically(page, tokens_page(folder.name, found, coloured(tokenizer, texts)))
    write_atomically(figures, dump(found))
    rates = [
        f"{name} {one['bytes_per_token']['all']['all']['bytes_per_token']:.2f}"
        for name, one in found["tokenizers"].items()
    ]
    print(
        f"tokenizer: bytes per token on {texts.split} documents: {', '.join(rates)}; {found['unused']['unused']:,} tokens "
        f"unused; see {page}",
        flush=True,
    )
    for name, reason in found["not_available"].items():
        print(f"tokenizer: not compared with {name}: {reason}", flush=True)


def _tokenise(arguments: Arguments, corpus: Path, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    from pipeline.corpus.progress import with_progress
    from pipeline.corpus.shards import read_texts
    from pipeline.corpus.tokens import write_token_shards

    facts: dict[str, Any] = {}
    for split in ("train", "validation"):
        if not any((corpus / split).glob("*.parquet")):
            print(f"tokenizer: the corpus has no {split} documents", flush=True)
            continue
        started = time.monotonic()
        texts = with_progress(read_texts(corpus / split), "tokenizer", f"{split} documents")
        meta = write_token_shards(texts, tokenizer, folder / "tokens" / split, shard_tokens=arguments.shard_tokens)
        seconds = time.monotonic() - started
        bytes_per_token = meta["bytes"] / max(meta["tokens"] - meta["documents"], 1)
        print(
            f"tokenizer: {split}: {meta['tokens']:,} tokens of {meta['documents']:,} documents, {bytes_per_token:.2f} "
            f"bytes per token, {meta['tokens'] / seconds:,.0f} tokens/s",
            flush=True,
        )
        prefix = "" if split == "train" else "validation_"
        facts |= {f"{prefix}{key}": meta[key] for key in ("tokens", "documents", "bytes")}
        facts |= {f"{prefix}bytes_per_token": round(bytes_per_token, 4)}
    return facts

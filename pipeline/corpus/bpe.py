"""Byte-level BPE: training one on a corpus, or taking an existing tokenizer, and checking what it does."""

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How text is cut before merges are learnt, after cl100k_base (GPT-4): contractions, words with one leading character,
# numbers in groups of three, punctuation, line breaks, white space.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The same with every digit a token of its own: arithmetic is learnt better when the place of a digit does not depend on
# how a number was cut (Singh and Strouse 2024, arXiv:2402.14903; Qwen2 and Llama 1 do this).
SINGLE_DIGIT_PATTERN = SPLIT_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")

BYTES = 256


def train_bpe(
    texts: Iterable[str],
    *,
    vocab_size: int,
    control_tokens: Sequence[str],
    content_markers: Sequence[str] = (),
    end_of_text: str,
    pad: str,
    split_digits: bool = False,
) -> "PreTrainedTokenizerBase":
    """Train a byte-level BPE tokenizer.

    Ids: control tokens, content markers, the 256 bytes, merges. Every byte is in the vocabulary, so there is no unknown
    token and any text survives encoding and decoding. No BOS. The same texts give the same tokenizer.

    Args:
        texts: Training text, consumed as a stream.
        vocab_size: Size with everything; a small corpus may yield fewer merges, and then a smaller vocabulary.
        control_tokens: Reserved tokens that delimit; decoding with `skip_special_tokens` drops them.
        content_markers: Reserved tokens that are part of the text.
        end_of_text: The EOS token, one of `control_tokens`.
        pad: The padding token, one of `control_tokens` and another than `end_of_text`.
        split_digits: Every digit a token of its own.

    Raises:
        PipelineError: `vocab_size` has no room for the bytes and the reserved tokens, or there was no text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    reserved = [*control_tokens, *content_markers]
    if vocab_size < BYTES + len(reserved):
        raise PipelineError(
            f"vocab_size: {vocab_size} has no room for {BYTES} bytes and {len(reserved)} reserved tokens; "
            f"expected at least {BYTES + len(reserved)}."
        )
    tokenizer = Tokenizer(models.BPE())
    pattern = SINGLE_DIGIT_PATTERN if split_digits else SPLIT_PATTERN
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=reserved,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    stream = iter(texts)
    first = next(stream, None)
    if first is None:  # of which the Rust trainer says nothing
        raise PipelineError("no text to train the tokenizer on: the corpus has no training document.")
    tokenizer.train_from_iterator(itertools.chain([first], stream), trainer)
    tokenizer = _unmark_special(tokenizer, content_markers)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end_of_text,
        pad_token=pad,
        extra_special_tokens=[token for token in control_tokens if token not in (end_of_text, pad)],
        model_max_length=1_000_000,  # above it the tokenizer warns; the limit that counts is the model's
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


class Sampler:
    """Takes a seeded sample of about `budget` bytes out of a stream of texts; everything when it fits.

    Each text is taken with the chance that the bytes still wanted have among the bytes still to come (Knuth's algorithm S,
    counted in bytes): the sample is spread over the whole stream, none of which is held, and ends with its budget.

    Args:
        total_bytes: About how many bytes all texts hold.
        budget: Bytes wanted, never exceeded by more than one text; None for all.
        seed: Which sample.
    """

    def __init__(self, total_bytes: int, budget: int | None, seed: int = 0):
        self._total, self._budget, self._choice = total_bytes, budget, random.Random(seed)
        self.seen = self.taken = self.documents = 0

    def takes(self, text: str) -> bool:
        """Whether the next text of the stream belongs to the sample."""
        size = len(text.encode())
        wanted, to_come = (self._budget or 0) - self.taken, self._total - self.seen
        self.seen += size
        sampling = self._budget is not None and self._total > self._budget
        if sampling and (wanted <= 0 or self._choice.random() * to_come >= wanted):
            return False
        self.taken += size
        self.documents += 1
        return True


def load_tokenizer(name_or_path: str) -> "PreTrainedTokenizerBase":
    """A fast tokenizer from a local directory or the hub.

    Raises:
        PipelineError: It cannot be found, or has no Rust implementation.
    """
    from transformers import AutoTokenizer

    if Path(name_or_path).is_dir() and not (Path(name_or_path) / "tokenizer_config.json").is_file():
        raise PipelineError(
            f"tokenizer_name_or_path: {name_or_path} holds no tokenizer_config.json. Expected a directory written by "
            f"save_pretrained or by the tokenizer stage."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PipelineError(
            f"tokenizer_name_or_path: cannot load {name_or_path} ({reason}). Expected a local directory or a hub id "
            f"that can be reached from here."
        ) from error
    if not tokenizer.is_fast:
        raise PipelineError(
            f"tokenizer_name_or_path: {name_or_path} has only a Python tokenizer; expected one with a tokenizer.json."
        )
    return tokenizer


def add_missing_tokens(
    tokenizer: "PreTrainedTokenizerBase", control_tokens: Sequence[str], content_markers: Sequence[str]
) -> list[str]:
    """Add reserved tokens that an existing tokenizer lacks, at the end of its vocabulary; returns those added."""
    from tokenizers import AddedToken

    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (*control_tokens, *content_markers) if token not in vocabulary]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=True) for t in missing if t in control_tokens], True)
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in missing if t in content_markers])
    return missing


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", source: str) -> None:
    """Refuse a tokenizer that later stages cannot train with.

    Raises:
        PipelineError: No EOS, no padding token, or padding equal to EOS. With the last, every collator masks the end of
            a document as padding and the model never learns to stop (huggingface/trl#1623).
    """
    if tokenizer.eos_token_id is None:
        raise PipelineError(f"{source}: the tokenizer has no eos_token. Name one of its tokens with `eos_token:`.")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        found = (
            "no pad_token" if tokenizer.pad_token is None else f"pad_token equal to eos_token {tokenizer.eos_token!r}"
        )
        raise PipelineError(
            f"{source}: the tokenizer has {found}: the end of a text would be masked as padding and never be learnt. "
            f"Name another token with `pad_token:`, or set `add_special_tokens: true`, which adds one of its own."
        )


def round_trip_failures(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> list[str]:
    """Those of `texts` that encoding and decoding does not give back character for character."""
    failures = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) != text:
            failures.append(text)
    return failures


def arbitrary_texts(seed: int = 0) -> list[str]:
    """Random bytes read as UTF-8 with replacement, random characters of all planes, and the awkward cases by hand."""
    choice = random.Random(seed)
    by_hand = ["", " ", "\n", "\t \r\n  x", "  two  spaces ", "\x00\x01", "e\u0301 \u00e9", "12345", " 1 2"]
    raw = [choice.randbytes(200).decode("utf-8", "replace") for _ in range(100)]
    points = [p for p in (choice.randrange(0x110000) for _ in range(20_000)) if not 0xD800 <= p < 0xE000]
    drawn = ["".join(map(chr, points[start : start + 200])) for start in range(0, len(points), 200)]
    return by_hand + raw + drawn


def _unmark_special(tokenizer: Any, tokens: Sequence[str]) -> Any:
    # The trainer marks all reserved tokens as special; content markers must survive `skip_special_tokens`.
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] not in tokens
    return Tokenizer.from_str(json.dumps(state))

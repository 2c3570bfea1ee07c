"""Words that a completion may not hold, whichever tokens spell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor


class BannedWords(LogitsProcessor):
    """Takes away every token that would complete one of the words, in any case of letters.

    transformers' `bad_words_ids` knows a word in one spelling by tokens; a model that is kept from `W` + `ait` finds
    `Wa` + `it`. Here the text counts: what a row has written of a word so far, and how the text of each token goes on.
    Longer words that hold a banned one are banned with it.

    Args:
        tokenizer: Of the model.
        words: Not empty.

    Attributes:
        prompt_width: Tokens of the (padded) prompts at hand; the words may stand there.
    """

    def __init__(self, tokenizer: Any, words: Sequence[str]) -> None:
        self.tokenizer, self.prompt_width = tokenizer, 0
        ids = [[token] for token in range(len(tokenizer))]
        texts = [text.lower() for text in tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)]
        words = [word.lower() for word in words]
        self.always = _places(texts, lambda text: any(word in text for word in words))
        self.after: dict[
            str, torch.Tensor
        ] = {}  # by what stands at the end of the text: the tokens that complete a word
        for begun in {word[:cut] for word in words for cut in range(1, len(word))}:
            rests = tuple(word[len(begun) :] for word in words if word.startswith(begun) and word != begun)
            self.after[begun] = _places(texts, lambda text, rests=rests: text.startswith(rests))
        self.tail = max(map(len, words))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, self.always.to(scores.device)] = -torch.inf
        written = input_ids[:, max(self.prompt_width, input_ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(written.tolist(), clean_up_tokenization_spaces=False)
        for row, text in enumerate(texts):
            for begun, completing in self.after.items():
                if text.lower().endswith(begun):
                    scores[row, completing.to(scores.device)] = -torch.inf
        return scores


def _places(texts: Sequence[str], holds: Any) -> torch.Tensor:
    return torch.tensor([place for place, text in enumerate(texts) if holds(text)], dtype=torch.long)

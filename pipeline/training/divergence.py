"""How far a policy has moved from its reference: the exact Kullback-Leibler divergence of its completions."""

from collections.abc import Sequence
from typing import Any

import torch


@torch.no_grad()
def completion_kl(
    policy: Any, reference: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad: int
) -> float:
    """KL(policy || reference) in nats a completion, over completions that the policy has drawn at temperature 1.

    At each position the sum runs over the whole vocabulary, so that only the prefixes are a sample (the estimators of
    Schulman 2020, kl-approx, sample the token too). Costs one forward pass of either model and the logits of a batch.

    Args:
        prompts, completions: token ids, row by row.
        pad: token id to pad with.
    """
    total, was_training = 0.0, policy.training
    policy.eval()
    device = next(policy.parameters()).device
    for start in range(0, len(prompts), 32):
        heads, tails = prompts[start : start + 32], completions[start : start + 32]
        width = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True))
        ids = torch.full((len(heads), width), pad)
        written = torch.zeros((len(heads), width), dtype=torch.bool)
        for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            ids[row, : len(head) + len(tail)] = torch.tensor([*head, *tail])
            written[row, len(head) : len(head) + len(tail)] = True
        ids, written = ids.to(device), written[:, 1:].to(device)
        # right padding stands behind everything that counts, which causal attention does not see: no mask is needed
        ours, theirs = (
            model(input_ids=ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
            for model in (policy, reference)
        )
        total += ((ours.exp() * (ours - theirs)).sum(-1) * written).sum().item()
    policy.train(was_training)
    return total / len(prompts)

"""Muon for the matrices, AdamW for everything else, as one optimizer.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is Scalable for LLM
Training", whose scaling of the update (`match_rms_adamw`) lets both share one learning rate and weight decay.
"""

from collections.abc import Callable
from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon and AdamW behind one interface; schedulers see the parameter groups of both.

    Args:
        matrices: Weights of shape (out, in) inside the blocks.
        others: Embeddings, head, norms, biases.
        lr: Learning rate of both.
        weight_decay: Of the matrices and of the embeddings; vectors (norms, biases) are not decayed.
        betas, eps: AdamW's.
        momentum: Muon's.
    """

    def __init__(
        self,
        matrices: list[torch.nn.Parameter],
        others: list[torch.nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.95,
    ):
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if matrices:
            self._parts["muon"] = torch.optim.Muon(
                matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
            )
        decayed = [parameter for parameter in others if parameter.ndim > 1]
        vectors = [parameter for parameter in others if parameter.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        if groups:
            self._parts["adamw"] = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps)
        super().__init__(self._groups(), {})
        # The very same dictionaries, so that a scheduler that writes into one writes into the other.
        self.param_groups = self._groups()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts.values() for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = self._groups()


def muon(model: Any, args: Any) -> MuonWithAdamW:
    """The optimizer of `optim: muon` for a transformers model whose parameters are whole."""
    aside = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    head = model.get_output_embeddings()
    if head is not None:
        aside.add(id(head.weight))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim == 2 and id(parameter) not in aside]
    kept = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in trained if id(parameter) not in kept]
    return MuonWithAdamW(
        matrices,
        others,
        lr=args.learning_rate,
        weight_decay=args.weight_decay,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
    )

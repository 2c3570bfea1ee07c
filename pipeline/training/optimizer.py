"""Muon for the matrices, AdamW for everything else, as one optimizer.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is Scalable for LLM
Training", whose scaling of the update (`match_rms_adamw`) lets both share one learning rate and weight decay.
"""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.errors import PipelineError


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
        self._muon = torch.optim.Muon(
            matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
        )
        decayed = [parameter for parameter in others if parameter.ndim > 1]
        vectors = [parameter for parameter in others if parameter.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        self._adamw = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        # The very same dictionaries, so that a scheduler that writes into one writes into the other.
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon.step()
        self._adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]


def muon(model: torch.nn.Module, args: Any) -> MuonWithAdamW:
    """The optimizer of `optim: muon` for a transformers model.

    Raises:
        PipelineError: The model has sharded parameters (ZeRO-3, FSDP), whose matrices Muon would not see whole.
    """
    aside = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    head = model.get_output_embeddings()
    if head is not None:
        aside.add(id(head.weight))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if any(type(parameter.data).__name__ == "DTensor" or hasattr(parameter, "ds_id") for parameter in trained):
        raise PipelineError(
            "optim: muon needs whole matrices; use it with one process or DDP, not with ZeRO-3 or FSDP."
        )
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

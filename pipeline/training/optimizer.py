"""Muon for the matrices, AdamW for everything else, as one optimizer.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is Scalable for LLM
Training", whose scaling of the update (`match_rms_adamw`) lets both share one learning rate and weight decay.
"""

from collections.abc import Callable
from typing import Any

import torch


class Float32Muon(torch.optim.Muon):
    """torch's Muon with its orthogonalisation in float32, all matrices of a shape at once.

    torch iterates in bfloat16, matrix by matrix. On a CPU without bfloat16 units that is 28 times slower than this (1.19
    against 0.04 s a step for the demo's million parameters), and the result would depend on the CPU. State and rules of the
    update are torch's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            updates: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                updates.setdefault(parameter.shape, []).append((parameter, update))
            for (rows, columns), members in updates.items():
                stacked = torch.stack([update for _, update in members])
                directions = orthogonalise(stacked, group["ns_coefficients"], group["ns_steps"], group["eps"])
                # match_rms_adamw: an update as large as AdamW's (Liu et al. 2025, section 2.2).
                rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5
                for (parameter, _), direction in zip(members, directions, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-rate)
        return loss


def orthogonalise(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Newton-Schulz iteration towards U V^T of each matrix's U S V^T, shape (n, rows, columns), as in Jordan et al. 2024."""
    a, b, c = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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

"""Muon (Jordan et al. 2024) in fp32 for the hidden matrices, AdamW for everything else.

torch's own Muon orthogonalises in bf16, which CPUs without bf16 units emulate at a tenth of the speed; this one
keeps the parameters' precision and runs alike on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """(M, N) -> the nearest semi-orthogonal matrix, roughly, by a quintic Newton-Schulz iteration."""
    a, b, c = (
        3.4445,
        -4.7750,
        2.0315,
    )  # Jordan's coefficients: fastest rise at 0, singular values end in [0.7, 1.2]
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised for matrices (groups with ``muon=True``), AdamW for the other groups.

    Args:
        groups: from :func:`muon_groups`.
        lr: step size; Muon's updates are scaled to the root mean square of AdamW's, so one rate serves both.
        momentum: Nesterov momentum of the matrices.
        betas: AdamW's averaging factors.
        weight_decay: decoupled, for matrices and Adam's groups alike.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(
            groups,
            {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay, "muon": False},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("expected no closure, got one")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            updates = self._matrices(parameters, group) if group["muon"] else self._adams(parameters, group)
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])

    def _adams(self, parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        return [self._adam(parameter, group) for parameter in parameters]

    def _matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Orthogonalised momenta; several processes share the work and add up what each has done."""
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        count, rank = (dist.get_world_size(), dist.get_rank()) if together else (1, 0)
        updates = []
        for index, parameter in enumerate(parameters):
            nesterov = self._momentum(parameter, group)
            mine = index % count == rank
            updates.append(self._orthogonal(nesterov) if mine else torch.zeros_like(parameter))
        if together and updates:
            flat = torch.cat([update.flatten() for update in updates])
            dist.all_reduce(flat)
            parts = flat.split([update.numel() for update in updates])
            updates = [part.view_as(update) for part, update in zip(parts, updates, strict=True)]
        return updates

    def _momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(momentum, group["momentum"])

    @staticmethod
    def _orthogonal(matrix: Tensor) -> Tensor:
        # 0.2 * sqrt(longer side) matches the root mean square of an AdamW update (Liu et al. 2025, arXiv 2502.16982)
        return orthogonalize(matrix) * (0.2 * max(matrix.shape) ** 0.5)

    def _adam(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(parameter.grad, 1 - beta1)
        state["square"].lerp_(parameter.grad.square(), 1 - beta2)
        mean = state["mean"] / (1 - beta1 ** float(state["step"]))
        return mean / ((state["square"] / (1 - beta2 ** float(state["step"]))).sqrt() + 1e-8)


def muon_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split trainable parameters: weights of linear layers inside blocks go to Muon, all others to AdamW."""
    inside = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and ".mlp." in f".{name}."]
    inside += [m for name, m in model.named_modules() if name.endswith(("attention.qkv", "attention.out"))]
    matrices = {id(m.weight): m.weight for m in inside if m.weight.requires_grad}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in matrices]
    groups: list[dict[str, Any]] = [{"params": others, "muon": False}]
    if matrices:
        groups.append({"params": list(matrices.values()), "muon": True})
    return groups

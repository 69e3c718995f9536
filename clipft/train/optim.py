"""The optimiser that a plan asks for, the rate at each step, and its state by parameter name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipft.config.optim_schema import OptimConfig
from clipft.errors import ClipftError
from clipft.model.plan import Plan
from clipft.model.rates import groups


@dataclass(frozen=True)
class Schedule:
    """How each group's rate runs from its peak over a run's steps.

    Args:
        kind: cosine, linear or constant.
        steps: its optimiser steps.
        warmup: steps of linear rise at the start.
        min_lr: the rate it falls to (never above a group's peak).
        first: the run's steps before it.
    """

    kind: str
    steps: int
    warmup: int
    min_lr: float
    first: int = 0

    @property
    def end(self) -> int:
        """The run's steps at its end."""
        return self.first + self.steps

    def rate(self, peak: float, step: int) -> float:
        """The rate of the run's step `step`, counted from 0, in a group with this peak.

        Warm-up and cosine are those of open_clip_train 3.3 (scheduler.py), so that runs can be compared.
        """
        step -= self.first
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        if self.kind == "constant":
            return peak
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        share = 0.5 * (1 + math.cos(math.pi * done)) if self.kind == "cosine" else 1 - done
        floor = min(self.min_lr, peak)
        return floor + (peak - floor) * share


def warmup_steps(warmup: float, steps: int) -> int:
    """`optim.warmup` as a number of steps: below 1 it is a fraction of all steps."""
    return int(warmup * steps) if warmup < 1 else int(warmup)


def build_optimizer(model: nn.Module, plan: Plan, config: OptimConfig) -> torch.optim.Optimizer:
    """An optimiser over exactly what the plan trains; a group's `names` are its parameters' names in order."""
    parameters = dict(model.named_parameters())
    param_groups: list[dict[str, Any]] = [
        {
            "params": [parameters[name] for name in group.names],
            "names": list(group.names),
            "lr": group.lr,
            "peak": group.lr,
            "weight_decay": group.weight_decay,
        }
        for group in groups(plan)
    ]
    if config.name == "sgd":
        return torch.optim.SGD(param_groups, lr=config.lr, momentum=config.momentum)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters.values())
    return kind(param_groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Give every group its rate for the step that comes."""
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(group["peak"], step)


def named_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors as {"parameter/slot": tensor}; a parameter's place in a group does not matter (P36)."""
    state: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for slot, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    state[f"{name}/{slot}"] = value.detach().cpu() if isinstance(value, Tensor) else torch.tensor(value)
    return state


def load_named_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Give the optimiser the state that `named_state` took.

    Raises:
        ClipftError: a saved tensor belongs to a parameter that this optimiser does not train, or the reverse; an
            optimiser without momentum, or one that took no step, has saved none.
    """
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, value in saved.items():
        name, slot = key.rsplit("/", 1)
        by_parameter.setdefault(name, {})[slot] = value
    trained = {
        name: p for group in optimizer.param_groups for name, p in zip(group["names"], group["params"], strict=True)
    }
    if by_parameter and set(by_parameter) != set(trained):
        odd = sorted(set(by_parameter) ^ set(trained))
        raise ClipftError(
            f"the checkpoint's optimiser state is for other parameters: {len(odd)} differ, the first is {odd[0]}"
        )
    for name, slots in by_parameter.items():
        parameter = trained[name]
        # fused Adam keeps its `step` with the parameter, plain Adam on the CPU; each takes either
        optimizer.state[parameter] = {slot: _placed(slot, value, parameter) for slot, value in slots.items()}


def carry_over(optimizer: torch.optim.Optimizer, before: torch.optim.Optimizer) -> None:
    """Give an optimiser the state that the one before it had, for the parameters that both train."""
    ours = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for group in before.param_groups:
        for parameter in group["params"]:
            if id(parameter) in ours and parameter in before.state:
                optimizer.state[parameter] = before.state[parameter]


def _placed(slot: str, value: Tensor, parameter: Tensor) -> Tensor:
    return value.clone() if slot == "step" and parameter.device.type == "cpu" else value.to(parameter.device, copy=True)

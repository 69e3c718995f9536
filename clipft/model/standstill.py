"""A plan applied: what is frozen gets no gradient, stays in evaluation mode, and is hashed to prove it stood still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from clipft.model.hashes import tensor_sha256
from clipft.model.plan import NEW, Plan
from clipft.model.tower import dropout_name


def apply_plan(model: nn.Module, plan: Plan) -> None:
    """Let exactly the plan's trainable parameters have gradients.

    Raises:
        ValueError: the plan was made for other parameters than the model has.
    """
    trains = {p.name: p.trainable for p in plan.parameters}
    parameters = dict(model.named_parameters())
    if trains.keys() != parameters.keys():
        odd = sorted(trains.keys() ^ parameters.keys())
        raise ValueError(f"the plan is for another model: {len(odd)} parameters differ, the first is {odd[0]}")
    for name, parameter in parameters.items():
        parameter.requires_grad_(trains[name])
        if not trains[name]:
            parameter.grad = None


def set_modes(model: nn.Module, plan: Plan, training: bool) -> None:
    """Training mode for what trains, evaluation mode for what is frozen; or evaluation mode for all (P16).

    Args:
        training: False puts everything into evaluation mode, as `model.eval()` does.
    """
    model.eval()
    if training:
        for _, module in moving_modules(model, plan):
            module.training = True  # not .train(): that would reach the modules inside


def moving_modules(model: nn.Module, plan: Plan) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a plan puts into training mode, by name.

    A module with parameters of its own moves when one of them trains. One without follows the nearest module around
    it (or itself) that has any inside: a dropout layer its attention, a block what is in it. A tower's dropout on its
    pooled feature always moves. New parameters inside a frozen part have no say over it: its own dropout stays off.
    """
    modes: dict[str, _Mode] = {}
    by_name = {p.name: p for p in plan.parameters}
    # a head that a later stage of the run puts on is not in the plans of the earlier ones
    planned = {id(parameter): by_name[name] for name, parameter in model.named_parameters() if name in by_name}
    own_dropouts = {dropout_name(tower) for tower in ("image", "text")}
    for name, module in model.named_modules():  # parents come before their children
        inside = [planned[id(p)] for p in module.parameters() if id(p) in planned]
        inside = [p for p in inside if p.group not in NEW] or inside
        own = [planned[id(p)] for p in module.parameters(recurse=False) if id(p) in planned]
        moves = any(p.trainable for p in own or inside)
        # a bare projection beside a backbone's parameters has no say over the dropout between those
        backbone = [p for p in own if p.group != "projection" and p.tower != "heads"]
        passed_on = any(p.trainable for p in backbone) if backbone else moves
        if not inside:
            moves = passed_on = name in own_dropouts or modes[name.rpartition(".")[0]].passed_on
        modes[name] = _Mode(moves, passed_on)
        if moves:
            yield name, module


def moving_buffers(model: nn.Module, plan: Plan) -> tuple[str, ...]:
    """The saved buffers of modules in training mode, by name: the statistics of a BatchNorm that trains."""
    moving = {name for name, _ in moving_modules(model, plan)}
    saved = model.state_dict().keys()
    return tuple(name for name, _ in model.named_buffers() if name in saved and name.rpartition(".")[0] in moving)


@dataclass(frozen=True)
class _Mode:
    """Whether a module is in training mode, and what parameterless modules right inside it follow."""

    moves: bool
    passed_on: bool


def frozen_hashes(model: nn.Module, plan: Plan) -> dict[str, str]:
    """The sha256 of each frozen parameter, and of each buffer of a module that stands still."""
    names = {p.name for p in plan.frozen}
    moving = {name for name, _ in moving_modules(model, plan)}
    hashes = {name: tensor_sha256(tensor) for name, tensor in model.named_parameters() if name in names}
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[0] not in moving:
            hashes[name] = tensor_sha256(buffer)
    return hashes

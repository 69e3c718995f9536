"""Fingerprints of tensors and files: what a checkpoint promises, and what a base must still be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn


def tensor_sha256(tensor: Tensor) -> str:
    """The sha256 of a tensor's type, shape and bytes, wherever it lies."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(flat.view(torch.uint8).numpy().data)  # bf16 has no NumPy type: its bytes have
    return digest.hexdigest()


def weights_sha256(model: nn.Module) -> dict[str, str]:
    """The sha256 of every tensor in the model's state dict, frozen ones included."""
    return {name: tensor_sha256(tensor) for name, tensor in model.state_dict().items()}


def model_sha256(model: nn.Module) -> str:
    """The sha256 of all tensors in the model's state dict with their names, in any order."""
    return hashlib.sha256(json.dumps(weights_sha256(model), sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""A tower's features of a step, encoded some at a time where they are many, with the gradient of all of them at once.

Gradient cache: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clipft.train.randomness import random_states, restore_random_states

PROMPTS_AT_ONCE = 256
"""Prompts of classes in one graph; 5 GB of activations in the text tower of ViT-B-32 (77 tokens, fp32)."""


def texts_at_once(texts: int, batch_size: int, micro_batch_size: int | None, *, trains: bool, of_classes: bool) -> int:
    """How many of a step's texts go through their tower in one graph.

    Captions come with their rows; how many prompts the classes have no batch size bounds (P55).

    Args:
        texts: a step's.
        trains: whether anything below the pooled feature does; what stands still has no graph.
        of_classes: whether they are the prompts of classes, not the captions of a batch.
    """
    if not trains:
        return texts
    most = min(micro_batch_size or PROMPTS_AT_ONCE, PROMPTS_AT_ONCE) if of_classes else micro_batch_size or batch_size
    return min(most, texts)


class InPieces:
    """Features of one tower: with their graph, or as leaves whose gradient `carry_on` takes into the tower.

    Args:
        encode: gives the features (n, D) of a span of rows.
        count: rows in all.
        at_once: rows in one graph.
        device: whose random numbers `encode` draws.
    """

    def __init__(self, encode: Callable[[slice], Tensor], count: int, at_once: int, device: torch.device) -> None:
        self._encode, self._device = encode, device
        self._pieces = [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)]
        self._states = []
        if len(self._pieces) == 1:
            self.features = encode(self._pieces[0])
            return
        features = []
        with torch.no_grad():
            for piece in self._pieces:
                self._states.append(random_states(device))
                features.append(encode(piece))
        self.features = torch.cat(features).requires_grad_()

    def carry_on(self) -> None:
        """Each piece again with its gradient and the same random numbers, so that dropout is the same."""
        gradient = self.features.grad if self._states else None
        if gradient is None:
            return
        end = random_states(self._device)
        for piece, state in zip(self._pieces, self._states, strict=True):
            restore_random_states(state, self._device)
            again = self._encode(piece)
            if again.requires_grad:  # a frozen tower's features have no graph
                again.backward(gradient[piece])
        restore_random_states(end, self._device)

"""A linear head on normalised image features, plain or cosine."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COSINE_SCALE = 100.0  # where CLIP's own logit_scale ends (CLIP, section 2.5)


class Classifier(nn.Module):
    """Logits of classes: `x @ W.T + b`, or with `cosine` `scale * x @ normalize(W).T + b`, the scale fixed.

    Args:
        num_classes: C.
        width: D, of the features.
        cosine: normalise the weights.
        bias: have one, started at zero.
        scale: of the cosines.
    """

    scale: Tensor

    def __init__(self, num_classes: int, width: int, *, cosine: bool, bias: bool, scale: float = COSINE_SCALE) -> None:
        super().__init__()
        self.cosine = cosine
        self.weight = nn.Parameter(torch.empty(num_classes, width))
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None
        if cosine:
            self.register_buffer("scale", torch.tensor(scale))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as torch.nn.Linear starts

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of L2-normalised features (B, D)."""
        if self.cosine:
            logits = self.scale * F.linear(features, F.normalize(self.weight, dim=-1))
        else:
            logits = F.linear(features, self.weight)
        return logits if self.bias is None else logits + self.bias

    @torch.no_grad()
    def start_from(self, prompts: Tensor, scale: float) -> None:
        """Start as the zero-shot classifier of the prompts' text features (C, D) under `scale` (WiSE-FT, section 3)."""
        directions = F.normalize(prompts.to(self.weight), dim=-1)
        if self.cosine:
            self.weight.copy_(directions)
            self.scale.fill_(scale)
        else:
            self.weight.copy_(scale * directions)
        if self.bias is not None:
            self.bias.zero_()

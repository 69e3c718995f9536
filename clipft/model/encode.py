"""Features asked of a model for measuring: in evaluation mode, without a graph, of length 1, on the CPU.

Texts are whole here; images come from rows, which `evaluate/features.py` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipft.model.clip_model import ClipModel

Autocast = Callable[[], AbstractContextManager[object]]
"""Makes the context that towers run in, such as a precision's autocast."""

TEXTS_AT_ONCE = 256  # the same everywhere, since the bits of a feature hang on the size of the call


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without a graph; afterwards every module is back in the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def encode_texts(
    clip: ClipModel, texts: Sequence[str], *, device: torch.device, autocast: Autocast = nullcontext
) -> Tensor:
    """(len(texts), D) features of the texts; equal texts are encoded once."""
    numbers: dict[str, int] = {}
    places = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts], dtype=torch.int64)
    distinct = list(numbers)
    features = [torch.zeros(0, clip.text.embed_dim)]
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        tokens = clip.tokenizer(distinct[start : start + TEXTS_AT_ONCE]).to(device)  # (B, context_length)
        with measuring(clip.model), autocast():
            encoded = clip.text.encode(tokens)  # (B, D)
        features.append(normalised(encoded))
    return torch.cat(features)[places]


def encode_prompts(
    clip: ClipModel, prompts: Sequence[Sequence[str]], *, device: torch.device, autocast: Autocast = nullcontext
) -> Tensor:
    """(C, D) the normalised mean of each class's normalised prompts (CLIP, section 3.1.4), as many for each class."""
    features = encode_texts(clip, list(chain.from_iterable(prompts)), device=device, autocast=autocast)
    return mean_prompts(features, len(prompts))


def mean_prompts(features: Tensor, classes: int) -> Tensor:
    """(C * T, D) features of each class's T prompts, class by class, to (C, D): their mean, normalised."""
    return F.normalize(features.unflatten(0, (classes, -1)).mean(dim=1), dim=-1)  # (C, T, D) -> (C, D)


def normalised(features: Tensor) -> Tensor:
    """Features (N, D) of length 1, in float32 on the CPU."""
    return F.normalize(features.float(), dim=-1).cpu()

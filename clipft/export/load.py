"""`clipft.load`: a run, an export, or a base with adapter files, ready to encode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import overload

from PIL import Image
from torch import Tensor, nn

from clipft.data.augment import AsRead
from clipft.export.base import open_base
from clipft.export.read import is_export, read_export
from clipft.export.shared_base import FollowingTokenizer, SharedBaseClip
from clipft.export.tuned import as_open_clip
from clipft.model.clip_model import ClipModel
from clipft.model.saved import load_saved
from clipft.model.tokenizer import Tokenizer

Preprocess = Callable[[Image.Image], Tensor]


@overload
def load(path: str | Path) -> tuple[nn.Module, Preprocess, Tokenizer]: ...
@overload
def load(path: str | Path, adapters: Mapping[str, str | Path]) -> tuple[SharedBaseClip, Preprocess, Tokenizer]: ...
def load(path: str | Path, adapters: Mapping[str, str | Path] | None = None) -> tuple[nn.Module, Preprocess, Tokenizer]:
    """A run, a checkpoint or an exported model as `model, preprocess, tokenizer`, ready to encode.

    The model is open_clip's own, in evaluation mode; with prompt vectors or feature adapters, which open_clip's forward
    knows nothing of, it is a `TunedClip` with the same methods. A run's linear head, where it trained one, is
    `model.classifier`. The tokenizer leaves places for prompt vectors; where those stand around a class name or belong
    to a class, it takes prompts of the run's classes (`tokenizer.know` tells it of others).

    With `adapters` the path is a base, and the model a `SharedBaseClip`: `model.use("hands")` lets a file answer,
    `model.use(None)` the base, to the bit; the tokenizer follows, and the base is in memory once.

    Args:
        path: a run, a checkpoint or an export; as a base also local-dir:PATH, hf-hub:NAME, ARCHITECTURE:TAG, or a
            config.yaml, which stands for its base.
        adapters: files of `clipft export RUN --adapter-only`, by names of your choice.

    Raises:
        InputError: there is no such thing, it is damaged, or a file is of another base.
    """
    if adapters is not None:
        base = open_base(str(path))
        model = SharedBaseClip(base, adapters)
        return model, AsRead(base.preprocess), FollowingTokenizer(model)
    clip, classes, templates = _open(Path(path).expanduser())
    clip.tokenizer.know(classes, templates)
    return as_open_clip(clip).eval(), AsRead(clip.preprocess), clip.tokenizer


def _open(folder: Path) -> tuple[ClipModel, Sequence[str], Sequence[str]]:
    """A run's or an export's model, the classes and their prompts."""
    if not is_export(folder):
        saved = load_saved(folder)
        return saved.clip, saved.classes, saved.templates
    exported = read_export(folder)
    facts = exported.facts
    return (exported.clip, facts.classes, facts.templates) if facts else (exported.clip, (), ())

"""A base and the models that adapter files make of it, of which one answers at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipft.errors import InputError
from clipft.export.adapter_file import AdapterFile, put_on, read_adapter_file
from clipft.export.tuned import OpenClipLike, as_open_clip
from clipft.model.clip_model import ClipModel
from clipft.model.hashes import model_sha256
from clipft.model.tokenizer import Tokenizer
from clipft.words import some


class SharedBaseClip(OpenClipLike):
    """A base with adapter files on it, called as open_clip's CLIP is; `use` says which of them answers, at first none.

    They share the base's tensors, so that each costs no more memory than its own file.

    Args:
        base: the base, in evaluation mode.
        files: adapter files by name.

    Raises:
        InputError: a file is no adapter file, or of another base.
    """

    def __init__(self, base: ClipModel, files: Mapping[str, str | Path]) -> None:
        super().__init__()
        sha256 = model_sha256(base.model)
        paths = {name: Path(file).expanduser() for name, file in files.items()}
        self._files: dict[str | None, AdapterFile] = {name: read_adapter_file(path) for name, path in paths.items()}
        self._clips: dict[str | None, ClipModel] = {None: base}
        self._clips |= {name: put_on(base, sha256, self._files[name], path) for name, path in paths.items()}
        self._numbers = {name: number for number, name in enumerate(self._clips)}
        self.models = nn.ModuleList(as_open_clip(clip) for clip in self._clips.values())
        self.names = tuple(files)
        self.in_use: str | None = None
        self.eval()

    def use(self, name: str | None) -> None:
        """Let an adapter file answer from now on; None is the base, to the bit.

        Raises:
            InputError: there is none of this name.
        """
        if name not in self._numbers:
            raise InputError(f"use: there is no adapter {name!r}; there are {some(self.names, 5) or 'none'}")
        self.in_use = name

    @property
    def model(self) -> Any:
        """What answers now."""
        return self.models[self._numbers[self.in_use]]

    @property
    def words(self) -> Tokenizer:
        """The tokenizer of what answers now."""
        return self._clips[self.in_use].tokenizer

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the one in use was trained on; none of the base."""
        file = self._files.get(self.in_use)
        return file.facts.classes if file else ()

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts that those were put into."""
        file = self._files.get(self.in_use)
        return file.facts.templates if file else ()

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Images (B, 3, H, W), preprocessed, to features (B, D)."""
        features: Tensor = self.model.encode_image(image, normalize=normalize)
        return features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Token numbers (B, L) of the tokenizer that came with the model to features (B, D)."""
        features: Tensor = self.model.encode_text(text, normalize=normalize)
        return features

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> Any:
        """Normalised features of images and of texts, exp(logit_scale), and logit_bias where the model has one."""
        return self.model(image, text)


class FollowingTokenizer(Tokenizer):
    """The tokenizer of whichever adapter file is in use; prompt vectors have places in its texts."""

    def __init__(self, model: SharedBaseClip) -> None:
        words = model.words
        super().__init__(words._encoder, words.context_length)
        self._model = model

    def __call__(self, texts: list[str]) -> torch.LongTensor:
        """Token numbers (N, context_length) of N texts."""
        return self._model.words(texts)

    def count(self, text: str) -> int:
        """How many tokens the text needs uncut, start and end tokens included."""
        return self._model.words.count(text)

    def know(self, classes: Any, templates: Any) -> None:
        """Tell the tokenizer in use which texts are prompts of classes."""
        self._model.words.know(classes, templates)

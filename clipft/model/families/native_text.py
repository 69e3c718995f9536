"""open_clip's own text transformer: at the root of the CLIP class, or a TextTransformer under `text.`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from clipft.model.facts import Landmark, TowerFacts
from clipft.model.families.common import (
    TEXT_POOLED,
    native_blocks,
    native_branches,
    native_matrices,
    numbered,
    projection_facts,
)
from clipft.model.families.positions import replaced, resample_row
from clipft.model.tower import Tower
from clipft.model.tower_parts import Branch, Hidden, Layout, Matrix


class NativeText(Tower):
    """The text half of open_clip's CLIP class, whose parts lie at the model's root.

    Args:
        text: the module that has the parts: the model itself, or what lies under `prefix`.
        pooling: open_clip's pool_type.
        eos: the end-of-text token, for pooling `eos`.
        prefix: of the parts' names in the model.
    """

    def __init__(
        self, model: nn.Module, text: Any, dropout: float, *, pooling: str, eos: int, prefix: str = ""
    ) -> None:
        self.text, self._pooling, self._eos = text, pooling, eos
        self.word_table = f"{prefix}token_embedding"
        layout = Layout(
            prefix,
            tuple(f"{prefix}{name}" for name in ("token_embedding", "positional_embedding", "cls_emb")),
            numbered(f"{prefix}transformer.resblocks", text.transformer.resblocks),
            norm=(f"{prefix}ln_final",),
            projection=(f"{prefix}text_projection",),
        )
        width = text.token_embedding.embedding_dim
        facts = TowerFacts(
            "native text",
            width=width,
            tokens=text.positional_embedding.shape[0],
            context_length=text.context_length,
            vocabulary=text.vocab_size,
            causal=text.attn_mask is not None,
            pooling="class token, last" if self._has_class_token else TEXT_POOLED[self._pooling],
            token="a piece of a word" + (", and a class token at the end" if self._has_class_token else ""),
            positions="learnt",
            landmarks=(Landmark("tokens", f"{prefix}token_embedding", _WHY),),
            **native_blocks(text.transformer),
            **projection_facts(width, text.text_projection),
        )
        super().__init__("text", model, layout, facts, dropout=dropout)

    @property
    def _has_class_token(self) -> bool:
        return getattr(self.text, "cls_emb", None) is not None

    def resize(self, size: int | tuple[int, int]) -> str:
        assert isinstance(size, int)
        text = self.text
        old, positions = text.context_length, text.positional_embedding
        # a class token's position comes last, and so does that of the place where some towers pool
        last = 1 if self._pooling == "last" and size < old and not self._has_class_token else 0
        row, end = positions[: old - last], positions[old - last :]
        resampled = torch.cat([resample_row(row, size - last), end])
        text.positional_embedding = replaced(positions, resampled)
        if text.attn_mask is not None:
            # CLIP, section 2.4: a token sees none after it
            full = torch.full((len(resampled), len(resampled)), float("-inf"), device=positions.device)
            text.attn_mask = full.triu_(1)
        text.context_length = size
        if hasattr(text, "num_pos"):
            text.num_pos = len(resampled)
        how = "its learnt positions are stretched"
        if size <= old:
            how = f"the first {size - last} of its learnt positions{' and the last' if last else ''} are kept"
        if text.attn_mask is None:  # a token sees the padding, and there is less of it or more
            how += ", and every text's features change, since this tower sees the padding"
        return f"model.context_length: {size} tokens in place of {old}; {how}"

    def new_projection(self, width: int) -> None:
        text, std = self.text, self.pooled_width**-0.5
        old = text.text_projection
        if isinstance(old, nn.Linear):
            new = nn.Linear(self.pooled_width, width, bias=old.bias is not None)
            nn.init.normal_(new.weight, std=std)
            if new.bias is not None:
                nn.init.zeros_(new.bias)
            text.text_projection = new
        else:
            text.text_projection = nn.Parameter(std * torch.randn(self.pooled_width, width))
        if hasattr(text, "output_dim"):  # open_clip's CLIP class has no such fact
            text.output_dim = width

    def _embed(self, inputs: Tensor) -> Hidden:
        text = self.text
        dtype = text.transformer.get_cast_dtype()
        positions = text.positional_embedding[: inputs.shape[1]].to(dtype)
        return Hidden(text.token_embedding(inputs).to(dtype) + positions, inputs)  # (B, L, W)

    def _block(self, hidden: Hidden, number: int, mask: Any) -> Hidden:
        return replace(hidden, x=self.text.transformer.resblocks[number](hidden.x, attn_mask=mask))

    def matrices(self, block: int) -> Sequence[Matrix]:
        return native_matrices(self.block_paths[block])

    def branches(self, block: int) -> Sequence[Branch]:
        return native_branches(self.block_paths[block])

    def _mask(self, hidden: Hidden) -> Tensor | None:
        mask: Tensor | None = self.text.attn_mask
        length = hidden.x.shape[1]
        return None if mask is None else mask[:length, :length]

    def _finish(self, hidden: Hidden) -> Tensor:
        x = self.text.ln_final(hidden.x)
        pooled: Tensor = text_global_pool(x, hidden.tokens, self._pooling, eos_token_id=self._eos)
        return pooled

    def project(self, pooled: Tensor) -> Tensor:
        projection = self.text.text_projection
        if projection is None:
            return pooled
        projected: Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        return projected


class OwnNativeText(NativeText):
    """A TextTransformer under `text.`, as CustomTextCLIP and CoCa have it; CoCa's ends in a class token of its own."""

    def _embed(self, inputs: Tensor) -> Hidden:
        return Hidden(self.text._embeds(inputs)[0], inputs)  # (B, L, W), L one more than the text's with a class token

    def _mask(self, hidden: Hidden) -> Tensor | None:
        if not (self._has_class_token or self.text.use_pad_mask):
            return super()._mask(hidden)
        added: Tensor = self.text._build_additive_mask(hidden.tokens, hidden.x.shape[1], hidden.x.dtype)
        causal = super()._mask(hidden)
        return added if causal is None else causal.unsqueeze(0) + added  # (B x heads, L, L)

    def _finish(self, hidden: Hidden) -> Tensor:
        if not self._has_class_token:
            return super()._finish(hidden)
        pooled: Tensor = self.text.ln_final(text_global_pool(hidden.x, pool_type="last"))
        return pooled


_WHY = "each piece of a word is looked up in a table of learnt vectors"

"""A Hugging Face encoder behind open_clip's HFTextEncoder: BERT's layout, mT5's, and M2M100's (NLLB's)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, MeanPooler
from torch import Tensor, nn

from clipft.model.facts import Landmark, TowerFacts
from clipft.model.families.common import numbered, projection_facts, unsupported
from clipft.model.tower import NOT_IN_LOSS, Tower
from clipft.model.tower_parts import Branch, Hidden, Layout, Matrix

_PREFIX = "text.transformer"


class HuggingFaceText(Tower):
    """What the Hugging Face encoders share: masks from the padding, open_clip's poolers, its projection."""

    def __init__(self, model: nn.Module, text: Any, dropout: float) -> None:
        if not isinstance(text.pooler, (MeanPooler, ClsPooler, ClsLastHiddenStatePooler)):
            raise unsupported("text", f"a Hugging Face encoder under open_clip's {type(text.pooler).__name__}")
        self.text, self.encoder = text, text.transformer
        own_pooler = getattr(self.encoder, "pooler", None)
        self._asks_pooler = (
            own_pooler is not None and isinstance(text.pooler, ClsPooler) and text.pooler.use_pooler_output
        )
        idle = {} if own_pooler is None or self._asks_pooler else dict(own_pooler.named_parameters())
        first = "first token, pooler" if self._asks_pooler else "first token"
        sizes = self._sizes()
        facts = TowerFacts(
            f"Hugging Face {text.config.model_type}",
            vocabulary=text.config.vocab_size,
            causal=False,
            pooling="mean of tokens" if isinstance(text.pooler, MeanPooler) else first,
            token="a piece of a word",
            **sizes,
            **projection_facts(sizes["width"], text.proj),
        )
        untrained = {f"{_PREFIX}.pooler.{name}": NOT_IN_LOSS for name in idle}
        super().__init__("text", model, self._layout(), facts, dropout=dropout, untrained=untrained)

    @abstractmethod
    def _sizes(self) -> dict[str, Any]:
        """The facts that each encoder's config names in its own words."""

    @abstractmethod
    def _layout(self) -> Layout:
        """Where the encoder keeps its parts."""

    def _last(self, x: Tensor) -> Tensor:
        """What the encoder does after its last block, without its pooler."""
        return x

    def _mask(self, hidden: Hidden) -> Any:
        """The padding as the encoder's own attention wants it; values are not there to be asked on the meta device."""
        from transformers.masking_utils import create_bidirectional_mask

        if hidden.x.is_meta:
            return None
        return create_bidirectional_mask(self.encoder.config, hidden.x, self._padding(hidden))

    def _padding(self, hidden: Hidden) -> Tensor:
        """(B, L) 1 where there is a word, 0 where there is padding."""
        assert hidden.tokens is not None
        pad: int = self.text.config.pad_token_id
        return (hidden.tokens != pad).long()

    _targets: Mapping[str, str]
    """The targets of LoRA by a matrix's path in a block; `wi` may be two, of which one is a gate."""
    _branches: Mapping[str, str]
    """The end of each branch, by its path in a block."""

    def matrices(self, block: int) -> Sequence[Matrix]:
        path = self.block_paths[block]
        there = dict(self.text.get_submodule(path.removeprefix("text.")).named_modules())
        return [Matrix(target, f"{path}.{name}") for name, target in self._targets.items() if name in there]

    def branches(self, block: int) -> Sequence[Branch]:
        return [Branch(kind, f"{self.block_paths[block]}.{name}") for name, kind in self._branches.items()]

    def resize(self, size: int | tuple[int, int]) -> str:
        """Nothing to do: the encoder has positions to spare, and the tokenizer cuts at the new length."""
        return ""

    def new_projection(self, width: int) -> None:
        text, pooled = self.text, self.pooled_width
        if isinstance(text.proj, nn.Sequential):
            inner = (pooled + width) // 2
            first, last = nn.Linear(pooled, inner, bias=False), nn.Linear(inner, width, bias=False)
            text.proj = nn.Sequential(first, nn.GELU(), last)
        else:
            text.proj = nn.Linear(pooled, width, bias=False)
        text.output_dim = width

    def _finish(self, hidden: Hidden) -> Tensor:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        x = self._last(hidden.x)  # (B, L, W)
        own = self.encoder.pooler(x) if self._asks_pooler else None
        output = BaseModelOutputWithPooling(last_hidden_state=x, pooler_output=own)
        pooled: Tensor = self.text.pooler(output, self._padding(hidden))
        return pooled

    def project(self, pooled: Tensor) -> Tensor:
        projected: Tensor = self.text.proj(pooled)
        return projected


class BertText(HuggingFaceText):
    """BERT, RoBERTa and XLM-R."""

    word_table = f"{_PREFIX}.embeddings.word_embeddings"
    _targets = MappingProxyType(
        {
            "attention.self.query": "q",
            "attention.self.key": "k",
            "attention.self.value": "v",
            "attention.output.dense": "o",
            "intermediate.dense": "fc",
            "output.dense": "proj",
        }
    )
    _branches = MappingProxyType({"attention.output.dense": "attn", "output.dense": "mlp"})

    def _layout(self) -> Layout:
        return Layout(
            f"{_PREFIX}.",
            (f"{_PREFIX}.embeddings",),
            numbered(f"{_PREFIX}.encoder.layer", self.encoder.encoder.layer),
            pooling=(f"{_PREFIX}.pooler",),
            projection=("text.proj",),
        )

    def _sizes(self) -> dict[str, Any]:
        config = self.text.config
        return {
            "depth": len(self.encoder.encoder.layer),
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
            "head_width": config.hidden_size // config.num_attention_heads,
            "mlp_width": config.intermediate_size,
            "activation": _activation(config.hidden_act),
            "context_length": config.max_position_embeddings,
            "positions": "learnt",
            "landmarks": (Landmark("tokens", f"{_PREFIX}.embeddings", _WORDS_AND_PLACES),),
        }

    def _embed(self, inputs: Tensor) -> Hidden:
        return Hidden(self.encoder.embeddings(input_ids=inputs), inputs)

    def _block(self, hidden: Hidden, number: int, mask: Any) -> Hidden:
        return replace(hidden, x=self.encoder.encoder.layer[number](hidden.x, mask))


class Mt5Text(HuggingFaceText):
    """mT5's encoder: positions are a bias of the attention, learnt in block 0 and used by all."""

    word_table = f"{_PREFIX}.embed_tokens"
    _targets = MappingProxyType(
        {
            **{f"layer.0.SelfAttention.{target}": target for target in ("q", "k", "v", "o")},
            **{f"layer.1.DenseReluDense.{name}": "fc" for name in ("wi", "wi_0", "wi_1")},
            "layer.1.DenseReluDense.wo": "proj",
        }
    )
    _branches = MappingProxyType({"layer.0.SelfAttention.o": "attn", "layer.1.DenseReluDense.wo": "mlp"})

    def _layout(self) -> Layout:
        return Layout(
            f"{_PREFIX}.",
            (f"{_PREFIX}.embed_tokens",),
            numbered(f"{_PREFIX}.block", self.encoder.block),
            norm=(f"{_PREFIX}.final_layer_norm",),
            projection=("text.proj",),
        )

    def _sizes(self) -> dict[str, Any]:
        config = self.text.config
        return {
            "depth": len(self.encoder.block),
            "width": config.d_model,
            "heads": config.num_heads,
            "head_width": config.d_kv,
            "mlp_width": config.d_ff,
            "activation": _activation(config.feed_forward_proj),
            "positions": "relative, from block 0",
            "landmarks": (Landmark("tokens", f"{_PREFIX}.embed_tokens", _WORDS),),
        }

    def _embed(self, inputs: Tensor) -> Hidden:
        table = self.encoder.embed_tokens
        # one dropout module serves both ends of the encoder; each end follows its own neighbour's mode
        return Hidden(F.dropout(table(inputs), self.encoder.dropout.p, table.training), inputs)

    def _block(self, hidden: Hidden, number: int, mask: Any) -> Hidden:
        block, x = self.encoder.block[number], hidden.x
        # early releases of transformers 5 ask where each token stands, to make the positions from
        asked = "cache_position" in signature(block.forward).parameters
        places = {"cache_position": torch.arange(x.shape[1], device=x.device)} if asked else {}
        x, positions, *_ = block(x, mask, hidden.positions, **places)
        return replace(hidden, x=x, positions=positions)

    def _last(self, x: Tensor) -> Tensor:
        norm = self.encoder.final_layer_norm
        return F.dropout(norm(x), self.encoder.dropout.p, norm.training)


class M2m100Text(HuggingFaceText):
    """M2M100's encoder, NLLB's too. Its LayerDrop is left out: it would leave random blocks without gradient."""

    word_table = f"{_PREFIX}.embed_tokens"
    _targets = MappingProxyType(
        {
            **{f"self_attn.{target}_proj": target for target in ("q", "k", "v")},
            "self_attn.out_proj": "o",
            "fc1": "fc",
            "fc2": "proj",
        }
    )
    _branches = MappingProxyType({"self_attn.out_proj": "attn", "fc2": "mlp"})

    def _layout(self) -> Layout:
        return Layout(
            f"{_PREFIX}.",
            (f"{_PREFIX}.embed_tokens", f"{_PREFIX}.embed_positions"),
            numbered(f"{_PREFIX}.layers", self.encoder.layers),
            norm=(f"{_PREFIX}.layer_norm",),
            projection=("text.proj",),
        )

    def _sizes(self) -> dict[str, Any]:
        config = self.text.config
        return {
            "depth": len(self.encoder.layers),
            "width": config.d_model,
            "heads": config.encoder_attention_heads,
            "head_width": config.d_model // config.encoder_attention_heads,
            "mlp_width": config.encoder_ffn_dim,
            "activation": _activation(config.activation_function),
            "context_length": config.max_position_embeddings,
            "positions": "sine and cosine, fixed",
            "landmarks": (Landmark("tokens", f"{_PREFIX}.embed_tokens", _WORDS),),
        }

    def _embed(self, inputs: Tensor) -> Hidden:
        encoder = self.encoder
        words = encoder.embed_tokens(inputs)
        places = encoder.embed_positions(inputs, words).to(words.device)
        return Hidden(F.dropout(words + places, encoder.dropout, encoder.embed_tokens.training), inputs)

    def _block(self, hidden: Hidden, number: int, mask: Any) -> Hidden:
        output = self.encoder.layers[number](hidden.x, mask)
        # with its weights in early transformers 5
        return replace(hidden, x=output[0] if isinstance(output, tuple) else output)

    def _last(self, x: Tensor) -> Tensor:
        normed: Tensor = self.encoder.layer_norm(x)
        return normed


FAMILIES: dict[str, type[HuggingFaceText]] = {
    "bert": BertText,
    "roberta": BertText,
    "xlm-roberta": BertText,
    "mt5": Mt5Text,
    "m2m_100": M2m100Text,
}


def _activation(name: object) -> str:
    """A non-linearity that transformers names, as a person writes it; mT5's says whether it gates."""
    gated, plain = ("gated ", str(name).removeprefix("gated-")) if str(name).startswith("gated-") else ("", str(name))
    return gated + _ACTIVATIONS.get(plain, plain)


_ACTIVATIONS = {
    "gelu": "GELU",
    "gelu_new": "GELU (tanh)",
    "gelu_pytorch_tanh": "GELU (tanh)",
    "quick_gelu": "QuickGELU",
    "relu": "ReLU",
    "silu": "SiLU",
    "swish": "SiLU",
}

_WORDS = "each piece of a word is looked up in a table of learnt vectors"
_WORDS_AND_PLACES = f"{_WORDS}, its place added, and normalised"

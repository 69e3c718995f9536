"""Which parameters a strategy trains, told from the names that open_clip, timm and transformers give them.

Written from what each strategy promises; nothing here asks clipft.
"""

from __future__ import annotations

import re
from collections.abc import Collection

BLOCK = re.compile(
    r"(?:visual\.transformer\.resblocks\.|visual\.trunk\.(?:blocks|stages|layers)\.|visual\.(?:trunk\.)?layer"
    r"|(?:text\.)?transformer\.resblocks\.|text\.transformer\.(?:encoder\.layer|block|layers)\.)(\d+)\."
)
"""A block of any tower; a stage of a staged network."""
PROJECTION = re.compile(
    r"visual\.(?:proj$|head\.|attnpool\.c_proj\.|trunk\.head\.(?!norm\.))|(?:text\.)?text_projection|text\.proj\."
)
END = re.compile(  # norm and pooling, once the projection is left out
    r"visual\.(?:ln_post|attn_pool|attn_pool_contrastive|attnpool)\."
    r"|visual\.trunk\.(?:norm|fc_norm|attn_pool|head\.norm|conv_head|bn2|final_conv)\."
    r"|(?:text\.)?ln_final\.|text\.transformer\.(?:pooler|final_layer_norm|layer_norm)\."
)
SCALE = ("logit_scale", "logit_bias")
STILL = {  # where something trains under no strategy
    "native, norm after pooling, both ways, last token": r"visual\.positional_embedding$",  # sines and cosines
    "coca, pools in parallel": r"text_decoder\.|visual\.attn_pool\.",  # the captioning loss's own pool
}
DECODER = r"text_decoder\."
_KEY_BIAS = re.compile(r".*\b(?:key|k_proj|k_norm|ln_k)\.bias$")

MATRICES = (  # the end of a weight's name; the module that gets LoRA; the targets in it
    ("attn.in_proj_weight", "attn", "qkv"),
    ("attn.out_proj.weight", "attn", "o"),
    ("mlp.c_fc.weight", "mlp.c_fc", ("fc",)),
    ("mlp.c_proj.weight", "mlp.c_proj", ("proj",)),
    ("attn.qkv.weight", "attn.qkv", "qkv"),
    *((f"attn.{t}_proj.weight", f"attn.{t}_proj", t) for t in "qkv"),
    ("attn.proj.weight", "attn.proj", "o"),
    *((f"{name}.weight", name, ("fc",)) for name in ("fc1", "fc1_g", "fc1_x", "w0", "w1")),
    *((f"{name}.weight", name, ("proj",)) for name in ("fc2", "w2")),
    ("attention.self.query.weight", "attention.self.query", "q"),
    ("attention.self.key.weight", "attention.self.key", "k"),
    ("attention.self.value.weight", "attention.self.value", "v"),
    ("attention.output.dense.weight", "attention.output.dense", "o"),
    ("intermediate.dense.weight", "intermediate.dense", ("fc",)),
    ("output.dense.weight", "output.dense", ("proj",)),
    *((f"SelfAttention.{t}.weight", f"SelfAttention.{t}", t) for t in "qkvo"),
    *((f"DenseReluDense.{name}.weight", f"DenseReluDense.{name}", ("fc",)) for name in ("wi_0", "wi_1")),
    ("DenseReluDense.wo.weight", "DenseReluDense.wo", ("proj",)),
    *((f"self_attn.{t}_proj.weight", f"self_attn.{t}_proj", t) for t in "qkv"),
    ("self_attn.out_proj.weight", "self_attn.out_proj", "o"),
)


def expected(strategy: str, family: str, names: Collection[str], towers: Collection[str]) -> set[str]:
    """What trains of a model whose own parameters are `names`.

    Args:
        towers: those that get prompt vectors, LoRA or adapters.
    """
    still = re.compile(STILL.get(family, DECODER))
    own = {name for name in names if not still.match(name)}
    scale = own & set(SCALE)
    heads = scale | {name for name in own if PROJECTION.match(name)}
    image = {name for name in own if name.startswith("visual.")}
    here = image if set(towers) == {"image"} else own - image - scale if set(towers) == {"text"} else own
    return {
        "full": lambda: own,
        "differential_lr": lambda: own,
        "freeze_image": lambda: own - image,
        "freeze_text": lambda: image | scale,
        "heads": lambda: heads,
        "last_layers": lambda: (
            heads | {name for name in own if END.match(name)} | last_block(image) | last_block(own - image)
        ),
        "logit_scale": lambda: scale,
        "linear_probe": lambda: {"classifier.weight", "classifier.bias"},
        "prompt": lambda: {f"{tower}_prompt.vectors.0" for tower in towers},
        "lora": lambda: lora(here),
        "adapter": lambda: adapters(here),
    }[strategy]()


def last_block(names: Collection[str]) -> set[str]:
    """The parameters of the last block that the names of one tower tell of."""
    blocks = {name: int(found[1]) for name in names if (found := BLOCK.match(name))}
    return {name for name, block in blocks.items() if block == max(blocks.values())}


def lora(names: Collection[str]) -> set[str]:
    """Two low-rank matrices for each matrix of attention and MLP in every block."""
    new = set()
    for name in names:
        if not BLOCK.match(name) or ".rel_pos." in name:  # relative positions may come from an MLP
            continue
        found = next((matrix for matrix in MATRICES if name.endswith(f".{matrix[0]}")), None)
        if found is not None:
            end, module, targets = found
            path = name.removesuffix(end) + module
            around = path.rpartition(".")[0]
            if module.startswith("attn.") and f"{around}.q_bias" in names:
                path = around  # EVA's attention reads its linear layers' weights itself
            new |= {f"{path}.lora.{target}.{matrix}" for target in targets for matrix in "ab"}
    return new


def adapters(names: Collection[str]) -> set[str]:
    """A small network behind attention and MLP in every block, in Swin in every block of a stage."""
    inner = re.compile(r"visual\.trunk\.layers\.\d+\.blocks\.\d+\.")
    blocks = {found[0] for name in names if (found := inner.match(name))}
    blocks = blocks | {
        found[0] for name in names if (found := BLOCK.match(name)) and not name.startswith("visual.trunk.layers.")
    }
    places = [
        f"{block}adapter_{branch}.{layer}" for block in blocks for branch in ("attn", "mlp") for layer in ("down", "up")
    ]
    return {f"{place}.{kind}" for place in places for kind in ("weight", "bias")}


def without_gradient(family: str, names: Collection[str]) -> set[str]:
    """Those whose true gradient is zero, so that they may stand still although they train.

    Adding the same to all keys changes no attention. A class token has no relative position, and nothing else of the
    last block is pooled where it is.
    """
    unseen = re.compile(r"visual\.trunk\.blocks\.2\.attn\.rel_pos\." if family == "timm relpos" else r"(?!)")
    return {name for name in names if _KEY_BIAS.match(name) or unseen.match(name)}


def statistics(trained: Collection[str], buffers: Collection[str]) -> set[str]:
    """The buffers of BatchNorms that train: their running statistics move with them."""
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    found = {f"{name.removesuffix('weight')}{kind}" for name in trained if name.endswith(".weight") for kind in kinds}
    return found & set(buffers)

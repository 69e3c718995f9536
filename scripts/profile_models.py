"""Write what `clipft models` shows of open_clip's architectures into clipft/model/tables/profiles.json.

    python scripts/profile_models.py                 # all, about an hour on one core
    python scripts/profile_models.py ViT-B-32 RN50   # these anew, the others as they stand; the tags of all

Every architecture is built on the meta device; nothing is fetched. Memory is that of `clipft freeze-report`: a step is
gone through with fake tensors, as on a GPU. What is held at each moment of a step grows with the batch along a straight
line, so two batch sizes tell those of all others, and the highest of the lines at a batch size is the peak there. (The
B x B logits grow faster, by 1 MB or so at 256 rows.)

Ways of training: full (everything that the loss reaches), heads (both projections and the scale; each caption goes
through the frozen text backbone once, outside the steps), and lora, which is full training whose gradients are given
back as soon as they are there, with the state of rank 8 in each matrix and convolution of the blocks. That is about the
most LoRA can take: fewer of its activations are kept where it has fewer matrices, and its own, 8 numbers a token
and matrix, are less than 2 % of theirs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clipft.config.schema import Config
from clipft.model.build import MetaModel, build_meta
from clipft.model.catalogue import TABLES
from clipft.model.describe import describe, memory
from clipft.model.plan import Plan, block_number
from clipft.model.profiles import BATCH_SIZES, PRECISIONS, Profile, Tag
from clipft.model.registry import installed_tags
from clipft.model.tally import Tally, pretended
from clipft.train.cost import StepShape, count_step
from clipft.train.loss_section import resolve_loss
from clipft.train.precision import Precision
from clipft.train.prepare import plan_of

RANK = 8  # of LoRA; its matrices weigh little beside the activations
_MEASURED = (8, 16)  # batch sizes
_FLOAT32 = 4  # bytes

# The text encoders that ten architectures name, in their real sizes: what their config.json says of shapes.
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_ROBERTA = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "pad_token_id": 1}
_XLM = _ROBERTA | {"model_type": "xlm-roberta", "vocab_size": 250002}
_MT5 = {"model_type": "mt5", "is_encoder_decoder": True, "vocab_size": 250112, "d_kv": 64, "pad_token_id": 0}
_NLLB = {"model_type": "m2m_100", "is_encoder_decoder": True, "vocab_size": 256206, "d_model": 1024, "pad_token_id": 1}
ENCODERS: dict[str, dict[str, Any]] = {
    "roberta-base": _ROBERTA | _BASE,
    "xlm-roberta-base": _XLM | _BASE,
    "xlm-roberta-large": _XLM | _LARGE,
    "google/mt5-base": _MT5 | {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "google/mt5-xl": _MT5 | {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "facebook/nllb-200-distilled-600M": _NLLB | {"encoder_layers": 12, "encoder_ffn_dim": 4096},
    "facebook/nllb-200-distilled-1.3B": _NLLB | {"encoder_layers": 24, "encoder_ffn_dim": 8192},
}


def main() -> None:
    """Profile the architectures that are named, or all, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE")
    names = parser.parse_args().names or open_clip.list_models()
    path = TABLES / "profiles.json"
    profiles, tags = _written(path), installed_tags()
    for number, name in enumerate(names, 1):
        started = time.perf_counter()
        profiles[name] = asdict(profile(name))
        write(path, profiles, tags)
        print(f"{number}/{len(names)} {name} {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def profile(name: str, precisions: Iterable[str] = PRECISIONS) -> Profile:
    """The figures of one architecture; what a step takes, which needs the most time, at these precisions."""
    with tempfile.TemporaryDirectory() as folder:
        meta = meta_model(name, Path(folder))
        facts = describe(meta.model, meta.image, meta.text, name=name, model_cfg=meta.model_cfg)
    assert facts.image.image_size is not None
    assert facts.text.context_length is not None
    image, text = forward_flops(meta, facts.image.image_size, facts.text.context_length)
    sizes = {tower: sum(p.parameters for p in facts.parts if p.tower == tower) for tower in ("image", "text")}
    return Profile(
        parameters=facts.parameters,
        image_parameters=sizes["image"],
        text_parameters=sizes["text"],
        image_size=facts.image.image_size,
        context_length=facts.text.context_length,
        embed_dim=facts.image.embed_dim,
        image_flops=image,
        text_flops=text,
        peak_mb={precision: peaks(meta, precision) for precision in precisions},
    )


def write(path: Path, profiles: Mapping[str, Mapping[str, Any]], tags: Mapping[str, Iterable[Tag]]) -> None:
    """The table, a line an architecture; those without a profile are left out."""
    rows = [
        json.dumps({"name": name, "tags": [_said(tag) for tag in own], "profile": profiles[name]})
        for name, own in tags.items()
        if name in profiles
    ]
    head = f'{{"open_clip": "{version("open_clip_torch")}", "architectures": [\n'
    path.write_text(head + ",\n".join(rows) + "\n]}\n", encoding="utf-8")


def _written(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return {row["name"]: row["profile"] for row in json.loads(path.read_text(encoding="utf-8"))["architectures"]}


def _said(tag: Tag) -> dict[str, Any]:
    """A tag without what it does not say; its accuracy is in another table."""
    return {"name": tag.name} if tag.loads else {"name": tag.name, "loads": False, "instead": tag.instead}


def meta_model(name: str, folder: Path) -> MetaModel:
    """An architecture on the meta device; a Hugging Face text encoder's config is put into `folder`."""
    cfg = deepcopy(open_clip.get_model_config(name))
    encoder = cfg["text_cfg"].get("hf_model_name")
    if not encoder:
        return build_meta(config_of(name).model)
    (folder / "config.json").write_text(json.dumps(ENCODERS[encoder]))
    cfg["text_cfg"] |= {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    content = {"model_cfg": cfg | {"custom_text": True}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return build_meta(config_of(f"local-dir:{folder}").model)


def config_of(name: str, tower: Mapping[str, Any] | None = None) -> Config:
    """A config of this model; its data is only there to make it one."""
    both = dict(tower or {})
    model = {"name": name, "image": both, "text": both}
    return Config.model_validate({"model": model, "data": {"train": {"builtin": "hands"}}})


# --- what it takes -------------------------------------------------------------------------------


def forward_flops(meta: MetaModel, image_size: tuple[int, int], context_length: int) -> tuple[int, int]:
    """Of one image and of one text of full length."""
    with pretended(meta.model, ()) as tally:
        meta.image.encode(torch.empty(1, 3, *image_size))
        image = tally.lap()
        meta.text.encode(torch.zeros(1, context_length, dtype=torch.long))
        return image, tally.lap()


def peaks(meta: MetaModel, precision: str) -> dict[str, tuple[int, ...]]:
    """For each way of training the peak of a step at each of BATCH_SIZES, in MB, rounded up."""
    config = config_of(meta.name)
    loss = resolve_loss(config.loss, has_bias=meta.model.logit_bias is not None)
    plans = {
        way: plan_of(config_of(meta.name, tower), meta, loss, ())
        for way, tower in {"full": {}, "heads": {"freeze_backbone": True}}.items()
    }
    shapes = [StepShape(loss, batch, precision=Precision(precision), device="cuda") for batch in _MEASURED]
    full, heads = ([moments(meta, plan, shape) for shape in shapes] for plan in plans.values())
    fixed = {way: memory(plan, "adamw") for way, plan in plans.items()}
    state = 4 * _FLOAT32 * lora_parameters(plans["full"])  # weights, gradients and AdamW's two averages
    weights = fixed["full"].weights
    return {
        "full": _in_mb(weights + fixed["full"].optimizer, [m.held for m in full], fixed["full"].gradients),
        "lora": _in_mb(weights + state, [m.without_gradients for m in full], 0),
        "heads": _in_mb(weights + fixed["heads"].optimizer, [m.held for m in heads], fixed["heads"].gradients),
    }


def _in_mb(fixed: int, held: list[Tensor], at_least: int) -> tuple[int, ...]:
    """`fixed` and the highest of the moments, or of the gradients at the end, at each of BATCH_SIZES."""
    first, second = held
    slope = (second - first) / (_MEASURED[1] - _MEASURED[0])
    lines = (first + slope * (batch - _MEASURED[0]) for batch in BATCH_SIZES)
    return tuple(math.ceil((fixed + max(float(line.max()), at_least)) / 1e6) for line in lines)


@dataclass(frozen=True)
class Moments:
    """Bytes after each operation of a step: all that is held beside weights and optimiser, and that less gradients."""

    held: Tensor
    without_gradients: Tensor


def moments(meta: MetaModel, plan: Plan, shape: StepShape) -> Moments:
    """A step under `plan`, moment by moment; the same operations in the same order at every batch size."""
    log = _Log()
    count_step(meta, plan, shape, log.watch)
    return Moments(torch.tensor(log.held, dtype=torch.float64), torch.tensor(log.others, dtype=torch.float64))


class _Log(TorchDispatchMode):
    """Writes down after each operation what a tally has."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: list[int] = []
        self.others: list[int] = []
        self._gradients = 0

    @contextmanager
    def watch(self, model: nn.Module, tally: Tally) -> Iterator[None]:
        """The context of one step."""
        self._tally = tally
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._gradient_is_there)
        with self:
            yield

    def _gradient_is_there(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._gradients += parameter.grad.nbytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.held.append(self._tally.held)
        self.others.append(self._tally.held - self._gradients)
        return out


def lora_parameters(plan: Plan) -> int:
    """Numbers in matrices of RANK beside every matrix and convolution of the blocks: rows and columns, RANK times."""
    shapes = [p.shape for p in plan.trainable if block_number(p.group) is not None and len(p.shape) > 1]
    return sum(RANK * (shape[0] + math.prod(shape[1:])) for shape in shapes)


if __name__ == "__main__":
    main()

"""Tiny random models written as files, for the tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from clipft.config.dump import dump_config
from clipft.config.schema import Config
from clipft.model.clip_model import ClipModel
from clipft.model.hashes import file_sha256, weights_sha256

_TEXT = "a an the photo of cat dog hand left right red green blue with two fingers up 0 1 2 3 ##s ##ing . , - ! ?"
WORDS = _TEXT.split()
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def native_cfg(**changes: Any) -> dict[str, Any]:
    """A native CLIP of two blocks a tower on 32-pixel images."""
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, **changes}


def write_native(folder: Path, *, seed: int = 0, weights: bool = True, **changes: Any) -> Path:
    """A local-dir: of a native CLIP with a preprocessing of its own."""
    cfg = native_cfg(**changes)
    preprocess = {"size": 32, "mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "squash"}
    write_open_clip(folder, cfg, preprocess)
    if weights:
        torch.manual_seed(seed)
        save_file(open_clip.CLIP(**native_cfg(**changes)).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_open_clip(folder: Path, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(content))


def write_text_encoder(folder: Path, *, weights: bool = True, tokenizer: bool = True, **settings: Any) -> Path:
    """A Hugging Face folder: a BERT of two layers, width 64, and a WordPiece tokenizer of its own."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = BertConfig(vocab_size=len(_vocabulary()), **{"max_position_embeddings": 80, **sizes, **settings})
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    if weights:
        BertModel(config).save_pretrained(folder)
    config.save_pretrained(folder)
    if tokenizer:
        _write_tokenizer(folder)
    return folder


def _vocabulary() -> dict[str, int]:
    return {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizerFast

    words = Tokenizer(models.WordPiece(_vocabulary(), unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    BertTokenizerFast(tokenizer_object=words, model_max_length=80).save_pretrained(folder)


def write_word_tokenizer(folder: Path, pad: int) -> int:
    """A Hugging Face tokenizer of whole words whose padding has the number `pad`; returns how many words it knows."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<unk>"]
    special.insert(pad, "<pad>")
    words = {word: i for i, word in enumerate(dict.fromkeys([*special, *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, words[token]) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)
    return len(words)


def write_run(
    run: Path,
    clip: ClipModel,
    config: Config,
    *,
    trained: list[str],
    step: int = 12,
    classifier: dict[str, Any] | None = None,
) -> Path:
    """A run folder as training leaves it, with one checkpoint of `trained` tensors; returns the checkpoint."""
    folder = run / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(config))
    state = {
        "format": 1,
        "step": step,
        "epoch": 1,
        "classes": ["cat", "dog"],
        "templates": ["a {}."],
        "classifier": classifier,
        "model": {"name": clip.name, "model_cfg": clip.model_cfg, "preprocess_cfg": clip.preprocess_cfg},
        "base": clip.base,
        "saved": trained,
        "tokenizer": clip.tokenizer.identity(),
        "weights_sha256": weights_sha256(clip.model),
    }
    tensors = clip.model.state_dict()
    save_file({name: tensors[name].contiguous() for name in trained}, folder / "model.safetensors")
    save_file({"step": torch.tensor(step)}, folder / "optimizer.safetensors")
    (folder / "state.json").write_text(json.dumps(state))
    commit(folder)
    point(run, "last", folder)
    return folder


def commit(folder: Path) -> None:
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in names}
    (folder / "COMMIT.json").write_text(json.dumps({"files": files}))


def point(run: Path, name: str, folder: Path) -> None:
    content = {"folder": folder.name, "step": int(folder.name.removeprefix("step-"))}
    (run / "checkpoints" / f"{name}.json").write_text(json.dumps(content))


def write_cache(cache: Path, repo: str, files: dict[str, Path]) -> None:
    """A Hugging Face cache that already holds `files` of a repository."""
    root = cache / f"models--{repo.replace('/', '--')}"
    commit_hash = "0123456789abcdef0123456789abcdef01234567"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit_hash)
    snapshot = root / "snapshots" / commit_hash
    snapshot.mkdir(parents=True)
    for name, path in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(path.read_bytes())


def pictures() -> list[Image.Image]:
    """Images that resizing treats differently: wide, tall, small, grey."""
    rng = np.random.default_rng(0)
    shapes = ((40, 90, 3), (120, 50, 3), (9, 7, 3), (32, 32, 3))
    colour = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
    return [*colour, colour[0].convert("L")]


def write_colours(folder: Path, each: int = 8) -> Path:
    """A folder a class of a few one-coloured pictures; those of `val` are darker."""
    for number, (colour, value) in enumerate(COLOURS.items()):
        (folder / colour).mkdir(parents=True)
        for i in range(each):
            shade = tuple(max(0, v - 2 * i - (folder.name == "val")) for v in value)
            Image.new("RGB", (40, 36 + number), shade).save(folder / colour / f"{folder.name}-{i}.png")
    return folder

"""Prompt vectors in text towers: the sequence built by hand, real words' embeddings, what stands still."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hf_models import randomise
from tiny_families import build, tokens
from tiny_files import native_cfg, write_native
from torch import Tensor, nn

from clipft.config.additions_schema import TextPromptConfig
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model.build import build as build_clip
from clipft.model.build import build_meta
from clipft.model.clip_model import ClipModel
from clipft.model.prompt_words import nearest_words
from clipft.model.text_prompt import TextPrompt, add_text_prompt
from clipft.model.tower import Tower
from clipft.model.towers import towers_of

TEXTS = (  # a family of each kind of text tower
    "native, class token",
    "native, norm after pooling, both ways, last token",
    "native, linear text projection",
    "native image, own text",
    "native image, hf bert",
    "coca",
    "coca, hf roberta",
    "siglip",
    "timm fastvit",
    "hf pooler",
    "hf first token, no projection",
    "hf roberta, mlp",
    "hf xlm-roberta",
    "hf mt5, mlp",
    "hf m2m100",
)
CLASSES, TEMPLATE = ("dog", "red hand"), "a photo of a {}."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(tmp_path_factory.mktemp("base") / "tiny")


def prompt_model(base: Path, seed: int = 0, **prompt: Any) -> ClipModel:
    """The tiny native CLIP with vectors among its words, those of deeper blocks as large as what stands there."""
    clip = build_clip(ModelConfig(name=f"local-dir:{base}", text={"prompt": prompt}), seed, classes=CLASSES)
    with torch.no_grad():
        for block, vectors in enumerate(vectors_of(clip)):
            if prompt.get("init") != "words" or block:
                vectors.copy_(torch.randn(vectors.shape, generator=torch.Generator().manual_seed(block + 1)))
    clip.tokenizer.know(CLASSES, [TEMPLATE])
    return clip


def vectors_of(clip: ClipModel) -> list[nn.Parameter]:
    assert isinstance(clip.text.prompt, TextPrompt)
    return list(clip.text.prompt.vectors)


def with_vectors(family: str, folder: Path, **prompt: Any) -> tuple[Any, Tower]:
    """A model of a family with random weights everywhere and vectors among its words; the family's tower."""
    model: Any = randomise(build(family, folder), 3)
    _, text = towers_of(model)
    add_text_prompt(model, text, TextPromptConfig.model_validate(prompt), None)
    return model, text


def first_number(model: Any) -> int:
    first: int = model.text_prompt.first
    return first


# --- by hand -------------------------------------------------------------------------------------


def native_by_hand(plain: Any, pieces: list[Tensor], places: list[int], deeper: list[Tensor], end: int) -> Tensor:
    """Embeddings, the vectors among them, through the blocks one by one, pooled at the end token (1, D)."""
    x = torch.cat(pieces).unsqueeze(0) + plain.positional_embedding  # (1, L, W)
    for number, block in enumerate(plain.transformer.resblocks):
        if 0 < number <= len(deeper):
            x = x.clone()
            x[0, places] = deeper[number - 1]
        x = block(x, attn_mask=plain.attn_mask)
    return plain.ln_final(x)[:, end] @ plain.text_projection


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("depth", [1, 2])
def test_native_text_equals_the_sequence_built_by_hand(base: Path, position: str, depth: int) -> None:
    clip = prompt_model(base, length=5, position=position, depth=depth)
    plain: Any = open_clip.CLIP(**native_cfg()).eval()
    plain.load_state_dict({n: t for n, t in clip.model.state_dict().items() if "prompt" not in n})
    first, *deeper = vectors_of(clip)

    words = open_clip.SimpleTokenizer().encode("a photo of a red hand .")
    start, end, padding = [49406], [49407], [0] * (16 - 5 - 2 - len(words))
    before = {"end": 5, "middle": 2, "front": 0}[position]
    numbers = [*start, *["V"] * before, *words[:6], *["V"] * (5 - before), words[6], *end, *padding]
    places = [i for i, number in enumerate(numbers) if number == "V"]
    table, left = plain.token_embedding.weight, iter(first)
    pieces = [next(left)[None] if number == "V" else table[number][None] for number in numbers]
    wanted = native_by_hand(plain, pieces, places, deeper, len(numbers) - len(padding) - 1)

    with torch.no_grad():
        found = clip.text.encode(clip.tokenizer(["a photo of a red hand."]))
    torch.testing.assert_close(found, wanted.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
def test_bert_equals_the_sequence_built_by_hand(tmp_path: Path, depth: int) -> None:
    model, text = with_vectors("native image, hf bert", tmp_path, length=3, depth=depth)
    bert = model.text.transformer
    rows = tokens()
    rows[:, 4:7] = first_number(model) + torch.arange(3)

    ordinary = rows.clone()
    ordinary[:, 4:7] = 5
    embedded = bert.embeddings.word_embeddings.weight[ordinary]
    embedded[:, 4:7] = model.text_prompt.vectors[0]
    x = bert.embeddings(inputs_embeds=embedded)
    seen = ordinary != 0  # BERT pads with 0
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None, None]
    for number, layer in enumerate(bert.encoder.layer):
        if 0 < number < depth:
            x = x.clone()
            x[:, 4:7] = model.text_prompt.vectors[number]
        x = layer(x, mask)
    pooled = (x * seen.unsqueeze(-1)).sum(dim=1) / seen.sum(dim=1, keepdim=True)
    torch.testing.assert_close(text.encode(rows), model.text.proj(pooled), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", TEXTS)
def test_vectors_that_are_embeddings_of_words_give_the_plain_text(family: str, tmp_path: Path) -> None:
    """Positions, masks, pooling and each table's scale stay the model's own, in every family of text."""
    model, text = with_vectors(family, tmp_path, length=4)
    rows = tokens()
    with torch.no_grad():
        plain = text.encode(rows)
        for row, columns in ((0, [1, 2, 3, 4]), (1, [1, 5, 6, 8]), (2, [0, 9, 14, 15])):  # an end token too
            model.text_prompt.vectors[0].copy_(model.get_parameter(f"{text.word_table}.weight")[rows[row, columns]])
            prompted = rows[row : row + 1].clone()
            prompted[0, columns] = first_number(model) + torch.arange(4)
            if 9 in columns and text.describe().pooling == "end-of-text token":
                continue  # what stood there is where the text ends
            torch.testing.assert_close(text.encode(prompted), plain[row : row + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["native, class token", "native image, hf bert", "hf mt5, mlp", "hf m2m100", "coca"])
def test_deep_vectors_change_what_comes_and_get_gradients(family: str, tmp_path: Path) -> None:
    model, text = with_vectors(family, tmp_path, length=4, depth=2)
    rows = tokens()
    rows[:, 1:5] = first_number(model) + torch.arange(4)
    text.encode(rows).square().sum().backward()
    for vectors in model.text_prompt.vectors:
        assert bool((vectors.grad != 0).any(dim=1).all())


# --- what a model becomes ------------------------------------------------------------------------


@pytest.mark.parametrize("family", TEXTS)
def test_base_names_and_tensors_stay_and_plain_texts_too(family: str, tmp_path: Path) -> None:
    model: Any = build(family, tmp_path)
    _, text = towers_of(model)
    before, features = dict(model.named_parameters()), text.encode(tokens())
    add_text_prompt(model, text, TextPromptConfig(length=4, depth=2), None)
    after = dict(model.named_parameters())
    assert {n: after[n] is p for n, p in before.items()} == dict.fromkeys(before, True)
    assert after.keys() - before.keys() == {"text_prompt.vectors.0", "text_prompt.vectors.1"} == set(text.added)
    assert [(new.group, new.place) for new in text.added.values()] == [("prompt", 0), ("prompt", 1)]
    assert torch.equal(text.encode(tokens()), features)


def test_a_copy_has_vectors_of_its_own(tmp_path: Path) -> None:
    model, _ = with_vectors("native, class token", tmp_path, length=4)
    copy = deepcopy(model)
    row = torch.full((1, 16), first_number(model))
    with torch.no_grad():
        copy.text_prompt.vectors[0].add_(1)
    apart = copy.token_embedding(row) - model.token_embedding(row)
    torch.testing.assert_close(apart, torch.ones_like(apart))


def test_widths_are_the_model_s(tmp_path: Path) -> None:
    """P54: a tower of any width and depth takes vectors of its own width, on the meta device already."""
    folder = write_native(tmp_path / "wide", weights=False, text_cfg=native_cfg()["text_cfg"] | {"width": 48})
    meta = build_meta(ModelConfig(name=f"local-dir:{folder}", text={"prompt": {"length": 3, "depth": 2}}))
    shapes = {n: tuple(p.shape) for n, p in meta.model.named_parameters() if n.startswith("text_prompt")}
    assert shapes == {"text_prompt.vectors.0": (3, 48), "text_prompt.vectors.1": (3, 48)}


def test_vectors_start_from_the_seed_as_coop_draws_them(base: Path) -> None:
    clips = [
        build_clip(ModelConfig(name=f"local-dir:{base}", text={"prompt": {"length": 8}}), seed) for seed in (0, 0, 1)
    ]
    one, same, other = (vectors_of(clip)[0].detach() for clip in clips)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 0.017 < one.std() < 0.023
    assert clips[0].notes.count("model.text.prompt: 8 vectors start at random (normal, 0.02)") == 1


@pytest.mark.parametrize("class_specific", [False, True])
def test_vectors_may_start_as_words(base: Path, class_specific: bool) -> None:
    clip = prompt_model(base, length=6, init="words", words="a photo of a", depth=2, class_specific=class_specific)
    own = vectors_of(clip)[0].unflatten(0, (-1, 6))
    assert len(own) == (2 if class_specific else 1)
    table = clip.model.get_parameter("token_embedding.weight")
    for vectors in own:
        assert torch.equal(vectors[:4], table[[320, 1125, 539, 320]])
        assert vectors[4:].std() < 0.03
    each = " for each class" if class_specific else ""
    assert (
        f"model.text.prompt: 6 vectors{each} start as 'a photo of a' (4 of them) and at random (normal, 0.02) (2); "
        "those of block 1 at random (normal, 0.02)"
    ) in clip.notes


def test_words_in_all_places_give_the_plain_sentence(base: Path) -> None:
    clip = prompt_model(base, length=4, init="words", words="a photo of a")
    clip.tokenizer.know(["dog"], ["{}."])
    with torch.no_grad():
        prompted = clip.text.encode(clip.tokenizer(["dog."]))
        with clip.without_prompts():
            plain = clip.text.encode(clip.tokenizer(["a photo of a dog."]))
    torch.testing.assert_close(prompted, plain, atol=1e-5, rtol=1e-5)


def test_each_class_s_vectors_stand_in_its_own_prompts(base: Path) -> None:
    clip = prompt_model(base, length=4, class_specific=True)
    texts = [TEMPLATE.replace("{}", name) for name in CLASSES]
    with torch.no_grad():
        before = clip.text.encode(clip.tokenizer(texts))
        vectors_of(clip)[0][4:] *= torch.linspace(0, 2, 32)
        after = clip.text.encode(clip.tokenizer(texts))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_under_autocast_features_are_near_those_of_float32(base: Path) -> None:
    clip = prompt_model(base, length=4, depth=2)
    rows = clip.tokenizer(["a photo of a dog."])
    exact = clip.text.encode(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = clip.text.encode(rows)
    assert torch.nn.functional.cosine_similarity(exact, near.float()).item() > 0.999
    near.float().sum().backward()
    assert all(vectors.grad is not None and vectors.grad.dtype == torch.float32 for vectors in vectors_of(clip))


# --- refused, and looked at ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"length": 4, "depth": 3}, "model.text.prompt.depth: 3 is more than the 2 blocks of this native text tower"),
        ({"length": 14}, "model.text.prompt.length: 14 vectors do not fit: a text of this model has 16 tokens"),
        (
            {"length": 3, "init": "words", "words": "a photo of a"},
            "model.text.prompt.words: 'a photo of a' has 4 tokens, and model.text.prompt.length is 3; write length: 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused(base: Path, prompt: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refusal:
        prompt_model(base, **prompt)
    assert str(refusal.value).startswith(said)


def test_vectors_of_classes_need_classes(base: Path) -> None:
    config = ModelConfig(name=f"local-dir:{base}", text={"prompt": {"length": 4, "class_specific": True}})
    with pytest.raises(InputError, match="class_specific: the training data has captions and no classes"):
        build_meta(config, classes=())
    assert any("the classes are not known here" in note for note in build_meta(config).notes)


def test_the_words_nearest_to_each_vector(base: Path) -> None:
    clip = prompt_model(base, length=4, init="words", words="a photo of a", class_specific=True)
    found = nearest_words(clip, CLASSES, most=2)
    assert [(near.owner, near.vector) for near in found] == [(name, i) for name in CLASSES for i in range(1, 5)]
    assert [near.words[0].word for near in found] == ["a", "photo", "of", "a"] * 2
    assert all(near.words[0].distance == 0 < near.words[1].distance for near in found)
    assert found[0].length == pytest.approx(float(vectors_of(clip)[0][0].detach().norm()))


def test_a_model_without_vectors_has_no_words_to_show(base: Path) -> None:
    clip = build_clip(ModelConfig(name=f"local-dir:{base}"), 0)
    with pytest.raises(InputError, match=r"^runs/a: has learnt no vectors among words, .* name a run with model.text"):
        nearest_words(clip, CLASSES, name="runs/a")


def test_a_plan_refuses_vectors_that_leave_no_room(base: Path) -> None:
    """Without a tokenizer all that is known of a text is that it has a word and an end."""
    config = ModelConfig(name=f"local-dir:{base}", text={"prompt": {"length": 15}})
    with pytest.raises(InputError, match=r"15 vectors do not fit: .* 16 tokens, and the shortest needs 2; write at"):
        build_meta(config)

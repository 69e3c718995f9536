"""Where prompt vectors stand among the tokens of a text, for each kind of tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hf_models import write_siglip_tokenizer
from open_clip.tokenizer import HFTokenizer
from tiny_files import write_text_encoder, write_word_tokenizer

from clipft.config.additions_schema import TextPromptConfig
from clipft.errors import InputError
from clipft.model.prompt_layout import PromptTokenizer
from clipft.model.tokenizer import Tokenizer, native_tokenizer

Words = Callable[[str], Tokenizer]
CONTEXT, FIRST = 16, 60_000
CLASSES, TEMPLATES = ("dog", "red hand"), ("a photo of a {}.", "{}")


def _hugging_face(folder: Path, **settings: str) -> Tokenizer:
    return Tokenizer(HFTokenizer(str(folder), local_files_only=True, **settings), CONTEXT)


def _bpe(_: Path) -> Tokenizer:
    return native_tokenizer({"context_length": CONTEXT})


def _wordpiece(folder: Path) -> Tokenizer:
    return _hugging_face(write_text_encoder(folder, weights=False))


def _sentencepiece(folder: Path) -> Tokenizer:
    """SigLIP's: no start token, and marks are taken out."""
    return _hugging_face(write_siglip_tokenizer(folder), clean="canonicalize")


def _whole_words(folder: Path) -> Tokenizer:
    write_word_tokenizer(folder, pad=1)
    return _hugging_face(folder)


def _clips(folder: Path) -> Tokenizer:
    """Words between a start and an end token, and a class token behind the padding."""
    write_text_encoder(folder, weights=False)
    return _hugging_face(folder, tokenizer_mode="clips", bos_token="[CLS]", eos_token="[SEP]")


_KINDS = {
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "sentencepiece": _sentencepiece,
    "whole words": _whole_words,
    "clips": _clips,
}
EVERY_KIND = pytest.mark.parametrize("kind", _KINDS)


@pytest.fixture(scope="module")
def words_of(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return cache(lambda kind: _KINDS[kind](tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def bpe(words_of: Words) -> Tokenizer:
    return words_of("bpe")


def tokenizer(words: Tokenizer, classes: tuple[str, ...] | None = None, **prompt: object) -> PromptTokenizer:
    config = TextPromptConfig.model_validate({"length": 5, **prompt})
    return PromptTokenizer(words, config, vocabulary=FIRST, classes=classes)


@EVERY_KIND
@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("end", "V1 ... V5 a photo of a red hand ."),
        ("middle", "V1 V2 a photo of a red hand V3 V4 V5 ."),
        ("front", "a photo of a red hand V1 ... V5 ."),
    ],
)
def test_layouts(words_of: Words, kind: str, position: str, expected: str) -> None:
    """P53: what the model reads can be shown, whatever the tokenizer; SigLIP's takes marks out and has no start."""
    prompts = tokenizer(words_of(kind), position=position)
    prompts.know(CLASSES, TEMPLATES)
    if kind == "sentencepiece":
        assert prompts.layout("a photo of a red hand.") == expected.removesuffix(" .") + " [end]"
    else:
        assert prompts.layout("a photo of a red hand.") == f"[start] {expected} [end]"


@EVERY_KIND
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_without_its_vectors_a_text_is_the_plain_one(words_of: Words, kind: str, position: str) -> None:
    words = words_of(kind)
    prompts = tokenizer(words, position=position)
    prompts.know(CLASSES, TEMPLATES)
    texts = ["a photo of a dog.", "red hand", "a photo of a red hand."]
    rows = prompts(texts)
    assert rows.shape == (3, CONTEXT)
    plain = Tokenizer(words._encoder, CONTEXT - 5)(texts)
    for row, other in zip(rows, plain, strict=True):
        assert torch.equal(row[row < FIRST], other)
        assert torch.equal(row[row >= FIRST], FIRST + torch.arange(5))


def test_a_text_of_a_layout_by_hand(bpe: Tokenizer) -> None:
    start, a, photo, end = 49406, 320, 1125, 49407
    row = tokenizer(bpe)(["a photo"])[0].tolist()
    assert row == [start, *range(FIRST, FIRST + 5), a, photo, end, *[0] * 7]


@EVERY_KIND
def test_count_has_the_vectors_and_all_that_a_text_needs(words_of: Words, kind: str) -> None:
    prompts = tokenizer(words_of(kind))
    longest = next(n for n in range(1, CONTEXT) if prompts.count("photo " * (n + 1)) > CONTEXT)
    photo = prompts.words.pieces("photo")[0]
    for words in (longest, longest + 1):
        assert prompts.count("photo " * words) == prompts.words.count("photo " * words) + 5
        assert (prompts(["photo " * words]) == photo).sum() == longest


def test_a_class_name_that_no_longer_fits_is_refused_with_its_count(bpe: Tokenizer) -> None:
    """P53: a name is never pushed out of the window; all that are too long are named, before any training."""
    prompts = tokenizer(bpe, length=8)
    names = ("dog", "very large red hand", "large blue left hand with two fingers")
    with pytest.raises(InputError) as refusal:
        prompts.know(names, ["a photo of a {}."])
    assert str(refusal.value) == (
        "model.text.prompt.length: 2 of 3 class names no longer fit (very large red hand, large blue left hand with "
        "two fingers): 'a photo of a large blue left hand with two fingers.' needs 14 tokens with start and end, and "
        "beside 8 vectors 8 of the 16 are left; shorten it (data.class_names, data.templates), or write length: 2 or "
        "less"
    )


def test_a_caption_that_no_longer_fits_is_cut_before_its_end_token(bpe: Tokenizer) -> None:
    row = tokenizer(bpe, length=8)(["a photo of a very large dog in the rain"])[0]
    assert row[0] == 49406
    assert row[-1] == 49407
    assert (row >= FIRST).sum() == 8
    layout = tokenizer(bpe, length=8).layout("a photo of a very large dog in the rain")
    assert layout == "[start] V1 ... V8 a photo of a very large [end]"


def test_vectors_that_leave_no_room_for_a_word_are_refused(bpe: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"length: 14 vectors do not fit: .* 16 tokens.* needs 3; write at most 13"):
        tokenizer(bpe, length=14)
    tokenizer(bpe, length=13).know(["dog"], ["{}"])


def test_classes_have_vectors_of_their_own_only_where_asked(bpe: Tokenizer) -> None:
    """P54: shared vectors have the same numbers for every class, of the training or not."""
    shared = tokenizer(bpe, classes=CLASSES)
    shared.know((*CLASSES, "cat"), ["{}"])
    places = [row[row >= FIRST].tolist() for row in shared(["dog", "red hand", "cat"])]
    assert places == [[*range(FIRST, FIRST + 5)]] * 3
    own = tokenizer(bpe, classes=CLASSES, class_specific=True)
    own.know(CLASSES, TEMPLATES)
    places = [row[row >= FIRST].tolist() for row in own(["dog", "red hand", "a photo of a red hand."])]
    assert places == [[*range(FIRST, FIRST + 5)], *[[*range(FIRST + 5, FIRST + 10)]] * 2]


def test_vectors_of_a_class_s_own_refuse_a_class_of_no_training(bpe: Tokenizer) -> None:
    own = tokenizer(bpe, classes=CLASSES, class_specific=True)
    with pytest.raises(InputError, match=r"vectors for the 2 classes .*\(dog, red hand\) and none for cat;"):
        own.know(["dog", "cat"], ["{}"])


def test_vectors_of_a_class_s_own_refuse_a_text_of_two_classes(bpe: Tokenizer) -> None:
    own = tokenizer(bpe, classes=("dog", "red dog"), class_specific=True)
    with pytest.raises(InputError, match="'a red dog' is a prompt of 'red dog' and of 'dog', whose vectors differ"):
        own.know(["dog", "red dog"], ["a red {}", "a {}"])


@pytest.mark.parametrize("key", ["position: middle", "position: front", "class_specific: true"])
def test_what_needs_class_names_refuses_other_texts(bpe: Tokenizer, key: str) -> None:
    name, _, value = key.partition(": ")
    prompts = tokenizer(bpe, classes=CLASSES, **{name: value == "true" or value})
    prompts.know(CLASSES, TEMPLATES)
    with pytest.raises(InputError, match=f"model.text.prompt.{key} needs texts made from class names, and 'a cat' is"):
        prompts(["dog", "a cat"])


@pytest.mark.parametrize(("name", "template"), [("dog", "two {}s."), ("who?", "{}!")])
def test_a_name_that_ends_inside_a_token_is_refused(bpe: Tokenizer, name: str, template: str) -> None:
    with pytest.raises(InputError) as refusal:
        tokenizer(bpe, position="front").know([name], [template])
    assert f"joins the end of {name!r} with what follows; put a space or a word behind {{}}" in str(refusal.value)
    tokenizer(bpe).know([name], [template])  # where nothing stands behind the name there is nothing to find


def test_a_name_may_end_inside_a_word_of_several_tokens(words_of: Words) -> None:
    prompts = tokenizer(words_of("wordpiece"), position="front")
    prompts.know(["dog"], ["{}s"])
    assert prompts.layout("dogs") == "[start] dog V1 ... V5 ##s [end]"


def test_the_fingerprint_is_that_of_the_words(bpe: Tokenizer) -> None:
    words = bpe
    assert tokenizer(words, position="middle").identity() == words.identity()

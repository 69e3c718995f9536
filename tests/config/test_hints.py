"""What a message suggests in place of a name that is not known."""

from clipft.config.hints import nearest, one_of


def test_the_nearest_name() -> None:
    assert nearest("Titel", ["image", "title"]) == ["title"]
    assert nearest("zzz", ["title"]) == []
    assert nearest("last-layer", ["lora", "last_layers"]) == ["last_layers"]
    assert nearest("ONE", ["one", "One"]) == ["one"]
    assert nearest("block", ["blocks", "clock", "black", "text"], count=2) == ["blocks", "clock"]


def test_words_in_a_sentence() -> None:
    assert [one_of(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]

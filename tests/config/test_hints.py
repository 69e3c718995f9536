"""What a message suggests in place of a name that is not known."""

from pathlib import Path

import pytest

from clipft.config.hints import nearest, one_of
from clipft.config.load import load_config
from clipft.errors import ConfigError


def test_the_nearest_name() -> None:
    assert nearest("Titel", ["image", "title"]) == ["title"]
    assert nearest("zzz", ["title"]) == []
    assert nearest("last-layer", ["lora", "last_layers"]) == ["last_layers"]
    assert nearest("ONE", ["one", "One"]) == ["one"]
    assert nearest("block", ["blocks", "clock", "black", "text"], count=2) == ["blocks", "clock"]


def test_words_in_a_sentence() -> None:
    assert [one_of(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.text.lora.targets=[query]", "targets[0]: expected q, k, v, o, fc or proj, found 'query'"),
        ("model.text.lora.targets=[]", "targets: expected a list of one or more of (q, k, v, o, fc, proj), found []"),
        ("model.text.lora.layers=3", "layers: expected all, {last: 4} or [0, 1], found 3"),
        ("model.text.lora.layers=[a]", "layers[0]: expected a whole number of at least 0, found 'a'"),
        (
            "model.image.train_only=norm",
            "train_only: expected a list of one or more of (norms, biases) or null, found 'norm'; write [norms]",
        ),
        ("data.templates=a {}", "data.templates: expected a list of texts, found 'a {}'; write ['a {}']"),
    ],
)
def test_a_list_is_worded_once_and_in_words(tmp_path: Path, override: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: ViT-B-32}\ndata: {train: {builtin: hands}}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, (override,))
    assert str(caught.value).endswith(said)
    assert "mistakes" not in str(caught.value)

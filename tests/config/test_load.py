"""A config file to a Config, or every mistake at once with file, line, key and what is allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clipft.config.load import Loaded, load_config
from clipft.config.paths import MAX_BYTES
from clipft.config.source_schema import FolderSource
from clipft.errors import ConfigError, InputError

MODEL = "model: {name: ViT-B-32}\n"
DATA = "data: {train: {builtin: hands}}\n"


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/hands/train").mkdir(parents=True)
    Path("a.csv").touch()


def load(text: str, *overrides: str, need_data: bool = True) -> Loaded:
    Path("x.yaml").write_text(text, encoding="utf-8")
    return load_config(Path("x.yaml"), overrides, need_data=need_data)


def mistakes(text: str, *overrides: str, need_data: bool = True) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides, need_data=need_data)
    return str(caught.value)


def test_a_valid_file() -> None:
    loaded = load(MODEL + DATA + "optim: {lr: 5E-6, weight_decay: .1}\n")
    assert (loaded.config.optim.lr, loaded.config.optim.weight_decay) == (5e-6, 0.1)
    assert (loaded.notes, loaded.source) == ((), "x.yaml")


def test_all_mistakes_at_once_with_file_line_and_key() -> None:
    """P69: a misspelt key is refused with the nearest one, among all that is wrong."""
    text = "model:\n  name: ViT-B-32\n  image:\n    freeze_layer: 10\noptim:\n  lr: fast\ndata:\n  train:\n"
    assert mistakes(text + "    folder: data/hnads/train\n") == (
        "x.yaml has 3 mistakes:\n"
        "  x.yaml:4: model.image.freeze_layer: unknown key; did you mean freeze_layers?\n"
        "  x.yaml:6: optim.lr: expected a number above 0, found 'fast'\n"
        "  x.yaml:9: data.train.folder: data/hnads/train does not exist (data/hands/train does)"
    )


def test_what_is_wrong_between_keys_is_told_beside_wrong_values() -> None:
    """P69: not one mistake after another."""
    told = mistakes(MODEL + "data: {train: {builtin: hands}, val: null}\noptim: {lr: -1}\nevaluate: {best: loss}\n")
    assert told == (
        "x.yaml has 2 mistakes:\n"
        "  x.yaml:3: optim.lr: expected a number above 0, found -1\n"
        "  x.yaml:4: evaluate.best: is measured on data.val, which is null"
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("data: {train: {table: a.csv}}\noptim: {lr: -1}", 2),
        ("data: {train: {builtin: hands}}\nloss: {type: clasifier, label_smoothing: 0.1}", 1),
        ("data: {train: {table: a.csv, caption: 5}}", 1),
    ],
)
def test_nothing_is_told_twice_and_nothing_made_up(text: str, count: int) -> None:
    """A section with a wrong key is not what was meant: what its other keys would be wrong about is left unsaid."""
    told = mistakes(MODEL + text)
    assert len(told.splitlines()) == (count + 1 if count > 1 else 1), told


def test_a_folder_below_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(MODEL + "data: {train: {folder: ~/data/hands/train}}\n").config
    assert "does not exist" in mistakes(MODEL + "data: {train: {folder: ~/data/no}}\n")


def test_one_mistake_is_one_line() -> None:
    assert mistakes(MODEL + DATA + "train: {epochs: 0}") == (
        "x.yaml:3: train.epochs: expected a whole number of at least 1, found 0"
    )


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("model.name: is odd: very", "x.yaml:1: model.name: is odd: very"),
        ("train.batch_size: is not written, so its section is named", "x.yaml:3: train.batch_size: is not written"),
        ("optim.lr: came by an option", "--set: optim.lr: came by an option"),
        ("runs/x: is no key of the config", "runs/x: is no key"),
        ("a sentence without a key", "a sentence without a key"),
        ("optim.groups[0].pattern: matches none", "x.yaml:5: optim.groups[0].pattern: matches none"),
        ("model: nothing trains", "x.yaml:1: model: nothing trains"),
    ],
)
def test_a_later_mistake_about_a_key_gets_its_place(sentence: str, told: str) -> None:
    loaded = load(MODEL + DATA + "train:\n  epochs: 2\noptim: {groups: [{pattern: a}]}\n", "optim.lr=1e-5")
    with pytest.raises(InputError) as caught, loaded.places():
        raise InputError(sentence)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("learning_rate: 1", "learning_rate: unknown key here; it belongs at optim.lr"),
        ("train: {lr: 1}", "train.lr: unknown key here; it belongs at optim.lr"),
        ("optim: {epochs: 1}", "optim.epochs: unknown key here; it belongs at train.epochs"),
        ("checkpoint: {best: 1}", "it belongs at evaluate.best or checkpoint.keep.best"),
        ("optim: {weight-decay: 1}", "optim.weight-decay: unknown key; did you mean weight_decay?"),
        ("optim: {LR: 1}", "optim.LR: unknown key; did you mean lr?"),
        ("optim: {batchsize: 1}", "unknown key here; did you mean train.batch_size?"),
        (
            "qqq: 1",
            "qqq: unknown key; known here: strategy, model, data, loss, optim, train, evaluate, checkpoint, run",
        ),
        ('"a\\nb": 1', "'a\\nb': unknown key"),
    ],
)
def test_an_unknown_key_is_told_where_it_belongs(section: str, sentence: str) -> None:
    """P69: a misplaced key is refused with the right section."""
    assert sentence in mistakes(MODEL + DATA + section)


def test_a_tower_key_under_model() -> None:
    """P69: freeze_layers belongs to a tower."""
    told = mistakes("model: {name: ViT-B-32, freeze_layers: 3}\n" + DATA)
    assert told.endswith("it belongs at model.image.freeze_layers or model.text.freeze_layers")


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("optim: {lr: '1e-5'}", "optim.lr: expected a number above 0, found '1e-5'; write it without quotes"),
        ("optim: {lr: -1}", "optim.lr: expected a number above 0, found -1"),
        ("optim: {lr: .inf}", "optim.lr: expected a number above 0, found inf"),
        ("optim: {lr: true}", "optim.lr: expected a number above 0, found true"),
        ("optim: {lr: }", "optim.lr: expected a number above 0, found null"),
        (f"optim: {{weight_decay: {'9' * 400}}}", "expected a number of at least 0, found inf"),
        ("optim: {lr_heads: x0}", "expected a number above 0 or a factor such as x0.5, found 'x0'"),
        ("optim: {lr_heads: x1e999}", "expected a number above 0 or a factor such as x0.5"),
        ("optim: {name: adamW}", "expected adamw, adam or sgd, found 'adamW'; did you mean adamw?"),
        ("optim: {betas: [0.9]}", "optim.betas: expected a list of 2 numbers, found [0.9]"),
        ("optim: {betas: [0.9, 0.9, 0.9]}", "optim.betas: expected a list of 2 numbers"),
        ("optim: {betas: [0.9, 1]}", "expected two numbers from 0 to below 1, found [0.9, 1]"),
        ("optim: {groups: [{lr: 1}]}", "optim.groups[0].pattern: is missing; expected text"),
        ("optim: {groups: [{pattern: 'a('}]}", "optim.groups[0].pattern: 'a(' is not a regular expression: missing )"),
        ("optim: {groups: [{pattern: '[[a]'}]}", "is not a regular expression: Possible nested set"),
        ("optim: {groups: [{pattern: '%s'}]}" % ("(" * 9000), "is not a regular expression"),
        ("optim: {groups: 3}", "optim.groups: expected a list of sections with keys such as pattern"),
        ("optim:", "optim: expected keys such as name, lr, lr_heads, found null; write keys below it or leave it out"),
        ("train: {epochs: 10.0}", "train.epochs: expected a whole number of at least 1, found 10.0"),
        ("train: {micro_batch_size: 99}", "train.micro_batch_size: 99 is more than batch_size: 64"),
        ("train: {device: 0}", "expected text, found 0; a text that looks like another value must be quoted: '0'"),
        ("evaluate: {every: often}", "evaluate.every: expected epoch or a whole number of at least 1, found 'often'"),
        ("evaluate: {every: 0}", "evaluate.every: expected epoch or a whole number of at least 1, found 0"),
        ("run: {tensorboard: on}", "run.tensorboard: expected true or false, found 'on'"),
        ("run: {seed: 4294967296}", "run.seed: expected a whole number from 0 to 4294967295, found 4294967296"),
        ("checkpoint: {keep: {best: 2}}", "checkpoint.keep.best: expected 0 or 1, found 2"),
        ("loss: {cosine: true}", "loss.cosine: is for type: classifier, not auto"),
        ("loss: {type: classifier, class_weights: {a: -1}}", "class_weights.a: expected a number above 0, found -1"),
        ("loss: {class_weights: equal}", "expected names, each with a number above 0, balanced or null, found 'equal'"),
        ("loss: {type: siglip}\ntrain: {batch_size: 1}", "train.batch_size: a siglip loss needs at least 2 rows"),
        ("train: {early_stop: {}}", "train.early_stop.metric: name the metric to watch here or in evaluate.best"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(section: str, sentence: str) -> None:
    """P68: key, value found and type expected."""
    told = mistakes(MODEL + DATA + section)
    assert sentence in told
    assert told.startswith(("x.yaml:3: ", "x.yaml:4: "))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("{}", "model.name: expected an open_clip architecture such as ViT-B-32, or null with both"),
        ("{name: V, text: {freeze_pattern: [0-3]}}", "found ['0-3']; a text that begins with [ or { must be quoted"),
        ("{name: V, text: {freeze_pattern: ''}}", "an empty pattern matches everything"),
        (
            "{name: V, text: {freeze_layers: some}}",
            "freeze_layers: expected a whole number, depth, or such as depth - 2, found 'some'",
        ),
        ("{name: V, image: {freeze_backbone: yes}}", "expected true, false or null, found 'yes'"),
        ("{name: V, text: {encoder: bert}}", "model.text.encoder: expected text such as hf:NAME or null"),
        ("{name: V, text: {encoder: 'hf:a'}}", "model.text.encoder: stands beside name: V"),
        ("{name: V, text: {random: true, pooling: cls}}", "has 2 mistakes"),
        ("{name: V, logit_scale: {min: 3, max: 2}}", "model.logit_scale.min: 3 is above max: 2"),
        ("{name: V, logit_scale: {init: 200}}", "model.logit_scale.init: 200 is not between min: 1 and max: 100"),
    ],
)
def test_a_wrong_model(model: str, sentence: str) -> None:
    assert sentence in mistakes(f"model: {model}\n{DATA}")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("{}", "data.train: is missing; expected one of the keys folder, table, sidecar, builtin"),
        ("{train: {}}", "data.train: expected one of the keys folder, table, sidecar, builtin, found {}"),
        ("{train: {tables: a.csv}}", "found the keys tables; did you mean table?"),
        ("{train: data/hands}", "found 'data/hands'; write {folder: 'data/hands'}"),
        ("{train: 0.1}", "data.train: expected one of the keys folder, table, sidecar, builtin, found 0.1"),
        (
            "{train: {folder: data/hands, sidecar: data/hands}}",
            "data.train.sidecar: stands beside folder; a source has",
        ),
        ("{train: {folder: data/hands, label: x}}", "label: is a key of a table or builtin source, not of a folder"),
        ("{train: {builtin: feet}}", "data.train.builtin: expected hands, found 'feet'"),
        ("{train: {builtin: hands, siz: 3}}", "data.train.siz: unknown key; did you mean size?"),
        ("{train: {builtin: hands, size: 1}}", "data.train.size: expected a whole number from 16 to 2048, found 1"),
        ("{train: {table: a.csv}}", "data.train.caption: name the column with the caption, or in label"),
        ("{train: {table: a.csv, label: x, split: train}}", "split: expected column=value such as split=train, found"),
        ("{train: {table: a.csv, image: 3, label: x}}", "data.train.image: expected text, found 3"),
        ("{train: {folder: a.csv}}", "data.train.folder: a.csv is a file, expected a folder"),
        ("{train: {table: data/hands, label: x}}", "data.train.table: data/hands is a folder, expected a file"),
        ("{train: {folder: signdigits/train}}", "python scripts/prepare_signdigits.py --source CLONE --out data/sign"),
        ("{train: {builtin: hands}, val: 2}", "a number between 0 and 1 or null, found 2"),
        ("{train: {builtin: hands}, val: {folder: q}}", "data.val.folder: q does not exist"),
        ("{train: {builtin: hands}, augment: {flop: true}}", "data.augment.flop: unknown key; did you mean flip?"),
        ("{train: {builtin: hands}, augment: nine}", "expected keys such as crop_scale, flip, color_jitter or none"),
        ("{train: {builtin: hands}, augment: {crop_scale: [1, 0]}}", "expected [least, most] with 0 < least <= most"),
        ("{train: {builtin: hands}, templates: [a]}", "expected one {} for the class name in each template, found 'a'"),
        ("{train: {builtin: hands}, templates: [{}]}", "data.templates[0]: expected text, found {}"),
        ("{train: {builtin: hands}, templates: a}", "data.templates: expected a list of texts, found 'a'"),
        ("{train: {builtin: hands}, class_names: {0: 5}}", "data.class_names.0: expected text, found 5"),
        ("{train: {builtin: hands}, workers: -1}", "data.workers: expected a whole number of at least 0 or auto"),
    ],
)
def test_wrong_data(data: str, sentence: str) -> None:
    assert sentence in mistakes(f"{MODEL}data: {data}\n")


def test_missing_sections_have_no_line() -> None:
    assert mistakes("optim: {lr: 1e-5}") == (
        "x.yaml has 2 mistakes:\n"
        "  x.yaml: model: is missing; expected keys such as name, pretrained, image_size\n"
        "  x.yaml: data: is missing; expected keys such as train, val, templates"
    )


def test_without_need_of_data() -> None:
    loaded = load(MODEL + "data: {train: {folder: nowhere}}\n", need_data=False)
    assert loaded.config.data.train == FolderSource(folder="nowhere")
    assert load(MODEL, need_data=False).notes == ("data: not given; training needs data.train",)
    assert "data.train: expected" in mistakes(MODEL + "data: {train: 3}", need_data=False)


# --- files that are no config --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "x.yaml: is empty; a config has at least the keys model and data"),
        (b"# nothing\n", "x.yaml: is empty"),
        (b"- a\n- b\n", "x.yaml:1: expected keys such as model, data, optim, found ['a', 'b']"),
        (b"hello", "x.yaml:1: expected keys such as model, data, optim, found 'hello'"),
        (b"a: 1\nb: \xff\n", "x.yaml:2: is not UTF-8 (byte 0xff); save it as UTF-8"),
        ("a: 1".encode("utf-16"), "x.yaml: is UTF-16, not UTF-8; save it as UTF-8"),
        ("a: 1".encode("utf-16-le"), "x.yaml:1: the character '\\x00' may not stand in a text file"),
        (b"model: {name: V}\n\tdata: 1\n", "x.yaml:2: a tab indents this line; YAML wants spaces"),
    ],
)
def test_a_file_that_is_no_config(content: bytes, sentence: str) -> None:
    Path("x.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(Path("x.yaml"))
    assert str(caught.value).startswith(sentence)


def test_a_byte_order_mark_of_utf8_is_read() -> None:
    Path("x.yaml").write_bytes(b"\xef\xbb\xbf" + (MODEL + DATA).encode())
    assert load_config(Path("x.yaml")).config.model.name == "ViT-B-32"


def test_a_large_file_is_not_read() -> None:
    with Path("x.yaml").open("wb") as file:
        file.truncate(100_000_000)  # sparse: takes no room
    with pytest.raises(ConfigError, match=f"has 100,000,000 bytes; a config has at most {MAX_BYTES:,}"):
        load_config(Path("x.yaml"))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("y.yaml", "y.yaml: does not exist (x.yaml does)"),
        ("nowhere/qqq.yaml", "nowhere/qqq.yaml: does not exist"),
        ("data", "data: is a folder, not a config file"),
        ("/dev/zero", "/dev/zero: is not a regular file"),
        ("a.csv/x.yaml", "a.csv/x.yaml: does not exist"),
        ("x" * 5000, ""),
    ],
)
def test_a_path_that_is_no_file(path: str, sentence: str) -> None:
    Path("x.yaml").touch()
    with pytest.raises(ConfigError) as caught:
        load_config(Path(path))
    assert str(caught.value).startswith(sentence)


def test_many_mistakes_are_counted_not_told() -> None:
    told = mistakes(MODEL + DATA + "".join(f"key{i}: 1\n" for i in range(20_000)))
    assert len(told.splitlines()) == 52
    assert told.endswith("19,950 more mistakes are not told here")


# --- what stands around --------------------------------------------------------------------------


def test_no_torch_to_read_a_config() -> None:
    """A mistake in a config is told in under half a second, so torch may not be imported first."""
    code = "import sys, clipft.config.load; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0

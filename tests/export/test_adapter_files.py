"""Adapter files: one small file a run, put on its base again, several on one base."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_files import write_native
from torch import Tensor, nn
from tuned_runs import TunedRun, cases

import clipft
from clipft.cli import main
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.export import export, export_adapter
from clipft.model.build import build
from clipft.model.runfiles import open_checkpoint

PROMPTS = ("a photo of a red.", "a photo of a blue.")


@pytest.fixture(scope="session")
def adapter(tuned_run: TunedRun, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The adapter's file of a tuned run."""
    place, done = tmp_path_factory.mktemp("adapters"), {}

    def write(case: str) -> Path:
        if case not in done:
            done[case] = export_adapter(tuned_run(case), place / f"{case.replace(' ', '-')}.safetensors").path
        return done[case]

    return write


def base_of(run: Path) -> str:
    return f"local-dir:{run.parent.parent / 'base'}"


def features(model: nn.Module, preprocess: Any, tokenizer: Any, texts: Sequence[str] = PROMPTS) -> tuple[Tensor, ...]:
    """Of a grey picture, and of two texts."""
    picture = preprocess(Image.linear_gradient("L").convert("RGB"))[None]
    with torch.no_grad():
        return tuple(model(picture, tokenizer(list(texts)))[:3])


@pytest.mark.parametrize(
    "case",
    cases(
        *("middle", "image", "lora", "heads"),
        slow=("text prompt", "class specific", "text feature adapter", "block adapters"),
    ),
)
def test_on_its_base_again_it_answers_as_the_run(case: str, tuned_run: TunedRun, adapter: Any) -> None:
    """P52: what trained is in the file, whatever it was; the base is not."""
    run = tuned_run(case)
    model, preprocess, tokenizer = clipft.load(base_of(run), adapters={"mine": adapter(case)})
    model.use("mine")
    for ours, theirs in zip(features(*clipft.load(run)), features(model, preprocess, tokenizer), strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)
    assert load_file(adapter(case)).keys() <= set(open_checkpoint(run).state["saved"])


def test_several_on_one_base_share_its_tensors_and_leave_it_as_it_is(tuned_run: TunedRun, adapter: Any) -> None:
    """`use(None)` is the base to the bit; no base tensor is in memory twice."""
    base = base_of(tuned_run("lora"))
    plain = build(ModelConfig(name=base), seed=0)
    files = {case: adapter(case) for case in ("lora", "middle", "heads", "image")}
    model, preprocess, tokenizer = clipft.load(base, adapters=files)
    assert model.names == tuple(files)
    assert model.classes == ()
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    first = features(model, preprocess, tokenizer)
    answers = {}
    for name in model.names:
        model.use(name)
        assert model.classes == ("blue", "green", "red", "white")
        answers[name] = features(model, preprocess, tokenizer)
    model.use(None)
    for ours, again, theirs in zip(
        first,
        features(model, preprocess, tokenizer),
        features(plain.model, preprocess, plain.tokenizer),
        strict=True,
    ):
        assert torch.equal(ours, again)
        assert torch.equal(ours, theirs)
    after = model.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert len({answer[0].sum().item() for answer in (first, *answers.values())}) == 5

    addresses = {name: tensor.data_ptr() for name, tensor in after.items()}
    for name, file in files.items():
        model.use(name)
        inner = getattr(model.model, "model", model.model).state_dict()
        own = load_file(file).keys()
        assert {n: t.data_ptr() for n, t in inner.items() if n not in own} == {
            n: address for n, address in addresses.items() if n not in own
        }
    with pytest.raises(InputError, match="there is no adapter 'shirts'; there are lora, middle, heads, image"):
        model.use("shirts")


def test_it_moves_as_one(tuned_run: TunedRun, adapter: Any) -> None:
    """To another type (or device) and still shared."""
    model, preprocess, _ = clipft.load(base_of(tuned_run("lora")), adapters={"mine": adapter("lora")})
    model.double()
    base, tuned = (dict(inner.named_parameters()) for inner in model.models)
    own = load_file(adapter("lora"))
    assert all((tuned[name] is parameter) == (name not in own) for name, parameter in base.items())
    model.use("mine")
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.new("RGB", (9, 9)))[None].double(), normalize=True)
    assert image.dtype == torch.float64


def test_the_tokenizer_follows(tuned_run: TunedRun, adapter: Any) -> None:
    """With places for vectors under one adapter, without any under the base."""
    base = base_of(tuned_run("middle"))
    model, _, tokenizer = clipft.load(base, adapters={"mine": adapter("middle")})
    plain = tokenizer([PROMPTS[0]])
    assert tokenizer.count("red") == 3
    model.use("mine")
    assert int((tokenizer([PROMPTS[0]]) >= 49408).sum()) == 3
    assert tokenizer.count("red") == 6
    with pytest.raises(InputError, match="needs texts made from class names"):
        tokenizer(["a dog"])
    tokenizer.know(["dog"], ["a {}"])
    tokenizer(["a dog"])
    model.use(None)
    assert torch.equal(tokenizer([PROMPTS[0]]), plain)


def test_another_base_is_refused_by_name(adapter: Any, tuned_run: TunedRun, tmp_path: Path) -> None:
    """By its tensors, to the bit, wherever they lie; a copy of the base elsewhere is the base."""
    run, file = tuned_run("lora"), adapter("lora")
    other = write_native(tmp_path / "other", seed=1)
    with pytest.raises(InputError) as refused:
        clipft.load(f"local-dir:{other}", adapters={"mine": file})
    assert f"{file}: was tuned over {base_of(run)}, and local-dir:{other} has other weights" in str(refused.value)
    copy = write_native(tmp_path / "copy")
    clipft.load(f"local-dir:{copy}", adapters={"mine": file})
    path = copy / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"]["mean"] = [0.1, 0.2, 0.3]
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"images prepared otherwise .*: mean is \[0.5, 0.4, 0.3\], not \[0.1"):
        clipft.load(f"local-dir:{copy}", adapters={"mine": file})


def test_the_ways_to_name_a_base(adapter: Any, tuned_run: TunedRun, tmp_path: Path) -> None:
    """A config stands for its base; a run and its export for what came of it; an architecture needs a tag."""
    run, file = tuned_run("lora"), adapter("lora")
    model, *_ = clipft.load(run / "config.yaml", adapters={"mine": file})
    assert model.names == ("mine",)
    with pytest.raises(InputError, match=f"and {run} has other weights"):  # it is another model than its base
        clipft.load(run, adapters={"mine": file})
    export(run, tmp_path / "out")
    second = tuned_run("heads", model={"pretrained": str(run)})
    on_run = export_adapter(second, tmp_path / "on-run.safetensors").path
    for base in (run, tmp_path / "out"):
        model, *inputs = clipft.load(base, adapters={"mine": on_run})
        model.use("mine")
        assert torch.equal(features(model, *inputs)[0], features(*clipft.load(second))[0])
    with pytest.raises(InputError, match="has prompt vectors or adapters of its own, so it is no base"):
        clipft.load(tuned_run("middle"), adapters={"mine": file})
    with pytest.raises(
        InputError,
        match="RN50: is an architecture and has no weights of its own; write RN50:TAG or FILE; its tags are openai,",
    ):
        clipft.load("RN50", adapters={"mine": file})
    with pytest.raises(InputError, match=r"nowhere: does not exist; expected local-dir:PATH"):
        clipft.load("nowhere", adapters={"mine": file})
    with pytest.raises(InputError, match=r"neither a weights file, a clipft run nor a tag of RN50"):
        clipft.load("RN50:nothing", adapters={"mine": file})


def test_what_no_file_brings_back_is_refused(tuned_run: TunedRun, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    drawn = write_native(tmp_path / "drawn", weights=False)
    with pytest.raises(InputError, match=r"started from random weights .*, and no file brings those back"):
        export_adapter(tuned_run("lora", model={"name": f"local-dir:{drawn}"}), out)
    with pytest.raises(
        InputError, match=r"the run changed model\.embed_dim from 32 to 24, so its model no longer fits"
    ):
        export_adapter(tuned_run("heads", model={"embed_dim": 24}), out)
    assert not out.exists()


def test_a_projection_drawn_anew_and_a_classifier_travel_in_the_file(tuned_run: TunedRun, tmp_path: Path) -> None:
    """P52: the head is saved and restored."""
    head = {"loss": {"type": "classifier", "init": "random"}}
    run = tuned_run("image", **head, model={"text": {"freeze_backbone": True, "projection": "reset"}})
    written = export_adapter(run, tmp_path / "x.safetensors")
    assert written.files == {"x.safetensors": (tmp_path / "x.safetensors").stat().st_size}
    model, *inputs = clipft.load(base_of(run), adapters={"mine": written.path})
    assert not hasattr(model, "classifier")
    model.use("mine")
    again, *_ = clipft.load(run)
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    for ours, theirs in zip(features(again, *inputs), features(model, *inputs), strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)


def test_a_damaged_file_is_a_sentence(adapter: Any, tuned_run: TunedRun, tmp_path: Path) -> None:
    """P52: a tensor too few, other values, another kind of file."""
    base, file = base_of(tuned_run("lora")), adapter("lora")
    with safe_open(file, "pt") as content:
        metadata = content.metadata()
    tensors = {name: t.clone() for name, t in load_file(file).items()}
    name = next(n for n in tensors if n.endswith("lora.q.b"))
    bad = tmp_path / "bad.safetensors"
    save_file({n: t for n, t in tensors.items() if n != name}, bad, metadata)
    with pytest.raises(InputError, match=f"does not hold the parameters that its config describes.*{name}"):
        clipft.load(base, adapters={"mine": bad})
    save_file({n: 3 * t.flip(0) for n, t in tensors.items()}, bad, metadata)
    with pytest.raises(InputError, match="tower does not answer as when it was exported"):
        clipft.load(base, adapters={"mine": bad})
    save_file(tensors, bad)
    with pytest.raises(InputError, match="is a safetensors file, but no adapter"):
        clipft.load(base, adapters={"mine": bad})
    with pytest.raises(InputError, match=r"--out: .* is there and no adapter; name another file"):
        export_adapter(tuned_run("lora"), bad, force=True)
    with pytest.raises(InputError, match="add --force to replace it"):
        export_adapter(tuned_run("lora"), file)
    with pytest.raises(InputError, match=r"writes one file; name it such as folder\.safetensors"):
        export_adapter(tuned_run("lora"), tmp_path / "folder")
    with pytest.raises(InputError, match="there is no such file"):
        clipft.load(base, adapters={"mine": tmp_path / "none.safetensors"})


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command; gives its exit code, what it printed and what it said."""

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["clipft", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_base_with_an_adapter_is_asked_and_measured(
    adapter: Any, tuned_run: TunedRun, command: Any, tmp_path: Path
) -> None:
    """`predict BASE --adapter FILE` answers as the run; `evaluate` and `embed` have the base beside it."""
    run = tuned_run("middle")
    photos = str(run.parent.parent / "val")
    how, data = ("--device", "cpu", "--precision", "fp32"), ("--data", f"folder:{photos}")
    found: dict[str, list[Any]] = {"predict": [], "evaluate": [], "embed": []}
    for number, target in enumerate([(str(run),), (base_of(run), "--adapter", str(adapter("middle")))]):
        for verb, more in (("predict", (photos,)), ("evaluate", data)):
            code, printed, _ = command(verb, *target, *more, *how, "--json")
            assert code == 0
            found[verb].append(json.loads(printed))
        out = tmp_path / f"{number}.safetensors"
        assert command("embed", *target, *data, *how, "--out", str(out))[0] == 0
        found["embed"].append(load_file(out))
    for ours, theirs in zip(*found["predict"], strict=True):
        assert [c["name"] for c in ours["classes"]] == [c["name"] for c in theirs["classes"]]
        assert ours["classes"][0]["probability"] == pytest.approx(theirs["classes"][0]["probability"], abs=1e-6)
    for side in ("base", "tuned"):
        ours, theirs = (figures[side] for figures in found["evaluate"])
        assert theirs == pytest.approx(ours, abs=1e-6)
    ours, theirs = found["embed"]
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], atol=1e-6, rtol=0)


def test_the_command_writes_one_file(tuned_run: TunedRun, tmp_path: Path, command: Any) -> None:
    out = tmp_path / "mine.safetensors"
    code, printed, _ = command("export", str(tuned_run("lora")), "--adapter-only", "--out", str(out))
    assert code == 0
    assert f'clipft.load("BASE", adapters={{"mine": "{out}"}})' in printed
    assert "put on its base again and compared: normalised features differ by at most" in printed
    code, _, said = command("export", str(tuned_run("lora")), "--adapter-only", "--to", "hf", "--out", str(out))
    assert code != 0
    assert "leave out --to hf" in said

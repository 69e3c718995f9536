"""`clipft inspect` as a person types it: what each option shows, and what is said to one who mistypes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch

from clipft.cli import main

ROOT = Path(__file__).resolve().parents[1]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Types `clipft inspect` and returns its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clipft", "inspect", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def photo(tiny_photos: Path) -> Path:
    return tiny_photos / "red" / "0.png"


B32 = ("--model", "ViT-B-32")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --model NAME, such as ViT-B-32, or --config CONFIG"),
        ((*B32, "--config", "x.yaml"), "give --model NAME"),
        ((*B32, "--set", "optim.lr=1"), "--set: changes a config; name it by --config"),
        (("--config", "x.yaml", "--pretrained", "openai"), "write --set model.pretrained="),
        ((*B32, "--image", "a.png", "--walkthrough"), "--image: needs a text to meet; add --text 'a photo of a dog'"),
        ((*B32, "--text", "a dog", "--walkthrough"), "--text: needs an image to meet; add --image FILE"),
        ((*B32, "--image", "a.png", "--text", "a dog"), "add --walkthrough"),
        ((*B32, "--prompts", "runs/x"), "--prompts: names a run, which brings its model; give it alone"),
        (("--prompts", "runs/x", "--tree"), "--prompts: is a view of its own; for another give --config CONFIG"),
        ((*B32, "--full"), "--full: is a way to show the tree; add --tree"),
        ((*B32, "--block", 3), "--block: is a part of the tree; add --tree"),
        ((*B32, "--tree", "--full", "--block", 3), "--full and --block: every module, or one block"),
        ((*B32, "--compare", "RN50", "--pretrained", "x.pt"), "--compare: looks at no weights"),
        ((*B32, "--explain", "poling"), "--explain: poling is no topic; did you mean pooling? The topics are block,"),
        ((*B32, "--explain", "xyz"), "--explain: xyz is no topic; The topics are block, embeddings, projection,"),
        ((*B32, "--tree", "--block", 12), "there is no block 12; the image tower has blocks 0 to 11, the text tower 0"),
        (("--model", "RN5"), "--model: open_clip has no architecture RN5; did you mean RN50"),
        ((*B32, "--compare", "RN5"), "--compare: open_clip has no architecture RN5; did you mean RN50"),
        (("--model", "ViT-B32"), "did you mean ViT-B-32"),
        ((*B32, "--walkthrough", "--text", "x", "--image", "nowhere.png"), "--image: nowhere.png: no such file"),
    ],
)
def test_a_mistake_is_a_sentence_with_the_next_step(run: Run, words: tuple[object, ...], said: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert "Traceback" not in err


def test_values_of_random_weights_are_not_shown(run: Run, photo: Path) -> None:
    code, _, err = run(*B32, "--walkthrough", "--image", photo, "--text", "a red square")
    assert code == 2
    assert "values, and those of random weights mean nothing" in " ".join(err.split())
    assert "its tags are openai, laion400m_e31" in " ".join(err.split())


def test_a_mistake_needs_no_torch() -> None:
    typed = [sys.executable, "-X", "importtime", "-m", "clipft", "inspect", *B32, "--full"]
    done = subprocess.run(typed, capture_output=True, text=True)
    assert done.returncode == 2
    assert not re.search(r"\| +(torch|open_clip|transformers)$", done.stderr, re.M)


def test_one_pair_with_real_values(run: Run, tiny_native: Path, photo: Path) -> None:
    code, out, err = run(
        "--model", f"local-dir:{tiny_native}", "--walkthrough", "--image", photo, "--text", "a red square", "--json"
    )
    assert code == 0
    assert "preprocessing of" in err
    found = json.loads(out)
    steps = {(step["tower"], step["title"]): step for step in found["walkthrough"]["steps"]}
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_native}")
    model.eval()
    from PIL import Image

    with Image.open(photo) as picture, torch.no_grad():
        pixels = preprocess(picture.convert("RGB"))[None]
        tokens = open_clip.get_tokenizer(f"local-dir:{tiny_native}")(["a red square"])
        image, text = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
        logit = (model.logit_scale.exp() * image @ text.T).item()
    assert steps["text", "input"]["first"] == tokens[0, :4].tolist()
    assert steps["both", "logits"]["first"] == pytest.approx([logit], abs=1e-4)
    assert steps["both", "logits"]["shape"] == [1, 1]
    assert steps["image", "normalised"]["norm"] == pytest.approx(1)
    assert not found["initial"]
    assert found["walkthrough"]["tables"][0]["name"] == "visual.class_embedding"

    code, out, _ = run(
        "--model", f"local-dir:{tiny_native}", "--walkthrough", "--image", photo, "--text", "a red square"
    )
    assert code == 0
    assert "length 1" in out
    assert "as the weights have it" in " ".join(out.split())
    assert "first values of what was learnt" in out


def test_pretrained_shows_the_weights_own_scale(run: Run, tiny_native: Path) -> None:
    file = tiny_native / "open_clip_model.safetensors"
    code, out, _ = run("--model", f"local-dir:{tiny_native}", "--pretrained", file)
    assert code == 0
    assert "initial value" not in out
    code, out, _ = run("--model", f"local-dir:{tiny_native}")
    assert code == 0
    assert "initial value, weights bring their own" in out


def test_a_config_says_what_of_its_model_trains(run: Run) -> None:
    code, out, _ = run("--config", ROOT / "configs" / "handclip.yaml", "--tree")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert "(0-9): 10 x ResidualAttentionBlock 10 x 7,087,872 frozen" in lines
    assert "(10-11): 2 x ResidualAttentionBlock 2 x 7,087,872 trains" in lines
    assert "CLIP 151,277,313 14,832,641 train" in lines
    code, out, _ = run(
        "--config", ROOT / "configs" / "handclip.yaml", "--set", "model.image.freeze_layers=11", "--tree"
    )
    assert "(0-10): 11 x ResidualAttentionBlock" in out


def test_json_of_all_of_it(run: Run) -> None:
    asked = ("--walkthrough", "--tree", "--compare", "RN50", "--explain", "freezing")
    code, out, _ = run(*B32, *asked, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["parameters"] == 151_277_313
    assert found["scale"] == pytest.approx(1 / 0.07)
    assert found["walkthrough"]["steps"][1]["shape"] == [1, 768, 7, 7]
    assert found["tree"]["children"][0]["name"] == "visual"
    assert found["compare"]["other"]["name"] == "RN50"
    assert found["compare"]["cost"]["image"]["flops"] == 8_817_623_040
    assert found["explain"]["topic"] == "freezing"
    assert len(found["explain"]["table"]["rows"]) == 14
    code, out, _ = run(*B32, "--tree", "--block", 11, "--json")
    assert set(json.loads(out)["block"]) == {"image", "text"}


def test_several_views_come_one_after_the_other(run: Run) -> None:
    code, out, _ = run(*B32, "--walkthrough", "--explain", "pooling")
    assert code == 0
    assert out.index("the two together") < out.index("pooling · ViT-B-32")


@pytest.mark.slow
@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_architecture_can_be_looked_into(run: Run, name: str) -> None:
    if open_clip.get_model_config(name)["text_cfg"].get("hf_model_name"):
        pytest.skip("its text encoder's config lies on the hub")
    code, out, _ = run("--model", name, "--walkthrough", "--tree", "--explain", "block")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80

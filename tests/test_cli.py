"""The commands as a person types them: results on stdout, talk on stderr, exit codes, no torch before it is needed."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from clipft.cli import app, main

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    *("init", "train", "overfit", "freeze-report", "inspect", "models", "schema"),
    *("evaluate", "embed", "predict", "export", "interpolate", "soup"),
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Types a command and returns its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clipft", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def typed(*words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "clipft", *words], capture_output=True, text=True)
    return done, time.perf_counter() - started


@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("train", "no-such.yaml"), ("schema",), ("models",), ("embed", "x")]
)
def test_what_needs_no_model_imports_no_torch(words: tuple[str, ...]) -> None:
    """P69: help and a config's mistakes are told at once."""
    done, seconds = typed(*words)
    assert not re.search(r"\| +(torch|open_clip|transformers)$", done.stderr, re.M)
    assert seconds < 10  # a hang; how fast it is, is measured elsewhere


def test_help_does_not_even_load_the_schema() -> None:
    """P69: what a command file imports at its top, every other command waits for."""
    done, _ = typed("--help")
    assert not re.search(r"\| +(pydantic|yaml|clipft\.config)$", done.stderr, re.M)


def test_every_command_is_known_and_has_an_example() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert tuple(commands) == COMMANDS  # in the order of the help
    for name, command in commands.items():
        assert f"clipft {name}" in command.help, name


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in COMMANDS if f"clipft {name}" not in readme]


def test_python_m_clipft_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "clipft", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"clipft \d+\.\d+\.\d+\n", done.stdout)


def test_a_wrong_config_is_a_sentence_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("model: {name: ViT-B-32, image: {freeze_layer: 3}}\ndata: {train: {folder: nowhere}}\n")
    code, out, err = run("train", path)
    assert (code, out) == (2, "")
    assert f"{path}:1: model.image.freeze_layer: unknown key; did you mean freeze_layers?" in err
    assert "nowhere does not exist" in err
    assert "Traceback" not in err


def test_what_only_the_model_can_show_is_told_with_its_line_too(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("model:\n  name: ViT-B-32\n  image:\n    freeze_layers: 13\ndata: {train: {builtin: hands}}\n")
    for command in ("freeze-report", "train"):
        code, out, err = run(command, path)
        assert (code, out) == (2, "")
        assert f"{path}:4: model.image.freeze_layers: 13 is out of range" in " ".join(err.split())


def test_freeze_report_json_is_what_a_script_may_rely_on(run: Run) -> None:
    code, out, _ = run("freeze-report", ROOT / "configs" / "handclip.yaml", "--json")
    plan = json.loads(out)
    assert code == 0
    assert plan.keys() == {"model", "lines", "parameters", "totals", "cost", "strategy"}
    assert plan["strategy"] == []
    assert plan["totals"] == {"parameters": 151_277_313, "trainable": 14_832_641}
    assert plan["parameters"][0].keys() == {"name", "tower", "group", "shape", "numel", "trainable", "rule", "lr"}
    assert plan["lines"]["image"].startswith("froze embeddings + first 10/12 blocks (125 of 151 tensors")
    cost = plan["cost"]
    assert cost.keys() == {"batch_size", "rows_at_once", "texts", "texts_at_once", "precision", "bytes", "flops"}
    assert cost["bytes"].keys() == {"weights", "gradients", "optimizer", "copies", "activations", "peak"}
    assert cost["bytes"]["weights"] == 4 * 151_277_313
    assert cost["flops"]["forward"] < cost["flops"]["everything"]["forward"]


def test_freeze_report_says_what_a_step_costs(run: Run) -> None:
    sets = [word for key in ("batch_size=8", "device=cpu", "precision=fp32") for word in ("--set", f"train.{key}")]
    code, out, _ = run("freeze-report", ROOT / "configs" / "handclip.yaml", *sets)
    assert code == 0
    assert re.search(r"activations \d+ MB at batch 8 in fp32 · peak \d+ MB", out)
    assert re.search(r"\d+ GFLOP forward · \d+ GFLOP backward\n +26\.\d % of the \d+ GFLOP of training everything", out)


def test_freeze_report_says_which_keys_an_override_cleared(run: Run) -> None:
    code, out, _ = run("freeze-report", ROOT / "configs" / "handclip.yaml", "--set", "model.text.freeze_layers=4")
    assert code == 0
    assert "first 4/12 blocks" in out
    assert "freeze_backbone" in out  # cleared, and said


def test_freeze_report_all_lists_every_parameter(run: Run) -> None:
    code, out, _ = run("freeze-report", ROOT / "configs" / "handclip.yaml", "--all")
    assert code == 0
    assert "visual.transformer.resblocks.11.attn.in_proj_weight" in out
    assert "ln_final.bias" in out


def test_a_classifiers_report_without_its_data_says_what_it_does_not_know(run: Run) -> None:
    code, out, _ = run("freeze-report", ROOT / "configs" / "clothing-classifier.yaml")
    assert code == 0
    assert "not in the loss" in out
    assert "the classifier's size is not known" in out


def test_a_loss_of_classes_is_refused_for_captions_without_weights_too(
    run: Run, tiny_photos: Path, tmp_path: Path
) -> None:
    """As train refuses it; the cost of such a step would be that of no class at all."""
    (tmp_path / "a.csv").write_text(f"image,caption\n{tiny_photos}/red/0.png,a cat\n", encoding="utf-8")
    config = tmp_path / "c.yaml"
    data = f"data: {{train: {{table: {tmp_path}/a.csv, image: image, caption: caption}}}}"
    config.write_text(f"model: {{name: ViT-B-32}}\n{data}\n", encoding="utf-8")
    code, _, err = run("freeze-report", config, "--set", "loss.type=zero_shot")
    assert code == 2
    assert "loss.type: zero_shot needs a class for each row, and data.train" in err


@pytest.mark.parametrize("command", ["evaluate", "soup", "embed", "interpolate", "train", "predict", "init"])
def test_no_word_of_a_help_is_cut_off_at_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "…" not in out
    assert "above" not in out or "columns are named" in out


def test_inspect(run: Run) -> None:
    code, out, _ = run("inspect", "--model", "ViT-B-32")
    assert code == 0
    for words in ("151,277,313", "87,849,216", "37,828,608", "768 x 512", "14.29"):
        assert words in out


def test_inspect_of_an_unknown_name_names_the_nearest(run: Run) -> None:
    code, _, err = run("inspect", "--model", "ViT-B32")
    assert code == 2
    assert "ViT-B-32" in err


def test_models(run: Run) -> None:
    code, out, _ = run("models")
    assert code == 0
    assert len([line for line in out.splitlines() if line.startswith(" ViT-B-32 ")]) == 1
    code, out, _ = run("models", "siglip2-256")
    assert code == 0
    assert "ViT-B-32-SigLIP2-256" in out
    assert "webli" in out
    assert "ViT-B-16-SigLIP-256" not in out


def test_models_as_json(run: Run) -> None:
    code, out, _ = run("models", "laion2b_s34b_b79k", "--json")
    found = json.loads(out)
    assert code == 0
    (each,) = found["architectures"]
    assert (each["name"], each["profile"]["parameters"], each["profile"]["image_size"]) == (
        "ViT-B-32",
        151277313,
        [224, 224],
    )
    assert [(tag["name"], tag["zero_shot_top1"]) for tag in each["tags"]] == [("laion2b_s34b_b79k", 0.6656)]


def test_models_that_fit(run: Run) -> None:
    code, out, _ = run("models", "ViT-B-32", "--fits", "8GB")
    assert code == 0
    assert "train in 8.0 GB · bf16 or fp16" in out
    code, out, _ = run("models", "ViT-B-32-quickgelu", "--fits", "8 GB", "--precision", "fp32", "--json")
    assert (code, json.loads(out)) == (
        0,
        {
            "bytes": 8_000_000_000,
            "precision": "fp32",
            "fits": [{"name": "ViT-B-32-quickgelu", "full": 64, "lora": 64, "heads": 256}],
        },
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mobilclip",), "did you mean MobileCLIP"),
        (("--fits", "much"), "--fits: expected a size such as 8GB, 7.5GB or 24GiB, found 'much'"),
        (("--precision", "bf16"), "--precision: is for --fits"),
    ],
)
def test_models_that_are_not_there_are_a_sentence(run: Run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run("models", *words)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_train_evaluate_predict_and_export(
    run: Run, tiny_native: Path, tiny_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P70: from a folder of photos to an export by what the last lines say to type."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(
        f"model: {{name: 'local-dir:{tiny_native}'}}\n"
        f"data: {{train: {{folder: '{tiny_photos}'}}, val: 0.25, workers: 0}}\n"
        "optim: {lr: 1e-3}\ntrain: {epochs: 2, batch_size: 4, device: cpu, precision: fp32}\n"
    )
    code, out, err = run("train", "tiny.yaml", "--dry-run")
    assert (code, out) == (0, "")
    assert not (tmp_path / "runs").exists()
    code, out, err = run("train", "tiny.yaml")
    assert (code, out) == (0, "")
    for command in ("clipft evaluate runs/tiny", "clipft predict runs/tiny", "clipft export runs/tiny"):
        assert command in err
    code, out, _ = run("evaluate", "runs/tiny", "--data", f"folder:{tiny_photos}", "--json")
    assert code == 0
    assert {"base", "tuned"} <= json.loads(out).keys()
    assert "zero_shot_top1" in json.loads(out)["tuned"]
    code, out, _ = run("predict", "runs/tiny", tiny_photos / "red" / "0.png", "--json", "--top", 2)
    (prediction,) = json.loads(out)
    assert [set(c) for c in prediction["classes"]] == [{"name", "probability"}] * 2
    code, out, _ = run("predict", "runs/tiny", tiny_photos, "--csv", "--text", "a red square", "--text", "a blue one")
    assert len(out.splitlines()) > 12
    code, out, _ = run("predict", "runs/tiny", "--query", "a red square", "--data", tiny_photos, "--json")
    assert [set(found) for found in json.loads(out)] == [{"image", "cosine"}] * 3
    vectors, picture = "out/vectors.safetensors", "out/map.html"
    for _ in range(2):  # a second time over the first
        code, out, _ = run("embed", "runs/tiny", "--out", vectors, "--plot", picture, "--method", "pca")
        assert code == 0
    assert "base and tuned: images 3 x 32, classes 3 x 32" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"vectors.safetensors", "map.html"}
    code, out, _ = run("export", "runs/tiny", "--out", "exported")
    assert code == 0
    assert (tmp_path / "exported" / "open_clip_config.json").exists()
    assert "create_model_and_transforms" in out
    code, _, err = run("export", "runs/tiny", "--out", "exported")
    assert code == 2
    assert "--force" in err
    for _ in range(2):  # a second picture over the first
        mixed = ("--alpha", "0.5", "--choose", "0.5", "--plot", "curve.svg", "--out", "mixed", "--force")
        code, out, _ = run("interpolate", "runs/tiny", "--data", f"folder:{tiny_photos}", *mixed)
        assert code == 0
    assert "0.5  chosen" in out
    assert "create_model_and_transforms" in out
    assert {"curve.svg", "mixed"} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "mixed" / "interpolation.svg").read_bytes() == (tmp_path / "curve.svg").read_bytes()
    code, out, _ = run("interpolate", "runs/tiny", "--json", "--alpha", "0.5", "--no-write")
    assert [point["alpha"] for point in json.loads(out)["points"]] == [0, 0.5, 1]
    assert not (tmp_path / "tiny-mixed").exists()
    code, out, _ = run("interpolate", "runs/tiny", "--alpha", "0.5")
    assert "tiny-mixed" in out
    assert {"interpolation.svg", "open_clip_config.json"} <= {path.name for path in (tmp_path / "tiny-mixed").iterdir()}
    code, _, err = run("interpolate", "runs/tiny")
    assert code == 2
    assert "--out: tiny-mixed holds an export already" in err
    assert "--no-write only measures" in err
    code, _, _ = run("train", "tiny.yaml", "--set", "optim.lr=2e-3")
    assert code == 0
    code, out, _ = run("soup", "runs/tiny", "runs/tiny-2", "--out", "soup", "--json")
    assert code == 0
    assert len(json.loads(out)["runs"]) == 2
    assert (tmp_path / "soup" / "open_clip_config.json").exists()


@pytest.mark.parametrize("goal", ["classify", "retrieve"])
def test_a_first_config_is_reported_and_rehearsed(
    run: Run, tiny_native: Path, tiny_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: str
) -> None:
    """P70: from data to a run by what is printed."""
    monkeypatch.chdir(tmp_path)
    data = str(tiny_photos)
    if goal == "retrieve":
        rows = (f"{tiny_photos}/{name}/{i}.png,number {i} in {name}" for name in ("red", "blue") for i in range(4))
        data = "captions.csv"
        Path(data).write_text("\n".join(["image,caption", *rows]))
    code, out, err = run("init", "--data", data, "--model", f"local-dir:{tiny_native}")
    assert code == 0
    assert "note: with this saved as config.yaml, next: clipft freeze-report config.yaml" in err
    Path("config.yaml").write_text(out)
    code, out, _ = run("freeze-report", "config.yaml")
    assert (code, out.startswith("strategy  ")) == (0, True)
    sets = ("--set", "train.device=cpu", "--set", "train.precision=fp32", "--set", "data.workers=0")
    code, _, err = run("train", "config.yaml", "--dry-run", *sets)
    assert (code, "Nothing was written" in " ".join(err.split())) == (0, True)


def test_an_older_config_is_written_anew(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("encoder_configs: {text: {model_name: bert}}\nlearning_rate: 1e-4\n")
    code, out, err = run("init", "--from", old)
    assert (code, err) == (0, "")
    assert "encoder: hf:bert" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("init",), "--data: name a folder of images or a table"),
        (("init", "--data", "x", "--from", "y"), "--from and --data: an older file says all itself"),
        (("init", "--data", "nowhere"), "--data: nowhere does not exist"),
        (("init", "--data", "builtin:hands", "--pretrained", "openai"), "name it with --model"),
        (("init", "--data", "builtin:hands,count=9", "--model", "ViT-B-33"), "--model: open_clip has no architecture"),
        (("predict", "runs/none", "a.jpg"), "does not exist"),
        (("predict", "runs/none"), "name at least one image"),
        (("evaluate", "nothing.yaml"), "does not exist"),
        (("evaluate", "x", "--data", "nonsense"), "folder:"),
        (("export", "nowhere", "--out", "y"), "nowhere"),
        (("embed", "runs/none"), "name at least one: --out vectors.safetensors, or --plot map.html"),
        (("embed", "runs/none", "--out", "v.npy"), "ends in .safetensors or .parquet, found 'v.npy'"),
        (("embed", "runs/none", "--out", "v.safetensors"), "does not exist"),
        (("embed", "runs/none", "--out", "v.safetensors", "--method", "pca"), "add --plot map.html"),
        (("interpolate", "runs/none"), "there is no such run"),
        (("interpolate", "runs/none", "--alpha", "2"), "--alpha: expected numbers from 0 to 1"),
        (("interpolate", "runs/none", "--choose", "7"), "--choose: expected an alpha from 0 to 1, or a figure"),
        (("interpolate", "runs/none", "--out", "a", "--no-write"), "--out: stands beside --no-write"),
        (("interpolate", "runs/none", "--plot", "a.pdf"), "ends in .svg, found 'a.pdf'"),
        (("soup", "runs/none", "runs/b", "--out", "x"), "there is no such run"),
    ],
)
def test_mistakes_of_other_commands_are_sentences(run: Run, words: tuple[str, ...], message: str) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_an_unreadable_picture_is_named_and_the_others_answered(
    run: Run, make_run, tiny_native: Path, tiny_photos: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    """P3: exit code 1 says that something failed."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    code, out, err = run("predict", make_run(tiny_native), bad, tiny_photos / "red" / "0.png", "--json")
    assert code == 1
    assert len(json.loads(out)) == 1
    assert "bad.jpg" in err


@pytest.mark.parametrize("command", ["evaluate", "embed", "predict"])
def test_where_and_how_to_compute_is_refused_by_the_options_own_name(run: Run, tmp_path: Path, command: str) -> None:
    code, _, err = run(command, tmp_path, "a.jpg", "--precision", "banana")
    assert code == 2
    assert "--precision" in err
    assert "Traceback" not in err
    words = {"predict": ("a.jpg",), "embed": ("--out", tmp_path / "v.safetensors")}.get(command, ())
    code, _, err = run(command, tmp_path, *words, "--device", "cuda:99")
    assert code == 2
    assert "--device: cuda:99 is not on this machine" in err


def test_predict_and_evaluate_say_what_the_weights_and_the_precision_are(
    run: Run, tiny_native: Path, tiny_photos: Path, tmp_path: Path
) -> None:
    """P70: random weights are loud wherever they answer, and another precision than the one asked for is said."""
    (tmp_path / "open_clip_config.json").write_bytes((tiny_native / "open_clip_config.json").read_bytes())
    here = ("--device", "cpu", "--precision", "fp16")
    photo = tiny_photos / "red" / "0.png"
    code, out, err = run("predict", f"local-dir:{tmp_path}", photo, "--text", "a", "--text", "b", "--json", *here)
    assert (code, len(json.loads(out))) == (0, 1)
    assert "note: RANDOM WEIGHTS" in err
    assert "note: --precision: fp16 has no kernels on a CPU; computing in fp32" in err
    code, out, err = run("evaluate", f"local-dir:{tmp_path}", "--data", f"folder:{tiny_photos}", "--json", *here)
    assert code == 0
    assert any(note.startswith("RANDOM WEIGHTS") for note in json.loads(out)["notes"])
    assert "note: --precision: fp16 has no kernels on a CPU; computing in fp32" in err

"""Every strategy, and some together, on two sets of real photos: what trains, what it costs, what it reaches and keeps.

    python scripts/compare_strategies.py --base BASE --data DATA --out runs/compare [--only heads --photos clothing]
    python scripts/compare_strategies.py ... --only "lora, native ViT" --sweep model.image.lora.targets=[q,v],[q,k,v,o]

BASE is an open_clip local-dir with weights, DATA a folder with `clothing`, `signdigits`, `openstax` and `emoji`. What
needs a native ViT starts from a small one, trained first on openstax and emoji. All but linear_probe and logit_scale
train with one loss, each image against the prompts of all classes. Each run is the command `clipft train` in a process
of its own, on one thread, so that its time of the processor hangs little on what else the machine does: at 16 shots
three draws, on all photos one; figures are the last epoch's, on the test split. Finished runs keep their rows in
OUT/rows.jsonl, and the script goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

DRAWS = (0, 1, 2)
SHOTS = 16
EPOCHS = {"16 shots": 5, "all": 2}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KEPT = "keep.image_to_text_r5"
NATIVE_BASE = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 96, "layers": 6, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 4},
}
"""Small enough to be trained in minutes on two cores."""


@dataclass(frozen=True)
class Way:
    """One row of the table: keys over the common config.

    Args:
        name: what the row is called.
        config: sections, as a config file has them.
        native: whether it needs the native base.
    """

    name: str
    config: Mapping[str, Any]
    native: bool = False


def _way(name: str, strategy: Any, *, native: bool = False, **sections: Any) -> Way:
    return Way(name, {"strategy": strategy, "loss": {"type": "zero_shot"}, **sections}, native)


def _of_images(name: str) -> dict[str, Any]:
    return {"name": name, "towers": ["image"]}


NEW = {"lr_new": 2e-3}
"""For the native base, which knows little: 2e-4 moves nothing in so few steps."""
LAST = {"name": "last_layers", "n": 1}
LAST_TEXT = {"name": "last_layers", "n": {"text": 1}, "projections": False, "logit_scale": False}
WAYS = (
    _way("full", "full", optim={"lr": 1e-4}),
    _way("freeze_image", "freeze_image", optim={"lr": 5e-5}),
    _way("freeze_text", "freeze_text", optim={"lr": 1e-4}),
    _way("heads", "heads", optim={"lr_heads": 1e-3}),
    _way("last_layers", LAST, optim={"lr": 1e-4, "lr_heads": 1e-3}),
    _way("prompt", "prompt"),
    _way("differential_lr", "differential_lr", optim={"lr": 1e-4}),
    _way("logit_scale", "logit_scale"),
    _way("linear_probe", "linear_probe", loss={"type": "classifier"}, optim={"lr_heads": 5e-2}),
    _way("prompt + logit_scale", ["prompt", "logit_scale"]),
    _way("prompt + last text block and norm", ["prompt", LAST_TEXT]),
    _way("heads + last_layers", ["heads", LAST], optim={"lr": 1e-4, "lr_heads": 1e-3}),
    _way("differential_lr + last_layers", ["differential_lr", LAST], optim={"lr": 1e-4}),
    _way("lora, text tower", {"name": "lora", "towers": ["text"]}),
    _way("adapter, text tower", {"name": "adapter", "towers": ["text"]}),
    _way("lora + prompt, text tower", [{"name": "lora", "towers": ["text"]}, "prompt"]),
    _way("freeze_text, native ViT", "freeze_text", native=True, optim={"lr": 3e-4}),
    *(
        _way(f"{' + '.join(names)}, native ViT", [_of_images(name) for name in names], native=True, optim=NEW)
        for names in (("lora",), ("adapter",), ("prompt",), ("lora", "prompt"))
    ),
)


@dataclass(frozen=True)
class Row:
    """What one run came to.

    Args:
        way: which row of the table.
        photos: clothing or signdigits.
        data: 16 shots or all.
        draw: of the shots, and the run's seed.
        trainable: numbers that train.
        seconds: of one processor that the command took, start-up, loader and both evaluations included.
        memory: bytes of the process at most.
        base: the base's accuracy.
        tuned: the last epoch's.
        kept_before: recall at 5, image to text, of openstax's test split.
        kept: the same afterwards.
        settings: what `--sweep` changed.
        config: a digest of the config, by which a row is known to be of this one.
    """

    way: str
    photos: str
    data: str
    draw: int
    trainable: int
    seconds: float
    memory: int
    base: float
    tuned: float
    kept_before: float
    kept: float
    settings: str = ""
    config: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What makes a run this one and no other."""
        return self.way, self.photos, self.data, str(self.draw), self.settings, self.config


class FailedError(Exception):
    """A training ended in an error; the others go on."""


def main() -> int:
    """Run what is missing, then print the tables."""
    options = _parser().parse_args()
    if not (options.data / "clothing").is_dir():
        print(f"skipped: {options.data} has no clothing, signdigits, openstax and emoji")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    rows = {row.key: row for row in read_rows(options.out)}
    wanted = [way for way in WAYS if not options.only or any(name == way.name for name in options.only)]
    native = train_native_base(options) if any(way.native for way in wanted) else None
    done, failed = [], []
    for way, setting, photos, data, draw in runs(wanted, options):
        base: Path = native if native is not None and way.native else options.base
        config = yaml.safe_dump(config_of(way, photos, data, draw, base, options.data))
        key = (way.name, photos, data, str(draw), setting, hashlib.sha256(config.encode()).hexdigest()[:12])
        if key not in rows:
            try:
                rows[key] = run(way, setting, photos, data, draw, config, options)
            except FailedError as error:
                failed.append(str(error))
                print(failed[-1], file=sys.stderr, flush=True)
                continue
            with (options.out / "rows.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(rows[key])) + "\n")
            print(f"{way.name} {setting} {photos} {data} {draw}: {rows[key].tuned:.3f}", file=sys.stderr, flush=True)
        done.append(rows[key])
    print_tables(done)
    for reason in failed:
        print(f"\n{reason}")
    return 1 if failed else 0


def runs(ways: Iterable[Way], options: argparse.Namespace) -> Iterable[tuple[Way, str, str, str, int]]:
    """Each run that is wanted; one draw of all photos."""
    settings = sweep_settings(options.sweep) if options.sweep else [""]
    for photos in options.photos or ("clothing", "signdigits"):
        for data in options.sets or EPOCHS:
            for way in ways:
                for setting in settings:
                    for draw in DRAWS if data != "all" else DRAWS[:1]:
                        yield way, setting, photos, data, draw


def sweep_settings(sweep: str) -> list[str]:
    """KEY=A,B as KEY=A and KEY=B; commas inside brackets part nothing."""
    key, _, values = sweep.partition("=")
    depth, pieces = 0, [""]
    for character in values:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return [f"{key}={piece}" for piece in pieces]


def run(way: Way, setting: str, photos: str, data: str, draw: int, text: str, options: argparse.Namespace) -> Row:
    """One `clipft train` of a config's text, and what it left."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    words = (way.name, setting, photos, data, str(draw), digest)
    name = "-".join(filter(None, words)).replace(" ", "_").replace("/", "_")
    folder, config = options.out / name, options.out / f"{name}.yaml"
    config.write_text(text, encoding="utf-8")
    if folder.exists():  # stopped half-way: its seconds would be those of the rest alone
        shutil.rmtree(folder)
    sets = {"run.dir": folder, **dict([setting.split("=", 1)] if setting else [])}
    seconds, memory = train(config, sets, options.out / f"{name}.log")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    before, after = result["base"], result["tuned"]
    figure = "classifier_top1" if "classifier_top1" in after else "zero_shot_top1"
    return Row(
        way.name,
        photos,
        data,
        draw,
        plan["totals"]["trainable"],
        seconds,
        memory,
        before[figure],
        after[figure],
        before[KEPT],
        after[KEPT],
        setting,
        digest,
    )


def config_of(way: Way, photos: str, data: str, draw: int, base: Path, place: Path) -> dict[str, Any]:
    """The common config with the way's keys over it."""
    template, names = "a photo of a {}.", {}
    if photos == "signdigits":
        template = "a photo of a hand showing the number {}."
        names = {str(number): word for number, word in enumerate(DIGITS)}
    held_out = "test" if photos == "clothing" else "val"
    shots = {"shots": {"per_class": SHOTS, "seed": draw}} if data != "all" else {}
    config: dict[str, Any] = {
        "model": {"name": f"local-dir:{base}"},
        "data": {
            "train": {"folder": str(place / photos / "train")},
            "val": {"folder": str(place / photos / held_out)},
            "templates": [template],
            "class_names": names,
            "workers": 1,
            **shots,
        },
        "optim": {},
        "train": {"epochs": EPOCHS[data], "batch_size": 16},
        "evaluate": {"every": 1_000_000, "keep": openstax(place, "test"), "keep_templates": None},
        "checkpoint": {"keep": {"last": 1}},
        "run": {"seed": draw},
    }
    for section, keys in way.config.items():
        config[section] = {**config[section], **keys} if isinstance(config.get(section), dict) else keys
    return config


def openstax(place: Path, split: str) -> dict[str, str]:
    """A split of the textbook figures as a data source."""
    return {"table": str(place / "openstax" / "captions.csv"), "caption": "caption", "split": f"split={split}"}


def train(config: Path, sets: Mapping[str, Any], log: Path) -> tuple[float, int]:
    """`clipft train` in a process of its own: its seconds of a processor, and its bytes at most.

    Raises:
        FailedError: it failed; the log says why.
    """
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "clipft", "train", str(config), *words]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise FailedError(f"{config}: failed; see {log}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def train_native_base(options: argparse.Namespace) -> Path:
    """The small native ViT, trained on openstax's training split and emoji, exported for plain open_clip."""
    folder: Path = options.out / "native-base"
    if (folder / "open_clip_config.json").exists():
        return folder
    blank = options.out / "native-blank"
    blank.mkdir(exist_ok=True)
    preprocess = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    model = {"model_cfg": NATIVE_BASE, "preprocess_cfg": preprocess}
    (blank / "open_clip_config.json").write_text(json.dumps(model), encoding="utf-8")
    pairs = options.out / "native-pairs.csv"
    write_pairs(options.data, pairs)
    config = {
        "model": {"name": f"local-dir:{blank.resolve()}"},
        "data": {"train": {"table": str(pairs.resolve()), "caption": "caption"}, "val": 0.05, "workers": 1},
        "optim": {"lr": 1e-3, "weight_decay": 0.2},
        "train": {"epochs": 20, "batch_size": 128},
        "evaluate": {"every": 1_000_000},
    }
    path = options.out / "native-base.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    run_dir = options.out / "native-run"
    train(path, {"run.dir": run_dir}, options.out / "native-base.log")
    export = [sys.executable, "-m", "clipft", "export", str(run_dir), "--out", str(folder)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    return folder


def write_pairs(place: Path, out: Path) -> None:
    """A table of openstax's training split and all emoji: image, caption."""
    with (place / "openstax" / "captions.csv").open(encoding="utf-8", newline="") as file:
        figures = [row for row in csv.DictReader(file) if row["split"] == "train"]
    pairs = [(place / "openstax" / row["image"], row["caption"]) for row in figures]
    for line in (place / "emoji" / "emoji.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        pairs.append((place / "emoji" / row["image"], row["caption"]))
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows((path.resolve(), caption) for path, caption in pairs)


def read_rows(out: Path) -> list[Row]:
    """The rows of earlier calls."""
    path = out / "rows.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def print_tables(rows: Sequence[Row]) -> None:
    """A table for each set of photos: for each amount of them seconds, accuracy and what was kept, means over draws."""
    for photos in dict.fromkeys(row.photos for row in rows):
        some = [row for row in rows if row.photos == photos]
        amounts = list(dict.fromkeys(row.data for row in some))
        print(f"\n{photos}\n")
        heads = [f"{data}: {what}" for data in amounts for what in ("core s", "top-1", "kept")]
        print(f"| trains | parameters | GB | base: top-1, kept | {' | '.join(heads)} |")
        print("| --- |" + " ---: |" * (3 + len(heads)))
        for name, setting in dict.fromkeys((row.way, row.settings) for row in some):
            print(line([row for row in some if (row.way, row.settings) == (name, setting)], amounts))


def line(rows: Sequence[Row], amounts: Sequence[str]) -> str:
    """One row of a table."""
    first = rows[0]
    cells = [
        f"{first.way} {first.settings}".strip(),
        f"{first.trainable:,}",
        f"{max(row.memory for row in rows) / 1e9:.1f}",
        f"{first.base:.3f}, {first.kept_before:.3f}",
    ]
    for data in amounts:
        some = [row for row in rows if row.data == data]
        mean = f"{statistics.mean(row.seconds for row in some):.0f}" if some else "-"
        cells += [mean, _spread([row.tuned for row in some]), _spread([row.kept for row in some])]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare strategies on real photos.")
    parser.add_argument("--base", type=lambda p: Path(p).resolve(), required=True, help="an open_clip local-dir")
    parser.add_argument("--data", type=lambda p: Path(p).resolve(), required=True, help="folder with the four sets")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--only", action="append", choices=[way.name for way in WAYS], help="repeatable")
    parser.add_argument("--photos", action="append", choices=("clothing", "signdigits"))
    parser.add_argument("--sets", action="append", choices=tuple(EPOCHS))
    parser.add_argument("--sweep", metavar="KEY=A,B,C", help="the same table for values of a key")
    return parser


if __name__ == "__main__":
    sys.exit(main())

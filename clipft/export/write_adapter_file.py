"""`clipft export --adapter-only`: what a run changed of its base, in one file."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from clipft.errors import ClipftError, InputError
from clipft.export.adapter_file import AdapterFile, is_adapter_file, put_on, read_adapter_file
from clipft.export.base import plain_base
from clipft.export.files import SAME, classifier_settings, facts_of, plain
from clipft.export.fingerprint import probe_whole, same_features
from clipft.export.write import Written
from clipft.model.build import build
from clipft.model.clip_model import ClipModel
from clipft.model.hashes import model_sha256
from clipft.model.recipe import sizes_of
from clipft.model.runfiles import Which
from clipft.model.saved import SavedModel, load_saved

SUFFIX = ".safetensors"


def export_adapter(run: str | Path, out: str | Path, *, which: Which | None = None, force: bool = False) -> Written:
    """Write all that a run's model has and its base has not: LoRA, adapters, prompt vectors, whatever trained.

    Args:
        run: a run or a checkpoint; its base must be where its config names it.
        out: the file to write; it ends in .safetensors.
        which: a run's best or last checkpoint.
        force: replace an earlier one there.

    Raises:
        InputError: no file brings the run's base back, or the run changed its shape, or something is at `out`.
        ClipftError: the disk is full, or on its base the file does not answer as the run does.
    """
    out = Path(out).expanduser()
    _check_out(out, force)
    saved = load_saved(Path(run).expanduser(), which)
    saved.clip.model.eval()
    if saved.clip.random:
        raise InputError(
            f"--adapter-only: {run} started from random weights ({saved.clip.base}), and no file brings those back; "
            "export the whole model, without --adapter-only"
        )
    base = build(plain_base(saved.config.model), saved.config.run.seed)
    _refuse_other_sizes(saved, base)
    sha256 = model_sha256(base.model)
    facts = facts_of(saved, str(run), classifier_settings(saved))
    file = AdapterFile(facts, saved.config.model, sha256, plain(saved.clip.preprocess_cfg), _changed(saved, base))
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file.write(partial)
        again = put_on(base, sha256, read_adapter_file(partial), partial)
        difference = _difference(saved, again)
        partial.replace(out)
    except OSError as error:
        raise ClipftError(f"{out}: could not be written ({error}); nothing was left there") from error
    finally:
        partial.unlink(missing_ok=True)
    whole = sum(tensor.nbytes for tensor in base.model.state_dict().values())
    return Written(
        out,
        {out.name: out.stat().st_size},
        f"put on its base again and compared: normalised features differ by at most {difference:.1e}",
        (f'model, preprocess, tokenizer = clipft.load("BASE", adapters={{"{out.stem}": "{out}"}})',),
        (
            f"{len(file.tensors)} tensors that differ from {base.base} or are new to it; the base's own "
            f"{whole / 1e6:.1f} MB are not in the file",
            f"BASE is {base.base}, or whatever has its very weights: local-dir:PATH, ARCHITECTURE:TAG, a config.yaml",
        ),
    )


def _check_out(out: Path, force: bool) -> None:
    if out.suffix != SUFFIX:
        raise InputError(f"--out: {out}: --adapter-only writes one file; name it such as {out.name}{SUFFIX}")
    if not out.exists():
        return
    if not is_adapter_file(out):
        raise InputError(f"--out: {out} is there and no adapter; name another file")
    if not force:
        raise InputError(f"--out: {out} holds an adapter already; name another file, or add --force to replace it")


def _refuse_other_sizes(saved: SavedModel, base: ClipModel) -> None:
    now, then = sizes_of(saved.clip.model_cfg), sizes_of(base.model_cfg)
    for key in ("image_size", "context_length", "embed_dim"):
        if getattr(now, key) != getattr(then, key):
            raise InputError(
                f"--adapter-only: the run changed model.{key} from {getattr(then, key)} to {getattr(now, key)}, so its "
                "model no longer fits on its base; export the whole model, without --adapter-only"
            )


def _changed(saved: SavedModel, base: ClipModel) -> dict[str, torch.Tensor]:
    """The tensors that the base has not, or with other values."""
    before = base.model.state_dict()
    now = saved.clip.model.state_dict()
    return {name: t for name, t in now.items() if name not in before or not torch.equal(t, before[name])}


def _difference(saved: SavedModel, again: ClipModel) -> float:
    ours, theirs = (probe_whole(clip, saved.classes, saved.templates) for clip in (saved.clip, again))
    return same_features(ours, theirs, SAME, "the file, put on its base, gives features that")

"""Which folder a run writes to: a new one, or an unfinished one that goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clipft.config.dump import dump_config
from clipft.config.mistakes import show
from clipft.config.schema import Config, ModelConfig
from clipft.errors import InputError
from clipft.model.runfiles import CONFIG, peek_state, verify
from clipft.model.sources import tag_cfg
from clipft.train.checkpoint import Kept, committed

RESULT = "result.json"  # written last: a run that has it is finished


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and the checkpoint it goes on from (None: from the start).

    Args:
        notes: what to tell the user about the choice.
        damaged: later checkpoints that are not whole.
    """

    path: Path
    resume_from: Path | None
    notes: tuple[str, ...] = ()
    damaged: tuple[Path, ...] = ()


def choose_folder(config: Config, config_name: str, *, resume: bool) -> RunFolder:
    """A new folder, or the unfinished run under the same config; a finished one is never written to.

    Raises:
        InputError: the unfinished run there has another config (the differing keys are named) or no whole checkpoint,
            or no folder can be made there.
    """
    wanted = Path(os.path.expanduser(config.run.dir or f"runs/{config_name}"))
    path = next(p for p in _numbered(wanted) if not os.path.exists(p / RESULT))
    _check_place(path)
    notes = [] if path == wanted else [f"{wanted} holds a finished run: this one goes to {path}"]
    if not (path / CONFIG).exists():
        if path.exists() and any(path.iterdir()):
            raise InputError(f"run.dir: {path} is not empty and holds no run of clipft; name another folder")
        return RunFolder(
            path,
            None,
            (*notes, *([f"--resume: {path} holds nothing to go on with, so the run starts afresh"] if resume else [])),
        )
    kept = committed(path)
    differing = differing_keys((path / CONFIG).read_text(encoding="utf-8"), dump_config(resolved(config)))
    if kept and differing:
        raise InputError(
            f"{path} holds an unfinished run under another config ({'; '.join(differing)}); go on with its own config, "
            "or start anew with another run.dir"
        )
    newest, damaged = newest_whole(kept)
    if newest is None and damaged:
        raise InputError(
            f"{path} holds an unfinished run without a whole checkpoint to go on from "
            f"({'; '.join(damaged.values())}); put the files back, or start anew with another run.dir"
        )
    if newest is None:
        return RunFolder(
            path, None, (*notes, f"{path} holds a run that was stopped in its first epoch: it starts afresh")
        )
    notes += [f"{why}; the checkpoint before it is taken" for why in damaged.values()]
    notes.append(f"going on with {path} from step {newest.step}")
    return RunFolder(path, newest.folder, tuple(notes), tuple(damaged))


def where_it_stands(path: Path) -> str:
    """What the same command makes of a run that was stopped."""
    if (path / RESULT).exists():
        return f"the run had ended, and is in {path}"
    ended = [kept for kept in committed(path) if kept.epoch_end]
    if not ended:
        return "no epoch had ended, so the same command begins again"
    return f"the same command goes on after epoch {peek_state(ended[-1].folder)['epoch']}"


def newest_whole(kept: Sequence[Kept]) -> tuple[Kept | None, dict[Path, str]]:
    """The newest undamaged checkpoint of an epoch's end, and the damaged ones after it with what ails them."""
    damaged = {}
    for candidate in reversed([k for k in kept if k.epoch_end]):
        try:
            verify(candidate.folder)
        except InputError as error:
            damaged[candidate.folder] = str(error)
        else:
            return candidate, damaged
    return None, damaged


def _check_place(path: Path) -> None:
    """Refuse what can be no folder, before anything is computed."""
    there = next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
    if not there.is_dir():
        raise InputError(f"run.dir: {there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise InputError(f"run.dir: {there} is not writable; name another folder")


def resolved(config: Config) -> Config:
    """The config as a run keeps it: paths from the root, to be run and measured from anywhere; no `run.dir`."""
    data = {"train": _with_paths(config.data.train), "val": _with_paths(config.data.val)}
    evaluate = {"keep": _with_paths(config.evaluate.keep)}
    model = config.model
    text = model.text.model_copy(update={"encoder": _absolute(model.text.encoder, "hf:")})
    return config.model_copy(
        update={
            "model": model.model_copy(
                update={
                    "name": _absolute(model.name, "local-dir:"),
                    "pretrained": model.pretrained if _is_tag(model) else _absolute(model.pretrained, ""),
                    "text": text,
                }
            ),
            "data": config.data.model_copy(update=data),
            "evaluate": config.evaluate.model_copy(update=evaluate),
            "run": config.run.model_copy(update={"dir": None}),
        }
    )


def _absolute(value: str | None, prefix: str) -> str | None:
    """`prefix` + PATH with the path from the root, where there is one; anything else as it is (a tag, a hub's name)."""
    if value is None or not value.startswith(prefix):
        return value
    path = Path(value.removeprefix(prefix)).expanduser()
    return f"{prefix}{path.resolve()}" if path.exists() else value


def _is_tag(model: ModelConfig) -> bool:
    """A tag stays a tag, though a folder may have the same name."""
    return model.name is not None and bool(tag_cfg(model.pretrained, model.name.replace("/", "-")))


def _with_paths(source: Any) -> Any:
    """A data source with its paths from the root; a fraction or null as it is."""
    keys = [key for key in ("folder", "table", "sidecar", "root") if getattr(source, key, None) is not None]
    return source.model_copy(update={key: _absolute(getattr(source, key), "") for key in keys}) if keys else source


def differing_keys(before: str, now: str) -> list[str]:
    """The keys in which two resolved configs differ, each with both values; `run.dir` aside."""
    old, new = _flat(yaml.safe_load(before)), _flat(yaml.safe_load(now))
    keys = [k for k in [*old, *(k for k in new if k not in old)] if k != "run.dir"]
    return [f"{k}: {show(old.get(k))} there, {show(new.get(k))} here" for k in keys if old.get(k) != new.get(k)]


def _numbered(wanted: Path) -> Iterator[Path]:
    yield wanted
    number = 2
    while True:
        yield wanted.with_name(f"{wanted.name}-{number}")
        number += 1


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            k: v
            for key, inner in value.items()
            for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}

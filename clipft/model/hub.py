"""Files of the Hugging Face hub: from the local cache first, then over the network, else a sentence.

The hub's own client retries for most of a minute when there is no network, so the network is asked for once before.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from clipft.errors import ClipftError, InputError

_FAILURES = (OSError, *HfHubHTTPError.__bases__)  # the hub's HTTP client, and so its errors, differ by version


def fetch(repo: str, filenames: Sequence[str], *, what: str, instead: str) -> Path:
    """The first of `filenames` that the repository has, as a local file.

    Args:
        repo: ORG/NAME on the hub.
        filenames: in the order of preference.
        what: the key and value this is for; the error starts with it.
        instead: what to do without the hub; the error ends with it.

    Raises:
        ClipftError: not in the cache, and the hub cannot be reached or has no such file.
    """
    for filename in filenames:
        cached = _download(repo, filename, what, local=True)
        if isinstance(cached, Path):
            return cached
    if reason := unreachable():
        raise ClipftError(
            f"{what}: tried {' and '.join(filenames)} of {repo}: not in the cache "
            f"({constants.HF_HUB_CACHE}), and the hub cannot be reached ({reason}); {instead}"
        )
    reasons = []
    for filename in filenames:
        found = _download(repo, filename, what, local=False)
        if isinstance(found, Path):
            return found
        reasons.append(f"{filename} ({found})")
    raise ClipftError(f"{what}: the hub gave none of {'; '.join(reasons)} of {repo}; {instead}")


def fetch_beside(found: Path, repo: str, filenames: Sequence[str]) -> None:
    """Bring those of `filenames` that the repository has into the folder of a file that `fetch` found."""
    missing = [name for name in filenames if not (found.parent / name).is_file()]
    if missing and not unreachable():
        for filename in missing:
            _download(repo, filename, repo, local=False, revision=found.parent.name)


def unreachable() -> str:
    """Why the hub cannot be reached, in a few words; empty when it can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return ""  # it answered
    except urllib.error.URLError as error:
        # the hub's client brings certificates of its own, so let it try
        return "" if isinstance(error.reason, ssl.SSLError) else f"no network: {error.reason}"
    except OSError as error:
        return f"no network: {error}"
    return ""


def _download(repo: str, filename: str, what: str, *, local: bool, revision: str | None = None) -> Path | str:
    """The file's path, or the first line of why there is none."""
    try:
        return Path(hf_hub_download(repo, filename, revision=revision, local_files_only=local))
    except HFValidationError:
        raise InputError(f"{what}: {repo} is neither a folder here nor ORG/NAME on the hub") from None
    except _FAILURES as error:  # not there, not allowed, cut off, a full disk
        return str(error).strip().split("\n", 1)[0] or type(error).__name__

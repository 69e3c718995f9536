"""Whether data is what it was: one digest over all that a run reads."""

from __future__ import annotations

import hashlib
import json
import os

from clipft.data.rows import Rows
from clipft.data.sources import Splits


def data_sha256(splits: Splits, keep: Rows | None = None) -> str:
    """A digest of what trains and what measures: images by name, captions, labels, classes, in order."""
    digest = hashlib.sha256()
    for rows in (splits.train, splits.val, *(() if keep is None else (keep,))):
        if rows is None:
            digest.update(b"none")
            continue
        digest.update(json.dumps(rows.classes).encode())
        for i in range(len(rows)):
            digest.update(os.path.basename(rows.images[i]).encode("utf-8", "surrogatepass") + b"\0")
            if rows.captions is not None:
                digest.update(rows.captions[i].encode("utf-8", "surrogatepass") + b"\0")
        if rows.labels is not None:
            digest.update(rows.labels.tobytes())
    return digest.hexdigest()

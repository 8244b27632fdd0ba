"""A cache that tests write: manifest and plan of cuts in memory."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.store import chunks, manifest


def planned_in(
    folder: Path, cuts: Sequence[Any], recordings_per_chunk: int, key: Mapping[str, Any] = {}
) -> chunks.Plan:
    """The manifest of these Lhotse cuts and its plan, written into the folder."""
    manifest.write(folder, (json.dumps(cut.to_dict()).encode() for cut in cuts), {})
    chunks.open_cache(folder, dict(key))
    return chunks.plan(folder, recordings_per_chunk)

"""A cache as a Lhotse manifest, for those who read it without this project: text, recording, and latents or codes as
arrays that Lhotse itself loads (README.md, A cache on disk).

A chunk's array is one array of Lhotse's, and each recording has its part of it: `start` is how far before the recording
the array begins, in units of `frame_shift`, which is the recording's duration over its steps.
"""

import gzip
import json
from pathlib import Path
from typing import Any

from datamodules.atomic_files import whole_file
from datamodules.store.index import ArrayFile, CachedCuts

NAMES = {"array": "latents", "std": "latents_std", "codes": "codes"}  # here -> in the manifest, as cut.load_latents()


def write_lhotse_manifest(path: Path, cuts: CachedCuts) -> None:
    """All cuts of a cache, gzipped JSON lines; equal caches are equal bytes. Paths begin where the cache's do."""
    with (
        whole_file(path) as part,
        part.open("wb") as file,
        # no time and no name in the header
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as compressed,
    ):
        for row in range(len(cuts.manifest)):
            fields = cuts.manifest.fields(row)
            for name, array in cuts.chunks[cuts.chunk[row]].arrays.items():
                offset, length = int(cuts.offsets[row]), int(cuts.lengths[row])
                fields["custom"][NAMES[name]] = _array(array, offset, fields["duration"] / length)
            compressed.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")


def _array(array: ArrayFile, offset: int, frame_shift: float) -> dict[str, Any]:
    """A lhotse.array.TemporalArray as a manifest has it. frame_shift: seconds."""
    path = Path(array.path)
    stored = {
        "storage_type": "numpy_files",
        "storage_path": str(path.parent),
        "storage_key": path.name,
        "shape": list(array.shape),
    }
    return {"array": stored, "temporal_dim": 0, "frame_shift": frame_shift, "start": -offset * frame_shift}

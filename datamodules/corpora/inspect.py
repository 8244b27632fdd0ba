"""Which recordings cannot be used, and why: found by decoding them whole, before anything is trained on them."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

SILENCE = 1e-4  # peak; -80 dB
LISTED = 20


class Bad(NamedTuple):
    path: str
    reason: str


class Found(NamedTuple):
    """What a recording is; `reason` is None for a good one."""

    path: str
    reason: str | None
    seconds: float
    size: int  # bytes


def inspect(paths: Sequence[Path], workers: int) -> list[Found]:
    """Decodes each file whole; in the order given. Missing, empty, truncated, silent and non-finite recordings carry their reason."""
    if workers <= 1 or len(paths) < 64:
        return [_look(path) for path in paths]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_look, paths, chunksize=16))


def refuse(bad: Sequence[Bad], checked: int, on_bad: str) -> None:
    """Raises ValueError that names the bad recordings, unless on_bad is skip."""
    if bad and on_bad == "error":
        rows = [f"  {path}: {reason}" for path, reason in bad[:LISTED]]
        rows += [f"  and {len(bad) - LISTED} more"] if len(bad) > LISTED else []
        raise ValueError(
            f"{len(bad)} of {checked} recordings cannot be used:\n" + "\n".join(rows) + "\nMend them, or go on without them: --data.on_bad=skip"
        )


def _look(path: Path) -> Found:
    if not path.is_file():
        return Found(str(path), "missing", 0.0, 0)
    size = path.stat().st_size
    if size == 0:
        return Found(str(path), "empty file", 0.0, 0)
    peak, frames = 0.0, 0
    try:
        with soundfile.SoundFile(path) as file:
            declared, rate = file.frames, file.samplerate
            while len(block := file.read(1 << 20, dtype="float32", always_2d=True)):
                if not np.isfinite(block).all():
                    return Found(str(path), "has NaN or infinite samples", 0.0, size)
                peak, frames = max(peak, float(np.abs(block).max())), frames + len(block)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        return Found(str(path), f"cannot be decoded ({str(error).splitlines()[0]})", 0.0, size)
    reason = None
    if frames == 0:
        reason = "has no samples"
    elif abs(declared - frames) > 0.025 * rate:
        reason = f"truncated: {frames / rate:.2f} of {declared / rate:.2f} s"
    elif short := _missing_bytes(path, size):
        reason = f"truncated: {short} bytes are missing"
    elif peak < SILENCE:
        reason = f"silent (peak {peak:.1e})"
    return Found(str(path), reason, frames / rate, size)


def _missing_bytes(path: Path, size: int) -> int:
    """Bytes that a WAV's header declares and the file has not: libsndfile mends such a header in silence."""
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != b"RIFF" or head[4:8] in (b"\xff\xff\xff\xff", b"\0\0\0\0"):
        return 0
    return max(0, int.from_bytes(head[4:8], "little") + 8 - size - 1)

"""Statistics of latents from the chunks' sums: what the latents themselves say, bit for bit whatever wrote them."""

from pathlib import Path

import numpy as np
import pytest
from lhotse.testing.dummies import dummy_cut

from datamodules.errors import DataError
from datamodules.store import chunks, sums
from tests.datamodules.store.planned import planned_in

SOUNDS = [f"{number * 7919 % 97:064x}" for number in range(20)] + [f"{0:064x}", f"{7919:064x}"]  # two come twice


def latents(sound: str) -> np.ndarray:
    generator = np.random.default_rng(int(sound, 16))
    return (3 + generator.normal(size=(generator.integers(1, 40), 4))).astype(np.float16)


def written(folder: Path, sounds: list[str], per_chunk: int) -> chunks.CachedCuts:
    """A cache of these sounds, all for training but each fifth; what is finished stays."""
    cuts = []
    for number, sound in enumerate(sounds):
        cut = dummy_cut(number, duration=5.0)
        cut.id = f"{number}"
        cut.custom = {"split": "test" if number % 5 == 4 else "train", "corpus": "c", "sha256": sound}
        cuts.append(cut)
    planned = planned_in(folder, cuts, per_chunk)
    for chunk in chunks.pending(folder, planned):
        writer = chunks.ChunkWriter(folder, chunk)
        for cut in chunk.recordings:
            for part in np.array_split(latents(cut.custom["sha256"]), 2):
                writer.add_array(cut.id, part)
        writer.finish()
    return chunks.read(folder).of_split("train")


def test_they_are_those_of_the_latents_each_sound_once(tmp_path: Path):
    train = {sound for number, sound in enumerate(SOUNDS) if number % 5 != 4}
    whole = np.concatenate([latents(sound) for sound in sorted(train)]).astype(np.float64)
    actual = written(tmp_path, SOUNDS, 3).moments()
    assert actual.frames == len(whole)
    np.testing.assert_allclose(actual.mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(actual.variance, whole.var(0), rtol=1e-10)


def test_they_do_not_depend_on_the_chunks_nor_on_what_came_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = written(tmp_path / "3", SOUNDS, 3).moments()
    one = written(tmp_path / "100", SOUNDS, 100).moments()
    written(tmp_path / "grown", SOUNDS[5:15], 4)  # the first chunks hold these
    grown = written(tmp_path / "grown", SOUNDS, 2).moments()
    for other in (one, grown):
        assert other.mean.tobytes() == expected.mean.tobytes()
        assert other.variance.tobytes() == expected.variance.tobytes()
    monkeypatch.setattr(sums, "BLOCK", 4)  # of two million there are several
    several = written(tmp_path / "100", SOUNDS, 100).moments()
    np.testing.assert_allclose(several.mean, expected.mean, rtol=1e-14)


def test_a_chunk_without_sums_is_read_itself_and_a_damaged_one_named(tmp_path: Path):
    cuts = written(tmp_path, SOUNDS, 3)
    expected = cuts.moments()
    first, second, *_ = sorted(tmp_path.glob("0*/sums.npy"))
    first.unlink()
    assert cuts.moments().mean.tobytes() == expected.mean.tobytes()
    second.write_bytes(second.read_bytes()[:-8])
    with pytest.raises(DataError, match=rf"{second} is cut off or damaged .* Remove it"):
        cuts.moments()

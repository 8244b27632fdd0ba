"""Whatever a recording's rate, channels and length: its windows, joined, are the recording."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from lhotse import MultiCut, Recording
from torchaudio.functional import resample as reference

from datamodules.audio import load_windows, resample
from datamodules.chunks import plan
from datamodules.windows import AudioBatch, AudioDataModule, ChunkedWindows

RATE = 16_000
WINDOW = 4_096
HOP = 256


def noise(samples: int, channels: int, seed: int = 0) -> np.ndarray:
    """(T, C)"""
    return 0.1 * np.random.default_rng(seed).standard_normal((samples, channels)).astype(np.float32)


def cut_of(root: Path, name: str, sound: np.ndarray, rate: int, corpus: str = "mine") -> Any:
    """A cut whose recording's path is relative to the root."""
    root.mkdir(parents=True, exist_ok=True)
    soundfile.write(root / name, sound, rate, subtype="FLOAT" if name.endswith("wav") else None)
    recording = Recording.from_file(root / name, recording_id=f"{corpus}-{Path(name).stem}")
    recording.sources[0].source = name
    cut = recording.to_cut().with_id(recording.id)
    cut.custom = {"corpus": corpus}
    return cut


def joined(windows: Any) -> torch.Tensor:
    """(C, T) of the valid samples."""
    return torch.cat([window[:, :count] for window, count in zip(*windows, strict=True)], 1)


@pytest.mark.parametrize("samples", [1, HOP // 2, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 3 * WINDOW + HOP // 2])
def test_windows_joined_are_the_recording(tmp_path: Path, samples: int):
    """A rest shorter than a hop is a window of its own: nothing is dropped, and padding is zeros."""
    sound = noise(samples, 2)
    windows = load_windows(cut_of(tmp_path, "a.wav", sound, RATE), tmp_path, RATE, 2, WINDOW)
    count = -(-samples // WINDOW)
    assert windows.waveform.shape == (count, 2, WINDOW) and windows.waveform.dtype == torch.float32
    assert windows.num_samples.tolist() == [WINDOW] * (count - 1) + [samples - (count - 1) * WINDOW]
    torch.testing.assert_close(joined(windows), torch.from_numpy(sound.T))
    assert not windows.waveform[-1, :, windows.num_samples[-1] :].any()


def test_mono_is_doubled_and_stereo_averaged(tmp_path: Path):
    mono, stereo = noise(WINDOW + 5, 1), noise(WINDOW + 5, 2)
    one, two = cut_of(tmp_path, "one.wav", mono, RATE), cut_of(tmp_path, "two.wav", stereo, RATE)
    assert isinstance(two, MultiCut)
    torch.testing.assert_close(
        joined(load_windows(one, tmp_path, RATE, 2, WINDOW)), torch.from_numpy(mono.T).expand(2, -1)
    )
    averaged = joined(load_windows(two, tmp_path, RATE, 1, WINDOW))
    torch.testing.assert_close(averaged, torch.from_numpy(stereo.mean(1, keepdims=True).T))


def test_channels_are_never_dropped(tmp_path: Path):
    cut = cut_of(tmp_path, "a.wav", noise(100, 6), RATE)
    for channels in (1, 2):
        with pytest.raises(ValueError, match=r"a\.wav has 6 channels; the codec takes"):
            load_windows(cut, tmp_path, RATE, channels, WINDOW)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_every_format_gives_the_length_of_its_manifest(tmp_path: Path, name: str):
    cut = cut_of(tmp_path, name, noise(RATE, 2), RATE)
    assert int(load_windows(cut, tmp_path, RATE, 2, WINDOW).num_samples.sum()) == cut.num_samples


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 11_127, 15_999, 96_000])
def test_any_rate_becomes_the_codecs(tmp_path: Path, rate: int):
    """A tone keeps its frequency, level and phase; 15,999 and 11,127 Hz share next to nothing with 16,000."""

    def tone(at: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(at) / at)[:, None].astype(np.float32)

    cut = cut_of(tmp_path, "a.wav", tone(rate), rate)
    sound = joined(load_windows(cut, tmp_path, RATE, 1, WINDOW))
    assert sound.shape == (1, RATE)
    inner = slice(800, RATE - 800)
    np.testing.assert_allclose(sound[0, inner], tone(RATE)[inner, 0], atol=2e-3)


def test_the_whole_is_resampled_and_then_cut(tmp_path: Path):
    """A window resampled by itself would differ at its edges."""
    sound = noise(5 * WINDOW, 1)
    cut = cut_of(tmp_path, "a.wav", sound, 22_050)
    whole = reference(torch.from_numpy(sound.T), 22_050, RATE)
    torch.testing.assert_close(joined(load_windows(cut, tmp_path, RATE, 1, WINDOW)), whole)


@pytest.mark.parametrize("samples", [1, 999, 12_345])
@pytest.mark.parametrize("rates", [(22_050, 16_000), (15_999, 16_000), (16_000, 15_999)])
def test_length_after_resampling(rates: tuple[int, int], samples: int):
    old, new = rates
    assert resample(torch.zeros(2, samples), old, new).shape == (2, -(-samples * new // old))


def make_chunks(root: Path, lengths: list[int], per_chunk: int) -> list[Any]:
    """Recordings of so many windows (less half a one), half in one corpus and half in another, each with its root."""
    cuts = []
    for number, count in enumerate(lengths):
        corpus = ("one", "two")[number % 2]
        sound = noise(count * WINDOW - WINDOW // 2, 1, seed=number)
        cuts.append(cut_of(root / corpus, f"{number}.wav", sound, RATE, corpus))
    return plan(cuts, per_chunk)


def dataset(root: Path, chunks: list[Any], batch_size: int) -> ChunkedWindows:
    return ChunkedWindows(chunks, {name: root / name for name in ("one", "two")}, RATE, 2, WINDOW, batch_size)


class Collect(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.batches: list[AudioBatch] = []

    def predict_step(self, batch: AudioBatch, batch_idx: int) -> None:
        self.batches.append(batch)


def predict(data: AudioDataModule) -> list[AudioBatch]:
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    module = Collect()
    trainer.predict(module, datamodule=data, return_predictions=False)
    return module.batches


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_hold_every_window_once_and_never_cross_a_chunk(tmp_path: Path, num_workers: int):
    lengths, per_chunk, batch_size = [1, 3, 1, 9, 1, 2, 4, 1], 3, 4
    chunks = make_chunks(tmp_path, lengths, per_chunk)
    batches = predict(AudioDataModule(dataset(tmp_path, chunks, batch_size), num_workers))
    for number, chunk in enumerate(chunks):
        mine = [batch for batch in batches if batch.chunk == number]
        total = sum(lengths[per_chunk * number : per_chunk * (number + 1)])
        assert [len(batch.cut_ids) for batch in mine[:-1]] == [batch_size] * (len(mine) - 1)
        assert sum(len(batch.cut_ids) for batch in mine) == total
        assert [batch.closes_chunk for batch in mine] == [False] * (len(mine) - 1) + [True]
        for cut in chunk.cuts:
            rows = [
                (window, count)
                for batch in mine
                for window, count, name in zip(batch.waveform, batch.num_samples, batch.cut_ids, strict=True)
                if name == cut.id
            ]
            source = soundfile.read(tmp_path / cut.custom["corpus"] / cut.recording.sources[0].source, dtype="float32")[
                0
            ]
            torch.testing.assert_close(
                torch.cat([window[:, :count] for window, count in rows], 1), torch.from_numpy(source).expand(2, -1)
            )
    if num_workers == 0:
        assert [batch.chunk for batch in batches] == sorted(batch.chunk for batch in batches)


class Seat:
    """A place among ranks."""

    def __init__(self, rank: int, world: int) -> None:
        self.global_rank, self.world_size = rank, world


def test_ranks_share_the_chunks_and_asking_twice_changes_nothing(tmp_path: Path):
    chunks = make_chunks(tmp_path, [1] * 7, 2)
    seen: list[str] = []
    for rank in range(2):
        data = AudioDataModule(dataset(tmp_path, chunks, 4), 0)
        data.trainer = Seat(rank, 2)  # type: ignore[assignment]
        first = [batch.cut_ids for batch in data.predict_dataloader()]
        assert [batch.cut_ids for batch in data.predict_dataloader()] == first
        seen += [name for ids in first for name in ids]
    assert sorted(seen) == sorted(cut.id for chunk in chunks for cut in chunk.cuts)


def test_nothing_pending_is_no_batch(tmp_path: Path):
    assert predict(AudioDataModule(dataset(tmp_path, [], 4), 2)) == []


def test_what_changed_since_it_was_prepared_is_refused(tmp_path: Path):
    cut = cut_of(tmp_path, "a.wav", noise(RATE, 1), RATE)
    soundfile.write(tmp_path / "a.wav", noise(RATE - RATE // 10, 1), RATE)  # lhotse's own tolerance would mend it
    with pytest.raises(ValueError, match=r"a\.wav cannot be read as the 1\.00 s that were prepared: .* corpus again$"):
        load_windows(cut, tmp_path, RATE, 1, WINDOW)
    spoiled = noise(RATE, 1)
    spoiled[77] = np.nan
    soundfile.write(tmp_path / "a.wav", spoiled, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a\.wav: NaN or infinite"):
        load_windows(cut, tmp_path, RATE, 1, WINDOW)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ValueError, match=r"a\.wav cannot be read"):
        load_windows(cut, tmp_path, RATE, 1, WINDOW)

"""Whatever a recording's rate, channels and length: its windows, joined, are the recording."""

from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from lhotse import MultiCut, Recording
from torchaudio.functional import resample as reference

from datamodules.audio import load_sound, load_windows, resample
from datamodules.waveform_batches import (
    WaveformBatch,
    WaveformDataModule,
    WaveformReader,
    Window,
    plan_batches,
)
from datamodules.windows import WindowFormat, WindowRule
from tests.datamodules.store.planned import planned_in

RATE = 16_000
WINDOW = 4_096
HOP = 256
RULE = WindowRule(WINDOW // HOP)


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
    return torch.cat(windows, 1)


@pytest.mark.parametrize("samples", [1, HOP // 2, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 3 * WINDOW + HOP // 2])
def test_windows_joined_are_the_recording(tmp_path: Path, samples: int):
    """Nothing is dropped, and nothing padded."""
    sound = noise(samples, 2)
    windows = load_windows(cut_of(tmp_path, "a.wav", sound, RATE), tmp_path, RATE, 2, RULE, HOP)
    count = -(-samples // WINDOW)
    assert [one.shape for one in windows[:-1]] == [(2, WINDOW)] * (count - 1)
    assert windows[-1].shape == (2, samples - (count - 1) * WINDOW) and windows[-1].dtype == torch.float32
    torch.testing.assert_close(joined(windows), torch.from_numpy(sound.T))


def test_a_rest_below_the_shortest_window_is_of_the_window_before(tmp_path: Path):
    rule = WindowRule(WINDOW // HOP, 3)
    for rest, lengths in ((2 * HOP, [WINDOW, WINDOW + 2 * HOP]), (2 * HOP + 1, [WINDOW, WINDOW, 2 * HOP + 1])):
        sound = noise(2 * WINDOW + rest, 2)
        cut = cut_of(tmp_path, f"{rest}.wav", sound, RATE)
        windows = load_windows(cut, tmp_path, RATE, 2, rule, HOP)
        assert [one.shape[1] for one in windows] == lengths
        torch.testing.assert_close(joined(windows), torch.from_numpy(sound.T))
        for number, one in enumerate(windows):
            (alone,) = load_windows(cut, tmp_path, RATE, 2, rule, HOP, number, 1)
            assert alone.equal(one)
        loaded = WaveformReader({"mine": tmp_path}, GRID._replace(rule=rule), 4)
        (batch,) = plan_batches([Recordings([cut])], GRID._replace(rule=rule), 4)
        counts = [group.num_samples.tolist() for group in loaded[batch].groups]
        assert counts == [[WINDOW] * (len(lengths) - 1), lengths[-1:]]


def test_mono_is_doubled_and_stereo_averaged(tmp_path: Path):
    mono, stereo = noise(WINDOW + 5, 1), noise(WINDOW + 5, 2)
    one, two = cut_of(tmp_path, "one.wav", mono, RATE), cut_of(tmp_path, "two.wav", stereo, RATE)
    assert isinstance(two, MultiCut)
    torch.testing.assert_close(
        joined(load_windows(one, tmp_path, RATE, 2, RULE, HOP)), torch.from_numpy(mono.T).expand(2, -1)
    )
    averaged = joined(load_windows(two, tmp_path, RATE, 1, RULE, HOP))
    torch.testing.assert_close(averaged, torch.from_numpy(stereo.mean(1, keepdims=True).T))


def test_channels_are_never_dropped(tmp_path: Path):
    cut = cut_of(tmp_path, "a.wav", noise(100, 8), RATE)
    for channels in (1, 2):
        with pytest.raises(ValueError, match=r"a\.wav has 8 channels; the codec takes"):
            load_windows(cut, tmp_path, RATE, channels, RULE, HOP)


def test_surround_is_mixed_down_by_the_standards_weights(tmp_path: Path):
    """ITU-R BS.775: left = L + 0.7071 C + 0.7071 Ls, likewise right; the channel of low effects is not mixed."""
    wave = noise(100, 6)
    left, right, centre, _, left_behind, right_behind = wave.T
    cut = cut_of(tmp_path, "a.wav", wave, RATE)
    (stereo,) = load_windows(cut, tmp_path, RATE, 2, RULE, HOP)
    expected = np.stack([left + 0.70710678 * (centre + left_behind), right + 0.70710678 * (centre + right_behind)])
    torch.testing.assert_close(stereo, torch.from_numpy(expected))
    (mono,) = load_windows(cut, tmp_path, RATE, 1, RULE, HOP)
    torch.testing.assert_close(mono, torch.from_numpy(expected.mean(0, keepdims=True)))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_every_format_gives_the_length_of_its_manifest(tmp_path: Path, name: str):
    cut = cut_of(tmp_path, name, noise(RATE, 2), RATE)
    assert joined(load_windows(cut, tmp_path, RATE, 2, RULE, HOP)).shape[1] == cut.num_samples


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 11_127, 15_999, 96_000])
def test_any_rate_becomes_the_codecs(tmp_path: Path, rate: int):
    """A tone keeps its frequency, level and phase; 15,999 and 11,127 Hz share next to nothing with 16,000."""

    def tone(at: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(at) / at)[:, None].astype(np.float32)

    cut = cut_of(tmp_path, "a.wav", tone(rate), rate)
    sound = joined(load_windows(cut, tmp_path, RATE, 1, RULE, HOP))
    assert sound.shape == (1, RATE)
    inner = slice(800, RATE - 800)
    np.testing.assert_allclose(sound[0, inner], tone(RATE)[inner, 0], atol=2e-3)


def test_the_whole_is_resampled_and_then_cut(tmp_path: Path):
    """A window resampled by itself would differ at its edges."""
    sound = noise(5 * WINDOW, 1)
    cut = cut_of(tmp_path, "a.wav", sound, 22_050)
    whole = reference(torch.from_numpy(sound.T), 22_050, RATE)
    torch.testing.assert_close(joined(load_windows(cut, tmp_path, RATE, 1, RULE, HOP)), whole)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_the_samples_are_those_that_lhotse_reads(tmp_path: Path, name: str):
    """Whole, and from the middle. An MPEG decoder rounds otherwise after a seek, even one to the beginning."""
    cut = cut_of(tmp_path, name, noise(RATE, 2), RATE)
    recording = cut.recording.with_path_prefix(tmp_path)
    for first, count in ((0, RATE), (3000, 5000)):
        expected = torch.from_numpy(recording.load_audio(offset=first / RATE, duration=count / RATE))
        torch.testing.assert_close(load_sound(cut, tmp_path, RATE, 2, first, count), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 999, 12_345])
@pytest.mark.parametrize("rates", [(22_050, 16_000), (15_999, 16_000), (16_000, 15_999)])
def test_length_after_resampling(rates: tuple[int, int], samples: int):
    old, new = rates
    assert resample(torch.zeros(2, samples), old, new).shape == (2, -(-samples * new // old))


class Recordings(NamedTuple):
    """A chunk, as far as batches are concerned."""

    recordings: list[Any]


def make_chunks(root: Path, lengths: list[int], per_chunk: int) -> list[Any]:
    """Recordings of so many windows (less half a one), half in one corpus and half in another, each with its root."""
    cuts = []
    for number, count in enumerate(lengths):
        corpus = ("one", "two")[number % 2]
        sound = noise(count * WINDOW - WINDOW // 2, 1, seed=number)
        cuts.append(cut_of(root / corpus, f"{number}.wav", sound, RATE, corpus))
    return list(planned_in(root / "none", cuts, per_chunk))


GRID = WindowFormat(RATE, 2, HOP, RULE, context_frames=1)


def data(root: Path, batch_size: int, num_workers: int) -> WaveformDataModule:
    loaded = WaveformReader({name: root / name for name in ("one", "two")}, GRID, batch_size)
    return WaveformDataModule(root / "none", loaded, num_workers)


class Collect(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.batches: list[WaveformBatch] = []

    def predict_step(self, batch: WaveformBatch, batch_idx: int) -> None:
        self.batches.append(batch)


def predict(data: WaveformDataModule) -> list[WaveformBatch]:
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
    batches = predict(data(tmp_path, batch_size, num_workers))
    assert [batch.chunk for batch in batches] == sorted(batch.chunk for batch in batches)
    for number, chunk in enumerate(chunks):
        of_chunk = [batch for batch in batches if batch.chunk == number]
        assert [batch.closes_chunk for batch in of_chunk] == [False] * (len(of_chunk) - 1) + [True]
        groups = [group for batch in of_chunk for group in batch.groups]
        assert max(len(group.cut_ids) for group in groups) <= batch_size
        assert {name for group in groups for name in group.cut_ids} == {cut.id for cut in chunk.recordings}
        for cut in chunk.recordings:
            rows = [
                (window, count)
                for group in groups
                for window, count, name in zip(group.waveform, group.num_samples, group.cut_ids, strict=True)
                if name == cut.id
            ]
            assert all(not window[:, count:].any() for window, count in rows)
            path = tmp_path / cut.custom["corpus"] / cut.recording.sources[0].source
            source = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
            actual = torch.cat([window[:, :count] for window, count in rows], 1)
            torch.testing.assert_close(actual, source.expand(2, -1), rtol=0, atol=0)


def test_windows_of_like_length_share_a_batch(tmp_path: Path):
    """10 s in windows of 9.98 s: a rest is not encoded as if it were a window."""
    cuts = [cut_of(tmp_path, f"{n}.wav", noise(WINDOW + (n % 3) * HOP + 1, 1, n), RATE) for n in range(9)]
    loaded = WaveformReader({"mine": tmp_path}, GRID, 3)
    planned = list(plan_batches([Recordings(cuts)], GRID, 3))
    assert [[span.partial_samples for span in batch.spans] for batch in planned] == [
        [n * HOP + 1] * 3 for n in range(3)
    ]
    for number, batch in enumerate(planned):
        whole, rests = loaded[batch].groups
        assert whole.waveform.shape == (3, 2, WINDOW)
        assert rests.waveform.shape == (3, 2, (number + 1 + GRID.context_frames) * HOP)


def test_rests_of_other_lengths_are_padded_by_half_a_second_or_an_eighth(tmp_path: Path):
    loaded = WaveformReader({"mine": tmp_path}, GRID, 64)
    lengths = torch.linspace(1, 10 * RATE, 64).long().tolist()
    groups = loaded.group_by_length([Window(torch.zeros(1, 1).expand(1, length), str(length)) for length in lengths])
    groups = [[window.waveform.shape[1] for window in group] for group in groups]
    assert [length for group in groups for length in group] == lengths  # all, and in their order
    for group in groups:
        assert group[-1] - group[0] <= max(RATE / 2, group[-1] / 8)
    assert 8 <= len(groups) <= 20
    assert sum(group[-1] * len(group) for group in groups) < 1.1 * sum(lengths)


def test_which_windows_share_a_batch_hangs_on_their_chunk_alone(tmp_path: Path):
    chunks = make_chunks(tmp_path, [3, 1, 2, 6, 1, 5, 2], 3)
    every = list(plan_batches(chunks, GRID, 4))
    for number, chunk in enumerate(chunks):
        alone = [batch.spans for batch in plan_batches([chunk], GRID, 4)]
        assert alone == [batch.spans for batch in every if batch.chunk == number]


def test_nothing_pending_is_no_batch(tmp_path: Path):
    make_chunks(tmp_path, [], 1)
    assert predict(data(tmp_path, 4, 2)) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_cannot_be_read_ends_the_run_with_its_message(tmp_path: Path, num_workers: int):
    make_chunks(tmp_path, [1] * 6, 2)
    (tmp_path / "two" / "5.wav").unlink()
    with pytest.raises(ValueError, match=r"5\.wav cannot be read as the .* that were prepared"):
        predict(data(tmp_path, 2, num_workers))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
def test_a_part_of_a_recording_is_that_part_of_the_whole(tmp_path: Path, name: str, rate: int):
    """Law of resampling by parts, and of seeking in a file: what lies around a window decides its edges."""
    cut = cut_of(tmp_path, name, noise(3 * rate + 17, 2), rate)
    whole = load_sound(cut, tmp_path, RATE, 2)
    parts = [load_windows(cut, tmp_path, RATE, 2, RULE, HOP, first, 2) for first in range(0, 12, 2)]
    actual = torch.cat([joined(part) for part in parts], 1)
    assert actual.shape == whole.shape
    torch.testing.assert_close(actual, whole, rtol=0, atol=2e-6)


def test_rates_with_little_in_common_are_read_whole(tmp_path: Path):
    cut = cut_of(tmp_path, "a.wav", noise(5 * WINDOW, 1), 15_999)
    whole = load_windows(cut, tmp_path, RATE, 1, RULE, HOP)
    part = load_windows(cut, tmp_path, RATE, 1, RULE, HOP, 3, 2)
    assert all(one.equal(other) for one, other in zip(part, whole[3:5], strict=True))
    (batch,) = plan_batches([Recordings([cut])], GRID, 2)
    assert [(span.first, span.num_windows) for span in batch.spans] == [(0, 6)]


def test_what_changed_since_it_was_prepared_is_refused(tmp_path: Path):
    cut = cut_of(tmp_path, "a.wav", noise(RATE, 1), RATE)
    soundfile.write(tmp_path / "a.wav", noise(RATE - RATE // 10, 1), RATE)  # lhotse's own tolerance would mend it
    with pytest.raises(ValueError, match=r"a\.wav cannot be read as the 1\.00 s that were prepared: .* corpus again$"):
        load_windows(cut, tmp_path, RATE, 1, RULE, HOP)
    spoiled = noise(RATE, 1)
    spoiled[77] = np.nan
    soundfile.write(tmp_path / "a.wav", spoiled, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a\.wav: NaN or infinite"):
        load_windows(cut, tmp_path, RATE, 1, RULE, HOP)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ValueError, match=r"a\.wav cannot be read"):
        load_windows(cut, tmp_path, RATE, 1, RULE, HOP)

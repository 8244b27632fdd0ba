"""Recordings of several windows through the chain: every stage and `encode` cut them alike, and the receipt says how."""

import json
from collections import Counter
from pathlib import Path

import soundfile
import torch

from datamodules.latents import latent_windows
from datamodules.store import chunks
from datamodules.windows import WindowRule
from stages.hub.sound_tokenizer import SoundTokenizer


def test_all_that_cut_sound_cut_it_alike(stage, tones: Path):
    run = tones / "runs/windows"
    for name, keys in (("latents", ["--window_seconds=0.55"]), ("tokenizer", []), ("cache", [])):
        assert stage("run", name, "--experiment=windows", *keys) == 0
    receipt = json.loads((run / "latents/receipt.json").read_text())
    rule = WindowRule.from_facts(receipt["facts"])
    assert rule == (12, 3)  # 11.84 frames

    latents = {cut.id: cut for cut in chunks.read(run / "latents/chunks")}
    lengths = {name: [window.num_frames for window in latent_windows(cut, rule)] for name, cut in latents.items()}
    counts = Counter(length for windows in lengths.values() for length in windows)
    assert receipt["metrics"]["windows"] == {str(length): counts[length] for length in sorted(counts, reverse=True)}
    assert any(len(windows) > 1 for windows in lengths.values())
    assert max(counts) > rule.frames, "no recording with a rest that its last window takes in"
    assert all(min(windows) >= rule.shortest for windows in lengths.values() if len(windows) > 1)

    tokenizer = SoundTokenizer.from_pretrained(run / "tokenizer")
    for cut in chunks.read(run / "cache/chunks"):
        path = tones / "recordings" / Path(cut.recording.sources[0].source).name
        waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert tokenizer.encode([torch.from_numpy(waveform.T)], rate) == [cut.custom["codes"]]


def test_a_run_of_the_earlier_rule_keeps_it(stage, copy_of_whole, capsys):
    """Its receipt knows no shortest window. An unfinished cache of the earlier rule is refused by name."""
    run = copy_of_whole("earlier", "latents", "tokenizer")
    for name in ("latents", "tokenizer"):
        path = run / name / "receipt.json"
        receipt = json.loads(path.read_text())
        del receipt["facts"]["shortest_window_frames"]
        path.write_text(json.dumps(receipt))
    key = run / "latents/chunks/key.json"
    key.write_text(
        json.dumps({name: value for name, value in json.loads(key.read_text()).items() if "short" not in name})
    )
    capsys.readouterr()
    assert stage("run", "cache", "--experiment=earlier") == 0
    assert json.loads((run / "cache/chunks/key.json").read_text()).keys() == {"tokenizer", "window_frames"}
    (run / "latents/receipt.json").unlink()
    assert stage("run", "latents", "--experiment=earlier") == 1
    assert "shortest_window_frames: None -> 27" in capsys.readouterr().err

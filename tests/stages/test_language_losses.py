"""The stage `tokenizer` with losses for an LLM's sake: kept features, a resume to the same bits, and an artifact like any."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from datamodules.store.manifest import Manifest
from stages.hub import caption_features, weights
from stages.hub.sound_tokenizer import SoundTokenizer
from tests.interrupt import interrupt

ON = (
    "--language_losses.semantic=0.5", "--language_losses.prediction=0.2", "--language_losses.consistency=0.3",
    "--language_losses.texts_from=random:tiny", "--language_losses.memory=8", "--language_losses.predictor.width=16",
    "--language_losses.predictor.depth=1", "--language_losses.predictor.heads=2",
)  # fmt: skip


def test_features_are_the_llms_hidden_states_of_each_text_once(copy_of_whole: Callable[..., Path], tmp_path: Path):
    manifest = Manifest(copy_of_whole("features", "latents") / "latents/chunks")
    caption_features.write(tmp_path, manifest, "random:tiny", 0.5, torch.device("cpu"))
    kept = caption_features.CaptionFeatures(tmp_path)
    assert len(kept.features) == 3 and len(kept.text_of_row) == len(manifest)  # low, high and noise
    model, tokenizer = weights.load_language_model("random:tiny", None, "float32")
    means = {}
    for row in range(len(manifest)):
        text = manifest.cut(row).supervisions[0].text
        with torch.no_grad():
            states = model(tokenizer(text, return_tensors="pt").input_ids, output_hidden_states=True).hidden_states[1]
        means[int(kept.text_of_row[row])] = states[0].mean(0)
    expected = torch.stack([means[number] for number in range(3)])
    expected -= expected.mean(0)
    assert kept.of_texts(np.arange(3)).allclose(expected, atol=1e-2 * float(expected.abs().max()))
    before = (tmp_path / "features.npy").stat().st_mtime_ns
    caption_features.write(tmp_path, manifest, "random:tiny", 0.5, torch.device("cpu"))
    assert (tmp_path / "features.npy").stat().st_mtime_ns == before


def test_a_stopped_run_goes_on_to_the_same_bits_and_the_losses_change_the_codes(
    stage: Callable[..., int], tones: Path, copy_of_whole: Callable[..., Path]
):
    copy_of_whole("friendly", "latents")
    copy_of_whole("friendly-2", "latents")
    assert stage("run", "tokenizer", "--experiment=friendly", *ON) == 0
    whole = load_file(tones / "runs/friendly/tokenizer/artifact/model.safetensors")
    ended = interrupt(tones, "tokenizer", 7, "--experiment=friendly-2", *ON, sent=signal.SIGUSR1)
    assert ended.status == 75, ended.output
    assert stage("run", "tokenizer", "--experiment=friendly-2", *ON) == 0
    again = load_file(tones / "runs/friendly-2/tokenizer/artifact/model.safetensors")
    plain = load_file(tones / "runs/whole/tokenizer/artifact/model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    assert whole.keys() == plain.keys() and any(not torch.equal(tensor, plain[name]) for name, tensor in whole.items())
    assert SoundTokenizer.from_pretrained(tones / "runs/friendly/tokenizer").num_codes(1.0) > 0

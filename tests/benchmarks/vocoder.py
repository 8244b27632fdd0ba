"""The embedded codec's voice: how near the sound is that it decodes from its own latents, before and now, and how fast.

    python -m tests.benchmarks.vocoder [--real FOLDER] [--clips 32] [--fit 300] [--head-steps 600] [--images FOLDER]

In the current folder (data/): the embedded corpus and, with --real, FOLDER/esc10 and FOLDER/fsdd as `table_one` takes them. One
codec is fitted on training recordings of all; held-out windows are encoded and decoded:

before             pseudo-inverse of the mel filters, 32 iterations of Griffin-Lim from phases of zero: as it was
pseudo-inverse     its magnitudes, less the floor, with the phases of now
now                what `MelCodec.decode` does
floor alone        the same, with no more than the floor's power taken away as silence
iterations N       the same with other numbers of Griffin-Lim's iterations
true magnitudes    of the sound itself, with the phases of now: what is lost by phases alone
head               with --head-steps: the magnitudes of now, corrected, and the phases of a small network as Vocos has it, trained
                   on the same recordings by the spectral loss of the stage `vae`, without its discriminator

A row a group: KAD (kernel audio distance x 100) of the windows, mel and multi-resolution STFT distance, and the real-time factor
in processor seconds of one thread. --images: spectrograms of two windows a group: real, before, now.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchaudio.functional as AF
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.spectrogram_image import image
from conf import compose, plain
from conf.sections.codec import LatentsConf
from datamodules.audio import load_windows
from datamodules.hashing import digest
from datamodules.reconstruction import group_of
from datamodules.windows import WindowRule
from models.codec import mel, phases
from models.codec.mel import MelCodec
from models.codec.spectral_loss import SpectralLoss
from models.metrics.kernel_distance import KernelAudioDistance
from models.metrics.reconstruction import MelDistance, MultiResolutionStftDistance
from stages.hub import weights
from stages.runs import corpora
from tests.benchmarks.chain import stage
from tests.benchmarks.table_one import REAL

GAP = 8  # pixels between two spectrograms
Decoder = Callable[[Tensor, Tensor], Tensor]  # waveform (1, 1, T) and its latents (1, F, D) -> (1, 1, F * hop_length)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=None)
    parser.add_argument("--clips", type=int, default=32, help="windows a group")
    parser.add_argument("--fit", type=int, default=300, help="training recordings, at even distances")
    parser.add_argument("--iterations", type=int, nargs="*", default=[0, 32], help="beside those of the preset")
    parser.add_argument("--decoders", nargs="+", default=None, help="rows, as before now; all by default")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--embedder", default="aisfx-0.1.2", help="of KAD")
    parser.add_argument("--head-steps", type=int, default=0, help="of 8 crops of 1.5 s; 0: no such row")
    parser.add_argument("--images", type=Path, default=None)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = _prepare(options.preset, options.real)
    conf = compose("latents", [options.preset], overrides=["data.root=data", f"data.corpora=[{','.join(names)}]"]).conf
    assert isinstance(conf, LatentsConf)
    codec = MelCodec(**plain(conf.codec.mel))
    rule = WindowRule.from_seconds(conf.window_seconds, codec.sample_rate, codec.hop_length)
    cuts, roots, _ = corpora.recordings("latents", conf.data)

    def sounds(cut: Any) -> list[Tensor]:
        """The windows of a recording, (1, 1, T) each."""
        root = roots[cut.custom["corpus"]]
        return [window[None] for window in load_windows(cut, root, codec.sample_rate, 1, rule, codec.hop_length)]

    train = [cut for cut in cuts if cut.custom["split"] == "train"]
    train = train[:: -(-len(train) // options.fit)]
    passes = ((train, codec.accumulate, codec.fit), (train[::2], codec.accumulate_detail, codec.fit_detail))
    for recordings, accumulate, fit in passes:
        for waveform in (waveform for cut in recordings for waveform in sounds(cut)):
            accumulate(waveform, torch.tensor([-(-waveform.shape[-1] // codec.hop_length)]))
        fit()

    head = None
    if options.head_steps:
        began = time.process_time()
        head = trained_head(codec, [waveform for cut in train for waveform in sounds(cut)], options.head_steps)
        print(f"head: {options.head_steps} steps, {time.process_time() - began:.0f} processor s", flush=True)

    groups: dict[str, list[Any]] = {}
    for cut in sorted(cuts, key=lambda cut: digest(cut.id)):
        if cut.custom["split"] == "test":
            groups.setdefault(group_of(cut), []).append(cut)
    embed = weights.load_embedder(options.embedder)
    print(f"| group | windows | decoder | KAD [{options.embedder}] | mel | STFT | real-time factor |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for group, members in sorted(groups.items()):
        windows = [waveform for cut in members[: options.clips] for waveform in sounds(cut)][: options.clips]
        real = torch.stack([embed(waveform[0], codec.sample_rate) for waveform in windows])
        for name, decode in _decoders(codec, options.iterations, head).items():
            if options.decoders is not None and name not in options.decoders:
                continue
            print(f"| {group} | {len(windows)} | {name} | {_score(codec, decode, windows, real, embed)} |", flush=True)
        if options.images is not None:
            _draw(codec, group, windows[:2], options.images)


def _prepare(preset: str, real: Path | None) -> list[str]:
    """Prepares what is not yet prepared; names of the corpora."""
    if not Path("data/diagnostic/receipt.json").is_file():
        stage("prepare", "diagnostic", "--preset", preset, "--data.root=data")
    for name, words in REAL.items() if real else ():
        if not Path(f"data/{name}/receipt.json").is_file():
            root = real / name
            stage(
                "prepare", "folder", str(root), "--metadata", str(root / "metadata.csv"), "--name", name, *words,
                "--data.root=data",
            )  # fmt: skip
    return ["diagnostic", *(REAL if real else ())]


class IstftHead(nn.Module):
    """Vocos (Siuzdak 2023, arXiv:2306.00814) on what a mel codec decodes, for mono.

    ConvNeXt blocks over the codec's spectrum give each frame a phase for every bin, and a factor for its magnitude.
    """

    def __init__(self, codec: MelCodec, width: int = 256, depth: int = 6) -> None:
        super().__init__()
        self.codec = [codec]  # not trained
        bins = codec.fft_size // 2 + 1
        self.inward = nn.Conv1d(bins, width, 7, padding=3)
        self.spread = nn.ModuleList(nn.Conv1d(width, width, 7, padding=3, groups=width) for _ in range(depth))
        self.mix = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
            for _ in range(depth)
        )
        self.outward = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * bins))

    def forward(self, latents: Tensor) -> Tensor:
        """latents (B, F, D) -> waveform (B, 1, F * hop_length)."""
        [codec] = self.codec
        magnitudes = codec.magnitudes(latents)
        widened = mel._widened(magnitudes)[:, 0].mT
        x = self.inward(widened.clamp(min=codec.log_floor).log())
        for spread, mix in zip(self.spread, self.mix, strict=True):
            x = x + mix(spread(x).mT).mT
        factor, angle = self.outward(x.mT).mT.chunk(2, 1)
        spectrum = torch.polar(widened * factor.clamp(max=5).exp(), angle)
        length = (spectrum.shape[-1] - 1) * codec.mel_hop
        waveform = torch.istft(spectrum, codec.fft_size, codec.mel_hop, window=codec.window, length=length)
        start = codec.mel_hop // 2
        return waveform[:, None, start : start + magnitudes.shape[2] * codec.mel_hop]


def trained_head(codec: MelCodec, windows: Sequence[Tensor], steps: int, frames: int = 32) -> IstftHead:
    """windows (1, 1, T). Steps of 8 crops of so many latent frames."""
    torch.manual_seed(0)
    head = IstftHead(codec)
    loss = SpectralLoss(codec.sample_rate, 1, [2048, 1024, 512, 256], perceptual_weighting=False)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3, betas=(0.8, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    length = frames * codec.hop_length
    for _ in range(steps):
        crops = []
        for number in torch.randint(len(windows), (8,)).tolist():
            sound = F.pad(windows[number][0], (0, max(0, length - windows[number].shape[-1])))
            begin = int(torch.randint(sound.shape[-1] - length + 1, ()))
            crops.append(sound[:, begin : begin + length])
        waveform = torch.stack(crops)
        optimizer.zero_grad()
        loss(head(codec.encode(waveform).mean), waveform).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return head.eval()


def _decoders(codec: MelCodec, iterations: Sequence[int], head: IstftHead | None = None) -> dict[str, Decoder]:
    def voice(magnitudes: Tensor, count: int = codec.griffin_lim_iterations) -> Tensor:
        """The codec's phases with another number of iterations."""
        kept, codec.griffin_lim_iterations = codec.griffin_lim_iterations, count
        waveform = codec.griffin_lim(magnitudes)
        codec.griffin_lim_iterations = kept
        return waveform

    def pseudo_inverse(latents: Tensor, floor: float) -> Tensor:
        """Magnitudes (1, 1, M, bins)."""
        spectra = (latents * codec.scale) @ codec.components + codec.mean
        bands = spectra.unflatten(-1, (-1, codec.mel_bands)).flatten(1, 2).exp()[:, None]
        return (bands @ torch.linalg.pinv(codec.filters.double()).float() - floor).clamp(min=0) * codec.window.sum() / 2

    def floor_alone(latents: Tensor) -> Tensor:
        kept, mel.SILENCE = mel.SILENCE, 1.0
        waveform = codec.decode(latents)
        mel.SILENCE = kept
        return waveform

    def with_iterations(count: int) -> Decoder:
        return lambda _, latents: voice(codec.magnitudes(latents), count)

    return {
        "before": lambda _, latents: zero_phase_griffin_lim(codec, pseudo_inverse(latents, 0)),
        "pseudo-inverse": lambda _, latents: voice(pseudo_inverse(latents, codec.log_floor)),
        "now": lambda _, latents: codec.decode(latents),
        "floor alone": lambda _, latents: floor_alone(latents),
        **{f"iterations {count}": with_iterations(count) for count in iterations},
        "true magnitudes": lambda waveform, _: voice(codec._spectrum(waveform) * codec.window.sum() / 2),
        **({"head": lambda _, latents: head(latents)} if head is not None else {}),
    }


def zero_phase_griffin_lim(codec: MelCodec, magnitudes: Tensor) -> Tensor:
    """magnitudes (1, 1, M, bins) -> (1, 1, M * mel_hop), as the codec had it."""
    padded = F.pad(magnitudes[:, 0].mT, (1, 1), mode="replicate")
    waveform = AF.griffinlim(
        padded, codec.window, codec.fft_size, codec.mel_hop, codec.fft_size, power=1.0, n_iter=32,
        momentum=phases.MOMENTUM, length=(padded.shape[-1] - 1) * codec.mel_hop, rand_init=False,
    )  # fmt: skip
    start = codec.mel_hop // 2
    return waveform[:, None, start : start + magnitudes.shape[2] * codec.mel_hop]


@torch.no_grad()
def _score(codec: MelCodec, decode: Decoder, windows: Sequence[Tensor], real: Tensor, embed: Any) -> str:
    bands, stft, kad = MelDistance(codec.sample_rate), MultiResolutionStftDistance(), KernelAudioDistance()
    kad.update(real, real=True)
    seconds = 0.0
    for waveform in windows:
        latents = codec.encode(waveform).mean
        began = time.process_time()
        decoded = decode(waveform, latents)[..., : waveform.shape[-1]]
        seconds += time.process_time() - began
        bands.update(decoded, waveform)
        stft.update(decoded, waveform)
        kad.update(embed(decoded[0], codec.sample_rate)[None], real=False)
    factor = sum(waveform.shape[-1] for waveform in windows) / codec.sample_rate / seconds
    return f"{kad.compute():.1f} | {bands.compute():.3f} | {stft.compute():.3f} | {factor:.0f}"


@torch.no_grad()
def _draw(codec: MelCodec, group: str, windows: Sequence[Tensor], folder: Path) -> None:
    decoders, pictures = _decoders(codec, []), []
    for waveform in windows:
        latents = codec.encode(waveform).mean
        sounds = [waveform, *(decoders[name](waveform, latents) for name in ("before", "now"))]
        row = [image(sound[0, 0, : waveform.shape[-1]], codec.sample_rate).convert("RGB") for sound in sounds]
        pictures.append([one.resize((one.width, 3 * one.height)) for one in row])
    width, height = (max(size) for size in zip(*(one.size for row in pictures for one in row), strict=True))
    sheet = Image.new("RGB", (3 * (width + GAP), len(pictures) * (height + GAP)), "white")
    for y, row in enumerate(pictures):
        for x, one in enumerate(row):
            sheet.paste(one, (x * (width + GAP), y * (height + GAP)))
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(path := folder / f"{group.replace('/', '-')}.png")
    print(f"image: {path}", flush=True)


if __name__ == "__main__":
    main()

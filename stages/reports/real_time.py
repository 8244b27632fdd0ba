"""Real-time factor of a tokenizer as EnCodec defines it (Defossez et al. 2022, arXiv:2210.13438): seconds of sound coded, or decoded, a second of the clock.

Above 1 is faster than the sound. It belongs to the machine it was measured on, and no test or comparison rests on it.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def measure(
    waveform: Tensor,
    sample_rate: int,
    codec: Any,
    tokenizers: Mapping[str, Any],
    sampling: Mapping[str, Mapping[str, Any]],
    steps: Mapping[str, list[int]],
    repeats: int,
) -> dict[str, Any]:
    """One window (1, C, T) at a time: the median of `repeats` after one that warms up. steps: of each decoder, function evaluations."""
    seconds, device = waveform.shape[-1] / sample_rate, waveform.device

    def factor(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats + 1):
            _wait(device)
            began = time.perf_counter()
            work()
            _wait(device)
            times.append(time.perf_counter() - began)
        return seconds / statistics.median(times[1:])

    latents = codec.encode(waveform).mean
    frames = torch.tensor([latents.shape[1]], device=device)
    rows = [
        {"part": "encode", "decoder": "VAE alone", "steps": 0, "factor": factor(lambda: codec.encode(waveform))},
        {"part": "decode", "decoder": "VAE alone", "steps": 0, "factor": factor(lambda: codec.decode(latents))},
    ]
    for name, tokenizer in tokenizers.items():

        def encode(tokenizer: Any = tokenizer) -> Any:
            return tokenizer.encode(codec.encode(waveform).mean, frames)

        codes = encode()
        rows.append({"part": "encode", "decoder": name, "steps": 0, "factor": factor(encode)})
        for count in steps[name]:

            def decode(
                tokenizer: Any = tokenizer, codes: Any = codes, how: Any = sampling[name], count: int = count
            ) -> Any:
                noise = torch.randn_like(latents)
                chosen = {**how, "num_steps": count}
                return codec.decode(tokenizer.decode(codes.codes, codes.num_codes, frames, noise=noise, **chosen))

            rows.append({"part": "decode", "decoder": name, "steps": count, "factor": factor(decode)})
    return {
        "rows": rows, "seconds": seconds, "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }  # fmt: skip


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lines(found: dict[str, Any]) -> list[str]:
    """Of Markdown."""
    return [
        f"Real-time factor (seconds of sound a second, the VAE included), measured with {machine(found)}; it belongs to that machine:", "",
        "| | decoder | evaluations | real-time factor |",
        "|---|---|---|---|",
        *(f"| {row['part']} | {row['decoder']} | {row['steps'] or ''} | {row['factor']:.1f} |" for row in found["rows"]),
        "",
    ]  # fmt: skip


def machine(found: dict[str, Any]) -> str:
    threads = found["threads"]
    cores = f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    return f"one window of {found['seconds']:.1f} s at a time in float32 on {found['device']}{cores}"

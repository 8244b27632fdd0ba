"""Training clips a second: our tokenizer against diffusers' StableAudioDiTModel (Evans et al. 2024) of as many parameters, on
as many frames, with the same flow-matching loss and optimiser, step by step in turn.

    python -m tests.benchmarks.throughput [--size demo|paper|large] [--batch 16] [--frames 215] [--steps 10] [--device cpu]
                                          [--precision 32|bf16] [--compile]

Ours trains encoder, codebook and decoder; the peer, a decoder alone, is told through cross-attention by as many token
embeddings. Prints medians (of processor time on a CPU, which other work disturbs less than the clock on the wall; set
OMP_NUM_THREADS=1 there), their ratio, and the share of our step that is spent in matrix products and attention; on a GPU
also the share of the peak that `--peak-tflops` names (MFU, by 6 x parameters x tokens and attention's own products).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import StableAudioDiTModel
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from conf import compose
from models.tokenizer import flow
from stages.hub.artifacts import build_tokenizer

FACTS = {"latent_dim": 64, "frame_rate": 44100 / 2048}
MATRIX = ("mm", "bmm", "addmm", "scaled_dot_product", "flash_attention", "gemm", "cutlass", "fmha")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="demo", help="a preset of the stage tokenizer, or paper for its base")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--frames", type=int, default=215)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak-tflops", type=float, default=None)
    parser.add_argument("--alone", action="store_true", help="without the peer")
    options = parser.parse_args()
    torch.manual_seed(0)
    presets = [] if options.size == "paper" else [options.size]
    conf = compose("tokenizer", presets, [], ["rate.bitrate=null", "rate.stride=null", "rate.token_rate=17.69"]).conf
    ours = build_tokenizer(conf, FACTS).to(options.device).train()
    latents = torch.randn(options.batch, options.frames, 64, device=options.device)
    count = sum(parameter.numel() for parameter in ours.parameters())
    tokens = ours.grid.num_tokens(options.frames)
    for _ in range(1 + conf.quantizer.reservoir_size // (options.batch * tokens)):  # until the codebook has started
        ours.quantizer(torch.randn(options.batch, tokens, ours.quantizer.dim, device=options.device), None, update=True)
    steps = {"ours": _step(_our_loss(ours, latents), ours, options)}
    if not options.alone:
        peer = _peer(count).to(options.device).train()
        steps["diffusers StableAudioDiTModel"] = _step(_peer_loss(peer, latents, tokens), peer, options)
        print(f"ours {count:,} parameters, peer {sum(p.numel() for p in peer.parameters()):,}")
    else:
        print(f"ours {count:,} parameters")
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(options.steps + 3):
        for name, step in steps.items():
            begun = clock()
            step()
            if options.device != "cpu":
                torch.cuda.synchronize()
            if turn >= 3:
                seconds[name].append(clock() - begun)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(
        f"{options.size}, batch {options.batch} x {options.frames} frames, {options.precision}, {options.device}, median of {options.steps} steps"
    )
    print("| model | seconds a step | clips a second | ratio to the peer |")
    print("|---|---|---|---|")
    for name, median in medians.items():
        ratio = medians.get("diffusers StableAudioDiTModel", float("nan")) / median
        print(f"| {name} | {median:.4f} | {options.batch / median:.2f} | {ratio:.2f} |")
    print(
        f"share of our step in matrix products and attention: {100 * _matrix_share(steps['ours'], options.device):.0f} %"
    )
    if options.device != "cpu":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        if options.peak_tflops:
            flops = _flops(ours, options.batch, options.frames, tokens)
            print(
                f"MFU {100 * flops / medians['ours'] / (options.peak_tflops * 1e12):.1f} % of {options.peak_tflops:g} TFLOP/s"
            )


def _our_loss(model: nn.Module, latents: Tensor) -> Callable[[], Tensor]:
    num_frames = torch.full((len(latents),), latents.shape[1], device=latents.device)
    generator = torch.Generator(device=latents.device).manual_seed(0)
    return lambda: model.training_loss(latents, num_frames, generator).loss


def _peer_loss(model: nn.Module, latents: Tensor, tokens: int) -> Callable[[], Tensor]:
    given = torch.randn(len(latents), tokens, model.config.cross_attention_input_dim, device=latents.device)
    whole = torch.zeros(len(latents), 1, model.config.global_states_input_dim, device=latents.device)
    mask = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
    generator = torch.Generator(device=latents.device).manual_seed(0)

    def loss() -> Tensor:
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        t = flow.stratified_times(len(latents), 0.0, generator)
        x_t, target = flow.interpolate(noise, latents, t)
        rotary = _rotary(model, latents.shape[1] + 1, latents.device)
        velocity = model(
            x_t.transpose(1, 2), t, encoder_hidden_states=given, global_hidden_states=whole, rotary_embedding=rotary
        ).sample.transpose(1, 2)
        return flow.masked_mean_square(velocity, target, mask)

    return loss


def _rotary(model: nn.Module, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    cosine, sine = get_1d_rotary_pos_embed(
        model.config.attention_head_dim // 2, length, use_real=True, repeat_interleave_real=False
    )
    return cosine.to(device), sine.to(device)


def _peer(parameters: int) -> nn.Module:
    """The deepest-to-width ratio of Stable Audio Open (24 layers, heads of 64) scaled until it has as many parameters."""
    sizes = {}
    for layers in range(2, 25):
        for heads in range(2, 25):
            if heads / 3 <= layers <= 3 * heads:
                with torch.device("meta"):
                    sizes[layers, heads] = sum(parameter.numel() for parameter in _build(layers, heads).parameters())
    return _build(*min(sizes, key=lambda shape: abs(sizes[shape] - parameters)))


def _build(layers: int, heads: int) -> nn.Module:
    head_dim = 64 if heads * 64 >= 512 else 32
    width = heads * head_dim
    return StableAudioDiTModel(
        sample_size=1024, in_channels=64, out_channels=64, num_layers=layers, attention_head_dim=head_dim,
        num_attention_heads=heads, num_key_value_attention_heads=heads, cross_attention_dim=width, time_proj_dim=256,
        global_states_input_dim=width, cross_attention_input_dim=width,
    )  # fmt: skip


def _step(loss: Callable[[], Tensor], model: nn.Module, options: argparse.Namespace) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=options.device != "cpu")
    if options.compile:
        for name in ("encoder", "decoder"):
            if hasattr(model, name):
                getattr(model, name).compile()
        if isinstance(model, StableAudioDiTModel):
            model.compile()

    def step() -> None:
        with torch.autocast(options.device.split(":")[0], torch.bfloat16, enabled=options.precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _matrix_share(step: Callable[[], None], device: str) -> float:
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=activities) as profiler:
        for _ in range(3):
            step()
    key = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    events = profiler.key_averages()
    total = sum(getattr(event, key) for event in events)
    return sum(getattr(event, key) for event in events if any(part in event.key for part in MATRIX)) / total


def _flops(model: nn.Module, batch: int, frames: int, tokens: int) -> float:
    """Of a training step: 6 a weight of a matrix and position, and attention's 12 x width x positions^2 a layer."""
    total = 0.0
    for part in (model.encoder, model.decoder):
        weights = sum(p.numel() for p in part.parameters() if p.dim() == 2)
        blocks = part.transformer
        causal = 0.5 if blocks.causal else 1.0
        total += 6 * weights * frames + 12 * causal * len(blocks.blocks) * blocks.width * frames**2
    return total * batch


if __name__ == "__main__":
    main()

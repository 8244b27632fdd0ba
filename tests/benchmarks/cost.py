"""What the paper's run would take: counted floating-point operations and bytes a step, and hours at an assumed use of the GPUs. Nothing is timed.

    python -m tests.benchmarks.cost [--gpus 8] [--peak-tflops 989] [--mfu 0.35] [--clips 2000000] [--questions 5600000]
                                    [--question-tokens 45] [--together 4]

Counted (torch's FlopCounterMode, forward and backward, on these very modules): Oobleck's encoder on a second of stereo sound at 44.1 kHz (meta
tensors); the base preset's tokenizer on one window of 215 frames; a Llama of 7B's sizes with LoRA of rank 64 on all linear layers at 512 tokens (meta
tensors), whose frozen weights get no gradient, without activation checkpointing. Assumed, and options: how much of the peak the GPUs do (MFU), the
number of clips of 10 s and of questions, tokens of a question with its answer and its template, and questions that share a sound. Kernels that are
bound by memory, validation, start-up and storage are in the MFU alone. Bytes: what a step reads, and the gradients that a rank sends and receives in a
ring, 2 (N - 1) / N of them, in float32.
"""

import argparse
from typing import NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from conf import compose
from stages.hub.artifacts import build_tokenizer

FRAME_RATE, LATENT_DIM, SECONDS = 44100 / 2048, 64, 10.0
LENGTH = 512  # tokens of the sequence that is counted: attention's share grows with it


class Row(NamedTuple):
    name: str
    unit: str
    flops: float  # of a unit
    units: float  # of the run
    units_a_step: float  # of all GPUs; 0 where there are no steps
    read: float  # bytes of a unit
    gradients: float  # bytes of all of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of one GPU: H100 SXM, dense bfloat16")
    parser.add_argument("--mfu", type=float, default=0.35)
    parser.add_argument("--clips", type=float, default=2e6)
    parser.add_argument("--questions", type=float, default=5.6e6)
    parser.add_argument("--question-tokens", type=float, default=45)
    parser.add_argument("--together", type=int, default=4)
    options = parser.parse_args()
    rows = [_vae(options), *_tokenizer(options), *_language(options)]
    speed = options.gpus * options.peak_tflops * 1e12 * options.mfu
    print(f"{options.gpus} GPUs of {options.peak_tflops:g} TFLOP/s at an assumed MFU of {options.mfu:g}")
    print("| stage | GFLOP | units | steps | GB read | MB of gradients a step and rank | hours |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        steps = f"{row.units / row.units_a_step:,.0f}" if row.units_a_step else ""
        sent = 2 * (options.gpus - 1) / options.gpus * row.gradients / 1e6
        print(
            f"| {row.name} | {row.flops / 1e9:,.1f} a {row.unit} | {row.units:.3g} | {steps} | {row.units * row.read / 1e9:,.0f} "
            f"| {sent:,.0f} | {row.units * row.flops / speed / 3600:,.1f} |"
        )


def _vae(options: argparse.Namespace) -> Row:
    from diffusers import AutoencoderOobleck

    with torch.device("meta"):
        vae = AutoencoderOobleck(
            encoder_hidden_size=128, downsampling_ratios=[2, 4, 4, 8, 8], channel_multiples=[1, 2, 4, 8, 16], decoder_channels=128,
            decoder_input_channels=64, audio_channels=2, sampling_rate=44100,
        )  # fmt: skip
        sound = torch.empty(1, 2, 2048 * 21)
    with torch.no_grad():
        flops = _count(lambda: vae.encoder(sound)) * 44100 / sound.shape[2]
    return Row("latents", "second", flops, options.clips * SECONDS, 0, 44100 * 2, 0)  # read as 16-bit mono


def _tokenizer(options: argparse.Namespace) -> list[Row]:
    conf = compose("tokenizer").conf
    facts = {"latent_dim": LATENT_DIM, "frame_rate": FRAME_RATE}
    torch.manual_seed(0)
    tokenizer = build_tokenizer(conf, facts).train()
    frames = round(SECONDS * FRAME_RATE)
    latents, lengths = torch.randn(1, frames, LATENT_DIM), torch.tensor([frames])
    training = _count(lambda: tokenizer.training_loss(latents, lengths, torch.Generator()).loss.backward())
    with torch.no_grad():
        encoding = _count(lambda: tokenizer.eval().encode(latents, lengths))
    gradients = 4.0 * sum(parameter.numel() for parameter in tokenizer.parameters() if parameter.requires_grad)
    steps, batch = conf.trainer.max_steps, conf.batch_size * options.gpus
    read = 2.0 * frames * LATENT_DIM
    return [
        Row("tokenizer", "window", training, steps * batch, batch, read, gradients),
        Row("cache", "window", encoding, options.clips, 0, read, 0),
    ]


def _language(options: argparse.Namespace) -> list[Row]:
    conf = compose("openaqa").conf
    with torch.device("meta"):
        shape = LlamaConfig(
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            vocab_size=32000 + 8198,
        )  # Vicuna 1.5 7B's, and the sounds' rows
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
        model.requires_grad_(False)
        lora = LoraConfig(r=conf.lora.rank, lora_alpha=conf.lora.alpha, target_modules="all-linear")
        model = inject_adapter_in_model(lora, model)
        ids = torch.zeros(1, LENGTH, dtype=torch.long)
        mask = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool)  # its values are not looked at
    flops = _count(lambda: model(input_ids=ids, attention_mask=mask, use_cache=False).logits.sum().backward()) / LENGTH
    gradients = 4.0 * (sum(p.numel() for p in model.parameters() if p.requires_grad) + 2 * 8198 * 4096)
    sound = 17.69 * SECONDS + 2
    batch = conf.batching.tokens_per_batch * options.gpus
    captions = options.clips * 2 * (sound + options.question_tokens)
    questions = options.questions * (sound / options.together + options.question_tokens)
    return [
        Row("caption, both ways, once", "token", flops, captions, batch, 2.0, gradients),
        Row("openaqa, once", "token", flops, questions, batch, 2.0, gradients),
    ]


def _count(call) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()

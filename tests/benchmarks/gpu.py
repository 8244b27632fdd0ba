"""What one card should settle, in at most six minutes: each part in a process, what ran is kept, one JSON.

    python -m tests.benchmarks.gpu [--out gpu.json] [--seconds 360] [--only tokenizer_step,oobleck] [--small]

Needs torch, transformers, peft and lightning of the machine, and the wheels `pip install omegaconf soundfile torchaudio
sentencepiece safetensors` (and `diffusers` for the part oobleck). No network, no weights: random ones of the true
sizes. --small: widths and lengths that a CPU does in a second each; what it prints then is no measurement.

| part | question |
|---|---|
| device | does every quantiser, decoder and the LLM's loss run on the device, near what the CPU gives |
| tokenizer_step | the base preset's step, eager and compiled by block: ms, MFU, peak memory, synchronisations |
| language_step | a random 7B: ms, MFU and peak memory at three lengths, with and without checkpointing and dropout |
| codes | share of codes that float32, TF32 and bfloat16 agree on |
| oobleck | ms to encode and to decode a clip of 10 s |
| generate | seconds for 16 sounds of 10 s: greedy, sampled, without an adapter |
| repeat | two trainings of two steps: equal to the bit |

A part that fails is written as its error, and the next goes on.
"""

import argparse
import json
import multiprocessing
import platform
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from conf import compose
from models.codec.oobleck import Oobleck
from models.language.generation import Sampling
from models.language.model import SoundLanguageModel
from models.language.vocabulary import Turn, Vocabulary
from models.tokenizer.tokenizer import LatentTokenizer
from stages.hub.artifacts import build_tokenizer
from stages.hub.weights import load_language_model

FACTS = {"latent_dim": 64, "frame_rate": 44100 / 2048}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}  # FLOP/s, dense bfloat16
QUANTIZERS = ("vq", "simvq", "fsq", "residual")
Answer = dict[str, Any]


class Bench:
    """The device, the sizes, and how a call is measured on it."""

    def __init__(self, small: bool) -> None:
        self.small = small
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.name = torch.cuda.get_device_name() if self.is_cuda else platform.processor() or "cpu"
        self.peak = next((peak for key, peak in PEAKS.items() if key in self.name), None)
        self.steps = 2 if small else 20

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def measure(self, step: Callable[[], Any], steps: int | None = None, warm: int = 3) -> Answer:
        """ms a call after warm ones, its operations, its share of the card's peak, and the most memory, GB."""
        steps = steps or self.steps
        for _ in range(1 if self.small else warm):
            step()
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        self.wait()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        self.wait()
        seconds = (time.perf_counter() - started) / steps
        answer: Answer = {"ms": 1e3 * seconds}
        if self.is_cuda:
            answer["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return answer

    def with_mfu(self, answer: Answer, flops: float) -> Answer:
        answer["tflop"] = flops / 1e12
        if self.peak:
            answer["mfu"] = flops / (answer["ms"] / 1e3) / self.peak
        return answer

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def synchronisations(self, step: Callable[[], Any]) -> list[str] | None:
        """Where a call waits for the card, as file:line; None on a CPU."""
        if not self.is_cuda:
            return None
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return [f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)]

    def tokenizer(self, *overrides: str) -> LatentTokenizer:
        narrow = ["encoder.width=64", "encoder.depth=1", "encoder.heads=2", "decoder.width=64", "decoder.depth=1"]
        sizes = [*narrow, "decoder.heads=2", "quantizer.reservoir_size=8196"]
        torch.manual_seed(0)
        conf: Any = compose("tokenizer", overrides=[*(sizes if self.small else []), *overrides]).conf
        return build_tokenizer(conf, FACTS).to(self.device)

    def latents(self, count: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents of clips of 10 s (B, 216, 64), and their valid frames."""
        count = count or (2 if self.small else 256)
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(count, 216, FACTS["latent_dim"], generator=generator)  # type: ignore[call-overload]
        return latents.to(self.device), torch.full((count,), 216, device=self.device)

    def language(self, dropout: float = 0.0, checkpointing: bool = False, rank: int = 64) -> SoundLanguageModel:
        """Vicuna 7B's shape with random weights, and the paper's adapter and codes."""
        sizes = (
            {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
            if self.small
            else {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
        )
        config = LlamaConfig(vocab_size=32000, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)  # type: ignore[arg-type]
        with self.device:
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        text = load_language_model("random:tiny", None, "float32").tokenizer
        vocabulary = Vocabulary(text, 8196, [0], "ltu", None, text_size=32000)
        built = SoundLanguageModel(
            model, vocabulary, min(rank, 4) if self.small else rank, 128, dropout, "mean", None, 0, checkpointing
        )
        return built.to(self.device)

    def conversations(self, language: SoundLanguageModel, tokens: int) -> list[torch.Tensor]:
        """Questions about sounds of 10 s, so many tokens in all: ids, mask, labels, kinds (B, S)."""
        talk = [Turn("user", [[7] * 177, "What do you hear in this recording?"]), Turn("assistant", ["A dog barks."])]
        ids, labels, kinds = language.vocabulary.render_all([talk])[0]
        rows = max(1, tokens // len(ids))
        columns = [ids, [1] * len(ids), labels, kinds]
        return [torch.tensor([column] * rows, device=self.device) for column in columns]

    def language_step(self, language: SoundLanguageModel, batch: list[torch.Tensor]) -> Callable[[], torch.Tensor]:
        weights = {"audio_weight": 10.0, "text_weight": 1.0, "prompt_weight": 0.0, "z_loss_weight": 1e-4}
        return self._step(language, lambda: language.loss(*batch, **weights).loss)

    def tokenizer_step(self, tokenizer: LatentTokenizer) -> Callable[[], torch.Tensor]:
        latents, lengths = self.latents()
        generator = torch.Generator(device=self.device).manual_seed(0)
        return self._step(tokenizer, lambda: tokenizer.training_loss(latents, lengths, generator).loss)

    def _step(self, model: torch.nn.Module, loss_of: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, 1e-4, fused=self.is_cuda)

        def step() -> torch.Tensor:
            with self.autocast():
                loss = loss_of()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        return step


def device(bench: Bench) -> Answer:
    answers: Answer = {}
    latents, lengths = bench.latents(2)
    for kind in QUANTIZERS:
        tokenizer = bench.tokenizer(f"quantizer.kind={kind}").eval()
        codes = tokenizer.encode(latents, lengths)
        noise = torch.randn(latents.shape, device=bench.device)
        sound = tokenizer.decode(*codes, lengths, 2, "euler", 2.0, noise)
        losses = tokenizer.train().training_loss(latents, lengths, torch.Generator(device=bench.device))
        losses.loss.backward()
        on_cpu = bench.tokenizer(f"quantizer.kind={kind}").eval().cpu()
        same = on_cpu.encode(latents.cpu(), lengths.cpu()).codes == codes.codes.cpu()
        answers[kind] = {
            "finite": bool(sound.isfinite().all() and losses.loss.isfinite()),
            "codes_as_on_cpu": float(same.float().mean()),
        }
    return answers


def tokenizer_step(bench: Bench) -> Answer:
    tokenizer = bench.tokenizer().train()
    step = bench.tokenizer_step(tokenizer)
    with FlopCounterMode(display=False) as counter:
        step()
    flops = float(counter.get_total_flops())
    eager = bench.with_mfu(bench.measure(step), flops)
    answer: Answer = {"eager": eager, "synchronisations": bench.synchronisations(step)}
    if bench.is_cuda:
        for block in [*tokenizer.encoder.transformer.blocks, *tokenizer.decoder.transformer.blocks]:
            block.compile()
        started = time.perf_counter()
        step()
        bench.wait()
        answer["compile_seconds"] = time.perf_counter() - started
        answer["compiled"] = bench.with_mfu(bench.measure(step), flops)
    return answer


def language_step(bench: Bench) -> Answer:
    answer: Answer = {}
    lengths = (256,) if bench.small else (4096, 6144, 8192)
    for dropout, checkpointing in ((0.0, False), (0.0, True), (0.05, False)):
        language = bench.language(dropout, checkpointing).train()
        language.cast_frozen_linears_to_bf16()
        for tokens in lengths:
            name = f"{tokens} tokens, dropout {dropout}" + (", checkpointing" if checkpointing else "")
            batch = bench.conversations(language, tokens)
            step = bench.language_step(language, batch)
            try:
                with FlopCounterMode(display=False) as counter:
                    step()
                answer[name] = bench.with_mfu(
                    bench.measure(step, 2 if bench.small else 4, 1), counter.get_total_flops()
                )
            except torch.OutOfMemoryError:
                answer[name] = "out of memory"
            del step
            language.zero_grad()
        answer["synchronisations"] = bench.synchronisations(bench.language_step(language, batch))
        del language
        torch.cuda.empty_cache()
    return answer


def codes(bench: Bench) -> Answer:
    tokenizer = bench.tokenizer().eval()
    latents, lengths = bench.latents(4 if bench.small else 64)
    exact = tokenizer.encode(latents, lengths).codes
    torch.backends.cuda.matmul.allow_tf32 = True
    tf32 = tokenizer.encode(latents, lengths).codes
    torch.backends.cuda.matmul.allow_tf32 = False
    with bench.autocast():
        rough = tokenizer.encode(latents, lengths).codes
    return {name: float((other == exact).float().mean()) for name, other in (("tf32", tf32), ("bfloat16", rough))}


def oobleck(bench: Bench) -> Answer:
    from diffusers import AutoencoderOobleck

    conf: Any = compose("vae").conf
    sizes = vars(conf.codec.oobleck) | ({"decoder_channels": 2} if bench.small else {})
    with bench.device:
        codec = Oobleck(AutoencoderOobleck(**sizes))
        sound = torch.randn(1, 2, 4410 if bench.small else 441000)
    answer: Answer = {}
    for tf32 in (False, True):
        torch.backends.cudnn.allow_tf32 = tf32
        latents = codec.encode(sound).mean
        name = "tf32" if tf32 else "float32"
        answer[f"encode, {name}"] = bench.measure(lambda: codec.encode(sound), 2 if bench.small else 5)
        answer[f"decode, {name}"] = bench.measure(
            lambda latents=latents: codec.decode(latents), 2 if bench.small else 5
        )
    return answer


def generate(bench: Bench) -> Answer:
    language = bench.language().eval()
    rows, tokens = (2, 8) if bench.small else (16, 180)
    ids = torch.full((rows, 24), 5)
    mask = torch.ones_like(ids)
    sampled = Sampling(1.0, 1.0, list(range(rows)))

    def seconds(sampling: Sampling | None) -> float:
        bench.wait()
        started = time.perf_counter()
        language.generate(ids, mask, tokens, "audio", sampling)
        bench.wait()
        return time.perf_counter() - started

    seconds(None)
    answer: Answer = {"greedy": seconds(None), "sampled": seconds(sampled)}
    for module in language.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
        elif hasattr(module, "enabled"):
            module.enabled = False
    return answer | {"sampled, without an adapter": seconds(sampled)}


def repeat(bench: Bench) -> Answer:
    losses = []
    for _ in range(2):
        step = bench.tokenizer_step(bench.tokenizer().train())
        losses.append([float(step()) for _ in range(2)])
    return {"losses": losses, "equal": losses[0] == losses[1]}


PARTS = {part.__name__: part for part in (device, tokenizer_step, language_step, codes, oobleck, generate, repeat)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--seconds", type=float, default=360.0, help="of all parts together")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; {', '.join(PARTS)} are allowed")
    end = time.monotonic() + options.seconds
    answers: Answer = {"small": options.small, "torch": torch.__version__, "parts": {}}
    for name in names:
        started = time.monotonic()
        answer = _in_process(name, options.small, end - started)
        answers["card"] = answer.pop("card", answers.get("card"))
        answers["parts"][name] = answer | {"seconds": round(time.monotonic() - started, 1)}
        options.out.write_text(json.dumps(answers, indent=1))
        print(name, json.dumps(answers["parts"][name]), flush=True)


def _in_process(name: str, small: bool, seconds: float) -> Answer:
    """A part's answer, or its error. The fork has all imports; this process itself never touches the card."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_part, args=(name, small, sending))
    process.start()
    sending.close()
    try:
        if not receiving.poll(max(seconds, 0)):
            return {"error": "no time left"}
        return receiving.recv()
    except EOFError:
        process.join()
        return {"error": f"ended with status {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _part(name: str, small: bool, sending: Any) -> None:
    warnings.filterwarnings("ignore")
    try:
        bench = Bench(small)
        sending.send({"card": bench.name, **PARTS[name](bench)})
    except Exception as error:
        sending.send({"error": f"{type(error).__name__}: {error}"[:1000], "traceback": traceback.format_exc()[-2000:]})


if __name__ == "__main__":
    main()

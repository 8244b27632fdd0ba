"""What the plan works out by arithmetic, beside what torch counts on the real modules, small and on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from conf import plain
from models.codec.discriminator import Discriminator
from stages.launch import prediction_plans
from stages.launch.codec_sizes import DiscriminatorSizes, OobleckSizes
from stages.launch.model_sizes import KNOWN, LlmSizes
from tests.stages.launch.counted_memory import (
    CASES,
    GROUPED,
    RANK,
    TOKENS,
    UNTIED,
    language,
    loss_of,
    tokenizer,
    vae_conf,
)

LLMS = [UNTIED, GROUPED]


def flops(step: Callable[[], Any]) -> float:
    """Attention as its two products, which the counter knows on a CPU."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("case", CASES)
def test_memory_is_what_is_counted(case: str):
    planned, counted = CASES[case]()
    assert planned == pytest.approx(counted, rel=0.15)


@pytest.mark.parametrize("sizes", LLMS)
def test_parameters_and_operations_of_an_llm(sizes: LlmSizes):
    model = language(sizes, 0.0, False)
    new = len(model.vocabulary.new_ids)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == sizes.lora(RANK) + sizes.new_rows(new)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == pytest.approx(sizes.parameters, rel=0.02)  # norms are not counted
    counted = flops(lambda: loss_of(model)().backward()) / TOKENS
    assert sizes.flops(RANK, TOKENS // 2, new) == pytest.approx(counted, rel=0.1)


def test_operations_of_reading_a_prompt():
    """The head is asked for its last token; the adapter's share is counted with the adapter."""
    model, length = language(UNTIED, 0.0, False).eval(), 64
    ids = torch.full((1, length), 5)
    with torch.no_grad():
        counted = flops(lambda: model.lm(input_ids=ids, logits_to_keep=1))
    planned = UNTIED.reading(length) + 2 * length * UNTIED.lora(RANK)
    assert planned == pytest.approx(counted, rel=0.1)


class _Kernels(TorchDispatchMode):
    """Counts operations that compute or copy; views start no kernel."""

    VIEWS = (
        "view",
        "_unsafe_view",
        "transpose",
        "t",
        "expand",
        "slice",
        "unsqueeze",
        "squeeze",
        "select",
        "permute",
        "alias",
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name.split("::")[1] not in self.VIEWS
        return func(*args, **(kwargs or {}))


def test_kernels_of_a_written_token():
    counts = []
    for layers in (2, 3):
        model = language(UNTIED._replace(layers=layers), 0.0, True).eval()
        ids = torch.full((2, 8), 5)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            cache = model.lm(input_ids=ids, use_cache=True).past_key_values
            with _Kernels() as kernels:
                model.lm(input_ids=ids[:, :1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        counts.append(kernels.count)
    assert counts[1] - counts[0] == pytest.approx(prediction_plans.KERNELS, rel=0.15)


@pytest.mark.parametrize(("width", "heads"), [(96, 3), (192, 4)])
def test_parameters_and_operations_of_the_tokenizer(width: int, heads: int):
    module, sizes = tokenizer(width, heads)
    assert sizes.parameters == pytest.approx(sum(p.numel() for p in module.parameters()), rel=0.01)
    latents, lengths = torch.randn(3, 216, 64), torch.full((3,), 216)

    def step() -> Tensor:
        return module.training_loss(latents, lengths, torch.Generator()).loss

    assert 3 * sizes.training(216) == pytest.approx(flops(lambda: step().backward()), rel=0.1)
    with torch.no_grad():
        counted = flops(lambda: module.encode(latents, lengths))
        assert 3 * sizes.encoding(216) == pytest.approx(counted, rel=0.1)
        codes, noise = module.encode(latents, lengths), torch.randn(3, 216, 64)
        counted = flops(lambda: module.decode(*codes, lengths, noise=noise, num_steps=2, solver="euler", guidance=1.0))
        assert 2 * 3 * sizes.decoding(216) == pytest.approx(counted, rel=0.1)


def test_parameters_and_operations_of_the_vae():
    conf = vae_conf(16, 8)
    with torch.device("meta"):
        vae = AutoencoderOobleck(**plain(conf.codec.oobleck))
        sound, latents = torch.empty(1, 2, 2048 * 21), torch.empty(1, 8, 21)
        judge = Discriminator(2, **plain(conf.discriminator))
    sizes, judging = OobleckSizes.of(conf.codec.oobleck), DiscriminatorSizes.of(conf.discriminator, 2)
    for model, planned in ((vae, sizes.parameters), (judge, judging.parameters)):
        assert planned == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.01)
    with torch.no_grad():
        for half, given, planned in ((vae.encoder, sound, sizes.encoder), (vae.decoder, latents, sizes.decoder)):
            counted = flops(lambda half=half, given=given: half(given)) / sound.shape[2]
            assert planned.flops == pytest.approx(counted, rel=0.05)
    longer = torch.randn(1, 2, 65536)
    judge = Discriminator(2, **plain(conf.discriminator))
    with torch.no_grad():
        assert judging.flops == pytest.approx(flops(lambda: judge(longer)) / longer.shape[2], rel=0.1)


def test_sizes_of_presets_are_as_published():
    """In billions of parameters, embeddings included, as their model cards say."""
    published = {
        "lmsys/vicuna-7b-v1.5": 6.74, "meta-llama/Llama-3.2-1B-Instruct": 1.24, "meta-llama/Llama-3.1-8B-Instruct": 8.03,
        "Qwen/Qwen2.5-0.5B-Instruct": 0.49, "Qwen/Qwen2.5-7B-Instruct": 7.62, "Qwen/Qwen3-0.6B": 0.60,
        "Qwen/Qwen3-8B": 8.19, "smollm2-135m-instruct": 0.135,
    }  # fmt: skip
    for source, billions in published.items():
        assert KNOWN[source].parameters / 1e9 == pytest.approx(billions, rel=0.01), source

"""Every kind of quantiser behind the one interface: the laws that hold for all, then what is each one's own."""

import copy
import math
from itertools import chain, pairwise

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from models.quantizer import (
    FSQ,
    LexicalQuantizer,
    Lexicon,
    Quantizer,
    SimVQ,
    VectorQuantizer,
    build,
    whole_words,
)
from models.quantizer.residual import pool
from models.quantizer.variational import gaussian, gumbel
from stages import assets

DIM, SIZE, LENGTH = 6, 8, 11
SETTINGS = {
    "dim": DIM, "kind": "vq", "codebook_size": SIZE, "code_dim": 4, "decay": 0.6, "commitment_weight": 0.25,
    "kmeans_iterations": 5, "reservoir_size": 20, "revive_threshold": 0.3, "revive_every": 4, "revive_until": 30,
    "seed": 3, "strides": [4, 2, 1], "levels": [4, 3, 2], "words": SIZE, "words_from": None, "variational": "none",
    "kl_weight": 0.1, "temperature": 0.3,
}  # fmt: skip
LEXICON = Lexicon([f"word{n}" for n in range(SIZE)], torch.randn(SIZE, 10, generator=torch.Generator().manual_seed(5)))
KINDS: dict[str, dict[str, object]] = {
    "vq": {},
    "gumbel": {"variational": "gumbel"},
    "gaussian": {"variational": "gaussian"},
    "simvq": {"kind": "simvq"},
    "fsq": {"kind": "fsq"},
    "residual 4 2 1": {"kind": "residual"},
    "residual 1 1": {"kind": "residual", "strides": [1, 1]},
    "residual gumbel": {"kind": "residual", "strides": [2, 2], "variational": "gumbel"},
    "lexical": {"kind": "lexical", "lexicon": LEXICON},
}
LEVELS = {"residual 4 2 1": (0, 1, 1, 2, 2, 2, 2), "residual 1 1": (0, 1), "residual gumbel": (0, 1)}
BLOCK = {"residual 4 2 1": 4, "residual gumbel": 2}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, **changes: object) -> Quantizer:
    torch.manual_seed(0)
    return build(**(SETTINGS | KINDS[kind] | changes))  # type: ignore[arg-type]


def batch(step: int) -> tuple[Tensor, Tensor]:
    """latents (4, LENGTH, DIM) in clusters, so that codes die; and a mask of padding, one clip all padding at times."""
    generator = torch.Generator().manual_seed(100 + step)
    centres = torch.randn(3, DIM, generator=torch.Generator().manual_seed(9))
    owner = torch.randint(3, (4, LENGTH), generator=generator)
    latents = centres[owner] + 0.3 * torch.randn(4, LENGTH, DIM, generator=generator)
    return latents, torch.arange(LENGTH) < torch.randint(0, LENGTH + 1, (4, 1), generator=generator)


def learn(model: Quantizer, steps: range) -> Quantizer:
    """Latents pulled to zero, so that gradients move what they move: plain gradient descent has no state."""
    for step in steps:
        latents, mask = batch(step)
        found = model(latents, mask, update=True)
        loss = found.loss + ((found.quantized - latents) * mask[..., None]).square().mean()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.05 * parameter.grad
    return model


def trained(kind: str, steps: int, **changes: object) -> Quantizer:
    return learn(make(kind, **changes), range(steps))


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def valid_codes(model: Quantizer, mask: Tensor) -> Tensor:
    """(B, S): the codes of the blocks that hold a valid token."""
    return torch.arange(model.num_codes(mask.shape[1])) < model.num_codes(mask.sum(1))[:, None]


@every_kind
def test_the_interface(kind: str):
    model = trained(kind, 12).eval()
    block, levels = BLOCK.get(kind, 1), LEVELS.get(kind, (0,))
    size = 24 if kind == "fsq" else SIZE
    assert (model.dim, model.codebook_size, model.block, model.levels) == (DIM, size, block, levels)
    assert model.ready and model.num_codebooks == len(set(levels)) == len(model.vectors)
    assert model.vectors.shape[:2] == (model.num_codebooks, size) and model.vectors.dtype == torch.float32
    latents, _ = batch(50)
    for length in (1, 2, 3, 4, 5, LENGTH):
        found = model(latents[:, :length], None, update=True)
        count = math.ceil(length / block) * len(levels)
        assert model.num_codes(length) == count == model.num_codes(torch.tensor([length])).item()
        assert found.quantized.shape == (4, length, DIM) and found.loss.shape == ()
        assert found.codes.shape == (4, count) and found.codes.dtype == torch.long
        assert found.codes.min() >= 0 and found.codes.max() < size
        assert model.decode(found.codes).shape == (4, count // len(levels) * block, DIM)
    assert model.num_codes(0) == 0 and model.decode(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, DIM)


@pytest.mark.parametrize(
    "kind, bits",
    [("vq", 3), ("simvq", 3), ("fsq", math.log2(24)), ("lexical", 3), ("residual 1 1", 6), ("residual 4 2 1", 5.25)],
)
def test_bits_a_token_by_hand(kind: str, bits: float):
    """Strides 4, 2, 1 of 8 codes: 3 / 4 + 3 / 2 + 3; and so many bits are in the codes of whole blocks."""
    model = make(kind)
    assert model.bits_per_token == pytest.approx(bits)
    assert model.num_codes(40) * math.log2(model.codebook_size) == pytest.approx(40 * bits)


@every_kind
@pytest.mark.parametrize("steps", [1, 10], ids=["filling", "following"])
def test_what_lies_in_the_padding_changes_nothing(kind: str, steps: int):
    clean, dirty = trained(kind, steps), trained(kind, steps)
    for step in range(steps, steps + 8):  # over a start and a revival
        latents, mask = batch(step)
        garbage = torch.where(mask[..., None], latents, math.nan)
        one, other = clean(latents, mask, update=True), dirty(garbage, mask, update=True)
        valid = valid_codes(clean, mask)
        assert torch.equal(one.codes[valid], other.codes[valid])
        assert torch.equal(one.quantized[mask], other.quantized[mask])
        assert torch.equal(one.loss, other.loss)
        for model, found in ((clean, one), (dirty, other)):
            model.zero_grad()
            (found.quantized[mask].square().sum() + found.loss).backward()
        for left, right in zip(clean.parameters(), dirty.parameters(), strict=True):
            assert torch.equal(left.grad, right.grad)
    assert clean.ready
    assert_equal(state(clean), state(dirty))


@every_kind
def test_a_clip_in_a_batch_has_the_codes_of_the_clip_alone(kind: str):
    model = trained(kind, 12).eval()
    latents, mask = batch(51)
    found = model(latents, mask, update=True)
    for clip, length in enumerate(mask.sum(1).tolist()):
        alone = model(latents[clip : clip + 1, :length], None, update=True)
        assert torch.equal(alone.codes[0], found.codes[clip, : model.num_codes(length)])
        torch.testing.assert_close(alone.quantized[0], found.quantized[clip, :length])


@every_kind
def test_a_prefix_of_whole_blocks_keeps_its_codes(kind: str):
    model = trained(kind, 12).eval()
    latents, _ = batch(52)
    whole = model(latents, None, update=False).codes
    for length in range(model.block, LENGTH + 1, model.block):
        codes = model(latents[:, :length], None, update=False).codes
        assert torch.equal(codes, whole[:, : model.num_codes(length)])


@every_kind
@pytest.mark.parametrize("steps", [1, 10], ids=["filling", "following"])
@pytest.mark.parametrize("way", ["eval", "update"])
def test_eval_and_update_false_change_nothing_and_draw_nothing(kind: str, steps: int, way: str):
    model = trained(kind, steps)
    model.train(way != "eval")
    before, random = state(model), torch.get_rng_state()
    first = model(*batch(50), update=way == "eval")
    for step in range(60, 66):
        model(*batch(step), update=way == "eval")
    assert_equal(before, state(model))
    assert torch.equal(first.codes, model(*batch(50), update=False).codes)
    assert torch.equal(random, torch.get_rng_state())


@every_kind
def test_decode_gives_what_forward_gave(kind: str):
    model = trained(kind, 12).eval()
    latents, mask = batch(50)
    found = model(latents, mask, update=True)
    torch.testing.assert_close(model.decode(found.codes)[:, :LENGTH][mask], found.quantized[mask])


@every_kind
def test_codes_that_are_not_in_the_book_are_refused(kind: str):
    model = make(kind)
    row = [0] * len(model.levels)
    for wrong in (model.codebook_size, -1):
        with pytest.raises(ValueError, match=f"0 to {model.codebook_size - 1} are allowed"):
            model.decode(torch.tensor([[*row[1:], wrong]]))
    if len(row) > 1:
        with pytest.raises(ValueError, match=f"a multiple of {len(row)} is allowed"):
            model.decode(torch.tensor([row[1:]]))


@every_kind
@pytest.mark.parametrize("cut", [1, 7, 12])
def test_a_resumed_run_equals_the_undisturbed_one(kind: str, cut: int):
    """The global random state differs in between, and the resumed one was built from another."""
    whole, early = trained(kind, 20), trained(kind, cut)
    torch.manual_seed(999)
    resumed = build(**(SETTINGS | KINDS[kind]))  # type: ignore[arg-type]
    torch.rand(7)
    resumed.load_state_dict(state(early))
    assert_equal(state(whole), state(learn(resumed, range(cut, 20))))


@every_kind
def test_autocast_equals_float32(kind: str):
    model = trained(kind, 12).eval()
    latents = torch.randn(32, 12, DIM, generator=torch.Generator().manual_seed(0))
    exact = model(latents, None, update=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(latents, None, update=False)
        decoded = model.decode(exact.codes)
    for one, other in zip(exact, rough, strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype
    assert torch.equal(decoded, model.decode(exact.codes))


@every_kind
def test_every_parameter_has_a_gradient_in_every_step(kind: str):
    """Distributed training waits for each: from the first step on, and for a batch of nothing but padding."""
    model = make(kind)
    for step in range(12):
        latents, mask = batch(step)
        mask &= step % 3 != 2
        found = model(latents, mask, update=True)
        model.zero_grad()
        (found.quantized.sum() + found.loss).backward()
        assert not [name for name, x in model.named_parameters() if x.grad is None or not x.grad.isfinite().all()]


@every_kind
def test_latents_have_a_gradient_and_padding_has_none(kind: str):
    model = trained(kind, 12).eval()
    latents, mask = batch(50)
    latents.requires_grad_()
    found = model(latents, mask, update=False)
    (gradient,) = torch.autograd.grad((found.quantized * torch.randn(DIM)).sum() + found.loss, latents)
    assert gradient[mask].abs().sum(-1).min() > 0
    assert not gradient[~mask].any()


# SimVQ


def eye(model: Quantizer) -> Quantizer:
    for linear in (model.project_in, model.project_out):
        linear.weight.data.copy_(torch.eye(len(linear.weight)))
        if linear.bias is not None:
            linear.bias.data.zero_()
    return model


def test_simvq_takes_the_closest_code():
    model = trained("simvq", 5)
    latents, _ = batch(50)
    wanted = torch.cdist(model.project_in(latents).double(), model.vectors[0].double()).argmin(-1)
    assert torch.equal(model(latents, None, update=True).codes, wanted)


def test_simvq_loss_and_gradients_by_hand():
    """d = 2, x = (1, 0), the closest code c = (0, 0) M = I: mean square 1 / 2, once for the matrix, once a quarter."""
    model = eye(SimVQ(2, 2, 2, 0.25, seed=0))
    model.book.copy_(torch.tensor([[0.5, 0.0], [-9.0, 0.0]]))
    latents = torch.tensor([[[1.5, 0.0], [7.0, 7.0]]], requires_grad=True)
    found = model(latents, torch.tensor([[True, False]]), update=True)
    assert found.codes[0, 0] == 0 and found.loss.item() == pytest.approx(1.25 * 1.0 / 2)
    found.loss.backward()
    assert latents.grad.tolist() == [[[0.25, 0.0], [0.0, 0.0]]]  # 0.25 x 2 (x - q) / 2
    assert model.matrix.weight.grad.tolist() == [[-0.5, 0.0], [0.0, 0.0]]  # 2 (q - x) / 2 x c


def test_simvq_moves_all_codes_and_never_its_book():
    before, model = make("simvq"), trained("simvq", 3)
    assert torch.equal(before.book, model.book) and not model.book.requires_grad
    assert (before.vectors != model.vectors).any(-1).all()


# FSQ


@pytest.mark.parametrize("levels", [[8, 5, 5, 5, 8], [2, 3], [7], [6, 4, 5]], ids=str)
def test_fsq_every_code_is_its_digits_by_hand(levels: list[int]):
    """A latent in the middle of each cell has the cell's number, and the number decodes to the digits in [-1, 1]."""
    model = eye(FSQ(len(levels), levels)).double()
    digits = []
    for code in range(math.prod(levels)):
        digits.append([])
        for size in levels:
            code, digit = divmod(code, size)
            digits[-1].append(digit - size // 2)
    numbers = torch.tensor(digits, dtype=torch.float64)
    size = torch.tensor(levels, dtype=torch.float64)
    reach, offset = (size - 1) * 1.001 / 2, torch.where(size % 2 == 0, 0.5, 0.0)
    latents = ((numbers + offset) / reach).atanh() - (offset / reach).atanh()
    codes = torch.arange(len(digits))[None]
    model.float()
    found = model(latents[None].float(), None, update=True)
    assert torch.equal(found.codes, codes) and found.loss == 0
    wanted = numbers / torch.tensor([n // 2 for n in levels])
    torch.testing.assert_close(model.decode(codes)[0], wanted.float())
    torch.testing.assert_close(found.quantized[0], wanted.float())
    assert model.vectors.unique(dim=1).shape[1] == len(digits)


def test_fsq_nothing_leaves_the_grid_and_zero_is_its_middle():
    levels = [8, 5, 2, 3, 1000]
    model = eye(FSQ(5, levels))
    far = torch.tensor([[[1e9] * 5, [-1e9] * 5, [0.0] * 5]])
    assert model(far, None, update=False).codes.tolist() == [
        [math.prod(levels) - 1, 0, 4 + 8 * 2 + 40 + 80 + 240 * 500]
    ]


def test_fsq_equals_vector_quantize_pytorch():
    theirs = pytest.importorskip("vector_quantize_pytorch").FSQ([8, 5, 5, 5, 8])
    ours = eye(FSQ(5, [8, 5, 5, 5, 8]))
    latents = 2 * torch.randn(4, 200, 5, generator=torch.Generator().manual_seed(0))
    quantized, codes = theirs(latents)
    found = ours(latents, None, update=True)
    assert torch.equal(found.codes, codes.long())
    torch.testing.assert_close(found.quantized, quantized)
    torch.testing.assert_close(ours.decode(found.codes), theirs.indices_to_codes(codes))


# Residual


def test_residual_equals_a_slow_loop():
    """Level by level, block by block, clip by clip; wholly padded places repeat their level's last code."""
    model = trained("residual 4 2 1", 12).eval()
    latents, mask = batch(50)
    mask[0], mask[1] = True, torch.arange(LENGTH) < 5
    found = model(latents, mask, update=False)
    for clip, length in enumerate(mask.sum(1).tolist()):
        rest = list(F.pad(latents[clip], (0, 0, 0, 1)))
        codes: list[list[int]] = [[], [], []]
        for level, stride in enumerate((4, 2, 1)):
            book = model.books[level]
            for start in range(0, 12, stride):
                kept = [n for n in range(start, start + stride) if n < length]
                if not kept:
                    codes[level] += codes[level][-1:]
                    continue
                mean = torch.stack([rest[n] for n in kept]).mean(0)
                code = int((F.normalize(book.project_in(mean), dim=0) @ book.codebook.T).argmax())
                codes[level].append(code)
                for n in kept:
                    rest[n] = rest[n] - book.project_out(book.codebook[code])
        if not length:
            continue
        blocks = [[codes[0][b], *codes[1][2 * b : 2 * b + 2], *codes[2][4 * b : 4 * b + 4]] for b in range(3)]
        count = model.num_codes(length)
        assert found.codes[clip, :count].tolist() == list(chain(*blocks))[:count]


def test_residual_error_falls_with_levels():
    model = make("residual 1 1", strides=[1, 1, 1], code_dim=DIM, codebook_size=16, reservoir_size=64, revive_until=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    model(torch.randn(8, 16, DIM, generator=generator), None, update=True)  # the start
    for _ in range(200):
        latents = torch.randn(8, 16, DIM, generator=generator)
        found = model(latents, None, update=True)
        optimizer.zero_grad()
        found.loss.backward()  # alone: no decoder pulls
        optimizer.step()
    model.eval()
    latents = torch.randn(8, 64, DIM, generator=generator)
    parts = model._split(model(latents, None, update=False).codes)
    errors, decoded = [1.0], torch.zeros_like(latents)
    for book, part in zip(model.books, parts, strict=True):
        decoded = decoded + book.decode(part)
        errors.append((latents - decoded).square().mean().item())
    assert all(after < 0.9 * before for before, after in pairwise(errors)), errors


def test_pool_is_the_mean_of_the_valid():
    latents = torch.tensor([1.0, 3.0, 5.0, 100.0, 7.0, 9.0])[None, :, None]
    mask = torch.tensor([[True, True, True, False, False, False]])
    means, valid = pool(latents, mask, 2)
    assert means.flatten().tolist() == [2.0, 5.0, 0.0] and valid.tolist() == [[True, True, False]]


@pytest.mark.parametrize("strides, text", [([4, 3], "3 does not divide 4"), ([1, 2], "2 does not divide 1"), ([], "")])
def test_strides_that_do_not_divide_are_refused(strides: list[int], text: str):
    with pytest.raises(ValueError, match=rf"strides \[.*{text}"):
        make("residual 1 1", strides=strides)


# Lexical


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words behind a space, one without, a number, and a piece that is another word's beginning."""
    pieces = ["<|end|>", "Ġriver", "river", "Ġcold", "Ġ42", "Ġstone", "Ġ", "."]
    core = Tokenizer(WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token="<|end|>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


def test_whole_words_by_hand():
    assert whole_words(word_tokenizer(), 10) == (["river", "cold", "stone"], [1, 3, 5])
    assert whole_words(word_tokenizer(), 2) == (["river", "cold"], [1, 3])


def check_words(tokenizer: object, words: list[str], ids: list[int]) -> None:
    """Sounds written as words, read by the LLM's tokenizer: one token each, and back."""
    model = LexicalQuantizer(DIM, 4, 0.25, Lexicon(words, torch.randn(len(words), 10)))
    codes = torch.randint(len(words), (2, 30), generator=torch.Generator().manual_seed(0))
    for row, text in zip(codes.tolist(), model.text(codes), strict=True):
        assert model.codes(text) == row
        assert tokenizer(f" {text}", add_special_tokens=False).input_ids == [ids[code] for code in row]  # type: ignore[operator]


def test_words_round_trip():
    check_words(word_tokenizer(), *whole_words(word_tokenizer(), 10))


@pytest.mark.assets
def test_words_of_smollm2_round_trip():
    placed = assets.placed(assets.parse(assets.ASSETS["smollm2-135m-instruct"]))
    if not placed.is_file():
        pytest.skip("smollm2-135m-instruct is not in the cache")
    tokenizer = assets.load_language_model("smollm2-135m-instruct", None, "float32").tokenizer
    words, ids = whole_words(tokenizer, 8192)
    assert len(words) == len(set(words)) == len(set(ids)) == 8192
    assert all(word.isalpha() for word in words)
    check_words(tokenizer, words, ids)


def test_lexical_refusals():
    model = make("lexical")
    with pytest.raises(ValueError, match="'river' is none of the 8 words"):
        model.codes("word1 river")
    for words, rows in ((["a", "b"], 3), (["a", "a"], 2), ([], 0)):
        with pytest.raises(ValueError, match="one embedding for each word"):
            LexicalQuantizer(DIM, 4, 0.25, Lexicon(words, torch.randn(rows, 10)))
    with pytest.raises(ValueError, match="needs its lexicon"):
        make("lexical", lexicon=None)


def test_the_llms_embeddings_are_frozen_and_the_matrix_learns():
    before, model = make("lexical"), trained("lexical", 3)
    assert torch.equal(model.embeddings, LEXICON.embeddings) and torch.equal(model.vectors[0], LEXICON.embeddings)
    assert not torch.equal(before.matrix.weight, model.matrix.weight)


# Variational readings of vq


def test_gumbel_divergence_is_log_k_minus_the_entropy():
    """Equal cosines: 0 nats. One near, the temperature low: the posterior is one-hot, log K, the VQ-VAE's constant."""
    codebook = torch.eye(4)
    even = gumbel(torch.full((1, 1, 4), 0.5), codebook, 0.7, None)
    assert even.divergence.item() == pytest.approx(0, abs=1e-6)
    sharp = gumbel(codebook[None, 2:3], codebook, 0.01, None)
    assert sharp.drawn.item() == 2 and sharp.divergence.item() == pytest.approx(math.log(4))


def test_gumbel_samples_its_posterior():
    vector, codebook = (
        torch.tensor([0.6, 0.8]),
        F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]), dim=-1),
    )
    drawn = gumbel(vector.expand(1, 40000, 2), codebook, 0.5, torch.Generator().manual_seed(0)).drawn
    shares = torch.bincount(drawn.flatten(), minlength=3) / 40000
    torch.testing.assert_close(shares, (vector @ codebook.T / 0.5).softmax(0), atol=0.01, rtol=0)


def test_gaussian_divergence_equals_torchs_and_its_samples_have_its_moments():
    projected = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    mu, log_variance = projected.chunk(2, -1)
    normal = torch.distributions.Normal(mu, (0.5 * log_variance).exp())
    wanted = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(gaussian(projected, None).divergence, wanted)
    assert torch.equal(gaussian(projected, None).drawn, mu)
    many = gaussian(projected.expand(20000, 2, 3, 8).flatten(0, 1), torch.Generator().manual_seed(0)).drawn
    many = many.view(20000, 2, 3, 4)
    torch.testing.assert_close(many.mean(0), normal.mean, atol=0.1, rtol=0)
    torch.testing.assert_close(many.std(0), normal.stddev, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("kind", ["gumbel", "gaussian"])
def test_learning_samples_and_evaluation_takes_the_likeliest(kind: str):
    model = trained(kind, 12)
    latents, _ = batch(50)
    likeliest = copy.deepcopy(model).eval()(latents, None, update=True).codes
    projected = model.project_in(latents)[..., :4]
    assert torch.equal(likeliest, (projected @ model.codebook.T).argmax(-1))
    steps = [copy.deepcopy(model)(latents, None, update=True).codes for _ in range(2)]
    assert torch.equal(*steps) and not torch.equal(steps[0], likeliest)  # drawn from (seed, step)
    model.step += 1
    assert not torch.equal(model(latents, None, update=True).codes, steps[0])


@pytest.mark.parametrize("kind", ["gumbel", "gaussian"])
def test_the_divergence_is_weighted_and_reaches_the_projection(kind: str):
    one, other = (trained(kind, 12, kl_weight=0.0) for _ in range(2))
    other.kl_weight = 2.0
    losses = [model(*batch(50), update=True).loss for model in (one, other)]
    assert losses[1] > losses[0]
    gradients = [
        torch.autograd.grad(loss, model.project_in.weight)[0] for loss, model in zip(losses, (one, other), strict=True)
    ]
    assert not torch.allclose(*gradients)


# VQ beside another implementation of it


def test_vq_equals_vector_quantize_pytorch_without_revival():
    """Cosine codes, running means, straight-through; masks and k-means are ours alone."""
    theirs = pytest.importorskip("vector_quantize_pytorch").VectorQuantize(
        dim=DIM, codebook_size=SIZE, use_cosine_sim=True, decay=0.6, threshold_ema_dead_code=0, rotation_trick=False,
        commitment_weight=0.25, kmeans_init=False,
    )  # fmt: skip
    ours = eye(VectorQuantizer(**{
        key: value for key, value in (SETTINGS | {"code_dim": DIM, "revive_until": 0}).items()
        if key not in ("kind", "strides", "levels", "words", "words_from")
    }))  # fmt: skip
    book = theirs._codebook
    ours.codebook.copy_(book.embed[0])
    ours.sums.copy_(book.embed_avg[0])
    ours.counts.copy_(book.cluster_size[0])
    ours.ready.fill_(True)
    for step in range(10):
        latents = F.normalize(batch(step)[0], dim=-1)
        quantized, codes, loss = theirs(latents)
        found = ours(latents, None, update=True)
        assert torch.equal(found.codes, codes)
        torch.testing.assert_close(found.quantized, quantized)
        torch.testing.assert_close(found.loss, DIM * loss.squeeze())  # theirs is the mean over D, ours the sum
        torch.testing.assert_close(ours.codebook, book.embed[0])


def test_build_refuses_what_is_not_there():
    with pytest.raises(ValueError, match="variational gumbel is of the kinds vq and residual, here simvq"):
        make("simvq", variational="gumbel")
    with pytest.raises(ValueError, match="kind 'lfq'; vq, simvq"):
        build(**(SETTINGS | {"kind": "lfq"}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature 0; above 0"):
        make("gumbel", temperature=0)
    with pytest.raises(ValueError, match="2 to 1000 values"):
        make("fsq", levels=[8, 1])

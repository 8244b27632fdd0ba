"""Each kind of quantiser by itself: by hand, against a slow loop, and against a library where that is right."""

import copy
import math
from itertools import chain, pairwise

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
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
from stages.hub import weights
from tests.models.quantizer.quantizers import (
    DIM,
    LENGTH,
    LEXICON,
    LEXICONS,
    SETTINGS,
    SIZE,
    batch,
    make,
    trained,
)  # fmt: skip

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
    expected = torch.cdist(model.project_in(latents).double(), model.vectors[0].double()).argmin(-1)
    assert torch.equal(model(latents, None, update=True).codes, expected)


def test_simvq_loss_and_gradients_by_hand():
    """d = 2, x = (1, 0), the closest code c = (0, 0) M = I: mean square 1 / 2, once for the matrix, once a quarter."""
    model = eye(SimVQ(2, 2, 2, 0.25, seed=0))
    model.book.copy_(torch.tensor([[0.5, 0.0], [-9.0, 0.0]]))
    latents = torch.tensor([[[1.5, 0.0], [7.0, 7.0]]], requires_grad=True)
    actual = model(latents, torch.tensor([[True, False]]), update=True)
    assert actual.codes[0, 0] == 0 and actual.loss.item() == pytest.approx(1.25 * 1.0 / 2)
    actual.loss.backward()
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
    actual = model(latents[None].float(), None, update=True)
    assert torch.equal(actual.codes, codes) and actual.loss == 0
    expected = numbers / torch.tensor([n // 2 for n in levels])
    torch.testing.assert_close(model.decode(codes)[0], expected.float())
    torch.testing.assert_close(actual.quantized[0], expected.float())
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
    actual = ours(latents, None, update=True)
    assert torch.equal(actual.codes, codes.long())
    torch.testing.assert_close(actual.quantized, quantized)
    torch.testing.assert_close(ours.decode(actual.codes), theirs.indices_to_codes(codes))


# Residual


def test_residual_equals_a_slow_loop():
    """Level by level, block by block, clip by clip; wholly padded places repeat their level's last code."""
    model = trained("residual 4 2 1", 12).eval()
    latents, mask = batch(50)
    mask[0], mask[1] = True, torch.arange(LENGTH) < 5
    actual = model(latents, mask, update=False)
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
        assert actual.codes[clip, :count].tolist() == list(chain(*blocks))[:count]


def test_residual_error_falls_with_levels():
    model = make("residual 1 1", strides=[1, 1, 1], code_dim=DIM, codebook_size=16, reservoir_size=64, revive_until=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    model(torch.randn(8, 16, DIM, generator=generator), None, update=True)  # the start
    for _ in range(200):
        latents = torch.randn(8, 16, DIM, generator=generator)
        actual = model(latents, None, update=True)
        optimizer.zero_grad()
        actual.loss.backward()  # alone: no decoder pulls
        optimizer.step()
    model.eval()
    latents = torch.randn(8, 64, DIM, generator=generator)
    parts = model._split(model(latents, None, update=False).codes)
    errors, decoded = [1.0], torch.zeros_like(latents)
    for book, part in zip(model.books, parts, strict=True):
        decoded = decoded + book.decode(part)
        errors.append((latents - decoded).square().mean().item())
    assert all(after < before for before, after in pairwise(errors)), errors


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
    placed = weights.cached_path(weights.parse(weights.ASSETS["smollm2-135m-instruct"]))
    if not placed.is_file():
        pytest.skip("smollm2-135m-instruct is not in the cache")
    tokenizer = weights.load_language_model("smollm2-135m-instruct", None, "float32").tokenizer
    words, ids = whole_words(tokenizer, 8192)
    assert len(words) == len(set(words)) == len(set(ids)) == 8192
    assert all(word.isalpha() for word in words)
    check_words(tokenizer, words, ids)


def test_lexical_refusals():
    model = make("lexical")
    with pytest.raises(ValueError, match="'river' is not one of the 8 words"):
        model.codes("word1 river")
    for words, rows in ((["a", "b"], 3), (["a", "a"], 2), ([], 0)):
        with pytest.raises(ValueError, match="one embedding for each word"):
            LexicalQuantizer(DIM, 4, 0.25, Lexicon(words, torch.randn(rows, 10)))
    with pytest.raises(ValueError, match="needs a lexicon"):
        make("lexical", lexicon=None)
    with pytest.raises(ValueError, match="lexical_residual needs a lexicon: 16 words"):
        make("lexical 2 1", lexicon=LEXICON)


def test_each_level_of_a_lexical_residual_has_words_of_its_own():
    model = make("lexical 2 1")
    assert model.words == LEXICONS.words
    assert torch.equal(model.vectors.flatten(0, 1), LEXICONS.embeddings)


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
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(gaussian(projected, None).divergence, expected)
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
    model.load_state_dict(model.state_dict() | {"step": model.step + 1})
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
        actual = ours(latents, None, update=True)
        assert torch.equal(actual.codes, codes)
        torch.testing.assert_close(actual.quantized, quantized)
        torch.testing.assert_close(actual.loss, DIM * loss.squeeze())  # theirs is the mean over D, ours the sum
        torch.testing.assert_close(ours.codebook, book.embed[0])


def test_build_refuses_another_kind():
    with pytest.raises(ValueError, match="variational gumbel with kind simvq; with vq and residual it is allowed"):
        make("simvq", variational="gumbel")
    with pytest.raises(ValueError, match="kind 'lfq'; vq, simvq"):
        build(**(SETTINGS | {"kind": "lfq"}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature 0; above 0"):
        make("gumbel", temperature=0)
    with pytest.raises(ValueError, match="2 to 1000 values"):
        make("fsq", levels=[8, 1])

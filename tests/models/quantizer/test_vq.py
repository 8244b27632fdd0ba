"""Vector quantiser: the book follows its vectors as a slow loop says, ranks agree, a resumed run equals the undisturbed
one, and nothing changes when nothing should.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from models.quantizer import Quantizer, ResidualQuantizer, VectorQuantizer, gather, kmeans, nearest
from models.quantizer.nearest_code import far
from tests import zygote
from tests.models.quantizer.quantizers import assert_equal, state

DIM, SIZE = 6, 8
SETTINGS = {
    "dim": DIM, "codebook_size": SIZE, "code_dim": 4, "decay": 0.6, "commitment_weight": 0.25, "kmeans_iterations": 5,
    "reservoir_size": 40, "revive_threshold": 0.3, "revive_every": 4, "revive_until": 30, "seed": 3,
    "variational": "none", "kl_weight": 0.0, "temperature": 1.0,
}  # fmt: skip


def quantizer(**changes: float) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(**(SETTINGS | changes))  # type: ignore[arg-type]


def residual(**changes: float) -> ResidualQuantizer:
    return ResidualQuantizer([quantizer(seed=level, **changes) for level in range(2)], (2, 1))


def batch(step: int, size: int = 4) -> tuple[Tensor, Tensor]:
    """latents (size, 5, DIM) in two clusters, so that codes die; and a mask of padding."""
    generator = torch.Generator().manual_seed(100 + step)
    centres = torch.randn(2, DIM, generator=torch.Generator().manual_seed(9))
    owner = torch.randint(2, (size, 5), generator=generator)
    latents = centres[owner] + 0.3 * torch.randn(size, 5, DIM, generator=generator)
    lengths = torch.randint(1, 6, (size, 1), generator=generator)
    return latents, torch.arange(5) < lengths


def trained(steps: int, **changes: float) -> VectorQuantizer:
    model = quantizer(**changes)
    for step in range(steps):
        model(*batch(step), update=True)
    return model


def test_running_means_equal_a_slow_loop():
    model = trained(6, revive_until=0)
    assert model.ready
    counts, sums, codebook = (x.double().tolist() for x in (model.counts, model.sums, model.codebook))
    for step in range(6, 12):
        latents, mask = batch(step)
        uses, totals = [0.0] * SIZE, [[0.0] * 4 for _ in range(SIZE)]
        for vector in F.normalize(model.project_in(latents), dim=-1)[mask].tolist():
            products = [sum(a * b for a, b in zip(vector, code, strict=True)) for code in codebook]
            best = products.index(max(products))
            uses[best] += 1
            totals[best] = [a + b for a, b in zip(totals[best], vector, strict=True)]
        for code in range(SIZE):
            counts[code] = 0.6 * counts[code] + 0.4 * uses[code]
            sums[code] = [0.6 * old + 0.4 * new for old, new in zip(sums[code], totals[code], strict=True)]
            if uses[code]:
                length = sum(x * x for x in sums[code]) ** 0.5
                codebook[code] = [x / length for x in sums[code]]
        model(latents, mask, update=True)
    torch.testing.assert_close(model.counts, torch.tensor(counts), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.sums, torch.tensor(sums), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.codebook, torch.tensor(codebook), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 8], ids=["filling", "following"])
def test_masked_positions_change_nothing(steps: int):
    clean, dirty = trained(steps), trained(steps)
    for step in range(steps, steps + 8):  # over a start and a revival
        latents, mask = batch(step)
        garbage = torch.where(mask[..., None], latents, 7 * batch(step + 1000)[0])
        one, other = clean(latents, mask, update=True), dirty(garbage, mask, update=True)
        assert torch.equal(one.codes[mask], other.codes[mask])
        assert torch.equal(one.quantized[mask], other.quantized[mask])
        assert torch.equal(one.loss, other.loss)
    assert clean.ready
    assert_equal(state(clean), state(dirty))


@pytest.mark.parametrize("steps", [1, 8], ids=["filling", "following"])
@pytest.mark.parametrize("way", ["eval", "update"])
def test_eval_and_update_false_change_nothing(steps: int, way: str):
    model = trained(steps)
    before = state(model)
    model.train(way != "eval")
    first = model(*batch(50), update=way == "eval")
    for step in range(60, 70):
        model(*batch(step), update=way == "eval")
    assert_equal(before, state(model))
    assert torch.equal(first.codes, model(*batch(50), update=False).codes)


@pytest.mark.parametrize("cut", [1, 7, 12])
def test_a_resumed_run_equals_the_undisturbed_one(cut: int):
    """Cut in the reservoir, before a revival, and later; the global random state differs in between."""
    whole, early = trained(20), trained(cut)
    torch.manual_seed(999)
    resumed = VectorQuantizer(**SETTINGS)  # type: ignore[arg-type]
    resumed.load_state_dict(state(early))
    for step in range(cut, 20):
        resumed(*batch(step), update=True)
    assert_equal(state(whole), state(resumed))
    assert not torch.equal(whole.codebook, trained(20, revive_until=0).codebook)  # revivals were among it


def test_before_the_start_nothing_is_quantised():
    model = quantizer(reservoir_size=1000)
    latents, mask = batch(0)
    actual = model(latents, mask, update=True)
    expected = model.project_out(F.normalize(model.project_in(latents), dim=-1))
    torch.testing.assert_close(actual.quantized[mask], expected[mask])
    assert actual.loss == 0 and not model.ready and model.filled == mask.sum()


def test_the_start_is_k_means_over_the_reservoir():
    """Two tight clusters of directions and two codes: the codes are their centres, the counts their sizes a step."""
    model = quantizer(codebook_size=2, reservoir_size=30, dim=4)
    model.project_in.weight.data.copy_(torch.eye(4))
    axes = torch.eye(4)[[0] * 4 + [1] * 6][None]
    for seed in range(3):
        spread = 1e-3 * torch.randn(axes.shape, generator=torch.Generator().manual_seed(seed))
        model(axes + spread, None, update=True)
    assert model.ready and model.filled == 30
    torch.testing.assert_close(
        model.codebook.sort(0, descending=True).values[:1, :2], torch.ones(1, 2), atol=1e-2, rtol=0
    )
    assert model.counts.sort().values.tolist() == pytest.approx([4, 6])
    torch.testing.assert_close(model.sums, model.codebook * model.counts[:, None])


def test_the_start_counts_whole_steps_where_the_last_one_does_not_fit():
    """20 vectors a step into a reservoir of 25: the second step fills it with 5, and yet the counts are a step's 20."""
    model = quantizer(reservoir_size=25)
    for step in range(2):
        model(batch(step)[0], None, update=True)
    assert model.ready and model.filled == 25
    assert model.counts.sum().item() == pytest.approx(20)


def test_k_means_leaves_no_vector_nearer_to_another_code_and_no_code_off_its_mean():
    vectors = F.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    codebook, uses = kmeans(vectors, 5, 60, torch.Generator().manual_seed(0))
    owner = (vectors @ codebook.T).argmax(-1)
    assert uses.tolist() == torch.bincount(owner, minlength=5).tolist() and uses.sum() == 200
    for code in range(5):
        torch.testing.assert_close(codebook[code], F.normalize(vectors[owner == code].sum(0), dim=0))


AXES = torch.cat([torch.eye(4), -torch.eye(4)])  # (SIZE, 4)


def around_two_axes() -> tuple[Tensor, Tensor]:
    """latents (1, 20, DIM) and their unit vectors (20, 4), ten around the first axis and ten around the fourth."""
    vectors = AXES[[0] * 10 + [3] * 10] + 0.05 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    return F.pad(vectors, (0, DIM - 4))[None], F.normalize(vectors, dim=-1)


def put_codes_on_axes(model: VectorQuantizer) -> None:
    """Codes at both ends of four axes; those of around_two_axes are in use, the other six are dead."""
    model.project_in.weight.data.copy_(torch.eye(4, DIM))
    model.codebook.copy_(AXES)
    model.counts.fill_(0.01)
    model.counts[[0, 3]] = 10.0
    model.sums.copy_(model.codebook * model.counts[:, None])


def test_revival_moves_dead_codes_onto_the_steps_vectors():
    model = trained(4)
    put_codes_on_axes(model)
    latents, vectors = around_two_axes()
    for step in range(4, 7):
        model(latents[:0], None, update=True)  # steps without a vector: averages shrink, codes stay
        assert model.step == step + 1 and torch.equal(model.codebook, AXES)
    before = state(model)
    actual = model(latents, None, update=True)  # the eighth step revives
    assert actual.codes.tolist() == [[0] * 10 + [3] * 10]
    uses = torch.tensor([10.0, 0, 0, 10, 0, 0, 0, 0])
    counts = 0.6 * before["counts"] + 0.4 * uses
    mean, dead = counts.mean(), uses == 0
    from_step = (model.codebook[:, None] == vectors).all(-1)  # (K, M)
    assert torch.equal(from_step.any(-1), dead)
    assert from_step.sum(0).max() == 1  # each vector once
    torch.testing.assert_close(model.counts, torch.where(dead, mean, counts))
    torch.testing.assert_close(model.sums[dead], model.codebook[dead] * mean)


def test_revival_takes_no_vector_that_a_code_stands_for():
    """Nine vectors of ten are one and the same, as digital silence is: k-means and revival spend one code on them."""
    silence, generator = F.normalize(torch.ones(4), dim=0), torch.Generator().manual_seed(0)
    others = F.normalize(torch.randn(30, 4, generator=generator), dim=-1)
    vectors = torch.cat([silence.expand(270, 4), others])[torch.randperm(300, generator=generator)]
    codebook, uses = kmeans(vectors, 16, 20, generator)
    assert (uses > 0).all() and ((codebook - silence).norm(dim=-1) < 0.05).sum() == 1
    chosen = far(vectors, torch.cat([silence[None], others[:20]]), 40, generator)
    assert len(chosen) == 10 and {tuple(row) for row in chosen.tolist()} == {tuple(row) for row in others[20:].tolist()}
    assert len(far(vectors, torch.cat([silence[None], others]), 5, generator)) == 0


def test_far_vectors_are_drawn_by_their_squared_distance():
    book = torch.tensor([[1.0, 0.0]])
    angles = torch.tensor([0.2, 0.4, 0.8])
    vectors = torch.stack([angles.cos(), angles.sin()], -1)
    draws = torch.cat([far(vectors, book, 1, torch.Generator().manual_seed(seed)) for seed in range(3000)])
    counts = torch.stack([(draws == vector).all(-1).sum() for vector in vectors]).double()
    squares = (vectors - book).square().sum(-1).double()
    torch.testing.assert_close(counts / 3000, squares / squares.sum(), atol=0.03, rtol=0)


def test_no_revival_from_revive_until_on():
    """Steps 4, 8, ... revive; with revive_until 8 the one at step 8 (counted from 0: 7) is the last."""
    until, always = trained(8, revive_until=8), trained(8)
    assert_equal(state(until), state(always))
    latents, vectors = around_two_axes()
    for model in (until, always):
        put_codes_on_axes(model)
        for _ in range(8, 12):
            model(latents, None, update=True)
    assert not (until.codebook[:, None] == vectors).all(-1).any()
    assert (always.codebook[:, None] == vectors).all(-1).any()


def test_decode_gives_what_forward_gave():
    model = trained(8).eval()
    latents, mask = batch(50)
    actual = model(latents, mask, update=True)
    torch.testing.assert_close(model.decode(actual.codes), actual.quantized)


@pytest.mark.parametrize("codes, text", [([[0, SIZE]], f"0 to {SIZE};"), ([[-1, 2]], "-1 to 2;")])
def test_a_code_that_is_not_in_the_book_is_refused(codes: list[list[int]], text: str):
    with pytest.raises(ValueError, match=f"codes from {text} 0 to {SIZE - 1} are allowed"):
        quantizer().decode(torch.tensor(codes))


def test_no_codes_decode_to_nothing():
    assert quantizer().decode(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, DIM)


def test_autocast_changes_no_index():
    model = trained(8).eval()
    latents = torch.randn(64, 20, DIM, generator=torch.Generator().manual_seed(0))
    exact = model(latents, None, update=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(latents, None, update=False)
        torch.testing.assert_close(model.decode(exact.codes), exact.quantized)
    assert torch.equal(rough.codes, exact.codes) and torch.equal(rough.quantized, exact.quantized)


def test_commitment_by_hand_and_the_straight_gradient():
    """Code (1, 0), vector (0, 1): the squared distance is 2. The quantised value has the unquantised one's gradient."""
    model = quantizer(dim=2, code_dim=2, codebook_size=2, reservoir_size=2).eval()
    for linear in (model.project_in, model.project_out):
        linear.weight.data.copy_(torch.eye(2))
    model.codebook.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    latents = torch.tensor([[[1e-6, 5.0], [3.0, 0.0]]], requires_grad=True)
    actual = model(latents, None, update=False)
    assert actual.codes.tolist() == [[0, 0]]
    assert actual.loss.item() == pytest.approx(0.25 * (2 + 0) / 2, rel=1e-4)
    masked = model(latents, torch.tensor([[True, False]]), update=False)
    assert masked.loss.item() == pytest.approx(0.25 * 2, rel=1e-4)
    direction = torch.tensor([[[2.0, 3.0], [5.0, 7.0]]])
    (straight,) = torch.autograd.grad((actual.quantized * direction).sum(), latents)
    (plain,) = torch.autograd.grad((F.normalize(latents, dim=-1) * direction).sum(), latents)
    torch.testing.assert_close(straight, plain)


def test_commitment_pulls_vectors_to_their_codes():
    model = trained(8).eval()
    latents = batch(50)[0].requires_grad_()
    loss = model(latents, None, update=False).loss
    (gradient,) = torch.autograd.grad(loss, latents)
    assert model(latents - 0.1 * gradient, None, update=False).loss < loss


def test_nearest_is_the_first_of_equals_and_goes_on_after_a_part():
    """2^25 products at a time: with 2^23 codes that is 4 rows."""
    book = torch.zeros(1 << 23, 1)
    book[[5, 9]], book[7] = 1.0, -1.0
    assert nearest(torch.tensor([[1.0], [-1.0], [1.0], [1.0], [-1.0], [1.0]]), book).tolist() == [5, 7, 5, 5, 7, 5]


def test_gather_alone_is_the_identity():
    vectors = torch.randn(3, 2)
    assert gather(vectors) is vectors


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"reservoir_size": 7}, "reservoir_size 7 is below codebook_size 8"),
        ({"code_dim": 1}, "code_dim 1; at least 2"),
        ({"revive_every": 0}, "set revive_until to 0"),
    ],
)
def test_refusals(changes: dict[str, int], text: str):
    with pytest.raises(ValueError, match=text):
        quantizer(**changes)


def train_rank(rank: int, kind: Callable[..., Quantizer], folder: Path) -> None:
    """Three clips of each batch are rank 0's, the fourth is rank 1's; no vector of it is valid in batch 9."""
    torch.set_num_threads(1)
    model = kind()
    dist.init_process_group("gloo", f"file://{folder}/meet", timedelta(seconds=60), world_size=2, rank=rank)
    for step in range(22):
        latents, mask = batch(step)
        model(*((latents[:3], mask[:3]) if rank == 0 else (latents[3:], mask[3:] & (step != 9))), update=True)
    torch.save(model.state_dict(), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", [quantizer, residual], ids=["vq", "residual"])
def test_two_ranks_equal_one_process(kind: Callable[..., Quantizer], tmp_path: Path):
    """Batches of three clips and one, once of no valid vector; over the start, running means and revivals."""
    ranks = [zygote.start(None, tmp_path, partial(train_rank, rank, kind, tmp_path)) for rank in range(2)]
    alone, unrevived = kind(), kind(revive_until=0)
    for step in range(22):
        latents, mask = batch(step)
        mask[3:] &= step != 9
        alone(latents, mask, update=True)
        unrevived(latents, mask, update=True)
    for ended in [rank.wait() for rank in ranks]:
        assert ended.status == 0, ended.output
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert alone.started
    for revived, other in zip(alone.vectors, unrevived.vectors, strict=True):
        assert not torch.equal(revived, other)
    assert_equal(first, second)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(
            first[name], value, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )

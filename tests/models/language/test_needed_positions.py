import torch
from torch import Tensor

from datamodules.language.packing import Encoded, collate, pack
from models.language.model import SoundLanguageModel
from models.language.needed_positions import needed_positions
from models.language.vocabulary import Turn
from tests.models.language.small_model import WEIGHTS, batch, build


def plain(predicting: Tensor, branches: Tensor) -> list[list[int]]:
    """Column by column: what predicts, and what stands before it in its branch or in branch 0."""
    rows = []
    for labels, row in zip(predicting.tolist(), branches.tolist(), strict=True):
        asked = [column for column, label in enumerate(labels) if label]
        needed = {0} | {
            column
            for column in range(len(row))
            if any(column <= later and row[column] in (0, row[later]) for later in asked)
        }
        rows.append(sorted(needed))
    return rows


def test_what_is_kept_is_what_the_predictions_depend_on():
    """The definition, by hand and at random; nothing is needed of a row without a label but its first position."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 3], [0, 0, 0, 0, 1, 1, 2, 0], [0] * 8])
    for _ in range(50):
        predicting = torch.rand(3, 8, generator=generator) < 0.25
        predicting[1, 7] = False  # padding, which is of branch 0, predicts nothing
        columns, valid = needed_positions(predicting, shapes)
        kept = [row[mask].tolist() for row, mask in zip(columns, valid, strict=True)]
        wanted = plain(predicting, shapes)
        assert kept == wanted and columns.shape[1] == max(map(len, wanted))
    columns, valid = needed_positions(torch.tensor([[False, True, False], [False, False, False]]), None)
    assert columns.tolist()[0] == [0, 1] and valid.tolist() == [[True, True], [True, False]]


def test_no_position_behind_the_last_label_goes_through_the_layers():
    """A packed sequence loses the end of turn of each conversation, and what a template writes behind it."""
    model = build("random:tiny")
    vocabulary, seen = model.vocabulary, []
    model.lm.base_model.register_forward_pre_hook(
        lambda module, arguments, named: seen.append(named["input_ids"]), with_kwargs=True
    )
    turns = [[Turn("user", [[0, 4], f"\n{text}"]), Turn("assistant", ["no"])] for text in ("Is it?", "Was it?")]
    packed = pack([Encoded(*vocabulary.render(turn)) for turn in turns])
    data = collate([("one", packed)], vocabulary.pad_id)
    model.loss(*data[1:7], **WEIGHTS)
    (ids,) = seen
    labelled = [number for number, label in enumerate(packed.labels) if label != -100]
    assert ids.shape[1] < len(packed.input_ids)
    behind = sum(
        branch in (1, 2) and not any(later >= number and packed.branches[later] == branch for later in ahead)
        for ahead in [[label - 1 for label in labelled]]
        for number, branch in enumerate(packed.branches)
    )
    assert ids.shape[1] == len(packed.input_ids) - behind


def test_labels_at_the_beginning_alone_have_the_loss_and_gradients_of_the_beginning():
    """What stands behind the last label may be anything, and has no gradient."""
    model = build("random:tiny").double()
    ids, mask, labels, kinds = batch(model)
    half = ids.shape[1] // 2
    cut = labels.clone()
    cut[:, half:] = -100

    def actual(model: SoundLanguageModel, *data: Tensor) -> list[Tensor]:
        model.zero_grad()
        loss = model.loss(*data, **WEIGHTS).loss
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)]

    other = torch.cat([ids[:, :half], ids[:, half:].flip(1)], 1)
    whole, changed = actual(model, ids, mask, cut, kinds), actual(model, other, mask, cut, kinds)
    short = actual(model, *(tensor[:, :half] for tensor in (ids, mask, labels, kinds)))
    for one, two, three in zip(whole, changed, short, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one, three, rtol=1e-9, atol=1e-12)

"""What a trained run answers by hand, to compare the command with."""

from pathlib import Path

import pytest
import torch

from datamodules.store import chunks
from models.language.generation import Sampling, audio_contrast, generate, pad_left
from models.language.vocabulary import Turn
from stages.hub import find_model, trained_model

QUESTION = "Is it noise?"
TAUGHT = ("--trainer.max_steps=80", "--optimizer.learning_rate=0.02")


def load_model(runs: str, folder: str | None = None) -> trained_model.TrainedModel:
    """The model of the experiment `main` of `runs`, or of a folder."""
    language = find_model.find(runs, "main", None, folder).language
    assert language is not None
    return trained_model.load(language, torch.device("cpu"))


def codes_of(run: Path, clip: Path) -> list[int]:
    """What the stage `cache` made of it."""
    cuts = chunks.read(run / "cache/chunks")
    return next(list(cut.custom["codes"]) for cut in cuts if cut.recording.sources[0].source.endswith(clip.name))


def answer(
    model: trained_model.TrainedModel,
    turns: list[Turn],
    most: int = 64,
    sampling: Sampling | None = None,
    strength: float = 0.0,
) -> str:
    ids, mask = pad_left([model.vocabulary.render(turns, generate=True).input_ids], model.vocabulary.pad_id)
    guidance = audio_contrast(model.vocabulary, [turns], strength)
    return model.vocabulary.decode(generate(model.lm, model.vocabulary, ids, mask, most, "text", sampling, guidance)[0])


def output(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip()

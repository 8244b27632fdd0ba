"""What the verbs on a trained model share: ask, generate, encode, decode, export. No torch until the model is found.

Each finds it by --experiment, by --model (an export or a run folder), or takes the only experiment that is trained.
"""

import argparse
import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import conf
from conf.errors import UsageError
from conf.schema import keys
from stages.hub import find_model

if TYPE_CHECKING:
    import torch

    from stages.hub.sound_tokenizer import SoundTokenizer
    from stages.hub.trained_model import TrainedModel

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")  # of sound files that are written


def reads_model() -> argparse.ArgumentParser:
    """Options that name the model, as a parent of a verb's parser."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--experiment", metavar="NAME", help="of a finished language stage")
    options.add_argument(
        "--model",
        type=os.path.expanduser,
        metavar="DIR",
        help="a folder of `stage export`, a run folder as runs/demo/openaqa, or the hub id of an export",
    )
    options.add_argument(
        "--checkpoint", metavar="STEP", help="of a training that may not be finished: its step, or last"
    )
    options.add_argument("--after", metavar="STAGE", help="the stage whose LLM it is, as preference; the best one")
    options.add_argument("--runs", type=os.path.expanduser, metavar="DIR", help="where the experiments lie")
    return options


def computes() -> argparse.ArgumentParser:
    """Those of `reads_model`, and the device."""
    options = argparse.ArgumentParser(add_help=False, parents=[reads_model()])
    options.add_argument("--device", help="as cuda:1, or cpu; the first GPU where there is one")
    return options


def writes_sound() -> argparse.ArgumentParser:
    """Those of `computes`, and what is written."""
    options = argparse.ArgumentParser(add_help=False, parents=[computes()])
    options.add_argument(
        "--out", type=os.path.expanduser, required=True, metavar="FILE", help=f"one of {', '.join(SUFFIXES)}"
    )
    options.add_argument("--spectrogram", action="store_true", help="a PNG beside each sound")
    options.add_argument("--force", action="store_true", help="replace existing files")
    return options


def add_keys(verb: argparse.ArgumentParser, unit: str) -> None:
    """An option for each key of a unit of conf/, where its value, type and help stand."""
    for key, field in keys(unit).items():
        spellings = dict.fromkeys((f"--{key.replace('_', '-')}", f"--{key}"))
        text = f"{field.metadata['help']} (`stage show {unit}`)"
        verb.add_argument(*spellings, dest=key, metavar="VALUE", help=text)


def settings(unit: str, arguments: argparse.Namespace) -> Any:
    """The unit's dataclass, with what was typed."""
    typed = {key: getattr(arguments, key) for key in keys(unit)}
    return conf.compose(unit, overrides=[f"{key}={value}" for key, value in typed.items() if value is not None]).conf


def find(arguments: argparse.Namespace, language: bool = True, writes: bool = False) -> find_model.ModelFolders:
    base = conf.compose("caption").conf
    runs = arguments.runs or base.runs
    model = arguments.model
    if arguments.checkpoint is None:
        return find_model.find(runs, base.experiment, arguments.experiment, model, language, writes, arguments.after)
    folder = find_model.find_training(
        runs, base.experiment, arguments.experiment, model, language, writes, arguments.after
    )
    from stages.engine.checkpoint_run import run_at  # seconds to import

    quiet()
    model = str(run_at(folder, arguments.checkpoint))
    return find_model.find(runs, base.experiment, None, model, language, writes)


def find_run(arguments: argparse.Namespace, stage: str) -> Path:
    """The folder of a finished run of a stage, by --experiment."""
    base = conf.compose("caption").conf
    return find_model.find_run(arguments.runs or base.runs, base.experiment, arguments.experiment, stage)


class LoadedModel(NamedTuple):
    """A sound tokenizer on its device, and where the LLM is that was trained with it."""

    folders: find_model.ModelFolders
    tokenizer: "SoundTokenizer"
    device: "torch.device"

    def language(self) -> "TrainedModel":
        assert self.folders.language is not None
        return self._load(self.folders.language)

    def ear(self) -> "TrainedModel | None":
        """The LLM that hears, where it is another than the one that writes."""
        return None if self.folders.ear is None else self._load(self.folders.ear)

    def _load(self, folder: Path) -> "TrainedModel":
        from stages.hub import trained_model

        quiet()
        return trained_model.load(folder, self.device)


def load(arguments: argparse.Namespace, language: bool = True, writes: bool = False) -> LoadedModel:
    folders = find(arguments, language, writes)
    # before the long imports, which these two make cheaper
    gc.set_threshold(100_000, 50, 100)  # else the collector takes a fifth of the import of transformers
    # idle threads sleep: on a busy machine they else spin for three times as long as they compute; read when torch is
    # imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from stages.hub.trained_model import choose_device

    device = choose_device(arguments.device)
    from stages.hub.sound_tokenizer import SoundTokenizer

    return LoadedModel(folders, SoundTokenizer.from_pretrained(folders.tokenizer).to(device), device)


def quiet() -> None:
    """transformers' bars and hints, which do not concern who asks."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def sound_targets(arguments: argparse.Namespace, n: int) -> list[Path]:
    """The sound files to write. Raises UsageError for one that cannot be, before anything long is begun."""
    out = Path(arguments.out)
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out}: a sound file ends with {', '.join(SUFFIXES)}")
    targets = [out] if n == 1 else [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(1, n + 1)]
    pictures = [path.with_suffix(".png") for path in targets] if arguments.spectrogram else []
    check_free([*targets, *pictures], arguments.force)
    return targets


def check_free(paths: Sequence[Path], force: bool) -> None:
    for path in paths:
        if not path.absolute().parent.is_dir():
            raise UsageError(f"--out {path}: no folder {path.parent}")
        if path.exists() and not force:
            raise UsageError(f"{path} exists; --force replaces it")


def write_sound(
    target: Path, tokenizer: "SoundTokenizer", codes: list[int], num_samples: int, seed: int, picture: bool
) -> None:
    """picture: a PNG beside it."""
    from stages.hub import sound_files

    pieces = tokenizer.decode_stream(codes, num_samples, seed=seed)
    written = sound_files.write(target, pieces, tokenizer.sample_rate)
    print(f"{target}: {written.seconds:.2f} s, {len(codes)} codes{written.note}")
    if picture:
        sound = sound_files.read(target, tokenizer.sample_rate, tokenizer.channels)
        sound_files.write_spectrogram(target.with_suffix(".png"), sound, tokenizer.sample_rate)

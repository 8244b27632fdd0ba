"""Killed, stopped or out of time anywhere, and started again with the same command, a stage ends with the bytes of a run that was not interrupted."""

import re
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors import safe_open

from callbacks.stop import INTERRUPTED, STOPPED
from datamodules.store import chunks
from stages import STAGES
from stages.runs import receipts
from tests.interrupt import TWO_RANKS, interrupt

TRAIN = (
    "vae",
    "tokenizer",
    "tokenizer_mse",
    "decoder_finetuning",
    "caption",
    "openaqa",
    "text_to_sound",
    "preference",
)  # 12 steps, a checkpoint every 4
CHUNKS = ("latents", "cache")
ROWS = ("reconstruct", "rehearsal", "fewshot", "generation", "evaluate")
LIMIT = 0  # limits.seconds, in place of a signal
STATUS = {
    signal.SIGKILL: -9,
    signal.SIGUSR1: STOPPED,
    signal.SIGTERM: STOPPED,
    signal.SIGINT: INTERRUPTED,
    LIMIT: STOPPED,
}
WORDS = {
    "text_to_sound": ("--loss.contrast.weight=1",),  # against weights that no checkpoint holds
    "reconstruct": ("--batch_size=2",),
    "fewshot": ("--llm=caption", "--parents.caption=whole", "--splits=[train,validation,test]", "--episodes=6"),
    "evaluate": ("--audio_contrast=0.5",),
}  # fmt: skip


class Case(NamedTuple):
    stage: str
    how: int  # a signal, or LIMIT
    after: int  # batches
    workers: int = 0  # data.num_workers
    ranks: int = 1
    rank: int = 0  # the one that the signal reaches

    def __str__(self) -> str:
        how = signal.Signals(self.how).name if self.how else "limit"
        return f"{self.stage}-{how}-after{self.after}-workers{self.workers}-rank{self.rank}of{self.ranks}"


# Each stage, each way, each number of workers and each rank at least once. The batches are no multiples of checkpoints.every_n_steps where a checkpoint is
# written for the signal, and within and behind an epoch of 6 or 7 batches; a VAE's discriminator begins after 4.
COVERING = (
    Case("vae", signal.SIGKILL, 6),
    Case("vae", signal.SIGTERM, 9),
    Case("latents", signal.SIGKILL, 2),
    Case("latents", LIMIT, 1, workers=1),
    Case("tokenizer", signal.SIGUSR1, 5),
    Case("tokenizer", signal.SIGTERM, 7, workers=2),
    Case("tokenizer", LIMIT, 3),
    Case("tokenizer", signal.SIGUSR1, 6, ranks=2, rank=1),
    Case("tokenizer_mse", signal.SIGKILL, 10),
    Case("decoder_finetuning", signal.SIGKILL, 6),
    Case("cache", signal.SIGKILL, 2),
    Case("cache", signal.SIGUSR1, 1),
    Case("cache", signal.SIGTERM, 1, ranks=2, rank=1),
    Case("caption", signal.SIGUSR1, 3, workers=2),
    Case("caption", signal.SIGKILL, 6),
    Case("openaqa", signal.SIGINT, 4, workers=2),
    Case("openaqa", signal.SIGTERM, 10),
    Case("text_to_sound", signal.SIGKILL, 7),
    Case("preference", signal.SIGKILL, 9, workers=1),
    Case("reconstruct", signal.SIGTERM, 1),
    Case("rehearsal", signal.SIGKILL, 2),
    Case("fewshot", signal.SIGKILL, 5),
    Case("generation", signal.SIGINT, 1),
    Case("evaluate", signal.SIGKILL, 2),
    Case("evaluate", signal.SIGTERM, 1, ranks=2),
)
ALL = (
    *(Case(stage, how, 7, workers) for stage, how, workers in product(TRAIN, STATUS, (0, 2))),
    *(Case(stage, how, 6, 0, 2, rank) for stage, how, rank in product(TRAIN, (signal.SIGUSR1, signal.SIGTERM), (0, 1))),
    *(Case(stage, how, 1) for stage, how in product((*CHUNKS, *ROWS), STATUS)),
    *(Case(stage, how, 1, 0, 2, rank) for stage, how, rank in product((*CHUNKS, *ROWS), (signal.SIGTERM,), (0, 1))),
)
CASES = [*COVERING, *(pytest.param(case, marks=pytest.mark.matrix) for case in ALL if case not in COVERING)]


def command(case: Case, experiment: str) -> list[str]:
    parents = [f"--parents.{name}=whole" for name in STAGES[case.stage].parents]
    ranks = TWO_RANKS if case.ranks == 2 else ()
    return [
        f"--experiment={experiment}",
        f"--data.num_workers={case.workers}",
        *parents,
        *WORDS.get(case.stage, ()),
        *ranks,
    ]


def content(folder: Path) -> dict[str, Any]:
    """What a stage has made, in a form that can be compared; names of experiments left out."""
    artifact = folder / "artifact"
    if (folder / "chunks").is_dir():
        cuts = chunks.read(folder / "chunks")
        return {"cuts": [(cut.id, list(cut.custom.get("codes") or chunks.load_array(cut).tobytes())) for cut in cuts]}
    weights = {}
    for path in artifact.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            weights |= {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    receipt = receipts.read(folder)
    assert receipt is not None
    distances = {name: value for name, value in receipt["metrics"].items() if name.endswith("_distance")}
    experiment = folder.parent.name
    texts = {
        path.name: path.read_text().replace(experiment, "EXPERIMENT")
        for path in (*artifact.glob("*.json*"), *artifact.glob("*.md"))
    }
    return weights | {"steps": receipt["steps"], **distances} if weights else texts


@pytest.fixture(scope="session")
def undisturbed(tones: Path, whole: Path) -> Callable[[Case], dict[str, Any]]:
    """The content of a run that was not interrupted, made once."""
    made: dict[tuple[str, int], dict[str, Any]] = {}

    def run(case: Case) -> dict[str, Any]:
        key = (case.stage, case.ranks)
        if key not in made:
            folder = whole / case.stage
            if case.ranks > 1 or case.stage in ("vae", "decoder_finetuning", "text_to_sound", "preference", *ROWS):
                experiment = (
                    f"undisturbed-{case.stage}-{case.ranks}"  # alone in it: `evaluate` shows what lies beside it
                )
                ended = interrupt(tones, case.stage, 0, *command(case._replace(workers=0), experiment))
                assert ended.status == 0, ended.output
                folder = whole.with_name(experiment) / case.stage
            made[key] = content(folder)
        return made[key]

    return run


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_was_interrupted_goes_on_to_the_same_bytes(
    case: Case, tones: Path, undisturbed: Callable[[Case], dict[str, Any]]
):
    words, run = command(case, str(case)), tones / "runs" / str(case) / case.stage
    limit = () if case.how else ("--limits.seconds=1.5",)
    ended = interrupt(tones, case.stage, case.after, *words, *limit, sent=case.how, rank=case.rank)
    assert ended.status == STATUS[case.how], ended.output
    assert not (run / "receipt.json").exists()
    stopped = re.findall(rf"^{case.stage} +stopped at (.+) by (.+); the same command goes on$", ended.output, re.M)
    if case.how == signal.SIGKILL:
        assert not stopped
        assert case.stage not in TRAIN or list((run / "checkpoints").glob("step-*.ckpt")), "before its first checkpoint"
    else:
        ((where, why),) = stopped  # once, whatever the number of ranks
        assert why == (signal.Signals(case.how).name if case.how else "limits.seconds=1.5")
    if case.stage in TRAIN and stopped:
        (step,) = re.findall(r"^step (\d+) of 12$", where)
        # a signal may be seen after its own step, or after the next; the clock is looked at after each
        assert int(step) in ((case.after, case.after + 1) if case.how else range(case.after + 1))
        assert (run / f"checkpoints/step-{int(step):08d}.ckpt").is_file() or step == "0"
    if case.stage in CHUNKS and stopped:
        assert re.fullmatch(r"chunk \d of \d|the beginning", where)
    if case.stage in CHUNKS and case.after > 1:
        assert list((run / "chunks").glob("[!.]*/"))
    assert not ended.survivors()

    ended = interrupt(tones, case.stage, 0, *words)
    assert ended.status == 0, ended.output
    assert content(run) == undisturbed(case)

"""What stages have in common: what the runner asks of them, and how what they made survives a kill, a stop and a second start.

    Stage ─┬─ TrainingStage                   fits; goes on from its newest checkpoint    vae, tokenizer, language
           └─ PredictingStage ─┬─ ChunkStage  writes chunks, each whole or not at all     latents, cache
                               └─ RowStage    appends rows, each as soon as it is known   all others

A concrete stage configures itself in `__init__`, steps, and exports. A run is tied to its configuration, its parents and its
corpora before the first product (runs/identity.py), so that whatever is in the folder may be gone on with.
"""

import json
import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import lightning as L
from lightning.pytorch.callbacks import Callback

from callbacks.progress import ProgressLine
from callbacks.receipt_metrics import ReceiptMetrics
from conf.sections.common import StageConf
from datamodules.store import chunks, manifest
from datamodules.store.index import CachedCuts
from datamodules.store.lhotse_manifest import write_lhotse_manifest
from datamodules.store.overlap import WriteBehind
from stages.runs import corpora, receipts, row_files
from stages.runs.ranks import rank
from stages.runs.receipts import FinishedRun
from stages.runs.state import earlier_run
from stages.runs.warm_start import source_of

log = logging.getLogger(__name__)
Parents = Mapping[str, FinishedRun]
Row = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)


class Exported(NamedTuple):
    """What a receipt says of an artifact."""

    facts: dict[str, Any]  # what children inherit: sample rate, vocabulary, ...
    metrics: dict[str, Any]


class Stage(L.LightningModule):
    """One stage of the chain, as engine/runner.py runs it. `strategy`, where it has one, replaces Lightning's `ddp`.

    A stage that reads recordings has their cuts in `store` (datamodules/store/manifest.py): rank 0 writes them, all map them.
    """

    trains: bool
    store: Path
    inputs: dict[str, str]
    skipped: list[corpora.Skipped] | None  # None where this process has not compared them
    watch: tuple[str, ...] = ()  # logged values that the progress line shows

    def __init__(self, stage: str, conf: StageConf, parents: Parents, folder: Path) -> None:
        """stage: its name; parents: the finished runs that it reads, by stage; folder: its run folder."""
        super().__init__()
        self.stage, self.conf, self.parents, self.folder = stage, conf, parents, folder
        self.prepare_data_per_node = False  # the nodes share the run folder
        # there may be fewer batches to predict than ranks
        self.allow_zero_length_dataloader_with_multiple_devices = not self.trains

    def datamodule(self) -> L.LightningDataModule:
        raise NotImplementedError

    def callbacks(self) -> list[Callback]:
        return []

    def check_corpora(self, inputs: dict[str, str]) -> None:
        """On rank 0, before an earlier run is moved aside: compares the recordings with what was prepared. A run that goes
        on has done so. inputs: corpus -> hash of its cuts.
        """
        self.inputs, self.skipped = inputs, None
        goes_on = manifest.inputs(self.store) == inputs and receipts.read(self.folder) is None
        if rank() == 0 and not goes_on:
            self.skipped = corpora.check(self.stage, self.conf.data)

    def write_manifest(self) -> None:
        """The cuts with their text (datamodules/store/manifest.py), where they are not written yet."""
        if manifest.inputs(self.store) == self.inputs:
            return
        skipped = corpora.check(self.stage, self.conf.data) if self.skipped is None else self.skipped
        kept = corpora.lines(self.conf.data, {one.id for one in skipped})
        manifest.write(self.store, kept, self.inputs, [(one.recording.path, one.recording.reason) for one in skipped])

    def export(self, artifact: Path) -> Exported:
        """Writes the artifact, on rank 0, into an empty folder that appears whole."""
        raise NotImplementedError


class TrainingStage(Stage):
    """Fits to `trainer.max_steps`."""

    trains = True

    def __init__(self, stage: str, conf: StageConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.receipt_metrics = ReceiptMetrics()
        self.source = source_of(stage, conf)  # whose weights it starts from

    def logged(self) -> dict[str, float]:
        """The metrics of the receipt: callbacks/receipt_metrics.py."""
        return self.receipt_metrics.values


class PredictingStage(Stage):
    """Goes once over what is not done yet. `total` is how many units it has to do in all."""

    trains = False
    unit: str  # that the progress line counts
    total: int

    def start_line(self, done: int) -> None:
        """done: units that earlier starts have written."""
        self.done = done
        self.line = ProgressLine(self.stage, self.total, self.unit, self.global_rank == 0)
        self.line.start(done)

    def advance(self, count: int) -> None:
        """count: units that this rank has just done; the others are about as far."""
        self.done += count * self.trainer.world_size
        self.line.update(min(self.done, self.total))

    def on_predict_end(self) -> None:
        """Not called on a rank without a batch."""
        self.line.stop()


class ChunkStage(PredictingStage):
    """Encodes every sound once (datamodules/store/chunks.py); reading, encoding and writing overlap.

    Rank 0 plans, and the others open its plan. What an earlier run of the same experiment has encoded alike is taken over:
    a mended caption encodes nothing, and another corpus only its recordings.
    """

    unit = "recordings"

    def __init__(self, stage: str, conf: StageConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.store = folder / "chunks"

    def cache_key(self) -> dict[str, object]:
        """What made the chunks."""
        raise NotImplementedError

    def plan(self) -> chunks.Plan:
        raise NotImplementedError

    def encode(self, batch: Any, writer: chunks.ChunkWriter) -> None:
        """Adds what a batch comes to; the results of a recording's windows are added in their order."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """On rank 0."""
        chunks.open_cache(self.store, self.cache_key())
        if not chunks.is_planned(self.store) or manifest.inputs(self.store) != self.inputs:
            self.write_manifest()
            if earlier := self.comparable_run():
                chunks.take_over(self.store, earlier.folder / "chunks")
        self.plan()

    def comparable_run(self) -> FinishedRun | None:
        """The run that this one replaces, where it computed in the same precision."""
        earlier = earlier_run(self.folder)
        if earlier and earlier.receipt["conf"]["trainer"]["precision"] == self.conf.trainer.precision:
            return earlier
        return None

    def on_predict_start(self) -> None:
        trainer: Any = self.trainer  # Lightning gives it the datamodule, without a type
        data = trainer.datamodule
        self.planned: chunks.Plan = data.planned
        self.total = self.planned.num_cuts
        self.rank_chunks: Sequence[chunks.Chunk] = data.rank_chunks
        self.writer: chunks.ChunkWriter | None = None
        self.behind = WriteBehind()
        if self.global_rank == 0:
            pending, whole = data.pending_seconds, self.planned.seconds()
            text = "%-14s %.1f s of sound are encoded, %.1f of %.1f s are stored"
            log.info(text, self.stage, pending, whole - pending, whole)
        self.start_line(data.finished_cuts)

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        self.behind.check()
        chunk = self.rank_chunks[batch.chunk]
        self.writer = self.writer or chunks.ChunkWriter(self.store, chunk)
        self.encode(batch, self.writer)
        if batch.closes_chunk:
            self.behind.call(self.writer.finish)
            self.writer = None
            self.advance(chunk.num_cuts)

    def on_predict_end(self) -> None:
        self.behind.close()
        super().on_predict_end()

    def exported(self, artifact: Path, cuts: CachedCuts) -> dict[str, Any]:
        """Writes what Lhotse opens by itself; returns what every receipt of such a stage counts."""
        planned, earlier = chunks.Plan(self.store), self.comparable_run()
        taken_over = chunks.taken_over(self.store, earlier.folder / "chunks") if earlier else []
        write_lhotse_manifest(self.folder / "cuts.jsonl.gz", cuts)
        return {
            "recordings": len(cuts),
            "duplicates": planned.duplicates,
            "skipped": len(planned.manifest.skipped),
            "encoded_seconds": round(planned.seconds(without={path.name for path in taken_over}), 3),
        }


class RowStage(PredictingStage, Generic[Key]):
    """Predicts rows, appends each as soon as it is known (runs/row_files.py), and never makes one twice.

    Any number of ranks, killed anywhere, ends with the same rows: `rows` has them in the order of `expected`.
    """

    expected: Sequence[Key]  # keys of all rows

    def key(self, row: Row) -> Key:
        key: Key = row["id"]
        return key

    def predict_rows(self, batch: Any) -> Iterable[Row]:
        """The rows of a batch; those that are saved already may be left out, or made again and are dropped."""
        raise NotImplementedError

    def rows(self) -> dict[Key, Row]:
        """All saved rows, of all ranks, by key; a line that a kill cut short is none."""
        saved = {self.key(row): row for row in row_files.rows(self.folder)}
        return {key: saved[key] for key in self.expected if key in saved}

    def on_predict_start(self) -> None:
        row_files.mend(self.folder, self.global_rank)
        self.total, self.saved = len(self.expected), set(self.rows())
        self.start_line(len(self.saved))

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        for row in self.predict_rows(batch):
            if self.key(row) not in self.saved:
                row_files.append(self.folder, self.global_rank, [row])
                self.advance(1)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

"""Exact resume: the position is what the trainer has consumed, not what the loaders have fetched.

Lhotse 1.33 cannot resume a sampler that sits behind a DataLoader, and Lightning restarts the epoch. Here the datamodule
stores (epoch, batch) from the trainer's own progress counters, and the sampler enters the same epoch's order there: by
its number where the order is numbers (batches.py), else by skipping.
"""

import atexit
import hashlib
import multiprocessing
import multiprocessing.util
import signal
from collections.abc import Iterator
from typing import Any

import lightning as L
from lhotse import CutSet
from lhotse.dataset.dataloading import make_worker_init_fn
from lhotse.dataset.sampling import SimpleCutSampler
from lhotse.dataset.sampling.base import CutSampler
from torch.utils.data import DataLoader, Sampler

from datamodules.errors import DataError


class ResumableSampler(Sampler[Any]):
    """Wraps NumberedBatches, or any CutSampler: same order for the same (seed, epoch), and `seek` to a batch of an epoch.

    The position holds for every iterator until another epoch is set: Lightning makes one before it names the epoch, and
    may make a second.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._skip = 0

    def seek(self, epoch: int, batch: int) -> None:
        self.inner.set_epoch(epoch)
        self._skip = batch

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.inner.epoch:
            self._skip = 0
        self.inner.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        return enter(self.inner, self._skip)


def enter(batches: Any, skip: int) -> Iterator[Any]:
    """An epoch's batches without the first `skip`. Raises DataError where there are fewer."""
    if hasattr(batches, "from_batch"):
        yield from batches.from_batch(skip)
        return
    rest = iter(batches)
    for number in range(skip):
        try:
            next(rest)
        except StopIteration:
            raise DataError(
                f"cannot go on at batch {skip} of epoch {batches.epoch}: it has {number}. The data changed"
            ) from None
    while True:  # a CutSampler is its own iterator, and begins again where `yield from` asks for one
        try:
            batch = next(rest)
        except StopIteration:
            return
        yield batch


class ResumableDataModule(L.LightningDataModule):
    """A datamodule whose training data goes on exactly where a checkpoint left it, with any number of workers.

    A child gives `train_sampler(rank, world)`, `validation_sampler(rank, world)`, `fingerprint()` and, as `dataset`, a
    map-style dataset that makes a batch of what the samplers give: numbers of items, or a CutSet.
    """

    dataset: Any

    def __init__(self, seed: int, num_workers: int) -> None:
        super().__init__()
        self.seed, self.num_workers = seed, num_workers
        self._position: tuple[int, int] | None = None

    def train_sampler(self, rank: int, world: int) -> Any:
        raise NotImplementedError

    def validation_sampler(self, rank: int, world: int) -> Any:
        """None where nothing is for validation."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hash of what decides the order, beside the seed: `hash_ids`."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader:
        rank, world = self._ranks()
        sampler = ResumableSampler(self.train_sampler(rank, world))
        if self._position is not None:
            sampler.seek(*self._position)
            self._position = None
        return self._loader(sampler, rank, world)

    def val_dataloader(self) -> DataLoader | list[Any]:
        rank, world = self._ranks()
        sampler = self.validation_sampler(rank, world)
        return [] if sampler is None else self._loader(ResumableSampler(sampler), rank, world)

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        epoch = self.trainer.fit_loop.epoch_progress.current
        batch = self.trainer.fit_loop.epoch_loop.batch_progress
        inside = epoch.started > epoch.processed
        if inside and not batch.is_last_batch:
            position = (epoch.processed, batch.current.processed)
        else:
            position = (epoch.processed + inside, 0)
        state = {"epoch": position[0], "batch": position[1], "world": self._ranks()[1], "seed": self.seed}
        return state | {"fingerprint": self.fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises DataError where the data, the seed or the number of processes is not the checkpoint's."""
        world = self._ranks()[1]
        if state["world"] != world:
            raise DataError(
                f"the checkpoint was trained by {state['world']} processes and {world} are here: the data would be "
                f"dealt otherwise. Go on with {state['world']} (trainer.devices times trainer.num_nodes), or begin "
                "again with --restart"
            )
        if state["seed"] != self.seed:
            raise DataError(
                f"the checkpoint was trained with seed {state['seed']}, and {self.seed} is given. "
                "Begin again with --restart"
            )
        if state["fingerprint"] != self.fingerprint():
            raise DataError("the checkpoint was trained on other data than is here now. Begin again with --restart")
        self._position = (state["epoch"], state["batch"])

    def _loader(self, sampler: ResumableSampler, rank: int, world: int) -> DataLoader:
        return DataLoader(
            self.dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            worker_init_fn=_Worker(rank, world, self.seed),
        )

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


class _Worker:
    """What a loader's worker does first: Lhotse's seeds, and `heedless`."""

    def __init__(self, rank: int, world: int, seed: int) -> None:
        self.seeded = make_worker_init_fn(rank=rank, world_size=world, seed=seed)

    def __call__(self, worker: int) -> None:
        self.seeded(worker)
        heedless(worker)


def heedless(worker: int) -> None:
    """A loader's worker lives on where a whole job is told to stop: the main process needs its batches to the next step, and ends it."""
    for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


def end_workers() -> None:
    """Python ends its daemons with SIGTERM, to which a worker pays no heed, and would wait for ever."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise for each that ends
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join()
    signal.signal(signal.SIGCHLD, before)


atexit.register(end_workers)  # before Python's own: multiprocessing is imported first


def fixed_batches(items: list[Any], size: int, seed: int, rank: int, world: int, shuffle: bool) -> CutSampler:
    """`size` cuts a batch, rank r taking every world-th batch."""
    return SimpleCutSampler(
        CutSet.from_cuts(items), max_cuts=size, shuffle=shuffle, seed=seed, rank=rank, world_size=world
    )


def hash_ids(*groups: list[Any]) -> str:
    """Hash of the ids and durations of several lists of cuts, in their order: what buckets and order hang on."""
    digest = hashlib.sha256()
    for group in groups:
        for cut in group:
            digest.update(f"{cut.id}\0{cut.duration}\0".encode())
        digest.update(b"\1")
    return digest.hexdigest()

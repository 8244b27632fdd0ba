"""Exact resume: the position is what the trainer has consumed, not what the loaders have fetched.

Lightning restarts the epoch. Here the datamodule stores (epoch, batch) from the trainer's own progress counters, and
the sampler enters the same epoch's order at that number (batches.py).
"""

import atexit
import multiprocessing
import multiprocessing.util
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.batches import Batches
from datamodules.errors import DataError

T = TypeVar("T")


class ResumableSampler(Sampler[object]):
    """Batches with a position: `seek` to a batch of an epoch.

    The position stays for every iterator until another epoch is set: Lightning makes one before it names the epoch, and
    may make a second.
    """

    def __init__(self, batches: Batches[Any]) -> None:
        self.batches = batches
        self._first = 0

    def seek(self, epoch: int, batch: int) -> None:
        self.batches.set_epoch(epoch)
        self._first = batch

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.batches.epoch:
            self._first = 0
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[object]:
        return self.batches.from_batch(self._first)


class ResumableDataModule(L.LightningDataModule):
    """A datamodule whose training data goes on exactly where a checkpoint left it, with any number of workers.

    A subclass gives `train_sampler`, `validation_sampler`, `fingerprint` and, as `dataset`, a map-style dataset that
    makes a batch of what the samplers give.
    """

    dataset: Dataset[object]

    def __init__(self, seed: int, num_workers: int) -> None:
        super().__init__()
        self.seed, self.num_workers = seed, num_workers
        self._position: tuple[int, int] | None = None

    def train_sampler(self, rank: int, world: int) -> Batches[Any]:
        raise NotImplementedError

    def validation_sampler(self, rank: int, world: int) -> Batches[Any] | None:
        """None where nothing is for validation."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hash of what decides the order, beside the seed."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Any]:
        sampler = ResumableSampler(self.train_sampler(*ranks_of(self)))
        if self._position is not None:
            sampler.seek(*self._position)
            self._position = None
        return self._loader(sampler)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        batches = self.validation_sampler(*ranks_of(self))
        return [] if batches is None else self._loader(ResumableSampler(batches))

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        epoch: Any = self.trainer.fit_loop.epoch_progress.current
        batch: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        inside = epoch.started > epoch.processed
        if inside and not batch.is_last_batch:
            position = (epoch.processed, batch.current.processed)
        else:
            position = (epoch.processed + inside, 0)
        state = {"epoch": position[0], "batch": position[1], "world": ranks_of(self).world, "seed": self.seed}
        return state | {"fingerprint": self.fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises DataError where the data, the seed or the number of processes is not the checkpoint's."""
        world = ranks_of(self).world
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

    def _loader(self, sampler: ResumableSampler) -> DataLoader[Any]:
        on_gpu = torch.cuda.is_available()
        return DataLoader(
            self.dataset, sampler=sampler, batch_size=None, num_workers=self.num_workers, worker_init_fn=ignore_signals,
            pin_memory=on_gpu, persistent_workers=on_gpu and self.num_workers > 0,
        )  # fmt: skip


class DealtBatches(L.LightningDataModule, Generic[T]):
    """Batches to predict, rank r taking every world-th, as they are; or what gives them when the stage is set up."""

    def __init__(self, batches: Sequence[T] | Callable[[], Sequence[T]]) -> None:
        super().__init__()
        self.batches = batches

    def predict_dataloader(self) -> DataLoader[T]:
        rank, world = ranks_of(self)
        given = self.batches() if callable(self.batches) else self.batches
        batches: Any = list(given)[rank::world]  # a list is a map-style dataset, too
        return DataLoader(batches, batch_size=None, collate_fn=unchanged)


class Ranks(NamedTuple):
    rank: int
    world: int


def ranks_of(data: L.LightningDataModule) -> Ranks:
    """Which process of how many; the only one where no trainer runs."""
    return Ranks(data.trainer.global_rank, data.trainer.world_size) if data.trainer else Ranks(0, 1)


def unchanged(batch: T) -> T:
    """A DataLoader's collate_fn for batches that are whole already; its own would turn tuples into lists."""
    return batch


def ignore_signals(worker: int) -> None:
    """A DataLoader's worker_init_fn. Workers live on where a whole job gets a signal to stop: the main process needs
    their batches up to its next step, and ends them.
    """
    for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


def end_workers() -> None:
    """Kills the workers that are left. Python ends its daemons with SIGTERM, which workers ignore, and waits."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise for each that ends
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join()
    signal.signal(signal.SIGCHLD, before)


atexit.register(end_workers)  # before Python's own: multiprocessing is imported first

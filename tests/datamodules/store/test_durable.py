"""Nothing counts before it is on the disk: what a loss of power leaves is whole, or is not there."""

import os
from pathlib import Path

import pytest

from datamodules.store import chunks
from tests.datamodules.store.planned import planned_in
from tests.datamodules.store.test_chunks import make_cuts, write


def test_files_are_on_the_disk_before_the_rename_that_makes_them_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: dict[int, int] = {}  # inode -> bytes that were on the disk
    renamed: list[tuple[str, bool]] = []  # what became visible, and whether all of it was on the disk
    folders: list[int] = []  # inodes of folders, whose names are on the disk
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        about = os.fstat(descriptor)
        synced[about.st_ino] = about.st_size
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            folders.append(about.st_ino)

    def noted(move):
        def moved(source, target, **options) -> None:
            path = Path(source)
            files = list(path.iterdir()) if path.is_dir() else [path]
            whole = [synced.get(file.stat().st_ino) == file.stat().st_size for file in files]
            move(source, target, **options)
            renamed.append((Path(target).name, all(whole)))

        return moved

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted(rename))
    monkeypatch.setattr(os, "replace", noted(replace))
    planned = planned_in(tmp_path, make_cuts(5), 2)
    for chunk in planned:
        write(tmp_path, chunk)
        assert folders[-1] == tmp_path.stat().st_ino, "and the name of the chunk"
    assert {name for name, _ in renamed} == {
        *("cuts.jsonl", "cuts.npy", "cuts.json", "key.json", "plan.npy", "plan.json"),
        *(chunk.id for chunk in planned),
    }
    assert not [name for name, whole in renamed if not whole]
    assert len(chunks.read(tmp_path)) == 5

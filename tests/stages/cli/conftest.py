"""Folders to work in: an empty one, and one with an experiment that is trained."""

from pathlib import Path

import pytest


@pytest.fixture
def folder_with_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, whose runs/ holds the experiment and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/used").symlink_to(run)
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and no asset in the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path

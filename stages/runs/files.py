"""Files of a run: text written whole or not at all (datamodules/atomic_files.py), and hashes of folders."""

import hashlib
from pathlib import Path

from datamodules.atomic_files import whole_file, write_whole
from datamodules.hashing import file_digest

__all__ = ["hash_folder", "whole_file", "write_whole"]


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode() + bytes.fromhex(file_digest(path)))
    return digest.hexdigest()

"""Writing files so that an interruption never leaves half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: Path, *, sync: bool = False, writer: str = "") -> Iterator[BinaryIO]:
    """Open a file beside `path` for writing, and rename it to `path` when the block ends without an error.

    Readers see the old file or the new one, never a part. What a kill leaves beside it has a fixed name, so that the
    next attempt at the same file takes its place.

    Args:
        path: the file to create or replace; its folder exists.
        sync: wait until the disk holds the content, so that it also survives a power cut.
        writer: tells processes apart that may write the same file at the same time.
    """
    aside = _aside(path, writer)
    try:
        with aside.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def create_atomically(path: Path, data: bytes, *, writer: str) -> None:
    """Create a file by its whole content at once, on the disk; of several processes that do so, the first one's stays.

    Args:
        path: the file; where it is there already, nothing happens.
        data: its content.
        writer: tells the processes apart.
    """
    aside = _aside(path, writer)
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # else a power cut can leave an empty file under its name
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        aside.replace(path)
    aside.unlink(missing_ok=True)


def replace_atomically(path: Path, data: bytes) -> None:
    """Create or replace a file by its whole content at once."""
    with atomic_file(path) as file:
        file.write(data)


def _aside(path: Path, writer: str) -> Path:
    return path.with_name(f".{path.name}{writer and '.'}{writer}.partial")

"""Writing files so that an interruption never leaves half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """Open a file beside `path` for writing, and rename it to `path` when the block ends without an error.

    Readers see the old file or the new one, never a part. What a kill leaves beside it has a fixed name, so that the
    next attempt at the same file takes its place.

    Args:
        path: the file to create or replace; its folder exists.
        sync: wait until the disk holds the content, so that it also survives a power cut.
    """
    aside = path.with_name(f".{path.name}.partial")
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


def create_atomically(path: Path, data: bytes) -> None:
    """Create a file by its whole content at once, on the disk; of several processes that do so, the first one's stays.

    What a kill leaves beside it begins with a dot and the file's name.
    """
    aside = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.partial")
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

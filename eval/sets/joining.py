"""Names of pairs and names of faces or embeddings, brought together whatever suffix or folder they came with."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator

from facegm.errors import FacegmError


def join(names: Iterable[str], keys: Iterable[str]) -> dict[str, int]:
    """Find the key of every name: spelled like it, or else like it but for the suffix, behind one folder for all.

    `Ann/Ann_0001.jpg` is found in `Ann/Ann_0001.png`, in `Ann/Ann_0001`, and in `photos/lfw/Ann/Ann_0001.jpg` where
    most other names are found below `photos/lfw/` too.

    Args:
        names: images that pairs name, as relative POSIX paths; each is looked for once.
        keys: what faces or embeddings are called, by row, each once; with millions of them only those that end like a
            name are kept.

    Returns:
        Row of every name that has one, in the names' order.

    Raises:
        FacegmError: two keys or two names differ by nothing but their suffix, so that one cannot be told from another.
    """
    names = list(dict.fromkeys(names))
    wanted = {spelling for name in names for spelling in (name, stem(name))}
    found = [
        (row, key, prefix) for row, key in enumerate(_ending_like(wanted, keys)) for prefix in _prefixes(key, wanted)
    ]
    counts = Counter(prefix for _, _, prefix in found)
    prefix = min(counts, key=lambda prefix: (-counts[prefix], len(prefix), prefix), default="")
    below = [(row, key.removeprefix(prefix)) for row, key, other in found if other == prefix]
    exact = {key: row for row, key in below}
    by_stem: dict[str, list[str]] = {}
    for _, key in below:
        by_stem.setdefault(stem(key), []).append(key)

    rows = {}
    for name in names:
        keys_of_name = [name] if name in exact else by_stem.get(name) or by_stem.get(stem(name)) or [stem(name)]
        if len(keys_of_name) > 1:
            raise FacegmError(f"{name}: {' and '.join(keys_of_name[:2])} are both like it; remove one of them")
        if keys_of_name[0] in exact:
            rows[name] = exact[keys_of_name[0]]
    _check_apart(rows)
    return rows


def stem(name: str) -> str:
    """An image's name without its suffix, if it has one."""
    return os.path.splitext(name)[0]


def _ending_like(wanted: set[str], keys: Iterable[str]) -> Iterator[str]:
    """The keys in their order, with an empty one in place of each whose file is called like none that is wanted."""
    ends = {spelling.rpartition("/")[2] for spelling in wanted}
    for key in keys:
        end = key.rpartition("/")[2]
        yield key if end in ends or stem(end) in ends else ""


def _prefixes(key: str, wanted: set[str]) -> Iterator[str]:
    """What lies before a wanted spelling at the key's end: nothing, or folders with the slash behind them."""
    start = 0 if key else -1
    while start >= 0:
        if key[start:] in wanted or stem(key[start:]) in wanted:
            yield key[:start]
        start = key.find("/", start) + 1 or -1


def _check_apart(rows: dict[str, int]) -> None:
    """Raise where two names would be given the same row."""
    name_of: dict[int, str] = {}
    for name, row in rows.items():
        other = name_of.setdefault(row, name)
        if other != name:
            raise FacegmError(
                f"{other} and {name}: the pairs name both, but only one is there that is like them; "
                "spell an image the same in all pairs"
            )

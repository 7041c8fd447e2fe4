"""Whose face a photo shows, by the folders that it lies in, and where that is doubtful."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from facegm.errors import UsageError

_SPLIT = re.compile(r"(?<![a-z])(train(ing)?|val(id(ation)?)?|test(ing)?|dev|eval)(?![a-z])", re.IGNORECASE)
"""A folder that is a part of a set; in several of them the same identities may well occur."""
_FEW = 10
_EXAMPLES = 3


class Identities:
    """Tells identities from photos' keys, and what is doubtful about those that it has told.

    Args:
        level: which folder is the identity, counted from the photo upwards: 1 is the photo's own. Where a photo lies
            less deep, it is the highest folder that there is.

    Raises:
        UsageError: there is no such level.
    """

    def __init__(self, level: int) -> None:
        if level < 1:
            raise UsageError(f"identity_level {level}: 1 is the photo's own folder, 2 the one above it")
        self._level = level
        self._told: dict[str, tuple[str, str]] = {}
        """By the photo's folder: the identity's folder, and its name."""
        self._num_strays, self._stray = 0, ""

    def of(self, key: str) -> str | None:
        """The identity of a photo; None where its key, a relative POSIX path, names no folder."""
        folder = key.rpartition("/")[0]
        if not folder:
            self._num_strays, self._stray = self._num_strays + 1, self._stray or key
            return None
        told = self._told.get(folder)
        if told is None:
            parts = folder.split("/")[: 1 - self._level or None] or folder.split("/")[:1]
            told = self._told[folder] = "/".join(parts), parts[-1]
        return told[1]

    def doubts(self) -> list[str]:
        """What the user must know about the identities that were told, a line each."""
        folders = sorted({folder for folder, _ in self._told.values()})
        doubts = *self._about_depth(folders), *self._about_names(folders), *self._about_few(folders)
        return [*self._about_strays(), *doubts]

    def _about_strays(self) -> Iterator[str]:
        if self._num_strays:
            lie = "1 photo lies" if self._num_strays == 1 else f"{self._num_strays:,} photos lie"
            yield f"{lie} in no folder, such as {self._stray}: whose face that is is not known"

    def _about_depth(self, folders: Sequence[str]) -> Iterator[str]:
        """Identities beside folders of identities, such as a person and another one's albums."""
        known = set(folders)
        nested = next(((above, folder) for folder in folders for above in _above(folder) if above in known), None)
        # Sorted, so that of a person's folder and her albums' the former comes first.
        pair = nested or (min(folders, key=_depth, default=""), max(folders, key=_depth, default=""))
        if _depth(pair[0]) != _depth(pair[1]):
            yield f"identities are folders of different depth, such as {pair[0]} and {pair[1]}{self._hint()}"

    def _about_names(self, folders: Sequence[str]) -> Iterator[str]:
        """Identities that several folders make together, such as two persons' albums of one year."""
        by_name: dict[str, list[str]] = defaultdict(list)
        for folder in folders:
            by_name[_name(folder)].append(folder)
        expected: list[list[str]] = []
        doubtful: list[list[str]] = []
        for same in by_name.values():
            if len(same) > 1:
                of_splits = all(_SPLIT.search(_parent(folder)) for folder in same)
                (expected if of_splits else doubtful).append(same)
        if expected:
            yield f"{_have_photos(expected)} in several parts of the set, such as {_examples(expected)}"
        if doubtful:
            yield f"{_have_photos(doubtful)} in several folders of one name, {_examples(doubtful)}{self._hint()}"

    def _about_few(self, folders: Sequence[str]) -> Iterator[str]:
        shared = {_parent(folder) for folder in folders}
        parent = next(iter(shared), "")
        if len(shared) == 1 and parent and len(folders) < _FEW and not _SPLIT.search(_name(parent)):
            names = ", ".join(_name(folder) for folder in folders[:_EXAMPLES])
            lie = "the only identity lies" if len(folders) == 1 else f"all {len(folders)} identities lie"
            yield f"{lie} below {parent}: {names}{self._hint()}"

    def _hint(self) -> str:
        level = self._level + 1
        return f"; if the folder above is the person, say --identity-level={level} (in training data.identity_level)"


def _have_photos(found: Sequence[object]) -> str:
    return "1 identity has photos" if len(found) == 1 else f"{len(found):,} identities have photos"


def _examples(found: Sequence[Sequence[str]]) -> str:
    return "; ".join(" and ".join(folders[:2]) for folders in found[:_EXAMPLES])


def _name(folder: str) -> str:
    return folder.rpartition("/")[2]


def _parent(folder: str) -> str:
    return folder.rpartition("/")[0]


def _depth(folder: str) -> int:
    return folder.count("/")


def _above(folder: str) -> Iterator[str]:
    while folder := _parent(folder):
        yield folder

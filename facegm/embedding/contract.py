"""Whose embeddings may be compared: those of one network that is shown its faces in one way."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from facegm.errors import FacegmError

_SHOWN = 12
"""Digits of a digest in messages."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingContract:
    """What embeddings follow from; galleries and files of embeddings carry it, and refuse another's."""

    weights: str
    """SHA-256 of the network's weights, in hexadecimal; `facegm.data.weights.digest_of` gives it."""
    preprocessing: str
    """SHA-256 of how a photo becomes the network's input; see `preprocessing_digest`."""
    dim: int
    """Length of an embedding."""

    @property
    def digest(self) -> str:
        """A short name of the contract: 16 hexadecimal digits."""
        return hashlib.sha256(_canonical(self.to_json())).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """What a file holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> "EmbeddingContract":
        """Read what `to_json` gives.

        Raises:
            TypeError, ValueError: it is something else.
        """
        contract = cls(**description)
        if not all(isinstance(digest, str) and digest for digest in (contract.weights, contract.preprocessing)):
            raise ValueError(f"contract of weights {contract.weights!r}, preprocessing {contract.preprocessing!r}")
        if type(contract.dim) is not int or contract.dim < 1:
            raise ValueError(f"contract of {contract.dim!r} dimensions")
        return contract

    def require(self, other: "EmbeddingContract", where: str) -> None:
        """Check that embeddings of another contract may be compared with these.

        Args:
            other: whose embeddings are offered.
            where: what holds this contract's embeddings, such as a gallery's file.

        Raises:
            FacegmError: they are of other weights, prepared in another way, or of another length.
        """
        differing = [
            f"{name} {_shown(mine)} there, {_shown(theirs)} here"
            for name, mine in asdict(self).items()
            if (theirs := getattr(other, name)) != mine
        ]
        if differing:
            raise FacegmError(
                f"{where}: holds another model's embeddings, which cannot be compared ({'; '.join(differing)}); take "
                "that model, or embed the photos anew with this one"
            )


def preprocessing_digest(description: Mapping[str, Any]) -> str:
    """SHA-256 of how a photo becomes a network's input, in hexadecimal.

    Args:
        description: sizes, crop, mirror, pixel scale, colour order and alignment template, as JSON has them; the order
            of the keys does not count.
    """
    return hashlib.sha256(_canonical(description)).hexdigest()


def _canonical(description: Mapping[str, Any]) -> bytes:
    return json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _shown(value: str | int) -> str:
    return str(value)[:_SHOWN]

"""Where a report's embeddings come from: the run's configuration, its weights, and whom the network was trained on."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from facegm.align.prealigned import open_aligned_faces
from facegm.embedding.model_file import embedder_file, weights_digest
from facegm.errors import FacegmError
from facegm.eval.reports.groups import person_of
from facegm.eval.sets.pairs import Pairs

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
"""A run folder's resolved configuration."""
CASIA_IN_LFW = (
    *("0000513", "0004539", "0004763", "0005009", "0005082", "0005172", "0166921", "0208962", "0430107"),
    *("0662519", "0955471", "1056413", "1091782", "1193098", "1303492", "2425974", "3478560"),
)
"""Identities of CASIA-WebFace whose names are also in LFW (NormFace's README; a superset of who is the same)."""


NOT_KNOWN = "Not known: there is no run beside these embeddings. People of the pairs may be among them."


@dataclass(frozen=True, kw_only=True)
class TrainingIdentities:
    """Whom a network was trained on, as far as its run tells."""

    excluded: tuple[str, ...]
    """Left out by the configuration, `data.exclude_identities`."""
    count: int | None
    """Number of identities that it was trained on; None where their store is no longer there."""
    in_pairs: tuple[str, ...] | None
    """Those of them whose name is also that of a person of the pairs; None where either names are not known."""
    casia_in_lfw: tuple[str, ...] | None
    """Those of `CASIA_IN_LFW` that it was trained on; None where the store holds none of them, or is not there."""

    def sentence(self) -> str:
        """What a reader must know, in plain words."""
        said = f"{_identities_were(len(self.excluded))} left out of training"
        said += " (data.exclude_identities). " if self.excluded else ". "
        if self.count is None:
            return said + "The store of the training faces is not here, so names cannot be compared with the pairs'."
        said += f"The network was trained on {self.count:,} identities. "
        if self.in_pairs is None:
            said += "Who is on the pairs is not known, so names cannot be compared. "
        elif self.in_pairs:
            shown = ", ".join(self.in_pairs[:5]) + (", ..." if len(self.in_pairs) > 5 else "")
            said += f"{len(self.in_pairs):,} of them have the name of a person of the pairs: {shown}. "
        else:
            said += "None of them has the name of a person of the pairs. "
        if self.casia_in_lfw is not None:
            trained = f"{len(self.casia_in_lfw)} of them" if self.casia_in_lfw else "none of them"
            said += (
                f"{len(CASIA_IN_LFW)} identities of CASIA-WebFace have the name of a person in LFW; {trained} "
                f"{'were' if len(self.casia_in_lfw) > 1 else 'was'} trained on."
            )
        return said.strip()


def _identities_were(count: int) -> str:
    return {0: "No identity was", 1: "1 identity was"}.get(count, f"{count:,} identities were")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is known of a model and of the faces that it embedded; nothing, of embeddings that somebody brings."""

    config: Mapping[str, Any] | None = None
    """The run's resolved configuration."""
    model_digest: str | None = None
    """SHA-256 of the names, types, shapes and contents of its weights."""
    store: Mapping[str, Any] | None = None
    """Settings of the store of the scored faces: how they were found, aligned and encoded."""
    training: TrainingIdentities | None = None
    """Whom it was trained on; None where there is no run beside the model."""

    def describe(self) -> dict[str, object]:
        """For JSON, which has no infinity: such a setting is a text."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    is_plain = isinstance(value, str | int | None) or (isinstance(value, float) and isfinite(value))
    return value if is_plain else str(value)


def provenance_of(model: Path, store: Mapping[str, Any], pairs: Pairs) -> Provenance:
    """What a model's run folder and a store tell.

    Args:
        model: run folder, or an embedder file, which may lie in one.
        store: settings of the store of the scored faces.
        pairs: those that are scored.

    Raises:
        FacegmError: the model file or the run's configuration cannot be read.
    """
    file = embedder_file(model)
    config = _configuration(file.parent / CONFIG_FILE)
    return Provenance(
        config=config,
        model_digest=weights_digest(file),
        store=dict(store),
        training=None if config is None else training_identities(config["data"], pairs),
    )


def _configuration(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(config["data"], dict):
            raise TypeError("`data` is not a section")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise FacegmError(
            f"{path}: not the configuration of a run ({error}); move the model out of its folder"
        ) from error
    return dict(config)


def training_identities(data: Mapping[str, Any], pairs: Pairs) -> TrainingIdentities:
    """Compare the identities that a run was trained on with the people of the pairs, by their names.

    Args:
        data: the section `data` of the run's configuration.
        pairs: those that are scored.
    """
    excluded = tuple(data.get("exclude_identities", ()))
    try:
        known = _identities(data)
    except FacegmError as error:
        logger.warning(f"the report cannot compare training identities with the pairs: {error}")
        return TrainingIdentities(excluded=excluded, count=None, in_pairs=None, casia_in_lfw=None)
    trained = {*known} - {*excluded}
    people = None if pairs.people is None else {person_of(name) for name in pairs.images}
    return TrainingIdentities(
        excluded=excluded,
        count=len(trained),
        in_pairs=None if people is None else tuple(sorted(trained & people)),
        casia_in_lfw=tuple(sorted(trained & {*CASIA_IN_LFW})) if {*known} & {*CASIA_IN_LFW} else None,
    )


def _identities(data: Mapping[str, Any]) -> Sequence[str]:
    """Names of the identities of which the training store has a face."""
    faces = open_aligned_faces(
        Path(data["store"]), is_aligned=data.get("aligned", False), identity_level=data.get("identity_level", 1)
    )
    numbers, names = faces.identities()
    return [names[number] for number in np.unique(numbers[numbers >= 0])]

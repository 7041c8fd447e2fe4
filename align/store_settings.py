"""What `store.json` says of how a store's faces are made, and the refusal to go on otherwise."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from facegm.align.config import AlignConfig
from facegm.align.detector import STAGE_THRESHOLDS
from facegm.align.face import FACE_SIZE, FALLBACK_FRACTION, TEMPLATE
from facegm.align.networks import Runtime, require_runtime
from facegm.align.proposals import PYRAMID_FACTOR
from facegm.data.files import create_atomically
from facegm.data.store import FORMAT, SETTINGS_FILE, is_store, read_settings
from facegm.errors import FacegmError


def open_folder(folder: Path, source: Path, config: AlignConfig) -> Runtime:
    """Begin a store, or check that one that is there already was begun in the same way.

    Returns:
        What computes the detector.

    Raises:
        FacegmError: the folder is something else, or a store of another source or other options; or this machine has
            not what the detector is to be computed by.
    """
    stored = read_settings(folder) if is_store(folder) else {}
    runtime: Runtime = config.runtime or stored.get("runtime") or ("cuda" if torch.cuda.is_available() else "cpu")
    if config.engine == "local" and not config.is_aligned:
        require_runtime(runtime)
    settings = _settings(source, config, runtime)
    if not stored:
        _refuse_other_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        writer = "" if config.shard is None else config.shard.name
        create_atomically(folder / SETTINGS_FILE, (json.dumps(settings, indent=2) + "\n").encode(), writer=writer)
    # Another job may have begun the store in the same moment.
    _check(folder, read_settings(folder), settings)
    return runtime


def _refuse_other_folder(folder: Path) -> None:
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if SETTINGS_FILE not in names and not all(name.startswith(f".{SETTINGS_FILE}.") for name in names):
        raise FacegmError(f"{folder}: exists and is not a store of aligned faces; give an empty or new folder")


def _settings(source: Path, config: AlignConfig, runtime: Runtime) -> dict[str, object]:
    detection: dict[str, object] = {"detector": "none: aligned already"}
    if not config.is_aligned:
        detection = {
            "detector": "facenet-pytorch MTCNN",
            "minimum_face": config.minimum_face,
            "stage_thresholds": list(STAGE_THRESHOLDS),
            "pyramid_factor": PYRAMID_FACTOR,
            "runtime": runtime,
            "choice": "largest central",
            **asdict(config.choice),
            "on_missing": config.on_missing,
            "fallback_fraction": FALLBACK_FRACTION,
        }
    return {
        "format": FORMAT,
        "source": str(source.resolve()),
        "size": FACE_SIZE,
        "color": "RGB",
        "template": TEMPLATE.tolist(),
        **detection,
        **asdict(config.store_format),
    }


def _check(folder: Path, stored: Mapping[str, Any], settings: Mapping[str, object]) -> None:
    changed = [name for name in {**stored, **settings} if stored.get(name) != settings.get(name)]
    if changed:
        raise FacegmError(
            f"{folder}: this store was made otherwise "
            f"({', '.join(f'{name}: {stored.get(name)}, now {settings.get(name)}' for name in changed)}); "
            "do as then, or give another --output"
        )

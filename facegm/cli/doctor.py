"""`facegm doctor`: what this machine has, how fast it would train, and what limits that."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser

from facegm.checkup.bottleneck import Circumstances, Limit, StageSeconds, StepTime, advice, project
from facegm.checkup.doctor import TrainingData, circumstances, open_training_data
from facegm.checkup.machine import devices, versions
from facegm.checkup.stages import measure_stages
from facegm.cli.run_options import read_run_config
from facegm.config import add_config_arguments
from facegm.data.names import printable
from facegm.data.residency import Residency
from facegm.errors import FacegmError
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import draw_plan
from facegm.faces.samples import LabelledFaces
from facegm.training.devices import autocast_dtype
from facegm.training.distributed import join_processes
from facegm.training.run import check_loss

_LIMITS: dict[Limit, str] = {
    "network": "The network",
    "loss": "The loss",
    "optimizer": "The optimiser",
    "augmentation": "Augmentation",
    "transfer": "Copying to the GPU",
    "decoding": "Decoding",
}
_RESIDENCIES: dict[Residency, str] = {
    "device": "kept on the GPU",
    "host": "kept in the host's memory",
    "stream": "kept nowhere, but decoded anew in each epoch",
}


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm doctor",
        description="Say what this machine and the store of a configuration (default: casia.yaml) hold, time each "
        "stage of training alone (without torch.compile), and name the one that limits. Takes half a minute and writes "
        "nothing.",
        allow_abbrev=False,
    )
    add_config_arguments(options, FaceRunConfig)
    return options


def run(arguments: Sequence[str]) -> None:
    """Look, measure and print, a section at a time."""
    config = read_run_config(arguments, parser, default="casia.yaml")
    _show("versions", versions())
    _show("devices", devices())
    with join_processes() as processes:
        device = processes.device
        data = open_training_data(config)
        here = circumstances(config, data, device)
        _show(f"data: {printable(str(config.data.store))}", _data(data, here))
        check_loss(config.loss, data.identities, config.model.embedding_dim, processes)
        stages = measure_stages(config, data.faces, data.identities, device)
    whole = project(stages, config.data.workers, here)
    precision = str(autocast_dtype(config.train.precision, device) or torch.float32).removeprefix("torch.")
    place = "GPU" if here.is_gpu else "processor"
    network = f"{config.model.name} of width {config.model.width:g} in {precision} on the {place}"
    _show(
        f"images per second, each stage alone ({network})",
        _speeds(stages, whole, config, data.identities),
    )
    print(f"{_LIMITS[whole.limit]} limits: {whole.share:.0%} of the time of a step.")
    print(f"What would help: {advice(whole.limit, config, here)}.")
    if data.settings is not None:
        print(_length_of_run(data.faces, whole, config))


def _data(data: TrainingData, here: Circumstances) -> dict[str, str]:
    gigabytes = data.decoded_size / 1e9
    size = f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.1f} MB"
    kept = f"{size} when decoded: {_RESIDENCIES[here.residency]}"
    if data.settings is None:
        return {
            "faces": "none: make the store by `facegm align PHOTOS --output STORE`",
            "measured": f"random pictures and {data.identities:,} identities, as many as CASIA-WebFace has",
            "memory": kept,
        }
    counts = np.bincount(data.faces.labels)
    return {
        "faces": f"{len(data.faces.labels):,} of {data.identities:,} identities",
        "per identity": f"fewest {counts.min():,}, median {np.median(counts):,g}, most {counts.max():,}",
        "pictures": _pictures(data.settings),
        "memory": kept,
    }


def _pictures(settings: Mapping[str, Any]) -> str:
    return f"{settings['encoding']} in a {settings['container']}" if "container" in settings else "read where they lie"


def _speeds(stages: StageSeconds, whole: StepTime, config: FaceRunConfig, identities: int) -> dict[str, str]:
    seconds = {
        "decode, one core": stages.decode_one_core,
        f"decode, {config.data.workers} worker(s)": stages.decode if config.data.workers else None,
        "to the GPU": stages.transfer,
        "crop and augmentation": stages.augmentation,
        "forward": stages.forward,
        "backward": stages.backward,
        f"loss ({config.loss.name}, {identities:,} identities)": stages.loss,
        "optimiser": stages.optimizer,
        "together": whole.seconds,
    }
    rows = {name: f"{1 / value:>10,.{0 if value < 0.01 else 1}f}" for name, value in seconds.items() if value}
    rows["together"] += f", {whole.seconds * config.train.batch_size:.3g} s for a step of {config.train.batch_size}"
    return rows


def _length_of_run(faces: LabelledFaces, whole: StepTime, config: FaceRunConfig) -> str:
    try:
        steps = draw_plan(config, faces).steps
    except FacegmError as error:  # what `facegm train` would be refused for
        return f"No run yet: {error}."
    left = timedelta(seconds=round(steps * config.train.batch_size * whole.seconds))
    return f"The run of {steps:,} steps would take {left}."


def _show(title: str, rows: Mapping[str, str]) -> None:
    width = max(map(len, rows))
    print(title, *(f"  {name:<{width}}  {value}" for name, value in rows.items()), "", sep="\n", flush=True)

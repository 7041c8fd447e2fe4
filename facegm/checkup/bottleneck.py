"""What limits the speed of training, and what would help: pure functions of the time that each stage takes."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from facegm.data.residency import Residency
from facegm.faces.config import FaceRunConfig

Limit = Literal["network", "loss", "optimizer", "augmentation", "transfer", "decoding"]


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Seconds that each stage takes for a face, measured alone."""

    decode_one_core: float
    decode: float
    """By all worker processes together."""
    transfer: float | None
    """From the host's memory to the GPU's; None without a GPU."""
    augmentation: float
    """Crop, mirror, contrast and brightness, on the device."""
    forward: float
    backward: float
    loss: float
    """Forward and backward."""
    optimizer: float
    """Clipping and the change of the weights: what a step takes, divided among its faces."""


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What the configuration meets with on this machine."""

    residency: Residency
    is_gpu: bool
    cores: int
    encoding: str
    """Of the store's pictures."""
    has_short_precision: bool
    """Whether `train.precision: auto` is something shorter than float32."""


class StepTime(NamedTuple):
    """The stages put together."""

    seconds: float
    """Of a face."""
    limit: Limit
    """The stage that a step spends most of its time on, or waits for."""
    share: float
    """The part of a step that this stage takes."""


def project(stages: StageSeconds, workers: int, here: Circumstances) -> StepTime:
    """Put the stages together as training does.

    All are done one after the other, except that worker processes decode on the processor while a GPU computes. Where
    the network is on the processor too, they take its cores from it, and decoding adds to the time like all else.
    """
    parts: dict[Limit, float] = {
        "network": stages.forward + stages.backward,
        "loss": stages.loss,
        "optimizer": stages.optimizer,
        "augmentation": stages.augmentation,
    }
    if stages.transfer is not None and here.residency != "device":
        parts["transfer"] = stages.transfer
    is_streamed = here.residency == "stream"
    is_beside = is_streamed and here.is_gpu and workers > 0
    if is_beside and stages.decode > sum(parts.values()):
        return StepTime(stages.decode, "decoding", 1.0)
    if is_streamed and not is_beside:
        parts["decoding"] = stages.decode
    seconds, limit = sum(parts.values()), max(parts, key=parts.__getitem__)
    return StepTime(seconds, limit, parts[limit] / seconds)


def advice(limit: Limit, config: FaceRunConfig, here: Circumstances) -> str:
    """What would make the stage that limits faster: half a sentence."""
    loss, how = f"loss.{config.loss.name}", config.loss.classification
    more_hardware = "more GPUs (torchrun)" if here.is_gpu else "a GPU"
    options: dict[Limit, list[tuple[bool, str]]] = {
        "network": [
            (config.train.precision == "float32" and here.has_short_precision, "train.precision=auto"),
            (config.train.compile is False, "train.compile=auto"),
            (True, more_hardware),
            (not here.is_gpu, "a smaller network (model.width, preprocessing.crop_size)"),
        ],
        "loss": [
            (how is not None and how.implementation != "auto", f"{loss}.implementation=auto"),
            (how is not None and how.negative_share == 1, f"{loss}.negative_share=0.1"),
            (True, more_hardware),
        ],
        "optimizer": [(True, "a larger train.batch_size, since each step takes it once")],
        "augmentation": [(True, more_hardware)],
        "transfer": [(True, "data.residency=device, where the GPU has room for all decoded faces")],
        "decoding": [
            (config.data.residency == "stream", "data.residency=auto, which keeps decoded faces where there is room"),
            (config.data.workers < here.cores, f"data.workers={here.cores}"),
            (here.encoding == "png", "a store of JPEG files (facegm align --encoding jpeg)"),
            (True, "memory for all decoded faces"),
        ],
    }
    return ", or ".join(text for applies, text in options[limit] if applies)

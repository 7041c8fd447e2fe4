"""`facegm doctor`: what it says of machine and data is so, and the stage it names is the one that limits."""

import re
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from facegm.checkup import machine, stages
from facegm.checkup.bottleneck import Circumstances, Limit, StageSeconds, advice, project
from facegm.checkup.random_store import RandomStore
from facegm.cli import main
from facegm.config import parse_config
from facegm.data.preprocessing import Preprocessing
from facegm.data.samples import Batch, DrawnSamples
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.faces.samples import LabelledFaces
from facegm.faces.task import FaceTask
from facegm.store.reader import FaceStore
from facegm.training.config import TrainConfig

CPU = Circumstances(residency="host", is_gpu=False, cores=8, encoding="png", has_short_precision=True)
GPU = replace(CPU, is_gpu=True)
SECONDS = StageSeconds(
    decode_one_core=0.0004,
    decode=0.0002,
    transfer=None,
    augmentation=0.0001,
    forward=0.02,
    backward=0.04,
    loss=0.0039,
    optimizer=0.001,
)


@pytest.fixture
def config(small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny network on the small store, in the working folder, and few measurements."""
    (tmp_path / "tiny.yaml").write_text(
        f"data: {{store: {small_store}}}\n"
        "preprocessing: {face_size: 56, crop_size: 48}\n"
        "model: {width: 0.1, embedding_dim: 16}\n"
        "train: {batch_size: 24, epochs: 10, precision: float32}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, "SECONDS", 0.0)
    monkeypatch.setattr(stages, "BATCH_SECONDS", 0.01)
    return tmp_path / "tiny.yaml"


@pytest.mark.parametrize("name", ["iresnet50", "iresnet100", "mobilefacenet"])
def test_the_stages_of_each_network_are_timed(
    name: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects batch normalisation from the batch of a single face that a slow network would be timed on."""
    monkeypatch.setattr(stages, "BATCH_SECONDS", 0.0)
    said = run_doctor(capsys, f"--model.name={name}", "--data.workers=0")
    assert f"each stage alone ({name} of width 0.1 in float32" in said


def run_doctor(capsys: pytest.CaptureFixture[str], *settings: str) -> str:
    assert main(["doctor", "--config", "tiny.yaml", *settings]) == 0
    return capsys.readouterr().out


def test_the_numbers_of_the_store_and_the_limit_are_named(
    config: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects the report: the store's own numbers, stages that add up, what limits, and how long the run takes."""
    monkeypatch.setattr("facegm.cli.doctor.measure_stages", lambda *_: SECONDS)
    monkeypatch.setattr("facegm.checkup.doctor.autocast_dtype", lambda *_: None)  # a processor without bfloat16
    said = run_doctor(capsys)
    assert said[said.index("data: ") :] == (
        f"data: {small_store}\n"
        "  faces         48 of 6 identities\n"
        "  per identity  fewest 8, median 8, most 8\n"
        "  pictures      png in a folder\n"
        "  memory        0.5 MB when decoded: kept in the host's memory\n"
        "\n"
        "images per second, each stage alone (resnet27 of width 0.1 in float32 on the processor)\n"
        "  decode, one core              2,500\n"
        "  decode, 4 worker(s)           5,000\n"
        "  crop and augmentation        10,000\n"
        "  forward                        50.0\n"
        "  backward                       25.0\n"
        "  loss (gm, 6 identities)         256\n"
        "  optimiser                     1,000\n"
        "  together                       15.4, 1.56 s for a step of 24\n"
        "\n"
        "The network limits: 92% of the time of a step.\n"
        "What would help: a GPU, or a smaller network (model.width, preprocessing.crop_size).\n"
        "The run of 20 steps would take 0:00:31.\n"
    )


def test_a_run_that_would_be_refused_is_told(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects from a projected time of a run that cannot be begun."""
    monkeypatch.setattr("facegm.cli.doctor.measure_stages", lambda *_: SECONDS)
    said = run_doctor(capsys, "--train.batch_size=256")
    assert said.endswith("No run yet: 48 images do not fill one batch of 256; lower train.batch_size or add images.\n")


def test_it_works_without_store_and_extras_and_leaves_nothing(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects the first use of all, on a machine with nothing but the package."""

    def without_extras(name: str) -> str:
        if name in ("openvino", "ray"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(machine, "version", without_extras)
    said = run_doctor(capsys, "--data.store=absent", "--data.workers=0", "--loss.name=softmax")
    assert re.search(r"openvino +not installed", said)
    assert re.search(r"ray +not installed", said)
    assert re.search(rf"torch +{re.escape(version('torch'))}\n", said)
    assert "none: make the store by `facegm align PHOTOS --output STORE`" in said
    assert "loss (softmax, 10,575 identities)" in said
    assert "The run of" not in said
    assert [path.name for path in config.parent.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("loss", ["gm", "center"])
def test_each_stage_is_timed(precision: str, loss: str, config: Path, small_store: Path) -> None:
    """Protects the measuring itself, in each precision, also by worker processes, and the threads that decoding has."""
    settings = [f"--train.precision={precision}", f"--loss.name={loss}", "--data.workers=1"]
    asked = parse_config(config, FaceRunConfig, settings)
    faces = LabelledFaces(FaceStore(small_store), asked.preprocessing)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    seconds = asdict(stages.measure_stages(asked, faces, 6, torch.device("cpu")))
    assert cv2.getNumThreads() == 2
    cv2.setNumThreads(threads)
    assert seconds.pop("transfer") is None
    assert all(0 < value < 1 for value in seconds.values())


def test_network_and_loss_are_given_what_a_run_gives_them(
    config: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the sizes that are timed, that both passes are, and the weights: none learns from made-up gradients."""
    tasks: list[Any] = []
    sizes: dict[str, list[int]] = {"network": [], "loss": []}

    class Watched(FaceTask):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            for name, seen in sizes.items():
                self.get_submodule(name).register_forward_pre_hook(
                    lambda _, given, seen=seen: seen.append(len(given[0]))
                )
            self.start = [weights.detach().clone() for weights in self.parameters()]
            tasks.append(self)

    monkeypatch.setattr(stages, "FaceTask", Watched)
    asked = parse_config(config, FaceRunConfig, ["--train.accumulate=2", "--data.workers=0"])
    faces = LabelledFaces(FaceStore(small_store), asked.preprocessing)
    stages.measure_stages(asked, faces, 6, torch.device("cpu"))
    assert sizes["network"][0] == stages.FIRST_BATCH
    assert max(sizes["network"]) <= 12
    assert set(sizes["loss"]) == {12}
    assert all(weights.grad is not None for weights in tasks[0].parameters())
    assert all(map(torch.equal, tasks[0].parameters(), tasks[0].start))


def test_a_gpu_without_room_is_told(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects from a trace of calls where a batch does not fit: the key to change is named."""

    def out_of_memory(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(stages, "_measure", out_of_memory)
    assert main(["doctor", "--config", "tiny.yaml", "--train.accumulate=2"]) == 1
    assert "the GPU has no room for 12 faces at once; raise train.accumulate (now 2)" in capsys.readouterr().err


def test_only_the_work_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the median from the warm-up, from preparation, and from a single slow measurement."""
    now, durations = [0.0], [50.0, 1.0, 2.0, 9.0, 2.0, 2.0]

    def work(prepared: str) -> None:
        assert prepared == "prepared"
        now[0] += durations.pop(0)

    def prepare() -> str:
        now[0] += 100
        return "prepared"

    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(stages, "SECONDS", 570.0)
    assert stages.median_seconds(work, torch.device("cpu"), prepare) == 2.0
    assert durations == [], "it goes on for the whole time"


@pytest.mark.parametrize(
    ("changes", "here", "workers", "limit", "seconds"),
    [
        ({}, CPU, 4, "network", 0.065),  # decoded before: decoding does not count
        ({"decode": 0.1}, CPU, 4, "network", 0.065),
        ({"loss": 0.1}, CPU, 4, "loss", 0.1611),
        ({"optimizer": 0.2}, CPU, 4, "optimizer", 0.264),
        ({"augmentation": 0.2}, CPU, 4, "augmentation", 0.2649),
        ({"decode": 0.1}, replace(CPU, residency="stream"), 4, "decoding", 0.165),  # it takes the network's cores
        ({"decode": 0.1}, replace(GPU, residency="stream"), 4, "decoding", 0.1),  # while the GPU computes
        ({"decode": 0.064}, replace(GPU, residency="stream"), 4, "network", 0.065),
        ({"decode": 0.064}, replace(GPU, residency="stream"), 0, "decoding", 0.129),  # no workers: it waits
        ({"transfer": 0.2}, GPU, 4, "transfer", 0.265),
        ({"transfer": 0.2}, replace(GPU, residency="device"), 4, "network", 0.065),
    ],
)
def test_what_limits_follows_from_the_stages(
    changes: dict[str, float], here: Circumstances, workers: int, limit: Limit, seconds: float
) -> None:
    """Protects the projection, on made-up times: what is done at once, what after another, and what not at all."""
    found = project(replace(SECONDS, **changes), workers, here)
    assert found.limit == limit
    assert found.seconds == pytest.approx(seconds)
    assert 0 < found.share <= 1


def training(**settings: Any) -> FaceRunConfig:
    return FaceRunConfig(data=FaceDataConfig(store=Path("absent"), workers=4), train=TrainConfig(**settings))


@pytest.mark.parametrize(
    ("limit", "config", "here", "expected"),
    [
        ("network", training(), CPU, "a GPU, or a smaller network (model.width, preprocessing.crop_size)"),
        (
            "network",
            training(precision="float32", compile=False),
            GPU,
            "train.precision=auto, or train.compile=auto, or more GPUs",
        ),
        ("network", training(), GPU, "more GPUs (torchrun)"),
        ("loss", training(), CPU, "loss.gm.negative_share=0.1, or a GPU"),
        ("optimizer", training(), GPU, "a larger train.batch_size"),
        ("augmentation", training(), CPU, "a GPU"),
        ("transfer", training(), GPU, "data.residency=device"),
        ("decoding", training(), CPU, "data.workers=8, or a store of JPEG files"),
        ("decoding", training(), replace(CPU, cores=4, encoding="jpeg"), "memory for all decoded faces"),
    ],
)
def test_the_advice_fits(limit: Limit, config: FaceRunConfig, here: Circumstances, expected: str) -> None:
    """Protects the advice from what is done already, and from keys that do not exist."""
    text = advice(limit, config, here)
    assert text.startswith(expected)
    named = set(re.findall(r"\b(?:data|model|train|loss|preprocessing)\.[a-z_.]+[a-z]", text))
    for key in named:
        attrgetter(key)(config)


def test_random_pictures_come_as_faces_do(small_store: Path) -> None:
    """Protects the stand-in for a store: batches of the same shapes and types, of as many identities as asked for."""
    preprocessing = Preprocessing(face_size=56, crop_size=48)
    stand_in = LabelledFaces(RandomStore(10_575), preprocessing)
    real = LabelledFaces(FaceStore(small_store), preprocessing)
    numbers = np.array([1, 40])

    def shapes(batch: Batch) -> list[Any]:
        return [(part.shape, part.dtype) for part in (batch.images, batch.labels, *batch.draws)]

    batch, like = (faces[DrawnSamples(numbers, faces.draw(numbers, None))] for faces in (stand_in, real))
    assert shapes(batch) == shapes(like)
    assert len(np.unique(stand_in.labels)) == 10_575
    assert not torch.equal(*batch.images)


@pytest.mark.parametrize(("load", "warned"), [(0.9, False), (1.1, True)])
def test_a_busy_processor_is_told(load: float, warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects from figures that are too low because of other programs."""
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    assert ("load" in machine.devices()) is warned


def test_each_gpu_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects what is said of GPUs: name, memory and compute capability of each."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(machine, "SHARED_MEMORY", Path("absent"))
    found = SimpleNamespace(name="NVIDIA H100", total_memory=85_000_000_000, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    said = machine.devices()
    assert list(said) == ["processor", "GPU 0", "GPU 1"]
    assert said["GPU 1"] == "NVIDIA H100, 85.0 GB, compute capability 9.0"
    assert re.search(r", \d+ core\(s\), \d+\.\d GB free, computes in (bfloat16|float32)$", said["processor"])

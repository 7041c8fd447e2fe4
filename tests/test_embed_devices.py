"""Protects where an embedding computes: what is asked for, on GPUs that the workers share, or a clear refusal.

There is no GPU here: torch is made to say that it sees some, and nothing is computed on them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from alignment import InThisProcess
from embedders import HOPPER, save_small_embedder
from onnx_models import write_outside_model

from facegm.align import engines, ray_engine
from facegm.align.engines import WorkerPool
from facegm.align.networks import Runtime
from facegm.cli import main
from facegm.data.readers.photo import Photo
from facegm.embedding import device, embed_run, engine, model_device
from facegm.embedding.device import chosen_device
from facegm.embedding.embed_config import EmbedConfig
from facegm.embedding.embed_job import EmbedJob
from facegm.embedding.embed_run import embed_photos
from facegm.embedding.export import describe_onnx_model
from facegm.errors import FacegmError, UsageError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The second one is this process's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "GPU of a test")
    device._automatic_device.cache_clear()
    yield
    device._automatic_device.cache_clear()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos/grace").mkdir(parents=True)
    (tmp_path / "photos/grace/1.jpg").write_bytes(HOPPER.read_bytes())
    return tmp_path / "photos"


@pytest.mark.usefixtures("two_gpus")
def test_a_process_has_the_gpu_that_is_its_current_one() -> None:
    """Under torchrun each process has one of its own, and ONNX Runtime wants its number."""
    assert chosen_device("auto") == chosen_device("cuda") == torch.device("cuda:1")
    assert chosen_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(FacegmError, match="device cuda:2: torch sees 2 here, counted from 0"):
        chosen_device("cuda:2")


@pytest.mark.usefixtures("two_gpus")
def test_where_onnx_runtime_has_no_gpu_an_onnx_model_embeds_on_the_cpu(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "LocalWorker", InThisProcess)
    write_outside_model(tmp_path / "outside.onnx")
    model, output = tmp_path / "model.onnx", tmp_path / "faces.parquet"
    describe_onnx_model(tmp_path / "outside.onnx", "insightface", model)
    assert main(["embed", str(photos), "--model", str(model), "--output", str(output), "--workers", "1"]) == 0
    [row] = pq.read_table(output).to_pylist()
    assert len(row["embedding"]) == 12


@pytest.mark.parametrize(
    ("where", "runtime", "expected"),
    [("cuda", "cpu", True), ("cuda", "openvino", True), ("cpu", "cuda", True), ("cpu", "cpu", False)],
)
def test_workers_of_a_cluster_have_a_gpu_where_network_or_detector_needs_one(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, runtime: Runtime, expected: bool
) -> None:
    asked = []

    @contextmanager
    def session(_: int, *, uses_gpu: bool) -> Iterator[float]:
        asked.append(uses_gpu)
        if asked:
            raise FacegmError("no cluster here")
        yield 0.0

    monkeypatch.setattr(ray_engine, "ray_session", session)
    model = save_small_embedder(tmp_path / "embedder.safetensors")
    config = EmbedConfig(device=where, runtime=runtime, engine="ray", workers=1)
    with pytest.raises(FacegmError, match="no cluster here"):
        embed_photos(photos, model, tmp_path / "faces.parquet", config)
    assert asked == [expected]


@pytest.mark.parametrize(("where", "expected"), [("cuda", 6), ("cpu", 8)])
@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_has_a_few_workers_also_where_the_network_alone_is_there(
    monkeypatch: pytest.MonkeyPatch, where: str, expected: int
) -> None:
    """Else each core's worker would load the network onto it."""
    begun = []

    def none_of(workers: int, _: int) -> list[int]:
        begun.append(workers)
        return []

    monkeypatch.setattr(engines, "default_workers", lambda: 8)
    monkeypatch.setattr(engines, "gpus_of_workers", none_of)
    job = EmbedJob(model=Path("model"), policy="all", device=where, runtime="cpu", photos=40)
    with WorkerPool([[Photo(path="a", key="a", identity="a")]] * 40, job):
        assert begun == [expected]


@pytest.mark.parametrize("source", ["photos", "store"])
@pytest.mark.parametrize("change", ["bfloat16", "OpenVINO", "ONNX"])
def test_rows_of_another_computation_are_not_added_to_those_that_are_there(
    photos: Path, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, change: str
) -> None:
    """Each rounds otherwise: an interrupted embedding must not go on by another in silence."""
    monkeypatch.setattr(engines, "LocalWorker", InThisProcess)
    monkeypatch.setattr(model_device, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(engine, "is_installed", lambda: False)
    model = save_small_embedder(tmp_path / "embedder.safetensors")
    found, config = {"photos": photos, "store": small_store}[source], EmbedConfig(device="cpu")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embed_run, "write_faces", fail)
        with pytest.raises(KeyboardInterrupt):
            embed_photos(found, model, tmp_path / "faces.parquet", config)
    if change == "bfloat16":
        monkeypatch.setattr(model_device, "has_fast_bfloat16", lambda: True)
    elif change == "OpenVINO":
        monkeypatch.setattr(engine, "WORTH_A_TRANSLATION", 1)
        monkeypatch.setattr(engine, "is_installed", lambda: True)
    else:
        monkeypatch.setattr(model_device, "is_onnx", lambda _: True)
    with pytest.raises(FacegmError, match="was of other computation; do as then, or delete the folder"):
        embed_photos(found, model, tmp_path / "faces.parquet", config)


@pytest.mark.parametrize("where", ["local", "ray"])
def test_one_of_several_gpus_is_refused(photos: Path, tmp_path: Path, where: engines.EngineName) -> None:
    """Workers are spread over all of them: the number would be ignored."""
    model = save_small_embedder(tmp_path / "embedder.safetensors")
    with pytest.raises(UsageError, match=r"device cuda:1: worker processes share all GPUs; .* CUDA_VISIBLE_DEVICES"):
        embed_photos(photos, model, tmp_path / "faces.parquet", EmbedConfig(device="cuda:1", engine=where))

"""ONNX models of other programs: prepared for as they say, checked before they are trusted, run like any other."""

import os
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from calibrations import CALIBRATION
from onnx import TensorProto, helper
from onnx_models import outside_embeddings, write_outside_model

from facegm import FaceEmbedder
from facegm.embedding.export import describe_onnx_model
from facegm.embedding.model_file import read_calibration, weights_digest, write_calibration
from facegm.embedding.onnx_file import OnnxFile
from facegm.embedding.onnx_network import OnnxEngine
from facegm.embedding.onnx_preprocessing import OnnxPreprocessing, parse_preprocessing
from facegm.embedding.processes import compute_alone
from facegm.errors import FacegmError, UsageError


def faces(count: int, side: int = 128) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def loaded(file: Path, preprocessing: OnnxPreprocessing | str | None = None) -> FaceEmbedder:
    return FaceEmbedder.load(file, device="cpu", preprocessing=preprocessing)


def resized(face: np.ndarray, size: int) -> np.ndarray:
    """By OpenCV's remap: pixel (x, y) of the smaller face is (x, y) * side / size of the larger."""
    x, y = np.meshgrid(*[np.arange(size, dtype=np.float32) * np.float32(face.shape[0] / size)] * 2)
    return np.asarray(cv2.remap(face, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def near(found: np.ndarray, exact: np.ndarray, tolerance: float = 1e-5) -> bool:
    return bool(np.linalg.norm(found - exact, axis=1).max() < tolerance * np.linalg.norm(exact, axis=1).min())


def test_insightfaces_convention_is_what_its_reader_does(tmp_path: Path) -> None:
    """`blobFromImages(images, 1 / 127.5, (112, 112), (127.5,) * 3, swapRB=True)` of BGR images on its template."""
    weights = write_outside_model(tmp_path / "outside.onnx")
    embedder, some = loaded(tmp_path / "outside.onnx", "insightface"), faces(9, 112)
    bgr = [np.ascontiguousarray(face[:, :, ::-1]) for face in some]
    blob = cv2.dnn.blobFromImages(bgr, 1 / 127.5, (112, 112), (127.5,) * 3, swapRB=True)
    exact = outside_embeddings(weights, blob.transpose(0, 2, 3, 1))
    assert near(embedder.embed_aligned(list(some)), exact)
    assert (embedder.dim, embedder.is_mirrored, embedder.calibration) == (12, False, None)


def test_chips_of_this_program_come_by_the_templates_scale(tmp_path: Path) -> None:
    weights = write_outside_model(tmp_path / "outside.onnx")
    some = np.stack([cv2.GaussianBlur(face, (0, 0), 3) for face in faces(4)])
    found = loaded(tmp_path / "outside.onnx", "insightface").embed_aligned(list(some))
    small = np.stack([resized(face, 112) for face in some])
    assert near(found, outside_embeddings(weights, (small - 127.5) / 127.5), 2e-3)  # OpenCV's warps round positions
    with_another_centre = np.stack([cv2.resize(face, (112, 112)) for face in some])
    assert not near(found, outside_embeddings(weights, (with_another_centre - 127.5) / 127.5), 2e-3)


@pytest.mark.parametrize(
    "seen",
    [
        OnnxPreprocessing(size=96, scale=128.0),
        OnnxPreprocessing(mean=(123.7, 116.3, 103.5), scale=(58.4, 57.1, 57.4), color="bgr"),
        OnnxPreprocessing(size=64, layout="nhwc", mirror=True, mean=0.0, scale=255.0),
    ],
)
def test_other_conventions_are_followed(seen: OnnxPreprocessing, tmp_path: Path) -> None:
    file, described = tmp_path / "outside.onnx", tmp_path / "described.onnx"
    weights = write_outside_model(file, size=seen.size, layout=seen.layout)
    some = faces(5, seen.size)

    def exact(side: np.ndarray) -> np.ndarray:
        channels = side if seen.color == "rgb" else side[..., ::-1]
        return outside_embeddings(weights, (channels - np.array(seen.mean)) / np.array(seen.scale))

    expected = exact(some) + exact(some[:, :, ::-1]) if seen.mirror else exact(some)
    embedder = loaded(file, seen)
    assert near(embedder.embed_aligned(list(some)), expected)
    for side, found in zip((some, some[:, :, ::-1]), embedder.embed_sides(some), strict=True):
        assert near(found, exact(side))
    describe_onnx_model(file, seen, described)
    again = loaded(described)
    assert near(again.embed_aligned(list(some)), expected)
    assert again.contract == embedder.contract
    assert again.is_mirrored == seen.mirror


def test_a_graph_that_scales_pixels_is_given_them_as_they_are(tmp_path: Path) -> None:
    """As the models that MXNet wrote, which insightface knows by the same sign."""
    weights = write_outside_model(tmp_path / "outside.onnx", scaling=(127.5, 1 / 128))
    some = faces(3, 112)
    found = loaded(tmp_path / "outside.onnx", "insightface").embed_aligned(list(some))
    assert near(found, outside_embeddings(weights, (some - 127.5) / 128))
    network = describe_onnx_model(tmp_path / "outside.onnx", "insightface", tmp_path / "described.onnx")
    assert (network.side.pixels.mean, network.side.pixels.scale) == (0, 1)


@pytest.mark.parametrize(("batch", "reshaped_to"), [(1, None), ("batch", [1, 12])])
def test_a_model_for_one_face_is_run_face_by_face(
    batch: int | str, reshaped_to: list[int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says so, and one whose reshaping only works for one."""
    weights = write_outside_model(tmp_path / "outside.onnx", batch=batch, reshaped_to=reshaped_to)
    embedder, some = loaded(tmp_path / "outside.onnx", "insightface"), faces(5, 112)
    assert near(embedder.embed_aligned(list(some)), outside_embeddings(weights, (some - 127.5) / 127.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 96}, r"takes \['batch', 3, 96, 96\], and would be given \['batch', 3, 112, 112\]"),
        ({"layout": "nhwc"}, r"takes \['batch', 112, 112, 3\], and would be given \['batch', 3, 112, 112\]"),
        ({"batch": 4}, "takes just 4 faces at a time"),
        ({"reshaped_to": [-1, 12, 1, 1]}, r"makes \[1, 12, 1, 1\] of one face, where an embedding is \[1, dim\]"),
        ({"reshaped_to": [-1, 1]}, r"makes \[12, 1\] of one face"),
        ({"reshaped_to": [-1, 5]}, "ONNX Runtime fails"),
        ({"scaling": (float("nan"), 1.0)}, "makes embeddings that are not finite"),
    ],
)
def test_a_model_that_makes_no_embeddings_of_faces_is_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_outside_model(tmp_path / "outside.onnx", **settings)
    with pytest.raises(FacegmError, match=rf"outside\.onnx: .*{message}"):
        loaded(tmp_path / "outside.onnx", "insightface")
    with pytest.raises(FacegmError, match=message):
        describe_onnx_model(tmp_path / "outside.onnx", "insightface", tmp_path / "described.onnx")
    assert not (tmp_path / "described.onnx").exists()


def test_models_of_several_inputs_or_of_other_operations_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "outside.onnx"
    write_outside_model(file)
    model = onnx.load(file)
    model.graph.output.append(helper.make_tensor_value_info("row", TensorProto.FLOAT, None))
    onnx.save_model(model, file)
    with pytest.raises(
        FacegmError, match=r"outside\.onnx: from data to embedding, row, where one image and one embeddi"
    ):
        loaded(file, "insightface")
    del model.graph.output[1]
    model.graph.node[-1].domain = "somebodys.own"
    model.opset_import.append(helper.make_opsetid("somebodys.own", 1))
    onnx.save_model(model, file)
    with pytest.raises(FacegmError, match=r"outside\.onnx: ONNX Runtime cannot run it .*somebodys\.own"):
        loaded(file, "insightface")


def test_weights_in_other_files_are_never_read(tmp_path: Path) -> None:
    """A model could name any file of the machine as its weights, and show its bytes in embeddings."""
    (tmp_path / "models").mkdir()
    (tmp_path / "secret").write_bytes(np.ones(10**5, np.float32).tobytes())
    file = tmp_path / "models" / "outside.onnx"
    write_outside_model(file)
    model = onnx.load(file)
    matrix = next(one for one in model.graph.initializer if one.name == "matrix")
    matrix.ClearField("raw_data")
    matrix.data_location = TensorProto.EXTERNAL
    matrix.external_data.add(key="location", value="../secret")
    file.write_bytes(model.SerializeToString())
    with pytest.raises(FacegmError, match=r"outside\.onnx: keeps weights in other files, which are not read"):
        loaded(file, "insightface")
    # The same in an attribute of a node.
    constant = helper.make_node("Constant", [], ["matrix"], value=matrix)
    model.graph.initializer.remove(matrix)
    model.graph.node.insert(0, constant)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(FacegmError, match=r"outside\.onnx: keeps weights in other files, which are not read"):
        loaded(file, "insightface")


def test_preprocessing_is_said_once(tmp_path: Path) -> None:
    file, described = tmp_path / "outside.onnx", tmp_path / "described.onnx"
    write_outside_model(file)
    with pytest.raises(
        FacegmError, match=r"outside\.onnx: does not say how faces are prepared for it; write that into "
    ):
        loaded(file)
    with pytest.raises(FacegmError, match="must be insightface, or settings such as"):
        loaded(file, "insihgtface")
    describe_onnx_model(file, "insightface", described)
    with pytest.raises(FacegmError, match=r"described\.onnx: says itself how faces are prepared for it"):
        loaded(described, "insightface")
    with pytest.raises(FacegmError, match=r"missing\.onnx: no such model file"):
        loaded(tmp_path / "missing.onnx")


def test_contracts_differ_by_weights_and_by_preprocessing(tmp_path: Path) -> None:
    """And not by what is written beside the graph."""
    files = [tmp_path / f"{number}.onnx" for number in range(2)]
    for number, file in enumerate(files):
        write_outside_model(file, seed=number)
    first, second = (loaded(file, "insightface").contract for file in files)
    other = loaded(files[0], OnnxPreprocessing(scale=128.0)).contract
    assert len({first.digest, second.digest, other.digest}) == 3
    assert first.preprocessing == second.preprocessing != other.preprocessing
    describe_onnx_model(files[0], "insightface", tmp_path / "described.onnx", license_text="CC BY-NC 4.0")
    assert loaded(tmp_path / "described.onnx").contract == first
    assert weights_digest(tmp_path / "described.onnx") == weights_digest(files[0]) == first.weights


@pytest.mark.parametrize(
    "written",
    [
        OnnxPreprocessing(mean=0, scale=128),
        OnnxPreprocessing(mean=-0.0, scale=(128, 128.0, 128)),
        OnnxPreprocessing(mean=(0, 0, 0), scale=np.float32(128)),  # type: ignore[arg-type]
        OnnxPreprocessing.from_json({"mean": [0], "scale": [128, 128, 128]}),
    ],
)
def test_equal_settings_have_equal_contracts(tmp_path: Path, written: OnnxPreprocessing) -> None:
    write_outside_model(tmp_path / "outside.onnx")
    expected = "mean=0,scale=128"
    assert written == parse_preprocessing(expected)
    assert loaded(tmp_path / "outside.onnx", written).contract == loaded(tmp_path / "outside.onnx", expected).contract


def test_channels_that_differ_stay_three() -> None:
    assert OnnxPreprocessing(mean=(1, 1, 2)).mean == (1.0, 1.0, 2.0)
    assert OnnxPreprocessing(mean=(2, 1, 1)).mean == (2.0, 1.0, 1.0)


def test_a_model_is_read_parsed_and_begun_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it was parsed to, which holds the weights once more, is not kept."""
    write_outside_model(tmp_path / "outside.onnx")
    describe_onnx_model(tmp_path / "outside.onnx", "insightface", tmp_path / "described.onnx")
    read, begun, parsed = list[Path](), list[object](), list["weakref.ref[Any]"]()
    read_bytes, session, model = Path.read_bytes, onnxruntime.InferenceSession, OnnxFile.__dict__["model"].func

    def noted(file: OnnxFile) -> Any:
        found = model(file)
        parsed.append(weakref.ref(file))
        return found

    counted = cached_property(noted)
    counted.__set_name__(OnnxFile, "model")
    monkeypatch.setattr(OnnxFile, "model", counted)

    def noted_bytes(path: Path) -> bytes:
        read.append(path)
        return read_bytes(path)

    def noted_session(*arguments: Any, **options: Any) -> Any:
        begun.append(session(*arguments, **options))
        return begun[-1]

    monkeypatch.setattr(Path, "read_bytes", noted_bytes)
    monkeypatch.setattr(onnxruntime, "InferenceSession", noted_session)
    embedder = loaded(tmp_path / "described.onnx")
    assert _embedded(embedder).shape == (4, 12)
    assert "12 dimensions" in embedder.describe()
    assert ([path.name for path in read], len(begun), len(parsed)) == (["described.onnx"], 1, 1)
    file = parsed[0]()
    assert file is not None
    assert "model" not in vars(file)


def test_a_session_that_is_begun_by_a_thread_that_computes_alone_has_all_threads(tmp_path: Path) -> None:
    write_outside_model(tmp_path / "outside.onnx")
    file, before = OnnxFile.read(tmp_path / "outside.onnx"), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1, initializer=compute_alone, initargs=(2,)) as pool:
            engine = pool.submit(OnnxEngine, file, torch.device("cpu")).result()
        assert engine._session.get_session_options().intra_op_num_threads == 2
    finally:
        torch.set_num_threads(before)


def test_an_undescribed_model_is_not_calibrated(tmp_path: Path) -> None:
    write_outside_model(tmp_path / "outside.onnx")
    before = (tmp_path / "outside.onnx").read_bytes()
    assert read_calibration(tmp_path / "outside.onnx") is None
    with pytest.raises(FacegmError, match="does not say how faces are prepared for it"):
        write_calibration(tmp_path / "outside.onnx", CALIBRATION)
    assert (tmp_path / "outside.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("insightface", OnnxPreprocessing()),
        ("scale=128", OnnxPreprocessing(scale=128.0)),
        ("size=160, mean=1/2/3,color=bgr", OnnxPreprocessing(size=160, mean=(1.0, 2.0, 3.0), color="bgr")),
        ("layout=nhwc,mirror=true", OnnxPreprocessing(layout="nhwc", mirror=True)),
    ],
)
def test_settings_are_read_from_a_command_line(text: str, expected: OnnxPreprocessing) -> None:
    assert parse_preprocessing(text) == expected
    assert OnnxPreprocessing.from_json(asdict(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be insightface, or settings"),
        ("112", "must be insightface, or settings"),
        ("width=3", "there are size, mean, scale, color, layout, mirror"),
        ("size=big", "size=big: "),
        ("size=0", "size: 0, must be from 1 to 1024"),
        ("mean=1/2", "mean=1/2: one number or three"),
        ("scale=0", "must not be 0"),
        ("scale=nan", "must be a number, or one for each of three channels"),
        ("color=grey", "color: grey, must be rgb or bgr"),
        ("layout=hwcn", "layout: hwcn, must be nchw or nhwc"),
        ("mirror=yes", "mirror=yes: true or false"),
    ],
)
def test_settings_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_preprocessing(text)


def _embedded(embedder: FaceEmbedder) -> np.ndarray:
    return embedder.embed_aligned(list(faces(4, 112)))


def test_threads_forks_and_pickles_share_a_model(tmp_path: Path) -> None:
    write_outside_model(tmp_path / "outside.onnx")
    embedder = loaded(tmp_path / "outside.onnx", "insightface")
    expected = _embedded(embedder)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(found, expected) for found in pool.map(_embedded, [embedder] * 12))
    assert np.array_equal(_embedded(pickle.loads(pickle.dumps(embedder))), expected)
    if hasattr(os, "fork"):
        with get_context("fork").Pool(1) as processes:
            assert np.array_equal(processes.apply_async(_embedded, (embedder,)).get(60), expected)


def test_a_device_that_the_runtime_lacks_is_not_replaced_in_silence(tmp_path: Path) -> None:
    write_outside_model(tmp_path / "outside.onnx")
    file = OnnxFile.read(tmp_path / "outside.onnx")
    with pytest.raises(FacegmError, match=r"has no cuda:1 here: .*onnxruntime-gpu"):
        OnnxEngine(file, torch.device("cuda:1"))
    with pytest.raises(FacegmError, match="has no mps here"):
        OnnxEngine(file, torch.device("mps"))


def test_auto_takes_the_cpu_where_the_runtime_has_no_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_outside_model(tmp_path / "outside.onnx")
    with caplog.at_level("INFO"):
        embedder = FaceEmbedder.load(tmp_path / "outside.onnx", preprocessing="insightface")
    assert "device auto: the CPU, for ONNX Runtime has no other here" in caplog.text
    assert _embedded(embedder).shape == (4, 12)
    assert replace(embedder.contract) == embedder.contract

"""A detector that is kept scores as before, and a file that is damaged or another program's is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from observed import observed
from safetensors.torch import save_file
from torch import Tensor

from facegm.adversarial.detectors.base import Detector
from facegm.adversarial.detectors.detector_file import DETECTORS, load_detector, save_detector
from facegm.adversarial.detectors.gm_likelihood import GMLikelihood
from facegm.adversarial.detectors.i_defender import IDefender
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.detectors.kd_bu import KDBU
from facegm.adversarial.detectors.lid import LID
from facegm.adversarial.detectors.mahalanobis import Mahalanobis
from facegm.data.weights import digest_of, read_weights
from facegm.errors import FacegmError, UsageError


def fitted(name: str) -> Detector:
    train, states = observed(45), {"noisy": observed(30, seed=2), "adversarial": observed(30, seed=3, spread=3.0)}
    density = KDensity(0.7).fit(train)
    makers: dict[str, Callable[[], Detector]] = {
        "k-density": lambda: density,
        "gm-likelihood": lambda: GMLikelihood(torch.randn(3, 5)),
        "mahalanobis": lambda: Mahalanobis().fit(train),
        "i-defender": lambda: IDefender(2, seed=1).fit(train),
        "lid": lambda: LID().fit(observed(30), **states),
        "kd-bu": lambda: KDBU(density).fit(observed(30), **states),
    }
    return makers[name]()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_that_is_kept_scores_as_before(name: str, tmp_path: Path) -> None:
    detector, path, seen = fitted(name), tmp_path / "detector.safetensors", observed(20, seed=1)
    save_detector(path, detector)
    found = load_detector(path)
    assert type(found) is type(detector)
    assert found.settings() == detector.settings()
    np.testing.assert_array_equal(found.score_samples(seen), detector.score_samples(seen))
    again = tmp_path / "again.safetensors"
    save_detector(again, found)
    assert again.read_bytes() == path.read_bytes()


def test_what_is_not_fitted_or_another_library_s_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^k-density: the detector is not fitted"):
        save_detector(tmp_path / "a", KDensity())
    with pytest.raises(UsageError, match=r"^kd-bu: the detector is not fitted"):
        save_detector(tmp_path / "a", KDBU(KDensity()))
    assert not (tmp_path / "a").exists()


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> None:
    tensors, description = read_weights(path)
    assert description is not None
    content = json.loads(description)
    change(tensors, content)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content["content"] = digest_of(tensors)  # as of a file that somebody has written so, and not one that has decayed
    save_file(tensors, path, {"facegm": json.dumps(content)})


DAMAGES: dict[str, tuple[Callable[[dict[str, Tensor], dict[str, Any]], object], str]] = {
    "another format": (lambda _, d: d.update(format=2), "format 2 of k-density"),
    "unknown detector": (lambda _, d: d.update(detector="x"), "format 1 of x"),
    "no detector": (lambda _, d: d.pop("detector"), "'detector'"),
    "unknown setting": (lambda _, d: d["settings"].update(x=1), "x"),
    "no settings": (lambda _, d: d.update(settings=None), "settings|mapping"),
    "a tensor is missing": (lambda t, _: t.pop("sizes_"), "tensors bandwidth_, centers_, must be centers_, sizes_"),
    "a tensor too many": (lambda t, _: t.update(x=torch.ones(1)), "tensors bandwidth_, centers_, sizes_, x, must be"),
    "another precision": (
        lambda t, _: t.update(centers_=t["centers_"].float()),
        r"centers_: \[45, 5\] of torch.float32",
    ),
    "another shape": (lambda t, _: t.update(centers_=t["centers_"][0]), r"centers_: \[5\] of"),
    "classes of other sizes": (lambda t, _: t["sizes_"].add_(1), r"classes of \[16, 16, 16\] of 45 rows"),
    "an empty class": (lambda t, _: t["sizes_"].copy_(torch.tensor([0, 15, 30])), r"classes of \[0, 15, 30\]"),
    "no bandwidth": (lambda t, _: t["bandwidth_"].fill_(0), "bandwidth 0"),
    "not finite": (lambda t, _: t["centers_"][3].fill_(torch.nan), "not finite in centers_"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "detector.safetensors"
    save_detector(path, fitted("k-density"))
    change, message = DAMAGES[damage]
    rewrite(path, change)
    with pytest.raises(FacegmError, match=rf"^[^\n]*detector.safetensors: [^\n]*({message})[^\n]*$"):
        load_detector(path)


def test_a_number_that_has_changed_on_the_disk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "detector.safetensors"
    save_detector(path, fitted("k-density"))
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # the last bit of a coordinate
    path.write_bytes(content)
    with pytest.raises(FacegmError, match=r"detector.safetensors: .*its content is not what was written"):
        load_detector(path)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(FacegmError, match=r"x: no such detector"):
        load_detector(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(FacegmError, match=r"x: a safetensors file, but not a facegm detector"):
        load_detector(path)
    save_file({"weight": torch.ones(2)}, path, {"facegm": "[" * 100_000})
    with pytest.raises(FacegmError, match=r"x: not a detector that this facegm can use"):
        load_detector(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(FacegmError, match=r"x: damaged or not a safetensors file"):
        load_detector(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("detectors")
    for name in DETECTORS:
        save_detector(folder / name, fitted(name))
    return {name: folder / name for name in DETECTORS}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data(), name=st.sampled_from(sorted(DETECTORS)))
def test_whatever_stands_in_a_file_it_is_read_or_refused(
    files: dict[str, Path], data: st.DataObject, name: str
) -> None:
    """A byte is changed, the end is cut off, or a tensor has another shape."""
    path = files[name].with_name("changed")
    content = bytearray(files[name].read_bytes())
    kind = data.draw(st.sampled_from(["byte", "cut", "shape"]))
    if kind == "byte":
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if kind == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(content)
    if kind == "shape":

        def change(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
            changed = data.draw(st.sampled_from(sorted(tensors)))
            shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
            tensors[changed] = torch.ones(shape, dtype=tensors[changed].dtype)

        rewrite(path, change)
    try:
        load_detector(path).score_samples(observed(5))
    except FacegmError as error:
        message = str(error)
    else:
        return
    assert "\n" not in message

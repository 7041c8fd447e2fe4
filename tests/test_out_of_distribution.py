"""Out-of-distribution images, drawn or of any folder, at a classifier's side and channels; what it makes of them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from image_files import write_cifar10, write_idx
from PIL import Image

from facegm.classification.any_images import FittedImages, open_labelled, open_unlabelled
from facegm.classification.classifier import Description, ImageClassifier
from facegm.classification.out_of_distribution import drawn_sets, named_sets, noise, silhouettes
from facegm.classification.prediction import ImageSet, predict
from facegm.classification.preprocessing import ImagePreprocessing
from facegm.data.readers.arrays import LabelledArrays
from facegm.data.samples import Batch, DrawnSamples, Samples
from facegm.errors import FacegmError
from facegm.losses.config import LossConfig
from facegm.models.image_network import ImageModelConfig

CPU = torch.device("cpu")


def description(channels: int, side: int, resize: int | None = None, classes: int = 3) -> Description:
    return Description(
        model=ImageModelConfig(name="resnet20"),
        loss=LossConfig(),
        preprocessing=ImagePreprocessing(mean=[0.4], std=[0.3]),
        classes=[str(number) for number in range(classes)],
        channels=channels,
        side=side,
        resize=resize,
    )


def classifier(channels: int, side: int) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(description(channels, side)).eval()


def pixels(samples: Samples) -> np.ndarray:
    numbers = np.arange(len(samples))
    batch: Batch = samples[DrawnSamples(numbers, samples.draw(numbers, None))]
    return batch.images.numpy()


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)


# ------------------------------------------------------------------------------------------------- drawn sets


def test_noise_is_uniform_and_independent() -> None:
    found = noise(np.random.default_rng(0), 200, 20, 3)
    assert found.shape == (200, 20, 20, 3)
    counts = np.bincount(found.reshape(-1), minlength=256)
    assert abs(counts / found.size * 256 - 1).max() < 0.2
    beside = np.corrcoef(found[:, :, :-1].reshape(-1), found[:, :, 1:].reshape(-1))[0, 1]
    assert abs(beside) < 0.02


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (32, 3)])
def test_silhouettes_have_the_statistics_that_are_said(side: int, channels: int) -> None:
    found = silhouettes(np.random.default_rng(3), 1500, side, channels) / 255
    assert found.shape == (1500, side, side, channels)
    assert found.mean() == pytest.approx(0.286, abs=0.02)
    assert found.std() == pytest.approx(0.353, abs=0.02)
    assert (found == 0).mean() == pytest.approx(0.5, abs=0.06)
    inside = np.asarray(found.max(axis=3) > 0)
    assert (inside != inside[:, :, ::-1]).mean() < 0.02, "symmetric"
    beside = np.corrcoef(found[:, :, :-1].reshape(-1), found[:, :, 1:].reshape(-1))[0, 1]
    assert beside > 0.8, "smooth"


def test_drawn_sets_follow_from_their_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, other = (drawn_sets(description(1, 8), 300, seed=seed) for seed in (0, 0, 1))
    assert [one.name for one in first] == ["noise", "silhouettes"]
    for one, same, differs in zip(first, again, other, strict=True):
        assert pixels(one.samples).shape == (300, 8, 8, 1)
        assert np.array_equal(pixels(one.samples), pixels(same.samples))
        assert not np.array_equal(pixels(one.samples), pixels(differs.samples))
        assert len(np.unique(pixels(one.samples), axis=0)) > 295, "no chunk is drawn twice"
    monkeypatch.setattr("facegm.classification.out_of_distribution.MOST_BYTES", 5 * 8 * 8 * 3 + 1)
    assert [len(one.samples) for one in drawn_sets(description(3, 8), 300)] == [5, 5]


# ------------------------------------------------------------------------------------------------- sets in files


def test_packed_images_are_brought_to_the_side(tmp_path: Path, colours: np.ndarray) -> None:
    write_cifar10(tmp_path / "cifar", colours, np.arange(9))
    found = pixels(open_unlabelled(tmp_path / "cifar", 16))
    means = colours.reshape(9, 16, 2, 16, 2, 3).astype(np.float64).mean(axis=(2, 4))
    assert np.abs(found - means).max() <= 0.5
    assert np.array_equal(pixels(open_unlabelled(tmp_path / "cifar", 32)), colours)
    grey = colours[:, :20, :24, 0]
    for part in ("train", "t10k"):
        write_idx(tmp_path / "idx", part, grey, np.arange(9))
    found = pixels(open_unlabelled(tmp_path / "idx", 10))
    middle = grey[:, :, 2:22].reshape(9, 10, 2, 10, 2).astype(np.float64).mean(axis=(2, 4))
    assert found.shape == (9, 10, 10, 1)
    assert np.abs(found[..., 0] - middle).max() <= 0.5, "the middle square of what is not square"
    assert pixels(open_unlabelled(tmp_path / "idx", 40)).shape == (9, 40, 40, 1)


def test_photos_need_no_class_and_are_cropped_as_for_an_evaluation(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.png", "deep/er/b.png"):
        Image.fromarray(photo).save(tmp_path / name)
    found = pixels(open_unlabelled(tmp_path, 20, 24))
    halved = photo.reshape(24, 2, 32, 2, 3).astype(np.float64).mean(axis=(1, 3))[2:22, 6:26]
    assert found.shape == (2, 20, 20, 3)
    assert np.abs(found - halved).max() <= 0.5
    whole = pixels(open_unlabelled(tmp_path, 24))  # of a classifier of small images: all of the square
    assert np.abs(whole[1] - photo.reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))[:, 4:28]).max() <= 0.5


def test_named_sets_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one/photos", "two/photos", "noise", "cats"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / folder / "a.png")
    monkeypatch.chdir(tmp_path)
    sources = [Path(name) for name in ("one/photos", "two/photos", "noise", "cats", "../" + tmp_path.name + "/cats/.")]
    names = [one.name for one in named_sets(sources[:4], 8)]
    assert names[:2] == ["one/photos", "two/photos"]
    assert names[3] == "cats"
    assert len({*names, "silhouettes"}) == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [("empty", "no photo found"), ("missing", "no such folder"), ("half", "train-labels-idx1-ubyte missing")],
)
def test_what_is_no_set_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_idx(tmp_path / "half", "t10k", np.zeros((2, 8, 8), np.uint8), np.zeros(2))
    with pytest.raises(FacegmError, match=message):
        open_unlabelled(tmp_path / name, 8)


def test_labels_are_the_classifiers_own(tmp_path: Path) -> None:
    images = np.arange(6, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    for part in ("train", "t10k"):
        write_idx(tmp_path / "idx", part, images, np.array([0, 1, 2, 3, 2, 1]))
    d = description(1, 8)
    found = open_labelled(tmp_path / "idx", d, left_out=["3"])
    assert found.labels.tolist() == [0, 1, 2, 2, 1]
    assert pixels(found)[:, 0, 0, 0].tolist() == [0, 1, 2, 4, 5]
    with pytest.raises(FacegmError, match=r"idx: its class, 3, is none of 3: 0, 1, 2, \.\.\.; give"):
        open_labelled(tmp_path / "idx", d)
    for part in ("train", "val"):
        for name in ("2", "0", "x"):
            (tmp_path / "tree" / part / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / "tree" / part / name / f"{part}.png")
    photos = open_labelled(tmp_path / "tree", d, left_out=["x"])
    assert [(Path(key).parts[-3:], label) for key, label in zip(photos.keys, photos.labels, strict=True)] == [
        (("val", "0", "val.png"), 0),
        (("val", "2", "val.png"), 2),
    ]
    with pytest.raises(FacegmError, match="its class, x, is none of 3"):
        open_labelled(tmp_path / "tree", d)


# ------------------------------------------------------------------------------------------------- predictions


def fitted(images: np.ndarray, side: int) -> ImageSet:
    arrays = LabelledArrays(images, np.zeros(len(images), np.int64), ("0",))
    return ImageSet(name="some", samples=FittedImages(arrays, side))


def test_predictions_are_those_of_each_image_alone(colours: np.ndarray) -> None:
    model = classifier(3, 32)
    found = predict(model, fitted(colours, 32), batch_size=4, workers=0, device=CPU)
    for number, image in enumerate(colours):
        alone = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(found.features[number]), model.features(alone)[0], atol=1e-5)
            assert torch.allclose(torch.from_numpy(found.logits[number]), model(alone)[0], atol=1e-4)
    assert found.features.dtype == found.logits.dtype == np.float32
    some = predict(model, fitted(colours, 32), batch_size=2, workers=0, device=CPU, numbers=np.array([7, 0, 3]))
    assert np.allclose(some.logits, found.logits[[7, 0, 3]], atol=1e-4)
    assert len(some.labels) == 3


def test_a_grey_network_sees_luma_and_one_of_colours_sees_grey(colours: np.ndarray) -> None:
    luma = colours.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    grey = classifier(1, 32)
    found = predict(grey, fitted(colours, 32), batch_size=9, workers=0, device=CPU)
    with torch.no_grad():
        expected = grey.features(torch.from_numpy(luma).float()[:, None])
        assert torch.allclose(torch.from_numpy(found.features), expected, atol=1e-5)
        coloured, shades = classifier(3, 32), colours[..., :1]
        found = predict(coloured, fitted(shades, 32), batch_size=9, workers=0, device=CPU)
        expected = coloured.features(torch.from_numpy(shades.repeat(3, axis=3)).permute(0, 3, 1, 2).float() / 255)
        assert torch.allclose(torch.from_numpy(found.features), expected, atol=1e-5)
    picture = fitted(shades, 32).picture(2)
    assert np.array_equal(picture, cv2.cvtColor(colours[2, :, :, 0], cv2.COLOR_GRAY2RGB))


def test_products_are_in_full_precision(colours: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = classifier(3, 32), []
    model.network.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        found = predict(model, fitted(colours, 32), batch_size=9, workers=0, device=CPU)
    exact = predict(model, fitted(colours, 32), batch_size=9, workers=0, device=CPU)
    assert seen == [False, False]
    assert torch.backends.cudnn.allow_tf32 == before
    assert np.allclose(found.features, exact.features, atol=1e-6)


@pytest.mark.gpu
def test_a_gpu_gives_the_same(colours: np.ndarray) -> None:
    model, gpu = classifier(3, 32), torch.device("cuda")
    expected = predict(model, fitted(colours, 32), batch_size=4, workers=0, device=CPU)
    found = predict(model.to(gpu), fitted(colours, 32), batch_size=4, workers=0, device=gpu)
    assert np.allclose(found.features, expected.features, atol=1e-4)
    assert np.allclose(found.logits, expected.logits, atol=1e-3)


def test_numbers_that_are_not_finite_name_the_image(colours: np.ndarray) -> None:
    model = classifier(3, 32)
    with torch.no_grad():
        model.loss.means.mul_(float("inf"))  # type: ignore[operator]
    with pytest.raises(FacegmError, match="some: image 0: the network gives numbers that are not finite, as of 9 of 9"):
        predict(model, fitted(colours, 32), batch_size=4, workers=0, device=CPU)

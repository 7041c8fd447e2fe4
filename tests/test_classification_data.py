"""Protects what a classifier is trained and evaluated on: whose images they are, their classes, and who is held out."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import (
    CIFAR10_CLASSES,
    idx,
    pictures,
    touch_photos,
    write_cifar10,
    write_cifar100,
    write_mnist,
    write_photos,
)

from facegm.classification.config import ImageDataConfig
from facegm.classification.data import LabelledImages, open_images, open_left_out
from facegm.data.photo_samples import LabelledPhotos
from facegm.data.readers.arrays import Part
from facegm.data.readers.source import find_photos
from facegm.data.resident_images import CropDraws, PaddedCrop, ResidentImages
from facegm.data.samples import DrawnSamples
from facegm.errors import FacegmError

TRAIN, TEST = [3, 0, 9, 4, 4, 7, 1, 2, 8, 5, 6, 0], [5, 4, 9, 0, 0, 4]


def config_of(folder: Path, name: Any = "folder", **options: Any) -> ImageDataConfig:
    return ImageDataConfig(folder=folder, set=name, **options)


def pixels_of(images: LabelledImages) -> np.ndarray:
    """All images as they are evaluated."""
    assert isinstance(images.samples, ResidentImages)
    numbers = np.arange(len(images.samples))
    batch = images.samples[DrawnSamples(numbers, images.samples.draw(numbers, None))]
    assert images.crop is not None
    return images.crop.cut(batch).numpy()


def assert_images(images: LabelledImages, pixels: np.ndarray, labels: list[int]) -> None:
    np.testing.assert_array_equal(pixels_of(images), pixels)
    assert images.samples.labels.tolist() == labels


def photos_of(images: LabelledImages, root: Path) -> dict[str, str]:
    """The class's name of each photo, by its path below the root."""
    assert isinstance(images.samples, LabelledPhotos)
    assert images.samples.classes == images.classes
    labels = images.samples.labels.tolist()
    paths = [Path(key).relative_to(root).as_posix() for key in images.samples.keys]
    assert len(set(paths)) == len(paths)
    return {path: images.classes[label] for path, label in zip(paths, labels, strict=True)}


# ------------------------------------------------------------------------------------------------- packed sets


@pytest.mark.parametrize(("place", "suffix"), [("", ".gz"), ("", ""), ("MNIST/raw", ".gz")])
def test_mnist_is_what_its_files_hold(place: str, suffix: str, tmp_path: Path) -> None:
    write_mnist(tmp_path / place, TRAIN, TEST, suffix=suffix)
    parts: dict[Part, list[int]] = {"train": TRAIN, "test": TEST}
    for seed, (part, labels) in enumerate(parts.items()):
        images = open_images(config_of(tmp_path, "mnist"), part)
        assert_images(images, pictures(labels, 28, 1, seed), labels)
        assert images.classes == tuple("0123456789")
        assert (images.channels, images.side) == (1, 28)


@pytest.mark.parametrize("layout", ["bin", "py"])
def test_cifar10_is_what_its_files_hold(layout: str, tmp_path: Path) -> None:
    """Protects the order of the planes, and of the five files."""
    write_cifar10(tmp_path, TRAIN, TEST, layout=layout)
    parts: dict[Part, list[int]] = {"train": TRAIN, "test": TEST}
    for seed, (part, labels) in enumerate(parts.items()):
        images = open_images(config_of(tmp_path, "cifar10"), part)
        assert_images(images, pictures(labels, 32, 3, seed), labels)
        assert images.classes == CIFAR10_CLASSES
        assert (images.channels, images.side) == (3, 32)


@pytest.mark.parametrize("names", [(), tuple(f"thing {number}" for number in range(100))])
def test_cifar100_is_read_with_its_fine_labels(names: tuple[str, ...], tmp_path: Path) -> None:
    labels = [99, 0, 57, 31]
    write_cifar100(tmp_path, labels, [12], names)
    images = open_images(config_of(tmp_path, "cifar100"), "train")
    assert_images(images, pictures(labels, 32, 3), labels)
    assert images.classes == (names or tuple(str(number) for number in range(100)))


def test_the_augmentation_is_that_of_the_configuration(tmp_path: Path) -> None:
    write_cifar10(tmp_path, TRAIN, TEST)
    options: dict[str, Any] = {"padding": 3, "border": "zero", "mirror": True}
    images = open_images(config_of(tmp_path, "cifar10", **options), "train")
    assert images.crop == PaddedCrop(side=32, **options)
    draws = images.samples.draw(np.arange(12).repeat(50), np.random.default_rng(0))
    assert isinstance(draws, CropDraws)
    assert (draws.top.min(), draws.top.max(), draws.left.min(), draws.left.max()) == (-3, 3, -3, 3)
    assert draws.mirrored.any()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_mnist(folder, TRAIN, TEST)
    return folder


@settings(max_examples=40, deadline=None, derandomize=True)
@given(left_out=st.lists(st.sampled_from("0123456789"), max_size=8, unique=True))
def test_classes_that_are_left_out_are_in_neither_part(digits: Path, left_out: list[str]) -> None:
    """Protects the numbers of the rest, which go up without a gap, in the order that they had."""
    config = config_of(digits, "mnist", leave_out=left_out)
    kept = [name for name in "0123456789" if name not in left_out]
    if not any(str(label) in kept for label in TEST):
        with pytest.raises(FacegmError, match=f"{digits}: has no image of the classes"):
            open_images(config, "test")
        return
    for seed, (part, labels) in enumerate({"train": TRAIN, "test": TEST}.items()):
        images = open_images(config, part)  # type: ignore[arg-type]
        rows = [row for row, label in enumerate(labels) if str(label) in kept]
        assert images.classes == tuple(kept)
        assert_images(images, pictures(labels, 28, 1, seed)[rows], [kept.index(str(labels[row])) for row in rows])

    rows = [row for row, label in enumerate(TEST) if str(label) in left_out]
    if not left_out:
        assert open_left_out(config) is None
    elif rows:
        strangers = open_left_out(config)
        assert strangers is not None
        assert strangers.classes == tuple(left_out)
        labels = [left_out.index(str(TEST[row])) for row in rows]
        assert_images(strangers, pictures(TEST, 28, 1, 1)[rows], labels)


def test_classes_have_the_numbers_that_a_trained_network_gave_them(digits: Path) -> None:
    images = open_images(config_of(digits, "mnist"), "test", classes=["9", "4", "0"])
    rows = [row for row, label in enumerate(TEST) if label in (9, 4, 0)]
    assert_images(images, pictures(TEST, 28, 1, 1)[rows], [{9: 0, 4: 1, 0: 2}[TEST[row]] for row in rows])
    assert images.classes == ("9", "4", "0")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_that_the_set_lacks_is_named(part: Part, digits: Path, tmp_path: Path) -> None:
    """Protects from evaluating on a part of the classes, where a network of another set is looked at."""
    with pytest.raises(FacegmError, match=rf"^{digits}: has no class zebra; there are 0, 1, 2, "):
        open_images(config_of(digits, "mnist"), part, classes=["0", "zebra", "9"])
    touch_photos(tmp_path, {"cat": ["1.jpg", "2.jpg"], "dog": ["1.jpg", "2.jpg"]})
    with pytest.raises(FacegmError, match=rf"^{tmp_path}: has no class zebra; there are cat, dog"):
        open_images(config_of(tmp_path), part, classes=["cat", "zebra"])


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (["ten"], r"^data.leave_out: ten: no such class; there are 0, 1, 2"),
        ([str(number) for number in range(9)], r"^data.leave_out: fewer than two classes are left to train on"),
    ],
)
def test_what_cannot_be_left_out_names_its_key(left_out: list[str], message: str, digits: Path) -> None:
    with pytest.raises(FacegmError, match=message):
        open_images(config_of(digits, "mnist", leave_out=left_out), "train")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_an_empty_folder_is_named_and_what_belongs_there(name: str, tmp_path: Path) -> None:
    message = rf"^{tmp_path}: no files of {'MNIST' if name == 'mnist' else name}; lay .* there.*, or add --download to "
    with pytest.raises(FacegmError, match=message):
        open_images(config_of(tmp_path, name), "train")


def test_images_that_are_not_square_are_refused(digits: Path, tmp_path: Path) -> None:
    for shape in ((28, 20), (20, 28)):
        write_mnist(tmp_path, TRAIN, TEST)
        flat = np.zeros((len(TRAIN), *shape), np.uint8)
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(flat))
        with pytest.raises(FacegmError, match=rf"^{tmp_path}: images of {shape[0]} x {shape[1]} pixels"):
            open_images(config_of(tmp_path, "mnist"), "train")


def test_images_are_not_padded_by_more_pixels_than_they_have(digits: Path) -> None:
    with pytest.raises(FacegmError, match=r"^data.padding: 28, must be below the images' side, 28; or pad with zero"):
        open_images(config_of(digits, "mnist", padding=28), "train")
    assert open_images(config_of(digits, "mnist", padding=28, border="zero"), "train").side == 28


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0.0}, "^held_out: 0.0, must be above 0 and below 1"),
        ({"held_out": 1.0}, "^held_out: 1.0, must be above 0 and below 1"),
        ({"side": 300}, r"^side: 300, must be from 1 to resize \(256\)"),
        ({"padding": -1}, "^padding: -1, must be at least 0"),
        ({"workers": -1}, "^workers: -1, must be at least 0"),
    ],
)
def test_settings_out_of_range_name_their_key(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path, **options)


# ------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("test_folder", ["val", "test", "validation", "valid"])
def test_a_tree_with_two_parts_is_taken_as_it_is(test_folder: str, tmp_path: Path) -> None:
    touch_photos(tmp_path / "train", {"dog": ["a.jpg", "b.JPEG"], "Cat": ["a.png"], "ant": ["1.jpg"]})
    touch_photos(tmp_path / test_folder, {"dog": ["z.jpg"], "ant": ["1.jpg", "2.jpg"]})
    train, test = (open_images(config_of(tmp_path), part) for part in ("train", "test"))
    assert train.classes == test.classes == ("Cat", "ant", "dog")
    assert (train.channels, train.side, train.crop) == (3, 224, None)
    assert photos_of(train, tmp_path) == {
        "train/dog/a.jpg": "dog",
        "train/dog/b.JPEG": "dog",
        "train/Cat/a.png": "Cat",
        "train/ant/1.jpg": "ant",
    }
    assert photos_of(test, tmp_path) == {
        f"{test_folder}/dog/z.jpg": "dog",
        f"{test_folder}/ant/1.jpg": "ant",
        f"{test_folder}/ant/2.jpg": "ant",
    }


def test_photos_are_prepared_at_the_side_that_is_asked_for(tmp_path: Path) -> None:
    write_photos(tmp_path, {"cat": 3, "dog": 3})
    for part in ("train", "test"):
        images = open_images(config_of(tmp_path, side=24, resize=28), part)
        numbers = np.arange(len(images.samples))
        for rng in (None, np.random.default_rng(0)):
            batch = images.samples[DrawnSamples(numbers, images.samples.draw(numbers, rng))]
            assert batch.images.shape == (len(numbers), 24, 24, 3)
        assert images.side == 24


def test_classes_of_photos_are_left_out(tmp_path: Path) -> None:
    names = ["1.jpg", "2.jpg", "3.jpg"]
    touch_photos(tmp_path / "train", dict.fromkeys(("ant", "bee", "cow"), names))
    touch_photos(tmp_path / "val", dict.fromkeys(("ant", "bee", "cow"), names))
    config = config_of(tmp_path, leave_out=["bee"])
    for part, folder in (("train", "train"), ("test", "val")):
        images = open_images(config, part)  # type: ignore[arg-type]
        assert images.classes == ("ant", "cow")
        assert photos_of(images, tmp_path) == {f"{folder}/{c}/{name}": c for c in ("ant", "cow") for name in names}
    for trained in ((), ("cow", "ant")):
        strangers = open_left_out(config, trained=trained)
        assert strangers is not None
        assert photos_of(strangers, tmp_path) == {f"val/bee/{name}": "bee" for name in names}


@pytest.mark.parametrize("test_folder", ["val", "test", "validation", "valid"])
def test_with_its_classes_known_the_test_part_is_all_that_is_needed(test_folder: str, tmp_path: Path) -> None:
    """Protects from evaluating on a hashed fifth of the test photos where the training photos are not there."""
    names = [f"{number}.jpg" for number in range(10)]
    touch_photos(tmp_path / test_folder, {"dog": names, "ant": names, "bee": names})
    config = config_of(tmp_path, leave_out=["bee"])
    images = open_images(config, "test", classes=["dog", "cat", "ant"])
    assert images.classes == ("dog", "cat", "ant")
    expected = {f"{test_folder}/{label}/{name}": label for label in ("dog", "ant") for name in names}
    assert photos_of(images, tmp_path) == expected
    strangers = open_left_out(config, trained=["dog", "cat", "ant"])
    assert strangers is not None
    assert photos_of(strangers, tmp_path) == {f"{test_folder}/bee/{name}": "bee" for name in names}
    with pytest.raises(FacegmError, match=rf"^{tmp_path}/{test_folder}/bee/\d.jpg: its class, bee, is none of 2: dog"):
        open_images(config_of(tmp_path), "test", classes=["dog", "ant"])


@pytest.mark.parametrize("part", ["train", "test"])
def test_test_photos_are_neither_trained_on_nor_do_they_name_the_classes(part: Part, tmp_path: Path) -> None:
    touch_photos(tmp_path / "val", {"dog": ["1.jpg", "2.jpg"], "ant": ["1.jpg", "2.jpg"]})
    with pytest.raises(FacegmError, match=rf"^{tmp_path}: has a folder val, but no train/class/photo.jpg to train on"):
        open_images(config_of(tmp_path), part)


def test_training_photos_are_not_listed_to_evaluate_on_known_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the start of a run and of an evaluation, where there are 1.28 million of them."""
    touch_photos(tmp_path / "train", {"dog": ["a.jpg"], "ant": ["1.jpg"], "bee": ["1.jpg"]})
    touch_photos(tmp_path / "val", {"dog": ["z.jpg"], "ant": ["1.jpg"], "bee": ["1.jpg"]})
    listed: list[Path] = []

    def find(source: Path) -> Any:
        listed.append(source)
        return find_photos(source)

    monkeypatch.setattr("facegm.data.photo_samples.find_photos", find)
    config = config_of(tmp_path, leave_out=["bee"])
    open_images(config, "test", classes=["ant", "dog"])
    open_left_out(config, trained=["ant", "dog"])
    assert listed == [tmp_path / "val"] * 2


def test_classes_may_be_called_like_the_parts(tmp_path: Path) -> None:
    """Photos of trains and buses, or valid and invalid ones."""
    touch_photos(tmp_path, {name: ["1.jpg", "2.jpg"] for name in ("train", "bus", "valid", "test")})
    parts = [open_images(config_of(tmp_path), part) for part in ("train", "test")]
    assert [images.classes for images in parts] == [("bus", "test", "train", "valid")] * 2
    assert [len(images.samples) for images in parts] == [4, 4]


Tree = dict[str, set[str]]
trees: st.SearchStrategy[Tree] = st.dictionaries(
    st.sampled_from(["ant", "bee", "cow", "dog"]),
    st.sets(st.integers(0, 60).map(lambda number: f"{number}.jpg"), min_size=1, max_size=12),
    min_size=2,
).filter(lambda tree: any(len(names) > 1 for names in tree.values()))


def split(tree: Tree, share: float) -> tuple[Tree, Tree]:
    """The names of each class that are trained on, and those that are held out; in a folder made anew."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        touch_photos(root, {name: sorted(files) for name, files in tree.items()})
        parts = []
        for part in ("train", "test"):
            images = open_images(config_of(root, held_out=share), part)
            assert images.classes == tuple(sorted(tree)), "classes are those of all photos"
            found: Tree = {name: set() for name in tree}
            for path, label in photos_of(images, root).items():
                assert path.startswith(f"{label}/")
                found[label].add(path.partition("/")[2])
            parts.append(found)
    return parts[0], parts[1]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(tree=trees, share=st.floats(0.05, 0.95))
def test_a_share_of_each_class_is_held_out(tree: Tree, share: float) -> None:
    """Each photo is in one part; of each class the share, but one photo at least is held out, and one is trained on.

    Which, is a matter of the names alone: the lowest by their SHA-256.
    """
    train, held_out = split(tree, share)
    for name, files in tree.items():
        assert train[name] | held_out[name] == files
        assert not train[name] & held_out[name]
        count = len(files)
        assert len(held_out[name]) == (0 if count == 1 else min(max(1, round(share * count)), count - 1))
        by_digest = sorted(files, key=lambda file: hashlib.sha256(file.encode()).hexdigest())
        assert held_out[name] == set(by_digest[: len(held_out[name])])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(tree=trees, share=st.floats(0.05, 0.95), data=st.data())
def test_a_photo_that_comes_moves_one_other_at_most(tree: Tree, share: float, data: st.DataObject) -> None:
    train, held_out = split(tree, share)
    grown = data.draw(st.sampled_from(sorted(tree)))
    added = data.draw(st.sampled_from([f"{number}.jpg" for number in range(61, 99)]))
    train_then, held_out_then = split(tree | {grown: tree[grown] | {added}}, share)
    for name in tree:
        moved = (held_out[name] - held_out_then[name]) | (train[name] - train_then[name])
        assert len(moved) <= (name == grown)


def test_a_class_that_only_evaluation_knows_is_named(tmp_path: Path) -> None:
    touch_photos(tmp_path / "train", {"ant": ["1.jpg"], "bee": ["1.jpg"]})
    touch_photos(tmp_path / "val", {"ant": ["1.jpg"], "cow": ["1.jpg"]})
    with pytest.raises(FacegmError, match=rf"^{tmp_path}/val/cow/1.jpg: its class, cow, is none of 2: ant, bee"):
        open_images(config_of(tmp_path), "test")


@pytest.mark.parametrize(
    ("tree", "part", "options", "message"),
    [
        ({"train/ant": ["1.jpg"], "train/bee": ["1.jpg"]}, "test", {}, "has a folder train, but none of val, test"),
        ({"ant": ["1.jpg"], "bee": ["1.jpg"]}, "test", {}, "no class has two photos"),
        ({"ant": ["1.jpg", "2.jpg"]}, "train", {}, "all photos are of one class, ant"),
        ({}, "train", {}, "no photo found"),
        (
            {"train/ant": ["1.jpg"], "train/bee": ["1.jpg"], "train/cow": ["1.jpg"], "val/bee": ["1.jpg"]},
            "test",
            {"leave_out": ["bee"]},
            "has no photo of the classes ant, cow to evaluate on",
        ),
    ],
)
def test_folders_without_what_is_needed_are_named(
    tree: dict[str, list[str]], part: Part, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    touch_photos(tmp_path, tree)
    with pytest.raises(FacegmError, match=f"^{tmp_path}.*{message}"):
        open_images(config_of(tmp_path, **options), part)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match=f"{tmp_path}/nothing"):
        open_images(config_of(tmp_path / "nothing"), "train")

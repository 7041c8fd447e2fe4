"""Protects IJB's protocol: templates are made as insightface's script makes them, from files in IJB's layout."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import normalize

from facegm.errors import FacegmError
from facegm.eval.sets.joining import join
from facegm.eval.sets.templates import Templates, read_template_pairs, read_templates, template_embeddings


def naive(vectors: np.ndarray, templates: list[int], media: list[int]) -> tuple[list[int], np.ndarray]:
    """As insightface's `recognition/_evaluation_/ijb/ijb_evals.py` loops, in float64."""
    found = []
    for template in sorted(set(templates)):
        total = np.zeros(vectors.shape[1])
        for medium in sorted({m for t, m in zip(templates, media, strict=True) if t == template}):
            rows = [k for k in range(len(vectors)) if (templates[k], media[k]) == (template, medium)]
            total += sum(vectors[k].astype(np.float64) for k in rows) / len(rows)
        found.append(total)
    return sorted(set(templates)), normalize(np.array(found))


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=12), st.integers(0, 99))
def test_templates_are_made_as_by_a_loop(rows: list[tuple[int, int]], seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(len(rows), 5)).astype(np.float32)
    templates = Templates(
        images=tuple(f"{k}.jpg" for k in range(len(rows))),
        templates=tuple(str(t) for t, _ in rows),
        media=tuple(str(m) for _, m in rows),
    )
    names = [f"loose_crop/{k}.png" for k in range(len(rows))][::-1]
    found = template_embeddings(templates, join(templates.images, names), vectors[::-1])
    expected_names, expected = naive(vectors, [t for t, _ in rows], [m for _, m in rows])
    assert found.names == tuple(map(str, expected_names))
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-12)


def test_a_video_counts_as_much_as_a_photo_and_an_image_may_be_in_two_templates() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    templates = Templates(
        images=("photo", "f1", "f2", "f3", "photo"),
        templates=("t", "t", "t", "t", "other"),
        media=("p", "v", "v", "v", "p"),
    )
    found = template_embeddings(templates, {"photo": 0, "f1": 1, "f2": 2, "f3": 3}, vectors)
    assert found.names == ("other", "t")
    np.testing.assert_allclose(found.embeddings * 5**0.5, np.array([[5**0.5, 0], [1, 2]]))


FACES = "1.jpg 1 69544\n2.jpg 1 69544\n3.jpg 1 70\n4.jpg 22 80\n"


@pytest.mark.parametrize(
    "text",
    [
        FACES,
        FACES.replace(" ", "\t").replace("\n", "\r\n"),
        "media_id,path,template_id\n69544,1.jpg,1\n69544,2.jpg,1\n70,3.jpg,1\n80,4.jpg,22\n",
    ],
)
def test_files_of_templates_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "ijbc_face_tid_mid.txt").write_text(text, newline="")
    found = read_templates(tmp_path / "ijbc_face_tid_mid.txt")
    assert found.images == ("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    assert found.templates == ("1", "1", "1", "22")
    assert found.media == ("69544", "69544", "70", "80")


@pytest.mark.parametrize(
    "text",
    ["1 11065 1\n1 22 0\n22 7 0\n", "1\t11065\t1\r\n1\t22\t0\r\n22\t7\t0", "t1,t2,label\n1,11065,1\n1,22,0\n22,7,0\n"],
)
def test_files_of_pairs_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.txt").write_text(text, newline="")
    pairs = read_template_pairs(tmp_path / "pairs.txt")
    assert pairs.names_a == ("1", "1", "22")
    assert pairs.names_b == ("11065", "22", "7")
    assert pairs.same.tolist() == [True, False, False]
    assert pairs.fold.tolist() == [0, 0, 0]
    assert pairs.people is None
    assert pairs.fold_origin == "one split, without folds"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 1\n1 3\n", "Expected 3 columns, got 2.*expected lines `template1 template2 label`"),
        ("1 2 x\n1 3 1\n", "invalid value 'x'.*expected lines"),
        ("1 2 1\n1 3 x\n", "invalid value 'x'.*expected lines"),
        ("1 2 1\n1 3 2\n", r"labels \[1, 2\]; expected 1 .* and 0 .*, and both"),
        ("1 2 1\n1 3 1\n", r"labels \[1\]"),
        ("1 2 1\n1 3 \n", r"labels \[-1, 1\]"),
        ("", "Empty CSV file"),
    ],
)
def test_pairs_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(FacegmError, match=rf"(?s)pairs\.txt: .*{message}"):
        read_template_pairs(tmp_path / "pairs.txt")
    with pytest.raises(FacegmError, match="none"):
        read_template_pairs(tmp_path / "none.txt")


@pytest.mark.parametrize(("text", "line"), [("1.jpg 1 2\n2.jpg 1\n", 2), ("a b\n", 1), ("a,1,\n", 1), ("a 1 2 3\n", 1)])
def test_templates_that_are_none_are_refused(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(FacegmError, match=rf"t\.txt, line {line}: expected 3 columns, among them path, template_id"):
        read_templates(tmp_path / "t.txt")


def test_missing_images_are_refused_or_left_out() -> None:
    templates = Templates(images=("a", "b", "c"), templates=("1", "1", "2"), media=("x", "y", "z"))
    vectors = np.eye(2)
    with pytest.raises(FacegmError, match="1 of the 3 images of templates have none: c"):
        template_embeddings(templates, {"a": 0, "b": 1}, vectors)
    found = template_embeddings(templates.among({"a": 0, "b": 1}), {"a": 0, "b": 1}, vectors)
    assert found.names == ("1",)
    with pytest.raises(FacegmError, match="differ in length"):
        Templates(images=("a",), templates=(), media=("x",))


@given(st.binary(max_size=40) | st.text("12 0\t,\nt", max_size=40).map(str.encode))
def test_garbage_is_refused_or_read_and_never_crashes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "t.txt"
    path.write_bytes(content)
    with contextlib.suppress(FacegmError):
        assert all(read_templates(path).images)
    with contextlib.suppress(FacegmError):
        assert 0 < np.count_nonzero(read_template_pairs(path).same) < len(content)

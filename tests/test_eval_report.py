import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from pages import Page

from facegm.errors import FacegmError
from facegm.eval.baseline import raw_pixels
from facegm.eval.calibration import calibrate
from facegm.eval.evaluation import VerificationReport, evaluate
from facegm.eval.metrics import roc, true_accept_rate
from facegm.eval.missing import drop_missing
from facegm.eval.mistakes import hardest_pairs
from facegm.eval.pairs import Pairs
from facegm.eval.plda import fit_plda
from facegm.eval.protocol import verify
from facegm.eval.report import write_report
from facegm.eval.report_numbers import report_numbers, report_schema
from facegm.eval.scores import PCA_64, STANDARD_VARIANTS, Cosine, FittedPlda, FoldPlda, Score

NOTE = "synthetic identities & <nobody> real"


def people(folds: int = 4, size: int = 12) -> tuple[Pairs, tuple[str, ...], np.ndarray]:
    """Pairs, and one embedding per image, in another order and with images that no pair names."""
    rng = np.random.default_rng(0)
    count = folds * size
    names_a = tuple(f"P{i}/P{i}_0001.jpg" for i in range(2 * count))
    names_b = tuple(f"P{i}/P{i}_0002.jpg" if i % (2 * size) < size else f"Q{i}/Q{i}_0009.jpg" for i in range(2 * count))
    row = np.arange(2 * count)
    pairs = Pairs(names_a, names_b, row % (2 * size) < size, row // (2 * size))
    a = rng.normal(size=(2 * count, 20))
    b = np.where(pairs.same[:, None], a, rng.normal(size=a.shape)) + 2.5 * rng.normal(size=a.shape)
    names, embeddings = (*names_a, *names_b, "Nobody/Nobody_0001.jpg"), np.concatenate([a, b, np.ones((1, 20))])
    order = rng.permutation(len(names))
    return pairs, tuple(names[i] for i in order), embeddings[order]


def face_of(name: str) -> np.ndarray:
    """A red face with noise that belongs to the name."""
    face = np.zeros((56, 48, 3), dtype=np.uint8)
    face[:, :, 0] = 200
    face[:28, :, 2] = np.random.default_rng(list(name.encode())).integers(0, 90, (28, 48))
    return face


@pytest.fixture(scope="module")
def report() -> VerificationReport:
    pairs, names, embeddings = people()
    fallback = (pairs.names_a[3], pairs.names_b[3], pairs.names_a[60], "Nobody/Nobody_0001.jpg")
    facts = {"model": "ResNet-27 <b>", "git": "abc123"}
    return evaluate(pairs, names, embeddings, face_of=face_of, fallback_images=fallback, facts=facts, note=NOTE)


def test_embeddings_are_joined_by_name(report: VerificationReport) -> None:
    pairs, names, embeddings = people()
    of = dict(zip(names, embeddings, strict=True))
    a, b = (np.stack([of[name] for name in side]) for side in (pairs.names_a, pairs.names_b))
    number_of = {person: k for k, person in enumerate(sorted({name.split("/")[0] for name in pairs.images}))}
    left, right = (
        np.array([number_of[name.split("/")[0]] for name in side]) for side in (pairs.names_a, pairs.names_b)
    )
    scores: tuple[Score, ...] = (*STANDARD_VARIANTS, Cosine(), FoldPlda(left, right))
    for verification, score in zip(report.verifications, scores, strict=True):
        expected = verify(a, b, pairs.same, pairs.fold, variant=score)
        assert verification.variant.describe() == score.describe()
        assert np.allclose(verification.distances, expected.distances, rtol=1e-9)
        assert verification.accuracy == expected.accuracy
    assert report.primary.variant.name == "PCA 64"
    assert report.not_scored == ()
    assert report.people == len(number_of) == 144


def test_a_model_of_other_people_is_one_more_score() -> None:
    pairs, names, embeddings = people()
    rng = np.random.default_rng(3)
    labels = np.arange(40).repeat(5)
    others = (rng.normal(size=(40, 20))[labels] + rng.normal(size=(200, 20))).astype(np.float32)
    plda = fit_plda(others, labels, ridge=0.1)
    last = evaluate(pairs, names, embeddings, plda=plda).verifications[-1]
    of = dict(zip(names, embeddings, strict=True))
    a, b = (np.stack([of[name] for name in side]) for side in (pairs.names_a, pairs.names_b))
    assert last.variant.name == FittedPlda.name
    assert np.allclose(last.distances, -plda.log_likelihood_ratio(a, b))


def test_dropped_pairs_are_said_wherever_the_figures_are(tmp_path: Path) -> None:
    pairs, names, embeddings = people()
    dropped = drop_missing(pairs, {*pairs.images} - {"P5/P5_0001.jpg", "Q40/Q40_0009.jpg"})
    report = evaluate(dropped.pairs, names, embeddings, dropped=dropped)
    assert "Note: 2 of 96 pairs dropped (1 matched + 1 mismatched" in report.summary()
    write_report(tmp_path, report)
    numbers = json.loads((tmp_path / "report.json").read_text("utf-8"))
    Draft202012Validator(report_schema()).validate(numbers)
    assert numbers["pairs"]["count"] == 94
    assert numbers["pairs"]["dropped"] == {
        "dropped": 2, "matched_by_fold": [1, 0, 0, 0], "mismatched_by_fold": [0, 1, 0, 0],
        "missing_images": ["P5/P5_0001.jpg", "Q40/Q40_0009.jpg"],
    }  # fmt: skip
    text = " ".join(Page.of((tmp_path / "report.html").read_text("utf-8")).text.split())
    assert "2 pairs of the set are not scored, for want of images." in text
    assert "2 of 96 pairs dropped" in text
    assert "every pair is scored" not in text


def test_scores_that_the_pairs_do_not_allow_are_named(tmp_path: Path) -> None:
    """Names that do not say who is on the pairs: no PLDA is fitted on them, and pairs are drawn in place of people."""
    pairs, names, embeddings = people()
    plain = replace(
        pairs,
        names_a=tuple(name.replace("/", "-") for name in pairs.names_a),
        names_b=tuple(name.replace("/", "-") for name in pairs.names_b),
    )
    report = evaluate(plain, [name.replace("/", "-") for name in names], embeddings)
    assert [v.variant.name for v in report.verifications] == [*(v.name for v in STANDARD_VARIANTS), Cosine().name]
    assert [name for name, _ in report.not_scored] == [FoldPlda.name]
    assert (report.intervals.unit, report.people, report.map) == ("pairs", None, None)
    write_report(tmp_path, report)
    text = " ".join(Page.of((tmp_path / "report.html").read_text("utf-8")).text.split())
    assert f"{FoldPlda.name}: not scored; the names do not say who is on the pairs" in text
    assert "bootstrap of pairs, 1,000 resamples (who is on the pairs is not known, so these may be too narrow)" in text


def test_missing_doubled_and_uncounted_names_are_refused() -> None:
    pairs, names, embeddings = people()
    gone = [name not in pairs.images[1:6] for name in names]
    with pytest.raises(FacegmError, match=r"5 of the 192 images .* have none: ") as caught:
        evaluate(pairs, [n for n, keep in zip(names, gone, strict=True) if keep], embeddings[gone])
    assert f"{', '.join(pairs.images[1:4])}, ...;" in str(caught.value)
    with pytest.raises(FacegmError, match="193 rows for 193 names, 192 of them distinct"):
        evaluate(pairs, [names[1], *names[1:]], embeddings)
    with pytest.raises(FacegmError, match="192 rows for 193 names"):
        evaluate(pairs, names, embeddings[1:])


def test_raw_pixels_are_area_means_of_luma() -> None:
    faces = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    pixels = raw_pixels(faces).reshape(2, 32, 32)
    luma = faces @ np.array([0.299, 0.587, 0.114])
    means = luma.reshape(2, 32, 2, 32, 3).mean(axis=(2, 4))
    assert np.abs(pixels - means).max() <= 1  # rounded twice, to whole grey levels and to whole means


def test_baseline_is_the_protocol_on_pixels(report: VerificationReport) -> None:
    pairs = report.pairs
    a, b = (raw_pixels(np.stack([face_of(name) for name in side])) for side in (pairs.names_a, pairs.names_b))
    expected = verify(a, b, pairs.same, pairs.fold, variant=PCA_64)
    assert report.baseline is not None
    assert np.array_equal(report.baseline.distances, expected.distances)
    assert report.baseline.variant == replace(PCA_64, name="raw grey pixels 32x32, PCA 64")


def test_without_faces_there_is_no_baseline_and_no_picture(tmp_path: Path) -> None:
    plain = evaluate(*people())
    write_report(tmp_path, plain)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["baseline"] is None
    assert "<img" not in page
    assert "raw pixels" not in page + plain.summary()
    assert "no image used a fallback crop" in page


def test_hardest_pairs_are_the_mistakes_by_margin(report: VerificationReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegm.eval.mistakes.HARDEST", 5)
    pairs, primary = report.pairs, report.primary
    for same in (False, True):
        mistakes = []
        for i in range(len(pairs)):
            margin = primary.distances[i] - primary.fold_threshold[pairs.fold[i]]
            if pairs.same[i] == same and (margin < 0) != same:
                mistakes.append((-abs(margin), i))
        assert len(mistakes) > 5
        assert hardest_pairs(report, same=same).tolist() == [i for _, i in sorted(mistakes)][:5]


def test_json_holds_every_number_strictly(report: VerificationReport, tmp_path: Path) -> None:
    write_report(tmp_path, report)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=refuse)
    assert found == report_numbers(report)
    Draft202012Validator(report_schema()).validate(found)
    assert (found["schema"], found["note"]) == (2, NOTE)
    assert found["facts"] == {"model": "ResNet-27 <b>", "git": "abc123"}
    pairs = report.pairs
    assert found["pairs"] == {
        "count": 96, "same": 48, "different": 48, "folds": 4, "images": 192, "people": 144, "with_fallback_image": 2,
        "dropped": None, "fold_origin": "given with the pairs", "digest": pairs.digest,
    }  # fmt: skip
    assert found["fallback_images"] == ["P3/P3_0001.jpg", "P3/P3_0002.jpg", "P60/P60_0001.jpg"]
    for row, verification in zip(
        [*found["variants"], found["baseline"]], [*report.verifications, report.baseline], strict=True
    ):
        assert verification is not None
        assert row["variant"] == verification.variant.describe()
        assert row["accuracy"] == verification.accuracy
        assert row["standard_error"] == verification.standard_error
        assert row["mean_threshold"] == pytest.approx(verification.fold_threshold.mean())
        assert row["oracle_accuracy"] == verification.oracle_accuracy
        assert [fold["accuracy"] for fold in row["folds"]] == verification.fold_accuracy.tolist()
        assert [fold["threshold"] for fold in row["folds"]] == verification.fold_threshold.tolist()
        curve = roc(verification.distances, pairs.same)
        assert (row["area_under_roc"], row["equal_error_rate"]) == (curve.area, curve.equal_error_rate)
        if verification is not report.baseline:
            calibration = calibrate(verification.distances, pairs.same, pairs.fold)
            assert (row["calibration"]["cllr"], row["calibration"]["minimum_cllr"]) == (
                calibration.cllr, calibration.minimum_cllr,
            )  # fmt: skip
        assert np.allclose(row["distances"], verification.distances, rtol=5e-9, atol=0)
        assert max(len(re.sub(r"e.*|[-.]", "", repr(value)).lstrip("0")) for value in row["distances"]) <= 9
    for row, bound in zip(found["true_accept_rates"], (0.1, 0.01, 0.001), strict=True):
        expected = true_accept_rate(report.primary.distances, pairs.same, bound)
        assert (row["false_accept_bound"], row["false_accepts"], row["rate"]) == (
            bound, expected.false_accepts, expected.rate,
        )  # fmt: skip
    assert found["true_accept_rates"][2]["rate"] is None  # 48 pairs cannot carry one in a thousand


def test_the_scores_can_be_judged_again_from_the_file(report: VerificationReport) -> None:
    """Protects comparisons of reports: names, same, folds, distances and thresholds are enough for every accuracy."""
    found = report_numbers(report)
    scored = found["scored"]
    assert list(zip(scored["names_a"], scored["names_b"], strict=True)) == list(
        zip(report.pairs.names_a, report.pairs.names_b, strict=True)
    )
    for row in found["variants"]:
        for number, fold in enumerate(row["folds"]):
            judged = [
                (distance < fold["threshold"]) == bool(same)
                for distance, same, own in zip(row["distances"], scored["same"], scored["fold"], strict=True)
                if own == number
            ]
            assert sum(judged) / len(judged) == pytest.approx(fold["accuracy"])


def test_errors_count_failures_to_acquire(report: VerificationReport) -> None:
    pairs, primary, fallback = report.pairs, report.primary, {*report.fallback_images}
    counts = dict.fromkeys(("FM", "FNM", "FA", "FR", "lost"), 0)
    for i in range(len(pairs)):
        accepted = primary.distances[i] < primary.fold_threshold[pairs.fold[i]]
        lost = pairs.names_a[i] in fallback or pairs.names_b[i] in fallback
        counts["lost"] += lost
        if pairs.same[i]:
            counts["FNM"] += not accepted and not lost
            counts["FR"] += not accepted or lost
        else:
            counts["FM"] += accepted and not lost
            counts["FA"] += accepted and not lost
    point = report_numbers(report)["operating_point"]
    assert point["false_match"]["count"] == counts["FM"]
    assert point["false_non_match"]["count"] == counts["FNM"]
    assert point["false_accept"]["count"] == counts["FA"]
    assert point["false_reject"]["count"] == counts["FR"]
    assert point["failure_to_acquire"]["count"] == counts["lost"] == 2
    assert point["false_non_match"]["trials"] + point["false_match"]["trials"] == 94
    assert point["false_reject"]["trials"] == point["false_accept"]["trials"] == 48


def test_pairs_by_the_million_are_not_listed(report: VerificationReport, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = report_numbers(report)
    monkeypatch.setattr("facegm.eval.report_numbers.MOST_LISTED", 95)
    short = report_numbers(report)
    Draft202012Validator(report_schema()).validate(short)
    assert short["scored"] is None
    assert [row["distances"] for row in short["variants"]] == [None] * len(report.verifications)
    assert short["variants"][0]["folds"] == whole["variants"][0]["folds"]
    assert short["pairs"] == whole["pairs"]


def test_the_schema_refuses_what_is_not_of_it(report: VerificationReport) -> None:
    check = Draft202012Validator(report_schema())
    check.check_schema(report_schema())
    sound = report_numbers(report)
    changes: list[dict[str, Any]] = [
        {"schema": 1},
        {"extra": 0},
        {"variants": []},
        {"pairs": sound["pairs"] | {"digest": "0"}},
        {"operating_point": sound["operating_point"] | {"false_match": {"count": 1}}},
        {"scored": sound["scored"] | {"same": [True, 2]}},
    ]
    for change in changes:
        assert not check.is_valid(sound | change), change


def test_html_is_self_contained_and_says_it_all(report: VerificationReport, tmp_path: Path) -> None:
    write_report(tmp_path / "deep" / "folder", report, face_of=face_of)
    source = (tmp_path / "deep" / "folder" / "report.html").read_text(encoding="utf-8")
    page = Page.of(source)
    assert page.tags.count("svg") == 4
    assert NOTE in page.text
    assert "ResNet-27 <b>" in page.text  # escaped in the source, so that it is text here
    primary = report.primary
    for value in (primary.accuracy, primary.standard_error, primary.oracle_accuracy, *primary.fold_accuracy):
        assert f"{100 * value:.2f}\N{NO-BREAK SPACE}%" in page.text
    for verification in report.verifications:
        assert verification.variant.name in page.text
    assert "raw grey pixels 32x32, PCA 64" in page.text
    assert "3 of 192 images used a fallback crop, in 2 pairs." in " ".join(page.text.split())
    for name in report.fallback_images:
        assert name in page.text
    shown = sum(len(hardest_pairs(report, same=same)) for same in (False, True))
    assert page.tags.count("img") == len(page.loads) == 2 * shown > 0
    first = report.pairs.names_a[hardest_pairs(report, same=False)[0]]
    assert first.split("/")[1] in page.text


def test_pictures_keep_their_colours(report: VerificationReport, tmp_path: Path) -> None:
    write_report(tmp_path, report, face_of=face_of)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    first = re.search(r"data:image/jpeg;base64,([^\"]+)", source)
    assert first is not None
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(first[1]), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    expected = face_of(report.pairs.names_a[hardest_pairs(report, same=False)[0]])
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int).mean((0, 1)) - expected.mean((0, 1))).max() < 4


def test_a_perfect_model_gets_a_report_without_mistakes(tmp_path: Path) -> None:
    pairs, names, _ = people()
    person_of = {name: person for person, name in enumerate(sorted({name.split("/")[0] for name in names}))}
    embeddings = np.random.default_rng(1).normal(size=(len(names), 20)) * 1e-3
    embeddings[np.arange(len(names)), [person_of[name.split("/")[0]] % 20 for name in names]] += 1
    other = [name.endswith("9.jpg") for name in names]
    embeddings[other] *= -1
    perfect = evaluate(pairs, names, embeddings)
    assert perfect.primary.accuracy == 1
    write_report(tmp_path, perfect, face_of=face_of)
    assert (tmp_path / "report.html").read_text("utf-8").count("<p>None.</p>") == 2


def test_reports_are_replaced_whole(report: VerificationReport, tmp_path: Path) -> None:
    write_report(tmp_path, report)
    first = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    write_report(tmp_path, report)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == first  # nothing in it depends on the day
    with pytest.raises(OSError, match="no such face"):
        write_report(tmp_path, replace(report, note="later"), face_of=unreadable)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def unreadable(name: str) -> np.ndarray:
    raise OSError("no such face")


def test_summary_is_short_plain_text(report: VerificationReport) -> None:
    lines = report.summary().splitlines()
    assert lines[0] == "96 pairs in 4 folds, 192 images, 3 of them fallback crops"
    for line, row in zip(lines[1:8], [*report.verifications, report.baseline], strict=True):
        assert row is not None
        assert line.split()[-3:] == [f"{row.accuracy:.2%}", "±", f"{row.standard_error:.2%}"]
        assert line.strip().startswith(row.variant.name)
    curve, (low, high) = report.roc(), report.intervals.accuracy
    assert f"accuracy {low:.2%} to {high:.2%} (95 %, bootstrap of people), AUC {curve.area:.4f}" in lines[8]
    assert f"EER {curve.equal_error_rate:.2%}" in lines[8]
    point = report.operating_point
    assert lines[9] == f"  FMR {point.false_match}, FNMR {point.false_non_match}"
    assert lines[10] == f"  TAR at FAR 0.1: {report.true_accept_rates()[0]}"
    assert lines[12] == "  TAR at FAR 0.001: not measurable by 48 pairs of different people"
    assert lines[13:] == [f"Note: {NOTE}"]

"""Protects the report of attacks: its figures by a naive count, a table that is read back, PNGs that lose nothing."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pages import Page
from PIL import Image

from facegm.adversarial.attack_report import AttackReport, amplified_change, write_report
from facegm.adversarial.attack_results import AttackResult, DetectorScores
from facegm.adversarial.conclusions import conclusions
from facegm.adversarial.lossless import of_levels, quantised, write_png
from facegm.adversarial.recipe import BIM, FGSM, AttackRecipe
from facegm.adversarial.subject import UNIT_RANGE, PixelRange

CLASSES = ("cat", "dog", "b\udcffrd", "<i>fish")
IMAGES = 40


def result(name: str, recipe: AttackRecipe, seed: int, *, channels: int = 3, is_targeted: bool = True) -> AttackResult:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, IMAGES)
    scores = DetectorScores(
        clean=rng.normal(2, 1, IMAGES),
        attacked=rng.normal(1, 2, IMAGES),
        quantised=rng.normal(1, 2, IMAGES),
        noisy=rng.normal(1, 2, IMAGES),
    )
    return AttackResult(
        name=name,
        recipe=recipe if is_targeted else replace(recipe, targets="none"),
        labels=labels,
        targets=(labels + 1) % 4 if is_targeted else None,
        is_success=rng.random(IMAGES) < 0.5,
        passes=rng.integers(1, 50, IMAGES),
        predicted=rng.integers(0, 4, IMAGES),
        predicted_quantised=rng.integers(0, 4, IMAGES),
        distortion=rng.random(IMAGES),
        distortion_quantised=rng.random(IMAGES),
        largest_change=rng.random(IMAGES),
        scores={"k-density": scores},
        levels=rng.integers(0, 256, (IMAGES, 6, 6, channels), np.uint8),
    )


def report(*results: AttackResult) -> AttackReport:
    return AttackReport(
        facts={"classifier": "a<b>.safetensors"},
        classes=CLASSES,
        examined=50,
        numbers=np.arange(3, 3 + IMAGES),
        keys=[f"photos/\udcfe,{number}\n.png" for number in range(IMAGES)],
        clean=np.full_like(results[0].levels, 100),
        results=results,
    )


def test_figures_are_those_of_a_count_by_hand(tmp_path: Path) -> None:
    results = [result("fgsm", FGSM, 0), result("bim", BIM, 1, is_targeted=False)]
    write_report(tmp_path, report(*results))
    found = json.loads((tmp_path / "attack.json").read_text("utf-8"))
    assert [one["settings"]["step"] for one in found["attacks"]] == [0.1, 0.01]
    for one, of in zip(found["attacks"], results, strict=True):
        fooled = []
        for row in range(IMAGES):
            wanted = of.predicted[row] == (of.labels[row] + 1) % 4
            fooled.append(bool(wanted if of.targets is not None else of.predicted[row] != of.labels[row]))
        assert 0 < sum(fooled) < IMAGES
        assert one["success"] == pytest.approx(sum(fooled) / IMAGES)
        assert one["distortion"] == pytest.approx(np.mean([of.distortion[row] for row in range(IMAGES) if fooled[row]]))
        scores = of.scores["k-density"]
        won = [(clean > bad) + (clean == bad) / 2 for clean in scores.clean for bad in scores.attacked]
        told = one["detectors"]["k-density"]
        assert told["area"] == pytest.approx(np.mean(won))
        for rate, allowed in ((0.01, 0), (0.05, 2), (0.1, 4)):
            # The strictest threshold that no more than so many clean images fall below.
            limit = max(limit for limit in scores.clean if (scores.clean < limit).sum() <= allowed)
            undetected = [fooled[row] and scores.attacked[row] >= limit for row in range(IMAGES)]
            figures = {name: by_rate[f"{rate:g}"] for name, by_rate in told.items() if isinstance(by_rate, dict)}
            assert figures == {
                "undetected": pytest.approx(np.mean(undetected)),
                "false_alarms_on_noise": pytest.approx(np.mean([score < limit for score in scores.noisy])),
                "thresholds": limit,
            }


def rows_of(folder: Path) -> list[dict[str, Any]]:
    with (folder / "attack.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_an_image_and_attack(tmp_path: Path) -> None:
    results = [result("fgsm", FGSM, 0), result("bim", BIM, 1, is_targeted=False)]
    write_report(tmp_path, report(*results))
    rows = rows_of(tmp_path)
    assert [row["attack"] for row in rows] == ["fgsm"] * IMAGES + ["bim"] * IMAGES
    names = ["cat", "dog", "b\\xffrd", "<i>fish"]
    for number, row in enumerate(rows):
        of, index = results[number // IMAGES], number % IMAGES
        assert row["image"] == f"photos/\\xfe,{index}\n.png"
        assert row["file"] == f"{of.name}/{index + 3:05d}.png"
        assert row["label"] == row["predicted_before"] == names[of.labels[index]]
        assert row["target"] == ("" if of.targets is None else names[of.targets[index]])
        assert (row["predicted"], row["predicted_quantised"]) == (
            names[of.predicted[index]],
            names[of.predicted_quantised[index]],
        )
        assert float(row["distortion"]) == pytest.approx(of.distortion[index], rel=1e-5)
        assert float(row["k-density quantised"]) == pytest.approx(of.scores["k-density"].quantised[index])
        assert int(row["success_by_own_account"]) == of.is_success[index]


@pytest.mark.parametrize("channels", [1, 3])
def test_pngs_hold_the_very_levels(channels: int, tmp_path: Path) -> None:
    of = result("fgsm", FGSM, 0, channels=channels)
    write_report(tmp_path, report(of))
    for number, levels in enumerate(of.levels):
        read = np.asarray(Image.open(tmp_path / f"fgsm/{number + 3:05d}.png"))
        np.testing.assert_array_equal(read.reshape(levels.shape), levels)


@pytest.mark.parametrize("pixel_range", [UNIT_RANGE, PixelRange(-0.5, 0.5), PixelRange(0, 255)])
def test_every_level_survives_and_others_go_to_the_nearest(pixel_range: PixelRange) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    images = of_levels(levels, pixel_range)
    assert images.amin() == pixel_range.low
    assert images.amax() == pixel_range.high
    assert torch.equal(quantised(images, pixel_range), levels)
    noise = (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 1) * 0.49 * pixel_range.width
    moved = pixel_range.clamp(images + noise / 255)
    assert torch.equal(quantised(moved, pixel_range), levels)


def test_a_picture_read_as_a_user_would(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_png(tmp_path / "a.png", levels)
    read = cv2.imread(str(tmp_path / "a.png"))
    assert read is not None
    np.testing.assert_array_equal(read[:, :, ::-1], levels)


def test_changes_are_shown_as_large_as_they_fit() -> None:
    clean = np.full((2, 2, 1), 100, np.uint8)
    attacked = np.array([[[100], [90]], [[104], [100]]], np.uint8)
    change, factor = amplified_change(clean, attacked)
    assert factor == 12
    assert change[:, :, 0].tolist() == [[128, 8], [176, 128]]
    assert amplified_change(clean, clean)[0].tolist() == np.full((2, 2, 1), 128).tolist()


def test_the_page_says_it_all_and_stands_alone(tmp_path: Path) -> None:
    results = [result("fgsm", FGSM, 0), result("bim", BIM, 1, is_targeted=False)]
    write_report(tmp_path, report(*results))
    page = Page.of((tmp_path / "attack.html").read_text("utf-8"))
    text = " ".join(page.text.split())
    found = json.loads((tmp_path / "attack.json").read_text("utf-8"))
    for one in found["attacks"]:
        assert f"{one['attack']}" in text
        scores = one["detectors"]["k-density"]
        assert f"{scores['area']:.4f}" in text
        for share in (one["success"], one["success_quantised"], *scores["undetected"].values()):
            assert f"{100 * share:.2f} %" in text
    assert all(sentence in text for sentence in found["verdict"])
    assert "No robustness claimed" in text
    assert "a random class" in text
    assert "any other class" in text
    assert "epsilon 0.1" in text
    assert page.tags.count("svg") == 1
    shown = sum(min(6, int(one.is_fooled_quantised.sum()) or IMAGES) for one in results)
    assert page.tags.count("img") == 3 * shown
    assert "×" in text


def test_nothing_that_fools_and_no_detector_is_shown_too(tmp_path: Path) -> None:
    none = result("fgsm", FGSM, 0)
    vain = AttackResult(**{**vars(none), "predicted": none.labels, "predicted_quantised": none.labels, "scores": {}})
    write_report(tmp_path, report(vain))
    found = json.loads((tmp_path / "attack.json").read_text("utf-8"))
    assert found["attacks"][0]["distortion"] is None
    page = Page.of((tmp_path / "attack.html").read_text("utf-8"))
    assert page.tags.count("img") == 18
    assert "still predicted" in page.text


def fooling(of: AttackResult, share: float, share_quantised: float, *, scores: float) -> AttackResult:
    """The attack, but that it fools the network on so many images, and scores lie so far above those of clean ones."""
    predicted, predicted_quantised = (
        np.where(np.arange(IMAGES) < part * IMAGES, (of.labels + 1) % 4, of.labels) for part in (share, share_quantised)
    )
    clean = np.arange(IMAGES, dtype=np.float64)
    told = DetectorScores(clean=clean, attacked=clean + scores, quantised=clean, noisy=clean)
    return replace(of, predicted=predicted, predicted_quantised=predicted_quantised, scores={"k-density": told})


def test_the_verdict_claims_nothing_and_notices_what_is_odd() -> None:
    fgsm, bim = result("fgsm", FGSM, 0), result("bim", BIM, 1)
    said = " ".join(conclusions([fooling(fgsm, 0.5, 0.5, scores=-1e3), fooling(bim, 1, 0.25, scores=-1e3)]))
    assert "bim fools the network on 100.0 % of the images" in said
    assert "Of bim, 100.0 % succeed and 25.0 % once they are rounded" in said
    assert "with 5 % false alarms on clean images, 0.0 % of the images fool the network undetected" in said
    assert "none of these attacks knows the detector" in said
    assert "less often" not in said
    said = " ".join(conclusions([fooling(fgsm, 0.5, 0.5, scores=0), fooling(bim, 0.25, 0.25, scores=0)]))
    assert "bim succeeds less often than fgsm" in said
    # The two lowest of 40 clean images raise an alarm, and so do the attacked ones, which score alike.
    assert "45.0 % of the images fool the network undetected, by fgsm (AUC 0.5000). No robustness claimed." in said
    known = replace(bim, recipe=replace(BIM, defeats_detector=True))
    said = " ".join(conclusions([fooling(fgsm, 0.5, 0.5, scores=-1e3), fooling(known, 0.25, 0.25, scores=-1e3)]))
    assert "No robustness claimed: attacks with other settings may do better" in said
    assert "less often" not in said, "another goal"

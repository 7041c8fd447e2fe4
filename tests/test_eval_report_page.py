"""Protects what the report's page tells a reviewer: what was done, thresholds the right way round, groups, the run."""

import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pages import Page

from facegm import __version__
from facegm.eval.evaluation import VerificationReport, evaluate
from facegm.eval.groups import FEWEST_PAIRS, Attributes
from facegm.eval.pairs import Pairs
from facegm.eval.plda import fit_plda
from facegm.eval.provenance import NOT_KNOWN, Provenance, TrainingIdentities
from facegm.eval.report import write_report
from facegm.eval.report_tables import counted, protocol_rows, threshold_text
from facegm.eval.scores import NO_PCA, PCA_64_RENORMALISED, RAW, Cosine, FittedPlda

FOLDS, PEOPLE, PHOTOS = 3, 10, 5
TRAINING = TrainingIdentities(excluded=("0166921",), count=9, in_pairs=("P01", "P02<b>"), casia_in_lfw=("1056413",))


@pytest.fixture(scope="module")
def report() -> VerificationReport:
    """People in folds of their own, with five photos each, two of them without a face, and two groups."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(FOLDS):
        people = [f"P{k}{p}" for p in range(PEOPLE)]
        rows += [(f"{p}/{m}.jpg", f"{p}/{n}.jpg", True, k) for p in people for m in range(PHOTOS) for n in range(m)]
        rows += [
            (f"{p}/{n}.jpg", f"{q}/{n}.jpg", False, k) for p in people for q in people if p < q for n in range(PHOTOS)
        ]
    a, b, same, fold = zip(*rows, strict=True)
    pairs = Pairs(a, b, np.array(same), np.array(fold))
    mean = {name[:3]: rng.normal(size=16) for name in pairs.images}
    embeddings = np.stack([mean[name[:3]] + rng.normal(size=16) for name in pairs.images])
    return evaluate(
        pairs,
        pairs.images,
        embeddings,
        fallback_images=["P00/0.jpg", "P11/1.jpg"],
        attributes=Attributes(
            names=("region",), values={name[:3]: ("north" if name < "P2" else "<south>",) for name in pairs.images}
        ),
        provenance=Provenance(
            config={"data": {"store": "faces"}, "loss": {"name": "gm"}},
            model_digest="ab" * 32,
            store={"size": 128, "detector": "MTCNN"},
            training=TRAINING,
        ),
        facts={"embedding": "ResNet-27, mirror: sum"},
    )


@pytest.fixture(scope="module")
def text(report: VerificationReport, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    write_report(folder, report)
    source = (folder / "report.html").read_text("utf-8")
    Page.of(source)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())


def test_the_box_says_what_was_done(report: VerificationReport, text: str) -> None:
    rows = dict(protocol_rows(report))
    assert rows["pairs"] == (
        "975: 300 of one person, 675 of different people, of 150 images of 30 people. Folds: given with the pairs."
    )
    assert rows["pairs dropped"] == "None: every pair is scored."
    assert rows["embedding"] == "ResNet-27, mirror: sum"
    assert rows["score of the headline"] == (
        "Embeddings at unit length; PCA to 64 dimensions, fitted on the training folds' images, centred, not whitened; "
        "not scaled again; L2 distance."
    )
    assert "For each of the 3 folds the one that judges most pairs of the 2 others rightly" in rows["threshold"]
    sides = zip(report.pairs.names_a, report.pairs.names_b, strict=True)
    lost = sum("P00/0.jpg" in pair or "P11/1.jpg" in pair for pair in sides)
    assert rows["faces not found"].startswith(f"2 images, in {lost} pairs.")
    for row in rows.values():
        assert row in text
    low, high = report.intervals.accuracy
    assert f"95 % interval {100 * low:.2f} % to {100 * high:.2f} %, bootstrap of people." in text


def test_the_box_says_what_is_not_known(report: VerificationReport) -> None:
    brought = dict(protocol_rows(replace(report, provenance=Provenance(), facts={})))
    assert brought["training identities"] == NOT_KNOWN
    assert "As it was brought" in brought["embedding"]
    other = replace(report, verifications=report.verifications[1:])
    assert other.primary.variant == PCA_64_RENORMALISED
    assert "scaled to unit length again; L2" in dict(protocol_rows(other))["score of the headline"]
    raw = replace(report, verifications=tuple(v for v in report.verifications if v.variant == RAW))
    assert dict(protocol_rows(raw))["score of the headline"] == "Embeddings as they are; L2 distance."


def test_similarities_are_turned_round_again() -> None:
    rng = np.random.default_rng(0)
    plda = fit_plda(rng.normal(size=(20, 4)), np.arange(20) // 2, ridge=0.1)
    assert threshold_text(NO_PCA, 1.25) == "distance < 1.250"
    assert threshold_text(Cosine(), 0.75) == "similarity > 0.2500"
    assert threshold_text(FittedPlda(plda), -1.5) == "log ratio > 1.50"
    assert (counted(1, "pair"), counted(2000, "pair")) == ("1 pair", "2,000 pairs")


def test_groups_are_shown_with_their_counts(report: VerificationReport, text: str) -> None:
    assert [one.value for one in report.groups] == ["<south>", "north"]
    for one in report.groups:
        assert one.is_small == (min(one.false_match.trials, one.false_non_match.trials) < FEWEST_PAIRS)
        for rate in (one.false_match, one.false_non_match):
            assert rate.value is not None
            low, high = rate.interval
            shown = f"{100 * rate.value:.1f} % ({100 * low:.1f} to {100 * high:.1f}) {rate.count} of {rate.trials}"
            assert shown in text
    assert "region: <south>" in text
    assert "0 images are in no group" in text


def test_the_run_behind_the_figures_is_told(text: str) -> None:
    assert "ab" * 32 in text
    assert __version__ in text
    assert "detector MTCNN" in text
    assert "loss.name gm" in text
    assert "1 identity was left out of training (data.exclude_identities)." in text
    assert "2 of them have the name of a person of the pairs: P01, P02<b>." in text
    assert "1 of them was trained on." in text


def test_the_map_shows_people_by_name(report: VerificationReport, text: str) -> None:
    assert report.map is not None
    assert all(person in text for person in report.map.people)


def test_a_page_without_a_run_or_groups_has_no_empty_parts(report: VerificationReport, tmp_path: Path) -> None:
    plain = replace(report, provenance=Provenance(), groups=(), images_without_attributes=None, map=None)
    write_report(tmp_path, plain)
    source = (tmp_path / "report.html").read_text("utf-8")
    for heading in ("Groups", "Map of the embeddings", "Configuration of the run", "Settings of the store"):
        assert heading not in source

"""The server's page in a real browser: photos compared, people enrolled, found and removed; by keyboard, on a phone."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser, browsing
from serving import BLUE, CALIBRATION, GREEN, RED, SquaresEmbedder, application, served, squares

from facegm.embedding.calibration import Calibration, DistanceHistogram
from facegm.gallery.gallery import Gallery

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not looked at")
DARK_RED = (220, 60, 0)
HISTOGRAM = DistanceHistogram(edges=(0.0, 0.5, 1.0, 1.5, 2.0), same=(60, 30, 10, 0), different=(0, 10, 80, 10))
MEASURED = replace(CALIBRATION, histogram=HISTOGRAM)


class CalibratedSquares(SquaresEmbedder):
    """`SquaresEmbedder`, calibrated in another way or not at all."""

    def __init__(self, calibration: Calibration | None) -> None:
        super().__init__()
        self._calibration = calibration


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    made = {"red": squares(RED), "dark red": squares(DARK_RED), "two": squares(RED, BLUE, side=90), "none": squares()}
    made["green"] = squares(GREEN)
    for name, photo in made.items():
        (tmp_path / f"{name}.png").write_bytes(photo)
    return {name: tmp_path / f"{name}.png" for name in made}


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Browser]:
    """The page of a server with a gallery; whatever is said in its console, or asked for elsewhere, is an error."""
    embedder = CalibratedSquares(MEASURED)
    with (
        Gallery.create(tmp_path / "people.gallery", embedder.contract) as gallery,
        served(application(embedder, gallery=gallery)) as port,
    ):
        browser.said.clear()
        browser.requested.clear()
        browser.resize(1280, 900)
        browser.go(f"http://127.0.0.1:{port}/")
        browser.wait("!document.getElementById('people').matches(':empty')")
        yield browser
        browser.value("1")  # so that all events have come
        assert browser.said == []
        own = ("data:", f"http://127.0.0.1:{port}/", f"blob:http://127.0.0.1:{port}/")
        assert [address for address in browser.requested if not address.startswith(own)] == []


def text_of(page: Browser, name: str) -> str:
    return str(page.value(f"document.getElementById({json.dumps(name)}).innerText"))


def compare(page: Browser, a: Path, b: Path) -> None:
    page.choose_file("#photo-a input", a)
    page.choose_file("#photo-b input", b)
    page.wait("!document.getElementById('comparison').hidden")


def test_two_photos_are_compared(page: Browser, photos: dict[str, Path]) -> None:
    """Protects distance, verdict, probability and shares from being other than the calibration's."""
    compare(page, photos["red"], photos["dark red"])
    unit = np.array(DARK_RED) / np.linalg.norm(DARK_RED)
    distance = float(np.linalg.norm(unit - [1, 0, 0]))
    probability = 100 / (1 + np.exp(-(6 - 8 * distance)))
    assert text_of(page, "verdict") == "One person"
    assert text_of(page, "measured") == (
        f"Distance {distance:.3f}, threshold 0.500. Probability of one person: {float(f'{probability:.3g}'):g} %."
    )
    beyond = 100 - 60 * distance / 0.5  # of the first bin the part below, none of the others
    assert f"{float(f'{beyond:.3g}'):g} % of 3,000 pairs of one person lie farther" in text_of(page, "histogram")
    line = page.value("(({x1}) => Number(x1.baseVal.value))(document.querySelector('#histogram line.distance'))")
    assert line == pytest.approx(8 + 624 * distance / 2)


def test_prior_and_rate_change_what_is_said(page: Browser, photos: dict[str, Path]) -> None:
    compare(page, photos["red"], photos["green"])
    distance = 2**0.5
    assert text_of(page, "verdict") == "Different people"
    page.value("document.getElementById('prior').value = '99'")
    page.value("document.getElementById('prior').dispatchEvent(new Event('input'))")
    probability = 100 / (1 + np.exp(-(6 - 8 * distance + np.log(99))))
    assert f"{float(f'{probability:.3g}'):g} %" in text_of(page, "measured")
    page.value("document.getElementById('rate').value = '0.1'")
    page.value("document.getElementById('rate').dispatchEvent(new Event('change'))")
    assert "threshold 1.000" in text_of(page, "measured")
    page.value("document.getElementById('prior').value = '100'")
    page.value("document.getElementById('prior').dispatchEvent(new Event('input'))")
    assert "above 0 and below 100" in text_of(page, "measured")


def test_another_face_of_several_is_taken_by_the_keyboard(page: Browser, photos: dict[str, Path]) -> None:
    compare(page, photos["two"], photos["red"])
    assert page.value("document.querySelectorAll('#photo-a .face').length") == 2
    assert text_of(page, "verdict") == "One person"
    page.tab_to("#photo-a input")
    page.press("Tab")
    page.press("Tab")
    assert page.value("document.activeElement.ariaLabel") == "Face 2 of 2"
    page.press("Enter")
    assert text_of(page, "verdict") == "Different people"
    box = page.value("(({left, width}) => [left, width])(document.activeElement.style)")
    assert [float(side.removesuffix("%")) for side in box] == pytest.approx([100 * 110 / 210, 100 * 90 / 210])


def test_a_dropped_photo_without_a_face_is_said_to_have_none(page: Browser, photos: dict[str, Path]) -> None:
    script = """(async () => {
        const bytes = Uint8Array.from(atob(%s), (letter) => letter.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], "none.png", {type: "image/png"}));
        document.getElementById("photo-a").dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true}));
    })()"""
    page.value(script % json.dumps(base64.b64encode(photos["none"].read_bytes()).decode()))
    page.wait("document.querySelector('#photo-a .message').innerText.startsWith('No face')")
    assert page.value("document.getElementById('comparison').hidden") is True


def test_a_person_is_enrolled_found_and_removed_by_the_keyboard_alone(page: Browser, photos: dict[str, Path]) -> None:
    page.tab_to("#to-gallery")
    page.press("Enter")
    page.wait("!document.getElementById('gallery').hidden")
    page.tab_to("#name")
    page.type("Zoë Müller")
    page.tab_to("#photo-enroll input")
    page.choose_file("#photo-enroll input", photos["red"])
    page.tab_to("#enroll > button")
    page.press("Enter")
    page.wait("document.getElementById('enrolled').innerText.includes('enrolled')")
    assert text_of(page, "enrolled") == "Zoë Müller is enrolled, with 1 photo."

    page.choose_file("#photo-search input", photos["dark red"])
    page.tab_to("#search > button")
    page.press("Space")
    page.wait("document.querySelectorAll('#matches li').length === 1")
    distance = float(np.linalg.norm(np.array(DARK_RED) / np.linalg.norm(DARK_RED) - [1, 0, 0]))
    assert text_of(page, "matches").startswith("Zoë Müller")
    assert f"distance {distance:.3f}" in text_of(page, "matches")
    assert text_of(page, "searched").startswith("Zoë Müller, nearer than the threshold of 0.500")
    page.choose_file("#photo-search input", photos["green"])
    page.value("document.querySelector('#search > button').click()")
    page.wait("document.getElementById('searched').innerText.startsWith('Nobody of the gallery')")

    page.tab_to("#people button")
    page.press("Enter")
    page.wait("document.getElementById('removal').open")
    assert page.value("document.activeElement.value") == "keep"
    page.press("Tab")
    page.press("Enter")
    page.wait("document.getElementById('people').innerText.includes('Nobody')")
    assert text_of(page, "listed") == "Zoë Müller is removed."
    page.wait("document.activeElement.id === 'people-title'")


def test_the_servers_words_are_shown(page: Browser, photos: dict[str, Path]) -> None:
    page.value("location.hash = '#gallery'")
    page.value("document.getElementById('name').value = 'Ann'")
    page.choose_file("#photo-enroll input", photos["none"])
    page.value("document.querySelector('#enroll > button').click()")
    page.wait("document.getElementById('enrolled').innerText.includes('no face')")
    page.value("1")
    assert [said for said in page.said if "422" not in said] == []  # the browser notes each refused request
    page.said.clear()


def test_a_late_answer_is_not_drawn_on_another_photo(browser: Browser, photos: dict[str, Path], tmp_path: Path) -> None:
    embedder = CalibratedSquares(MEASURED)
    with (
        Gallery.create(tmp_path / "people.gallery", embedder.contract) as gallery,
        served(application(embedder, gallery=gallery)) as port,
    ):
        browser.go(f"http://127.0.0.1:{port}/#gallery")
        browser.wait("document.getElementById('people').innerText.includes('Nobody')")
        embedder.gate.clear()
        browser.choose_file("#photo-search input", photos["two"])
        browser.value("document.querySelector('#search > button').click()")
        browser.wait("document.querySelector('#search > button').disabled")
        browser.choose_file("#photo-search input", photos["green"])
        embedder.gate.set()
        browser.wait("!document.querySelector('#search > button').disabled")
        assert browser.value("document.querySelectorAll('#photo-search .face').length") == 0
        assert text_of(browser, "searched") == ""


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_stands_out_at_the_side(page: Browser, photos: dict[str, Path], width: int) -> None:
    page.resize(width, 844)
    compare(page, photos["two"], photos["green"])
    assert page.value("document.documentElement.scrollWidth") <= width
    small = "[...document.querySelectorAll('button:not(.face), nav a, select')].filter((one) => one.offsetHeight > 0)"
    assert page.value(f"Math.min(...{small}.map((one) => one.offsetHeight))") >= 40, "of a finger's size"
    page.value("location.hash = '#gallery'")
    page.wait("!document.getElementById('gallery').hidden")
    assert page.value("document.documentElement.scrollWidth") <= width


def test_without_calibration_no_probability_is_claimed(browser: Browser, photos: dict[str, Path]) -> None:
    with served(application(CalibratedSquares(None))) as port:
        browser.go(f"http://127.0.0.1:{port}/")
        browser.wait("document.getElementById('model').innerText.includes('parameters')")
        compare(browser, photos["red"], photos["green"])
        assert text_of(browser, "verdict") == "Distance 1.414"
        assert "not been calibrated" in text_of(browser, "measured")
        assert browser.value("document.getElementById('no-gallery').hidden") is False


def test_a_key_is_asked_for_and_kept(browser: Browser) -> None:
    with served(application(CalibratedSquares(MEASURED), key="secret")) as port:
        browser.go(f"http://127.0.0.1:{port}/")
        browser.wait("!document.getElementById('key-form').hidden")
        for wrong, answer in {"ключ": "ASCII", "other": "not this server's key"}.items():
            browser.tab_to("#key")
            browser.value("document.getElementById('key').value = ''")
            browser.type(wrong)
            browser.press("Enter")
            browser.wait(f"document.getElementById('trouble').innerText.includes({json.dumps(answer)})")
        browser.tab_to("#key")
        browser.value("document.getElementById('key').value = ''")
        browser.type("secret")
        browser.press("Enter")
        browser.wait("document.getElementById('key-form').hidden")
        browser.wait("document.getElementById('model').innerText.includes('parameters')")
        browser.go(f"http://127.0.0.1:{port}/")
        browser.wait("document.getElementById('model').innerText.includes('parameters')")
        browser.said.clear()

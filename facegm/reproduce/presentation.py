"""The results of a grid as a page: the table beside what was published, and the figure's pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from facegm.classification.classifier import load_classifier
from facegm.classification.config import ImageRunConfig
from facegm.classification.data import open_images
from facegm.data.files import replace_atomically
from facegm.reproduce.attack_pictures import draw_density_histograms, draw_roc_curves
from facegm.reproduce.charts import draw_comparison, draw_curve
from facegm.reproduce.embedding_figure import draw_embeddings
from facegm.reproduce.embeddings import DensityPanel, Panel, density_panel, embedding_panel
from facegm.reproduce.experiment import Experiment, Row
from facegm.reproduce.page import Chart, PageCell, PageRow, render_reproduction
from facegm.reproduce.table import Entry, Results, length_of, spread, texts_at, values_at
from facegm.training.devices import default_device
from facegm.training.geometry_chart import CHART_FILE

SHOWN_IMAGES, ATTACKED_IMAGES = 10_000, 1_000
"""Of fig1, at most."""


def write_page(
    name: str, experiment: Experiment, entries: Sequence[Entry], results: Results, cells: Path, stem: Path
) -> Path:
    """Write the page of a table or figure, and its pictures beside it.

    Args:
        name: which, such as table1.
        experiment: what it is of.
        entries: of the whole grid.
        results: of finished cells.
        cells: the folder of all cells.
        stem: the page's path without `.html`, with which the pictures' paths begin too.

    Returns:
        The page.
    """
    draw = _PICTURES.get(name, _draw_table)
    charts = list(draw(experiment, entries, results, cells, stem))
    length = length_of(entries)
    notes = [*experiment.notes, "Ours is of the networks' last epoch, mean ± standard deviation over seeds."]
    if not charts:
        lacking = [p.title for p in entries if p.cell.name not in results]
        notes.append(f"There is no picture yet: these cells are not done: {'; '.join(lacking)}.")
    page = render_reproduction(
        title=experiment.title,
        head=[f"Made with a budget, {length}. These are not the figures of the whole schedule."] if length else [],
        columns=[column.title for column in experiment.columns],
        rows=[_page_row(experiment, row, entries, results) for row in experiment.rows],
        notes=notes,
        charts=charts,
    )
    path = stem.with_name(f"{stem.name}.html")
    replace_atomically(path, page.encode())
    return path


def _page_row(experiment: Experiment, row: Row, entries: Sequence[Entry], results: Results) -> PageRow:
    cells = []
    for column in experiment.columns:
        at = row.title, column.title
        paper, peer = experiment.paper.get(at), experiment.peers.get(at)
        ours = spread(values_at(entries, results, row, column))
        texts = texts_at(entries, results, row, column)
        ours += "".join(f"; {title} {text}" for title, text in texts.items() if text != "-")
        cells.append(PageCell(ours, "" if paper is None else str(paper), "" if peer is None else str(peer)))
    return PageRow(row.title, length_of([p for p in entries if p.row is row]), cells)


# ------------------------------------------------------------------------------------------------- pictures


def _draw_table(
    experiment: Experiment, entries: Sequence[Entry], results: Results, _: Path, stem: Path
) -> Iterator[Chart]:
    """Every seed as a dot, beside the paper's figure."""
    ours, paper = {}, {}
    for row in experiment.rows:
        for column in experiment.columns:
            at = row.title, column.title
            ours[at] = values_at(entries, results, row, column)
            figure = experiment.paper.get(at)
            paper[at] = None if figure is None else (figure.mean, figure.deviation or 0.0)
    file = _picture(stem, "seeds", "svg")
    titles = [column.title for column in experiment.columns]
    rows, xlabel = [row.title for row in experiment.rows], "" if experiment.images else "test error (%)"
    draw_comparison(file, experiment.title, titles, rows, ours, paper, xlabel=xlabel)
    length = length_of(entries)
    caption = f"Ours, {experiment.ours}{f', {length}' if length else ''}; and the paper's."
    yield Chart("Every seed", caption, file)


def _draw_attacks(
    experiment: Experiment, entries: Sequence[Entry], results: Results, cells: Path, stem: Path
) -> Iterator[Chart]:
    """A table of attacks, and the curves that its figures are the areas under."""
    yield from _draw_table(experiment, entries, results, cells, stem)
    yield from draw_roc_curves(experiment, entries, results, cells, stem)


def _draw_embeddings(
    experiment: Experiment, entries: Sequence[Entry], results: Results, cells: Path, stem: Path
) -> Iterator[Chart]:
    """The six panels of Fig. 1: five losses, and the density of the last one's features with examples of FGSM."""
    device = default_device()
    shown = [p for p in entries if p.row.title != "GM alpha=0.3"]
    if not all(p.cell.name in results for p in shown):
        return
    order = ["softmax", "center", "L-Softmax", "GM alpha=0", "GM alpha=1"]
    config = shown[0].cell.config  # all are of the same set
    assert isinstance(config, ImageRunConfig)
    images = open_images(config.data, "train")
    panels: list[Panel] = []
    density: DensityPanel | None = None
    for entry in sorted(shown, key=lambda p: order.index(p.row.title)):
        classifier = load_classifier(cells / entry.cell.name).to(device)
        title = f"{entry.row.title}, test error {results[entry.cell.name].numbers['error']:.2f} %"
        panels.append(embedding_panel(title, classifier, images, SHOWN_IMAGES, device))
        if entry.row.title == order[-1]:
            test = open_images(config.data, "test", classes=images.classes)
            features = panels[-1].features
            density = density_panel(entry.row.title, classifier, features, test, ATTACKED_IMAGES, device)
    assert density is not None
    file = _picture(stem, "embeddings", "png")
    draw_embeddings(file, panels, density)
    (clean, attacked), own = density.medians(), replace(density, bandwidth=1.0).medians()
    yield Chart(
        experiment.title,
        f"{len(panels[0].features):,} training images, evenly spaced among all. Last panel: log density of their "
        f"features (kernels of standard deviation {density.bandwidth:.2g}, the likeliest for held-out ones), and "
        f"{len(density.adversarial):,} test images before and after FGSM towards a random class; median log density "
        f"{clean:.2f} and {attacked:.2f}, with kernels of 1, the model's own, {own[0]:.2f} and {own[1]:.2f}.",
        file,
    )


def _draw_distances(
    experiment: Experiment, entries: Sequence[Entry], results: Results, cells: Path, _: Path
) -> Iterator[Chart]:
    """What each run with seed 0 has drawn of its means at its end."""
    for row in experiment.rows:
        entry = next(p for p in entries if p.row is row and p.seed == 0)
        if entry.cell.name in results:
            caption = (
                "Left: distances between the means; right: their histogram, their average and the optimum of Eq. 16."
            )
            yield Chart(f"{row.title}, seed 0", caption, cells / entry.cell.name / CHART_FILE)


def _draw_sensitivity(
    experiment: Experiment, entries: Sequence[Entry], results: Results, _: Path, stem: Path
) -> Iterator[Chart]:
    """Accuracy over alpha, a curve for each lambda."""
    alphas = [float(column.overrides["loss.gm.alpha"]) for column in experiment.columns]
    curves = {
        row.title: [values_at(entries, results, row, column) for column in experiment.columns]
        for row in experiment.rows
    }
    file = _picture(stem, "alpha", "svg")
    draw_curve(file, alphas, curves, xlabel="alpha", ylabel="test accuracy (%)", log_x=False)
    yield Chart("Accuracy over alpha", experiment.title, file)


def _draw_lfw(
    experiment: Experiment, entries: Sequence[Entry], results: Results, _: Path, stem: Path
) -> Iterator[Chart]:
    """Accuracy on LFW over alpha, and over lambda, the other being fixed."""
    for name, key in (("alpha", "loss.gm.alpha"), ("lambda", "loss.gm.likelihood_weight")):
        fixed = "lambda" if name == "alpha" else "alpha"
        rows = [row for row in experiment.rows if row.title.startswith(fixed)]
        values = [values_at(entries, results, row, experiment.columns[0]) for row in rows]
        file = _picture(stem, name, "svg")
        curve = {rows[0].title.partition(",")[0]: values}
        xs = [float(row.overrides[key]) for row in rows]
        draw_curve(file, xs, curve, xlabel=name, ylabel="accuracy on LFW (%)", log_x=True)
        yield Chart(f"Accuracy over {name}", f"With {rows[0].title.partition(',')[0]}.", file)


def _picture(stem: Path, what: str, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}-{what}.{suffix}")


_PICTURES: Mapping[str, Callable[[Experiment, Sequence[Entry], Results, Path, Path], Iterator[Chart]]] = {
    "fig1": _draw_embeddings,
    "fig2": _draw_distances,
    "fig4": _draw_lfw,
    "fig5": draw_density_histograms,
    "table6": _draw_sensitivity,
    **dict.fromkeys(("table7", "table8", "table9", "table10", "table11"), _draw_attacks),
}

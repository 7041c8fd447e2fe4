"""The constants of `facegm/losses/cost.py` from measured times of the engines' kernels on a GPU.

    python benchmarks/fit_cost.py benchmarks/results/gm_loss_h100.csv

prints them, and how far the model is from each measured time; put them into `MACHINES` and `PASSES` there. The file has
times of the GM loss as `make bench-loss` writes them on a GPU, of its kernels if it has such; all sizes have 512
dimensions.
"""

import csv
import sys
from pathlib import Path
from statistics import median

import numpy as np
from scipy.optimize import nnls

from facegm.losses.cost import BLOCK_LAUNCHES, LAUNCHES, MACHINES, blocks_of, seconds, use_of_processors

DIM, H100 = 512, 9
Sample = tuple[int, int, float]
"""Batch, classes and seconds."""


def samples_of(rows: list[dict[str, str]], way: str) -> list[Sample]:
    found = [row for row in rows if row["way"].removeprefix("facegm ") == way and row.get("loss", "gm") == "gm"]
    return [(int(row["batch"]), int(row["classes"]), float(row.get("kernels_s") or row["median_s"])) for row in found]


def fit(rows: list[dict[str, str]]) -> dict[str, float]:
    """Rate of the products, launch time and passes; the bandwidth is given."""
    rates = [6 * n * k * DIM / time for n, k, time in samples_of(rows, "three products") if n * k > 10**8]
    rate, bandwidth = median(rates), MACHINES[H100].bandwidth
    factors, rest = [], []
    for place, (way, products) in enumerate((("dense", 3), ("chunked", 4))):
        for n, k, time in samples_of(rows, way):
            line = np.zeros(5)
            line[2 * place : 2 * place + 2] = 4 * n * k / bandwidth, 4 * k * DIM / bandwidth
            line[4] = LAUNCHES + BLOCK_LAUNCHES * blocks_of(n, k, DIM)
            factors.append(line / time)
            rest.append(1 - 2 * products * n * k * DIM / rate / time)
    found, _ = nnls(np.array(factors), np.array(rest))
    names = ("dense, of logits", "dense, of vectors", "chunked, of logits", "chunked, of vectors", "launch")
    return {"products": rate} | dict(zip(names, found.tolist(), strict=True))


def fused_rate(rows: list[dict[str, str]]) -> float:
    """Rate of the fused kernels' products, were all processors busy: what is left beside memory and launches."""
    rates = []
    for n, k, time in samples_of(rows, "fused"):
        of_products = 8 * n * k * DIM / use_of_processors(n, k, DIM, H100, 132)
        beside = seconds("fused", n, k, DIM, H100, 132) - of_products / MACHINES[H100].fused_products
        if n * k > 10**8:
            rates.append(of_products / (time - beside))
    return median(rates)


def main() -> None:
    with Path(sys.argv[1]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, value in fit(rows).items():
        print(f"{name}: {value:.3g}")
    print(f"fused products: {fused_rate(rows):.3g}")
    for way in ("dense", "chunked", "fused"):
        for n, k, time in samples_of(rows, way):
            share = seconds(way, n, k, DIM, H100, 132) / time
            print(f"{way}, {n:,} x {k:,}: {time:.3g} s, by the model as it stands {share:.2f} of it")


if __name__ == "__main__":
    main()

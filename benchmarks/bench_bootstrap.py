"""A thousand resamples of the people in 6,000 pairs, on one thread: all at once, and as lists of pairs one by one."""

import numpy as np
import torch
from interleaved import measure, write_results

from facegm.eval.bootstrap import IdentityBootstrap
from facegm.eval.metrics import accuracy_at, roc, true_accept_rate
from facegm.eval.resampled import resampled_rates

PEOPLE, PAIRS, RESAMPLES, RUNS = 4000, 6000, 1000, 3
BOUNDS, THRESHOLD = (1e-1, 1e-2, 1e-3), 1.5


def main() -> None:
    """Accuracy, AUC, EER and three TARs of pairs laid out like LFW's."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    a, other = rng.integers(0, PEOPLE, PAIRS), rng.integers(1, PEOPLE, PAIRS)
    same = np.arange(PAIRS) < PAIRS // 2
    b = np.where(same, a, (a + other) % PEOPLE)
    bootstrap = IdentityBootstrap(a, b, resamples=RESAMPLES)
    distances = rng.normal(size=PAIRS) + np.where(same, 0, 3)

    def one_by_one() -> None:
        """Without damping, which would leave no lists."""
        for weights in bootstrap.weights():
            for times in weights:
                drawn, kind = np.repeat(distances, times), np.repeat(same, times)
                accuracy_at(THRESHOLD, drawn, kind)
                curve = roc(drawn, kind)
                curve.area, curve.equal_error_rate  # noqa: B018 - computed when asked for
                for bound in BOUNDS:
                    true_accept_rate(drawn, kind, bound)

    rows = measure(
        {"all at once": lambda: resampled_rates(bootstrap, distances, THRESHOLD, BOUNDS), "one by one": one_by_one},
        runs=RUNS,
    )

    people = len(np.unique(np.concatenate([a, b])))
    write_results("bootstrap", [{"people": people, "pairs": PAIRS, "resamples": RESAMPLES} | row for row in rows])


if __name__ == "__main__":
    main()

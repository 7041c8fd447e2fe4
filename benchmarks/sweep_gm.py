"""The choice of the GM loss's settings for `celeba291.yaml`: see `sweep.py`. Writes `gm_sweep.csv`."""

from sweep import sweep

EPOCHS = 12
BASE = {
    "loss.gm.alpha": 0.01,
    "loss.gm.likelihood_weight": 0.001,
    "loss.gm.warmup_fraction": 0.05,
    "model.dropout": 0.0,
    "optimizer.learning_rate": 0.1,
    "train.batch_size": 128,
}
SETTINGS = {
    "base: alpha 0.01, lambda 0.001, warm-up 0.05, no dropout": {},
    "alpha 0": {"loss.gm.alpha": 0.0},
    "alpha 0.05": {"loss.gm.alpha": 0.05},
    "alpha 0.1": {"loss.gm.alpha": 0.1},
    "alpha 0.3": {"loss.gm.alpha": 0.3},
    "lambda 0.0001": {"loss.gm.likelihood_weight": 0.0001},
    "lambda 0.01": {"loss.gm.likelihood_weight": 0.01},
    "lambda 0.05": {"loss.gm.likelihood_weight": 0.05},
    "warm-up 0.3": {"loss.gm.warmup_fraction": 0.3},
    "dropout 0.2": {"model.dropout": 0.2},
    "dropout 0.4": {"model.dropout": 0.4},
    "alpha 0.05, warm-up 0.3": {"loss.gm.alpha": 0.05, "loss.gm.warmup_fraction": 0.3},
    "alpha 0, warm-up 0.3": {"loss.gm.alpha": 0.0, "loss.gm.warmup_fraction": 0.3},
    "lambda 0.0001, warm-up 0.3": {"loss.gm.likelihood_weight": 0.0001, "loss.gm.warmup_fraction": 0.3},
    "warm-up 0.6": {"loss.gm.warmup_fraction": 0.6},
    "warm-up 1": {"loss.gm.warmup_fraction": 1.0},
}


if __name__ == "__main__":
    sweep("gm_sweep", BASE, SETTINGS, EPOCHS)

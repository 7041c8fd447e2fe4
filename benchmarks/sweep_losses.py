"""The choice of each loss's settings for the comparison, eight of each at the same length: see `sweep.py`.

Writes `losses_sweep.csv`. Of the GM loss with faster means too: at the learning rate of the network they lag, and large
alpha and lambda fail.
"""

from typing import Any

from sweep import sweep

EPOCHS = 12
FASTER = {"loss.gm.means_learning_rate_factor": 10}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "gm": {
        "alpha 0.01, lambda 0.001": {},
        "means x10, alpha 0.01, lambda 0.01": {**FASTER, "loss.gm.likelihood_weight": 0.01},
        "means x10, alpha 0.1, lambda 0.01": {**FASTER, "loss.gm.alpha": 0.1, "loss.gm.likelihood_weight": 0.01},
        "means x10, alpha 0.3, lambda 0.01": {**FASTER, "loss.gm.alpha": 0.3, "loss.gm.likelihood_weight": 0.01},
        "means x10, alpha 0.01, lambda 0.1": {**FASTER, "loss.gm.likelihood_weight": 0.1},
        "means x10, alpha 0.1, lambda 0.1": {**FASTER, "loss.gm.alpha": 0.1, "loss.gm.likelihood_weight": 0.1},
        "means x10, alpha 0.01, own-class lambda 0.004": {
            **FASTER,
            "loss.gm.regularizer": "own",
            "loss.gm.likelihood_weight": 0.004,
        },
        "means x10, alpha 0.1, own-class lambda 0.01": {
            **FASTER,
            "loss.gm.alpha": 0.1,
            "loss.gm.regularizer": "own",
            "loss.gm.likelihood_weight": 0.01,
        },
    },
    "softmax": {
        "learning rate 0.05, weight decay 0.0005": {},
        "learning rate 0.025": {"optimizer.learning_rate": 0.025},
        "learning rate 0.1": {"optimizer.learning_rate": 0.1},
        "weight decay 0.002": {"optimizer.weight_decay": 0.002},
        "weight decay 0.0001": {"optimizer.weight_decay": 0.0001},
        "dropout 0.2": {"model.dropout": 0.2},
        "dropout 0.4": {"model.dropout": 0.4},
        "jitter 0.4": {"data.jitter": 0.4},
    },
    "center": {
        "weight 0.008, rate 0.5": {},
        "weight 0.001": {"loss.center.weight": 0.001},
        "weight 0.003": {"loss.center.weight": 0.003},
        "weight 0.02": {"loss.center.weight": 0.02},
        "weight 0.05": {"loss.center.weight": 0.05},
        "weight 0.02, rate 0.1": {"loss.center.weight": 0.02, "loss.center.center_rate": 0.1},
        "learning rate 0.1": {"optimizer.learning_rate": 0.1},
        "dropout 0.2": {"model.dropout": 0.2},
    },
}

if __name__ == "__main__":
    settings = {
        f"{loss}: {title}": {"loss.name": loss, **changes}
        for loss, of_loss in SETTINGS.items()
        for title, changes in of_loss.items()
    }
    sweep("losses_sweep", {}, settings, EPOCHS)

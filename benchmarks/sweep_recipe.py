"""Settings of `celeba291.yaml` at the full length of the recipe, with the GM loss: see `sweep.py`.

Writes `recipe_sweep.csv`.
"""

from sweep import sweep

EPOCHS = 36
BASE = {
    "data.jitter": 0.2,
    "optimizer.schedule": "step",
    "optimizer.learning_rate": 0.1,
    "optimizer.weight_decay": 0.0005,
    "train.batch_size": 128,
    "train.ema_decay": 0.0,
    "loss.gm.warmup_fraction": 0.3,
}
SETTINGS = {
    "base": {},
    "cosine schedule, average of weights 0.99": {"optimizer.schedule": "cosine", "train.ema_decay": 0.99},
    "weight decay 0.002": {"optimizer.weight_decay": 0.002},
    "batch 64, learning rate 0.05": {"train.batch_size": 64, "optimizer.learning_rate": 0.05},
    "jitter 0.4": {"data.jitter": 0.4},
    "warm-up 0.05": {"loss.gm.warmup_fraction": 0.05},
}

if __name__ == "__main__":
    sweep("recipe_sweep", BASE, SETTINGS, EPOCHS)

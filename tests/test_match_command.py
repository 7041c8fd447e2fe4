"""Protects `facegm match`: the distance of the two photos' faces, the verdict by the stored threshold, and the page."""

import json
import re
from collections.abc import Callable
from importlib.resources import files
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import CALIBRATION
from PIL import Image
from small_embedder import small_embedder

from facegm import FaceEmbedder
from facegm.cli import main
from facegm.embedding.model_file import write_calibration

HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))

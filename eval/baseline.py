"""Raw pixels as embeddings: what the protocol gives without any learning, and a first check of pairs and faces."""

import numpy as np
from jaxtyping import Float32, UInt8

SIDE = 32


def raw_pixels(faces: UInt8[np.ndarray, "faces height width 3"]) -> Float32[np.ndarray, "faces 1024"]:
    """Shrink aligned faces to 32x32 grey pixels by area and flatten them.

    Args:
        faces: RGB, 0 to 255.

    Returns:
        Pixel values, 0 to 255, rounded to whole numbers by the resize.
    """
    import cv2

    grey = [cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) for face in faces]
    small = [cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for face in grey]
    return np.reshape(small, (len(faces), SIDE * SIDE)).astype(np.float32)

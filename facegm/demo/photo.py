"""A synthetic photo: an identity in a random pose, light, background and camera."""

import cv2
import numpy as np
from numpy.typing import NDArray

from facegm.demo.identity import Identity
from facegm.demo.occlusion import draw_occlusion
from facegm.demo.portraits import CANVAS_LANDMARKS, CANVAS_SIDE, PHOTO_SIDE
from facegm.demo.smooth_noise import smooth_noise, upsample

EXPRESSION_PIXELS = 1.7
"""Standard deviation of a photo's own smooth deformation of the face, in canvas pixels."""
OCCLUDED_SHARE = 0.2
"""Share of photos in which something covers a part of the face."""

Image = NDArray[np.uint8]
Field = NDArray[np.float32]


def take_photo(identity: Identity, generator: np.random.Generator) -> Image:
    """Take one random photo; RGB, `[PHOTO_SIDE, PHOTO_SIDE, 3]`; the same for the same state of `generator`."""
    person = np.dstack([identity.pixels, identity.silhouette])
    if generator.random() < OCCLUDED_SHARE:
        draw_occlusion(person, generator)
    pose = _pose(generator)
    background = _background(generator)
    scene = _render(identity, person, pose, background)
    return _developed(_lit(scene, generator), generator)


def take_neutral_photo(identity: Identity) -> Image:
    """Take the frontal, evenly lit, sharp photo before a grey wall: all of the identity that a photo can show."""
    person = np.dstack([identity.pixels, identity.silhouette])
    column, row = np.meshgrid(_unposed(), _unposed())
    grey = np.full((PHOTO_SIDE, PHOTO_SIDE, 3), 128, dtype=np.float32)
    return np.rint(_render(identity, person, np.stack([column, row]), grey)).astype(np.uint8)


def _render(identity: Identity, person: Image, pose: Field, background: Field) -> Field:
    """Look up each photo pixel's colour on the identity's canvas, and put the background around the person.

    Args:
        identity: gives the deformation of the face.
        person: RGB and silhouette (0..255) on the canvas, `[CANVAS_SIDE, CANVAS_SIDE, 4]`.
        pose: canvas x and canvas y of each photo pixel, `[2, PHOTO_SIDE, PHOTO_SIDE]`.
        background: RGB, 0..255, `[PHOTO_SIDE, PHOTO_SIDE, 3]`.

    Returns:
        RGB, 0..255, `[PHOTO_SIDE, PHOTO_SIDE, 3]`.
    """
    x, y = pose
    moved = cv2.remap(identity.displacement, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    source_x, source_y = (x + moved[:, :, 0]).astype(np.float32), (y + moved[:, :, 1]).astype(np.float32)
    seen = cv2.remap(person, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    share = seen[:, :, 3:].astype(np.float32) / 255
    return np.asarray(background + share * (seen[:, :, :3] - background), dtype=np.float32)


def _unposed() -> Field:
    """Canvas x of each photo column (or canvas y of each row) without any pose, `[PHOTO_SIDE]`."""
    return np.arange(PHOTO_SIDE, dtype=np.float32) + np.float32((CANVAS_SIDE - PHOTO_SIDE) / 2)


def _pose(generator: np.random.Generator) -> Field:
    """Draw a pose: canvas x and canvas y of each photo pixel, `[2, PHOTO_SIDE, PHOTO_SIDE]`."""
    rotation, shear, width, height = generator.normal(0, (0.08, 0.03, 0.05, 0.05)).astype(np.float32)
    tilt_x, tilt_y = generator.normal(0, 0.0006, 2).astype(np.float32)
    shift_x, shift_y = generator.normal(0, 3, 2).astype(np.float32)
    turn_x, turn_y = generator.normal(0, (6, 4)).astype(np.float32)
    expression_x, expression_y = cv2.split(EXPRESSION_PIXELS * smooth_noise(generator, PHOTO_SIDE, 6, 2))

    centre_x, centre_y = CANVAS_LANDMARKS.mean(axis=0).astype(np.float32)
    x, y = (_unposed() - centre_x - shift_x)[None, :], (_unposed() - centre_y - shift_y)[:, None]
    # Turning the head moves what is near the camera (the nose) against what is far (the ears).
    nearness = np.exp(-(x**2) / (2 * 38**2)) * np.exp(-(y**2) / (2 * 38**2))
    distance = 1 + tilt_x * x + tilt_y * y
    canvas_x = ((1 + width) * x + (shear - rotation) * y) / distance - turn_x * nearness + (centre_x + expression_x)
    canvas_y = (rotation * x + (1 + height) * y) / distance - turn_y * nearness + (centre_y + expression_y)
    return np.stack([canvas_x, canvas_y]).astype(np.float32)


def _background(generator: np.random.Generator) -> Field:
    """Draw smooth colour noise; RGB, `[PHOTO_SIDE, PHOTO_SIDE, 3]`."""
    side = PHOTO_SIDE // 5  # small first: the finest noise varies over three pixels of it
    brightness = generator.uniform(40, 215) + 25 * smooth_noise(generator, side, 6, 1)
    colour = generator.normal(0, 25, 3) + 25 * smooth_noise(generator, side, 4, 3)
    background = brightness + colour + 9 * smooth_noise(generator, side, 16, 3)
    return upsample(background.clip(0, 255).astype(np.float32), PHOTO_SIDE)


def _lit(scene: Field, generator: np.random.Generator) -> Field:
    """Light the scene: gamma, brightness, colour temperature, and a lamp at one side; RGB, may exceed 255."""
    gamma = np.exp(generator.normal(0, 0.25))
    gain = np.exp(generator.normal(0, 0.18))
    warmth = generator.normal(0, 0.11)
    curve = 255 * (np.arange(256) / 255) ** gamma * gain
    table = curve[:, None] * np.exp(warmth * np.array([1, 0, -1]))
    lit = cv2.LUT(np.rint(scene.clip(0, 255)).astype(np.uint8), table.astype(np.float32)[None])
    direction = generator.uniform(0, 2 * np.pi)
    across = np.linspace(-1, 1, PHOTO_SIDE, dtype=np.float32)
    side = np.cos(direction) * across[None, :] + np.sin(direction) * across[:, None]
    # The lamp's fall-off is steepest at the face, where it hides most of the identity.
    lamp = np.exp(generator.normal(0, 0.42) * np.tanh(2.5 * side))
    return np.asarray(lit * lamp[:, :, None], dtype=np.float32)


def _developed(scene: Field, generator: np.random.Generator) -> Image:
    """Blur the scene, add the sensor's noise and compress it as a JPEG of random quality."""
    blurred = cv2.GaussianBlur(scene, (0, 0), generator.uniform(0.3, 2.0))
    noise = generator.standard_normal(blurred.shape, dtype=np.float32)
    raw = np.rint((blurred + np.float32(generator.uniform(0, 8)) * noise).clip(0, 255)).astype(np.uint8)
    quality = int(generator.integers(45, 96))
    _, code = cv2.imencode(".jpg", cv2.cvtColor(raw, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)

"""A synthetic identity: base portraits mixed, warped, recoloured and textured at random, the same for each seed."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facegm.demo.portraits import CANVAS_LANDMARKS, CANVAS_SIDE, Portrait, base_portraits
from facegm.demo.smooth_noise import coarse_noise, smooth_noise, upsample

WARP_CELLS = 8
"""Coarse grid points of the deformation along each side of the canvas."""
WARP_PIXELS = 2.4
"""Standard deviation of the face's smooth deformation, in canvas pixels."""
TEXTURE_LIGHTNESS = 2.5
"""Standard deviation of the skin's blotches, in units of CIE lightness (0..100)."""

Image = NDArray[np.uint8]
Field = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What all photos of one synthetic person share; every array is on the canvas of `portraits.CANVAS_SIDE`."""

    pixels: Image
    """RGB, `[side, side, 3]`, before the deformation."""
    silhouette: Image
    """Share of the person (not the background) in each pixel, 0..255, `[side, side]`."""
    displacement: Field
    """For each point of the person's face, how far away (x, y) in `pixels` its colour lies; `[side, side, 2]`."""


def draw_identity(index: int, *, seed: int) -> Identity:
    """Draw synthetic identity `index` of `seed`: always the same for the same two numbers."""
    generator = np.random.default_rng([seed, index])
    portraits = base_portraits()
    head = portraits[generator.integers(len(portraits))]
    features = portraits[generator.integers(len(portraits))]
    lightness_and_colour = _mixed_lab(head, features, generator)
    lightness_and_colour = _recoloured(lightness_and_colour, head, generator)
    pixels = np.rint(cv2.cvtColor(lightness_and_colour, cv2.COLOR_LAB2RGB).clip(0, 1) * 255).astype(np.uint8)
    silhouette = np.rint((head.skin + head.hair + head.clothes).clip(0, 1) * 255).astype(np.uint8)
    if generator.random() < 0.5:
        pixels, silhouette = pixels[:, ::-1].copy(), silhouette[:, ::-1].copy()
    return Identity(pixels=pixels, silhouette=silhouette, displacement=_displacement(generator))


def _mixed_lab(head: Portrait, features: Portrait, generator: np.random.Generator) -> Field:
    """Set some of the facial features of one portrait into the head of another; CIE L*a*b*, `[side, side, 3]`."""
    target, source = _lab(head.pixels), _lab(features.pixels)
    row, column = np.mgrid[:CANVAS_SIDE, :CANVAS_SIDE].astype(np.float32)
    middle_x, middle_y = CANVAS_LANDMARKS.mean(axis=0)
    radius = np.hypot((column - middle_x) / 44, (row - middle_y) / 46)
    inner_face = _step(1 - radius, 0.08) * head.skin * features.skin
    below_eyes, below_nose = _step(row - 163, 2.5), _step(row - 179, 1.5)
    eyes, nose, mouth = (generator.random(3) < 0.6) * generator.uniform(0.75, 1.0, 3)
    share = inner_face * (eyes * (1 - below_eyes) + nose * (below_eyes - below_nose) + mouth * below_nose)
    weights = inner_face.ravel()
    target_mean = np.average(target.reshape(-1, 3), axis=0, weights=weights)
    source_mean = np.average(source.reshape(-1, 3), axis=0, weights=weights)
    matched = source + (target_mean - source_mean)
    return np.asarray(target + share[:, :, None] * (matched - target), dtype=np.float32)


def _recoloured(lab: Field, portrait: Portrait, generator: np.random.Generator) -> Field:
    """Give skin, hair and clothes new tones, and the skin a blotchy texture of its own."""
    skin, hair, clothes = portrait.skin[:, :, None], portrait.hair[:, :, None], portrait.clothes[:, :, None]
    # Darkening keeps ratios (a gain), so that shadows and highlights stay where they were.
    gain = 1 + skin * (generator.uniform(0.65, 1.1) - 1) + hair * (generator.uniform(0.5, 1.4) - 1)
    lightness = lab[:, :, :1] * gain + clothes * generator.uniform(-5, 35)
    colour = lab[:, :, 1:] + skin * generator.normal(0, (1.5, 3)) + hair * generator.normal(0, (3, 8))
    colour += clothes * generator.normal(0, (20, 20))
    blotches = smooth_noise(generator, CANVAS_SIDE, 16, 1) + 0.7 * smooth_noise(generator, CANVAS_SIDE, 40, 1)
    lightness += skin * TEXTURE_LIGHTNESS * blotches
    return np.concatenate([lightness.clip(0, 100), colour], axis=2).astype(np.float32)


def _displacement(generator: np.random.Generator) -> Field:
    """Draw a smooth, mostly symmetric deformation and a change of the face's width and height."""
    grid = coarse_noise(generator, WARP_CELLS, 2)
    mirrored = grid[:, ::-1] * np.array([-1, 1], dtype=np.float32)
    symmetric = 0.85 * (grid + mirrored) / np.sqrt(2) + 0.35 * (grid - mirrored) / np.sqrt(2)
    displacement = WARP_PIXELS * upsample(symmetric.astype(np.float32), CANVAS_SIDE)
    row, column = np.mgrid[:CANVAS_SIDE, :CANVAS_SIDE].astype(np.float32) - CANVAS_SIDE / 2
    width, height = generator.normal(0, 0.05, 2)
    displacement += np.stack([width * column, height * row], axis=2)
    return displacement.astype(np.float32)


def _lab(pixels: Image) -> Field:
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)


def _step(distance: Field, softness: float) -> Field:
    """Rise smoothly from 0 to 1 where `distance` changes its sign."""
    return np.asarray(0.5 + 0.5 * np.tanh(distance / (2 * softness)), dtype=np.float32)

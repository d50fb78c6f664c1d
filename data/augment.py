"""Random changes of a training frame under which its labels and its view angles stay true.

There is no horizontal flip: a mirrored angiogram shows an LAO view as RAO and a heart whose left and right
are exchanged, an anatomy that does not exist. There is no vertical flip either: it mirrors as well, and turns
cranial into caudal. A small rotation in the image plane is a turn of the detector or of the patient on the
table and leaves both angles as they are.

Ranges were set by what a catheterisation laboratory varies, not by a search:
- rotation 15 degrees, translation 6 %: table and patient position; scale 0.85-1.2: source-detector distance
  860-1200 mm (about +-17 %) and the size of hearts;
- gamma, contrast, brightness: tube voltage, thickness of the patient, the display curve of the maker;
- noise up to 3 % of the range, blur up to 1.2 px at 512: low-dose fluoroscopy to a sharp still, heart motion;
- a dark border on one or two sides in three pictures of ten: collimator blades. What lies under a blade
  cannot be seen, so it is taken out of the label too.
"""

from dataclasses import dataclass

import cv2
import numpy as np

ROTATION_DEG = 15.0
SCALE = (0.85, 1.2)
TRANSLATION = 0.06  # of the side
GAMMA = (0.7, 1.4)
CONTRAST = (0.75, 1.25)
BRIGHTNESS = 0.10  # of the range
NOISE = 0.03  # standard deviation, of the range
BLUR_PX = 1.2  # at a side of 512
COLLIMATOR_PROBABILITY = 0.3
COLLIMATOR_DEPTH = 0.12  # of the side
COLLIMATOR_GREY = 24  # the darkest blades are black, scatter lifts others; of 255


@dataclass(frozen=True)
class Change:
    """One drawn change, so that it can be looked at, applied to several pictures, and tested."""

    angle_deg: float
    scale: float
    shift: tuple[float, float]  # (x, y), of the side
    gamma: float
    contrast: float
    brightness: float
    noise: float
    blur: float
    blades: tuple[float, float, float, float]  # depth at left, top, right, bottom, of the side
    blade_grey: int

    def matrix(self, side: int) -> np.ndarray:
        """float64 (2, 3): takes (x, y) of the picture to (x, y) of the changed one. No mirroring: det > 0."""
        centre = ((side - 1) / 2, (side - 1) / 2)
        matrix = cv2.getRotationMatrix2D(centre, self.angle_deg, self.scale)
        matrix[:, 2] += np.asarray(self.shift) * side
        return matrix


def draw_change(rng: np.random.Generator) -> Change:
    """Draw a change; the same generator state gives the same change."""
    blades = np.zeros(4)
    if rng.random() < COLLIMATOR_PROBABILITY:
        sides = rng.choice(4, size=rng.integers(1, 3), replace=False)
        blades[sides] = rng.uniform(0.02, COLLIMATOR_DEPTH, len(sides))
    return Change(
        angle_deg=rng.uniform(-ROTATION_DEG, ROTATION_DEG),
        scale=float(np.exp(rng.uniform(*np.log(SCALE)))),
        shift=tuple(rng.uniform(-TRANSLATION, TRANSLATION, 2)),
        gamma=float(np.exp(rng.uniform(*np.log(GAMMA)))),
        contrast=rng.uniform(*CONTRAST),
        brightness=rng.uniform(-BRIGHTNESS, BRIGHTNESS),
        noise=rng.uniform(0, NOISE),
        blur=rng.uniform(0, BLUR_PX) if rng.random() < 0.5 else 0.0,
        blades=tuple(blades),
        blade_grey=int(rng.integers(0, COLLIMATOR_GREY)),
    )


def augment(
    image: np.ndarray, coverage: np.ndarray, rng: np.random.Generator, change: Change | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Change a square frame and its label or labels alike.

    image: uint8 (S, S, 3), or (S, S) grey; coverage: uint8 (S, S) or (S, S, n), the share of each pixel that is
    vessel, 255 = all. Returns float32 of the shape of `image` in [0, 1] and uint8 of that of `coverage`. All randomness
    comes from `rng`: the change unless one is given, and the noise, which is the same in all channels.
    """
    change = draw_change(rng) if change is None else change
    # Shaded first: brightness would lift the black that comes in from outside.
    image, coverage = move(shade(image, change), coverage, change)
    image = image.astype(np.float32)
    image *= np.float32(1 / 255)
    noise = rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(change.noise)
    image += noise if image.ndim == 2 else noise[..., None]
    return close_blades(np.clip(image, 0, 1, out=image), coverage, change)


def move(image: np.ndarray, coverage: np.ndarray, change: Change) -> tuple[np.ndarray, np.ndarray]:
    """Rotate, scale and shift both; what comes in from outside is black and no vessel, as behind a blade."""
    side = image.shape[0]
    matrix = change.matrix(side)
    moved = cv2.warpAffine(coverage, matrix, (side, side)).reshape(coverage.shape)  # OpenCV drops an axis of 1
    return cv2.warpAffine(image, matrix, (side, side)), moved


def shade(image: np.ndarray, change: Change) -> np.ndarray:
    """Gamma, contrast about the middle grey and brightness in one look-up table, then blur; uint8."""
    grey = np.linspace(0, 1, 256) ** change.gamma
    grey = (grey - 0.5) * change.contrast + 0.5 + change.brightness
    image = cv2.LUT(image, np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8))
    sigma_px = change.blur * image.shape[0] / 512
    return cv2.GaussianBlur(image, (0, 0), sigma_px) if sigma_px > 0.2 else image


def close_blades(image: np.ndarray, coverage: np.ndarray, change: Change) -> tuple[np.ndarray, np.ndarray]:
    """Darken the borders under collimator blades, in place, and take the vessels there out of the label."""
    side = image.shape[0]
    left, top, right, bottom = (round(depth * side) for depth in change.blades)
    for covered in (np.s_[:, :left], np.s_[:top], np.s_[:, side - right :], np.s_[side - bottom :]):
        image[covered] = change.blade_grey / 255
        coverage[covered] = 0
    return image, coverage

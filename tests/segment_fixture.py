"""A stage 2 prediction made by hand: one straight vessel, half proximal LAD and half mid LAD."""

import numpy as np

from utils.segments.prediction import FramePrediction

SIZE = (120, 160)
VESSEL = (slice(50, 57), slice(10, 150))        # rows and columns
BORDER = 80                                     # the first column of the mid LAD
CLASSES = (12, 13)


def bar_prediction() -> FramePrediction:
    """Both names have 0.9 on their part and 0.1 on the other; the blind guess is the mid LAD, and its box."""
    vessel = np.zeros(SIZE, np.float32)
    vessel[VESSEL] = 0.95
    names = np.full((3, *SIZE), 0.001, np.float32)
    names[0, :, :BORDER] = names[1, :, BORDER:] = 0.899
    names[0, :, BORDER:] = names[1, :, :BORDER] = 0.1
    analysed = np.where(np.arange(SIZE[1]) >= BORDER, vessel, 0).astype(np.float32)
    # Columns 80 to 149 of 160, rows 50 to 56 of 120, whole pixels.
    box = np.array([115 / 160, 53.5 / 120, 70 / 160, 7 / 120], np.float32)
    return FramePrediction(
        vessel_probability=vessel, name_log_probs=np.log(names), analysed_probability=analysed,
        class_probs=np.array([0.3, 0.7], np.float32), box=box, classes=CLASSES,
    )

"""How long does one segment take on one core?

    OMP_NUM_THREADS=1 python -m benchmarks.qca_speed
    python -m benchmarks.qca_speed --segments 60 --repeats 5

Measures true lumens of the phantom (benchmarks/qca_cases.py), laid into frames of 512 x 512 as they come from a
network, several times each and with one thread. Prints the median and the 95th percentile of the CPU time
(time.process_time, which a busy machine disturbs least) and of the wall clock. Target: 50 ms a segment.
"""

import argparse
import sys
import time

import cv2
import numpy as np
import torch

from benchmarks.qca_cases import KINDS, draw_case
from qca.calibration import Calibration
from qca.errors import QcaError
from qca.measure import measure_lumen
from utils.arguments import HelpFormatter, non_negative_int, positive_int

TARGET_MS = 50.0
FRAME_PX = 512


def time_lumen(lumen: np.ndarray, calibration: Calibration, proximal_px, repeats: int) -> tuple[float, float] | None:
    """Median CPU and wall time of one lumen in ms; None where it cannot be measured."""
    cpu, wall = [], []
    for _ in range(repeats):
        start_cpu, start = time.process_time(), time.perf_counter()
        try:
            measure_lumen(lumen, calibration, proximal_px=proximal_px)
        except QcaError:
            return None
        cpu.append(1000 * (time.process_time() - start_cpu))
        wall.append(1000 * (time.perf_counter() - start))
    return float(np.median(cpu)), float(np.median(wall))


def in_frame(lumen: np.ndarray) -> np.ndarray:
    """The lumen in a frame of `FRAME_PX`, which it may exceed."""
    frame = np.zeros(np.maximum(lumen.shape, FRAME_PX), lumen.dtype)
    frame[: lumen.shape[0], : lumen.shape[1]] = lumen
    return frame


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qca_speed", description=__doc__,
                                     formatter_class=HelpFormatter)
    parser.add_argument("--segments", type=positive_int, default=60, help="how many lumens to draw")
    parser.add_argument("--repeats", type=positive_int, default=5, help="measurements of each")
    parser.add_argument("--seed", type=non_negative_int, default=5000, help="of the first lumen")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for kind in ("coverage", "mask"):
        times = []
        for number in range(options.segments):
            case = draw_case(options.seed + number, KINDS[number % len(KINDS)])
            calibration = Calibration(case.px_per_mm, "truth")
            if number == 0:  # imports and caches are not part of a segment
                time_lumen(in_frame(getattr(case, kind)), calibration, case.proximal_px, 1)
            found = time_lumen(in_frame(getattr(case, kind)), calibration, case.proximal_px, options.repeats)
            times += [] if found is None else [found]
        cpu, wall = np.array(times).T
        print(f"{kind}: {len(times)} segments, CPU {np.median(cpu):.1f} ms (95 %: {np.quantile(cpu, 0.95):.1f}), wall "
              f"{np.median(wall):.1f} ms (95 %: {np.quantile(wall, 0.95):.1f}); target {TARGET_MS:g} ms", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

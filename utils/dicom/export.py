"""The results of one frame as DICOM files, for viewers and archives: a segmentation and a measurement report.

    header = read_dicom_header("IM1.dcm")                                # of data.dicom; DataError: no DICOM
    paths = write_dicom_results(folder, "IM1", header, 7, vessel_mask=mask, segments=[(13, mad_lad_mask)],
                                lesions=[(13, lesion)], algorithm=Algorithm(name="predict.py", version="1.0"))

    NAME_seg.dcm    DICOM Segmentation: vessels, named CASS segments, measured lumens (utils/dicom/segmentation.py)
    NAME_sr.dcm     DICOM Structured Report: what was measured (utils/dicom/report.py)

Both are files of their own beside the cine, for a viewer that has it: a segmentation is drawn over the frame it names,
the report's outlines too. Viewers that draw segmentations of volumes only do not show one of a projection.

Both refer to the frame by the UID of its file and its number, and belong to its patient and study. They take over
the names and dates that stand in its header: of a file that is not de-identified, they are not either. Research output
and so marked: unverified, preliminary, not for clinical use.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset

from data.cass import SEGMENTS
from data.errors import DataError
from utils.dicom.codes import MOST_LETTERS, Algorithm
from utils.dicom.report import Finding, build_report
from utils.dicom.segmentation import Region, build_segmentation, cass_region, lumen_region, vessel_region
from utils.dicom.source import SourceFrame
from utils.files import write_atomic

if TYPE_CHECKING:
    from utils.lumens.quantify import QuantifiedLesion

__all__ = ["Algorithm", "dicom_paths", "write_dicom_results"]


def dicom_paths(folder: str | Path, name: str) -> dict[str, Path]:
    """The files of the results of that name: `segmentation` and `report`."""
    folder = Path(folder)
    return {"segmentation": folder / f"{name}_seg.dcm", "report": folder / f"{name}_sr.dcm"}


def write_dicom_results(
    folder: str | Path,
    name: str,
    source_dicom: Dataset,
    frame_index: int,
    *,
    vessel_mask: np.ndarray | None,
    segments: Sequence[tuple[int, np.ndarray]] = (),
    lesions: Sequence[tuple[int | None, QuantifiedLesion]] = (),
    algorithm: Algorithm,
) -> dict[str, Path]:
    """Write NAME_seg.dcm and NAME_sr.dcm, each whole or not at all, and return their paths as `dicom_paths` does;
    only the report where there is nothing to draw, neither vessels nor a measured lumen.

    source_dicom: header of the image that was predicted, with or without pixels; frame_index: from 0. vessel_mask: bool
    (H, W) of that frame, None where no model drew vessels; segments: CASS number and mask of each named one. lesions:
    CASS number (None = not known) and measurement of each obstruction in that frame, best first, also of those whose
    measurement failed. Numbers are in mm only where a measurement has a calibration. Raises DataError, naming the file,
    for a header that results cannot refer to and for masks that are not of its frame; OSError where the files cannot be
    written.
    """
    source = SourceFrame.of(source_dicom, frame_index)
    _check_algorithm(algorithm)
    findings = [Finding(number=number, cass_id=cass_id, lesion=lesion, tracking_uid=hd.UID())
                for number, (cass_id, lesion) in enumerate(lesions, start=1)]
    regions = _regions(vessel_mask, segments, findings)
    for region in regions:
        _check_mask(region, source)
    try:
        with warnings.catch_warnings():  # some quote the patient's name, which is nothing for a terminal
            warnings.simplefilter("ignore", UserWarning)
            segmentation = build_segmentation(source, regions, algorithm) if regions else None
            report = build_report(source, findings, algorithm, segmentation)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # highdicom's answers to an odd header
        raise DataError(f"{source.name}: no DICOM results can be made of this header ({type(error).__name__}: "
                        f"{error}). Export the file again, or leave out the DICOM results") from error
    results = {"segmentation": segmentation, "report": report}
    paths = {kind: path for kind, path in dicom_paths(folder, name).items() if results[kind] is not None}
    for kind, path in paths.items():
        _write(path, results[kind])
    return paths


def _regions(
    vessel_mask: np.ndarray | None, segments: Sequence[tuple[int, np.ndarray]], findings: Sequence[Finding]
) -> list[Region]:
    """Vessels first, then the named segments that have a pixel, then the lumens that were measured."""
    regions = [] if vessel_mask is None else [vessel_region(vessel_mask)]
    for cass_id, mask in segments:
        if cass_id not in SEGMENTS:
            raise DataError(f"{cass_id} is no CASS segment; allowed: {min(SEGMENTS)} to {max(SEGMENTS)}")
        if mask.any():
            regions.append(cass_region(cass_id, mask))
    for one in findings:
        if one.lesion.measured is not None:
            mask = one.lesion.lumen.mask_in_frame()
            regions.append(lumen_region(one.number, one.cass_id, mask, one.tracking_uid))
    return regions


def _check_mask(region: Region, source: SourceFrame) -> None:
    if region.mask.dtype != bool or region.mask.shape != source.size:
        height, width = source.size
        raise DataError(f"{source.name}: the mask of {region.label!r} is {region.mask.dtype} "
                        f"{list(region.mask.shape)}; allowed: bool [{height}, {width}], the size of its frames")


def _check_algorithm(algorithm: Algorithm) -> None:
    for value in (algorithm.name, algorithm.version):
        if not 1 <= len(value) <= MOST_LETTERS or "\\" in value:
            raise DataError(f"{value!r} as name or version of the software; allowed: 1 to {MOST_LETTERS} letters, "
                            "no backslash")


def _write(path: Path, dataset: Dataset) -> None:
    write_atomic(path, lambda handle: pydicom.dcmwrite(handle, dataset, enforce_file_format=True))

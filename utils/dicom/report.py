"""A DICOM Structured Report (SR) of the measured obstructions of one frame: Measurement Report, PS3.16 TID 1500.

    findings = [Finding(number=1, cass_id=13, lesion=lesion, tracking_uid=uid)]    # lesion: quantify.QuantifiedLesion
    report = build_report(source, findings, algorithm, segmentation)     # source: utils.dicom.source.SourceFrame

For each obstruction there are two groups: the outline of the lesion's lumen with all its measurements, and the line
across its narrowest place. It is a Comprehensive SR, the class that viewers know best of those that hold coordinates.
Coordinates in DICOM begin at the corner of the first pixel, the project's at its centre: half a pixel is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from qca.lesion import LEAST_NARROWING
from utils.dicom.codes import AREA_STENOSIS, DIAMETER_STENOSIS, LESION_LENGTH, LUMEN, LUMEN_DIAMETER, MANUFACTURER
from utils.dicom.codes import MILLIMETRE, NARROWEST_PLACE, PERCENT, PIXELS, REFERENCE_DIAMETER, RESEARCH_NOTE, STENOSIS
from utils.dicom.codes import VESSEL, Algorithm, own_scheme, segment_code
from utils.dicom.source import SourceFrame
from utils.drawing import segment_name

if TYPE_CHECKING:
    from qca.measure import Measurement
    from utils.lumens.quantify import QuantifiedLesion

SERIES_NUMBER = 9002
MOST_POINTS = 1000  # of one edge; a file's limit of 65534 bytes an element is at 8191 points
NOTHING_MEASURED = "No obstruction was measured in this frame. This does not say that there is none."


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A lesion of the report: number from 1; cass_id: of the segment that it lies in, None = not known; tracking_uid:
    the same for its lumen in the segmentation."""

    number: int
    cass_id: int | None
    lesion: QuantifiedLesion
    tracking_uid: str

    @property
    def name(self) -> str:
        """`Lesion 1: 13 Mid LAD`."""
        return f"Lesion {self.number}" + ("" if self.cass_id is None else f": {segment_name(self.cass_id)}")


def build_report(
    source: SourceFrame, findings: Sequence[Finding], algorithm: Algorithm, segmentation: Dataset | None
) -> hd.sr.ComprehensiveSR:
    """The report, unverified and preliminary; without findings it says that nothing was measured.

    segmentation: the DICOM Segmentation of the same frame, which is named as evidence; None where there is none.
    """
    groups = [group for one in findings for group in _groups(one, source, algorithm)]
    report = hd.sr.MeasurementReport(
        observation_context=_observer(algorithm), procedure_reported=codes.SCT.CoronaryArteriography,
        imaging_measurements=groups or [_nothing_measured(source, algorithm)],
    )
    _add_comment(report, f"{RESEARCH_NOTE}.")
    document = hd.sr.ComprehensiveSR(
        evidence=[one for one in (source.header, segmentation) if one is not None], content=report,
        series_instance_uid=hd.UID(), series_number=SERIES_NUMBER, sop_instance_uid=hd.UID(), instance_number=1,
        manufacturer=MANUFACTURER, manufacturer_model_name=algorithm.name, software_versions=algorithm.version,
        device_serial_number=algorithm.serial_number, is_complete=True, is_final=False, is_verified=False,
        series_description="QCA report, research only", specific_character_set="ISO_IR 192",
        coding_schemes=[own_scheme()],
    )
    document.CompletionFlagDescription = RESEARCH_NOTE
    return document


def _observer(algorithm: Algorithm) -> hd.sr.ObservationContext:
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=algorithm.device_uid, name=algorithm.name, manufacturer_name=MANUFACTURER, model_name=algorithm.name,
        serial_number=algorithm.serial_number,
    )
    return hd.sr.ObservationContext(observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device))


def _identification(algorithm: Algorithm) -> hd.sr.AlgorithmIdentification:
    return hd.sr.AlgorithmIdentification(
        algorithm.name, algorithm.version, parameters=[f"weights: {text}" for text in algorithm.weights] or None
    )


def _groups(finding: Finding, source: SourceFrame, algorithm: Algorithm) -> list:
    measured = finding.lesion.measured
    outline = _box_of(finding.lesion) if measured is None else outline_of(measured)
    group = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(finding.tracking_uid, finding.name),
        referenced_region=_region(outline, source), finding_type=_finding_type(finding.lesion),
        finding_sites=[hd.sr.FindingSite(segment_code(finding.cass_id))], algorithm_id=_identification(algorithm),
        measurements=None if measured is None else _measurements(measured),
    )
    for text in _remarks(finding.lesion):
        _add_comment(group, text)
    return [group] if measured is None else [group, _narrowest_place(finding, measured, source)]


def _narrowest_place(finding: Finding, measured: Measurement, source: SourceFrame):
    index = measured.worst.mld
    line = np.stack([measured.left_px[index], measured.right_px[index]])
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), f"{finding.name}, narrowest place"),
        referenced_region=_region(line, source), finding_type=NARROWEST_PLACE,
        finding_sites=[hd.sr.FindingSite(segment_code(finding.cass_id))],
    )


def _finding_type(lesion: QuantifiedLesion):
    """A stenosis, unless nobody but the user's box called it one and the measurement does not either."""
    measured = lesion.measured
    if lesion.detection is None and (measured is None or measured.stenosis_pct < 100 * LEAST_NARROWING):
        return LUMEN
    return STENOSIS


def _measurements(measured: Measurement) -> list[hd.sr.Measurement]:
    """Diameters and length in mm with a calibration, else in pixels of the frame; stenoses in percent."""
    worst, mm = measured.worst, measured.mm
    if mm is None:
        unit, digits, lengths = PIXELS, 2, (worst.mld_px, worst.reference_px, worst.length_px)
    else:
        unit, digits, lengths = MILLIMETRE, 3, (mm.mld, mm.rvd, mm.lesion_length)
    mld, reference, length = (round(float(value), digits) for value in lengths)
    return [
        hd.sr.Measurement(LUMEN_DIAMETER, mld, unit, derivation=codes.SCT.Minimum),
        hd.sr.Measurement(REFERENCE_DIAMETER, reference, unit, method=codes.DCM.InterpolatedLocalReference),
        hd.sr.Measurement(DIAMETER_STENOSIS, round(measured.stenosis_pct, 2), PERCENT),
        hd.sr.Measurement(AREA_STENOSIS, round(measured.area_stenosis_pct, 2), PERCENT),
        hd.sr.Measurement(LESION_LENGTH, length, unit),
    ]


def _remarks(lesion: QuantifiedLesion) -> list[str]:
    """What the numbers stand on, and what is unsure of them."""
    if lesion.measured is None:
        return [f"Could not be measured: {lesion.failure}"]
    calibration = lesion.measured.calibration
    if calibration is None:  # the warnings say so
        return list(lesion.warnings)
    return [f"Calibration: {calibration.px_per_mm:.3f} pixels per mm in the plane of the vessel, by the "
            f"{calibration.source}", *lesion.warnings]


def _nothing_measured(source: SourceFrame, algorithm: Algorithm) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    header = source.header
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), "Frame"), finding_type=VESSEL,
        algorithm_id=_identification(algorithm),
        source_images=[hd.sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID,
                                                            source.frame_numbers)],
    )
    _add_comment(group, NOTHING_MEASURED)
    return group


def _add_comment(container: hd.sr.ContentSequence, text: str) -> None:
    comment = hd.sr.TextContentItem(codes.DCM.Comment, text, hd.sr.RelationshipTypeValues.CONTAINS)
    container[0].ContentSequence.append(comment)


def outline_of(measured: Measurement) -> np.ndarray:
    """The lumen of the worst lesion as a closed line (n, 2) of (x, y) px: down its left edge and up its right one."""
    worst = measured.worst
    step = max(1, -(-(worst.end - worst.start + 1) // MOST_POINTS))
    indices = np.unique([*range(worst.start, worst.end + 1, step), worst.end])
    left, right = measured.left_px[indices], measured.right_px[indices]
    return np.concatenate([left, right[::-1], left[:1]])


def _box_of(lesion: QuantifiedLesion) -> np.ndarray:
    """Where a lesion is that was not measured: its box, closed (5, 2)."""
    x0, y0, x1, y1 = lesion.lumen.box_px if lesion.detection is None else lesion.detection.box_px
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], float)


def _region(line_px: np.ndarray, source: SourceFrame) -> hd.sr.ImageRegion:
    """A line (n, 2) of the frame, (x, y) px with pixel centres at integers, kept inside the picture."""
    header = source.header
    points = np.clip(np.asarray(line_px, float) + 0.5, 0, source.size[::-1])
    image = hd.sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID, source.frame_numbers)
    return hd.sr.ImageRegion(hd.sr.GraphicTypeValues.POLYLINE, points, image)

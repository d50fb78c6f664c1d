"""A DICOM Segmentation (SEG) of one frame of an angiogram: the vessels, their CASS segments and measured lumens.

    regions = [vessel_region(mask), cass_region(13, mask), lumen_region(1, 13, mask, tracking_uid)]
    segmentation = build_segmentation(source, regions, algorithm)        # source: utils.dicom.source.SourceFrame
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.sr.codedict import codes

from data.cass import SEGMENTS
from utils.dicom.codes import LUMEN, MANUFACTURER, MOST_LETTERS, RESEARCH_NOTE, STRUCTURE, VESSEL, Algorithm
from utils.dicom.codes import own_scheme, segment_code
from utils.dicom.source import SourceFrame
from utils.drawing import ORANGE, SKY_BLUE, segment_name

SERIES_NUMBER = 9001  # far from an acquisition's own


@dataclass(frozen=True, kw_only=True)
class Region:
    """One segment of a SEG: mask bool (H, W); kind: the code of what it is; place: of where it is, None = as its kind
    says; color: RGB, 0..255; tracking_uid: that of the finding that it belongs to."""

    label: str
    mask: np.ndarray
    kind: object
    color: tuple[int, int, int]
    place: object | None = None
    tracking_uid: str | None = None


def vessel_region(mask: np.ndarray) -> Region:
    """All vessels of the frame."""
    return Region(label="Vessel tree", mask=mask, kind=VESSEL, color=ORANGE)


def cass_region(cass_id: int, mask: np.ndarray) -> Region:
    """A named segment, in the colour that the project's pictures give it."""
    return Region(label=segment_name(cass_id), mask=mask, kind=segment_code(cass_id), color=SEGMENTS[cass_id].colour)


def lumen_region(number: int, cass_id: int | None, mask: np.ndarray, tracking_uid: str) -> Region:
    """The lumen that was measured for the lesion of that number in the report."""
    where = "" if cass_id is None else f": {segment_name(cass_id)}"
    return Region(label=f"Lumen of lesion {number}{where}", mask=mask, kind=LUMEN, color=SKY_BLUE,
                  place=segment_code(cass_id), tracking_uid=tracking_uid)


def build_segmentation(
    source: SourceFrame, regions: Sequence[Region], algorithm: Algorithm
) -> hd.seg.Segmentation:
    """A binary segmentation whose pixels are those of the source's frame.

    regions: at least one; they may overlap. One without a pixel is described, but has no frame of its own.
    """
    descriptions = [_description(number, one, algorithm) for number, one in enumerate(regions, start=1)]
    segmentation = hd.seg.Segmentation(
        source_images=[source.header],
        pixel_array=np.stack([one.mask for one in regions], axis=-1)[None].astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(), series_number=SERIES_NUMBER, sop_instance_uid=hd.UID(), instance_number=1,
        manufacturer=MANUFACTURER, manufacturer_model_name=algorithm.name, software_versions=algorithm.version,
        device_serial_number=algorithm.serial_number,
        content_label="CORONARIES", content_description=RESEARCH_NOTE,
        series_description="Coronary segmentation, research only", specific_character_set="ISO_IR 192",
        coding_schemes=[own_scheme()],
    )
    _name_the_frame(segmentation, source)
    return segmentation


def _description(number: int, region: Region, algorithm: Algorithm) -> hd.seg.SegmentDescription:
    family = codes.DCM.ArtificialIntelligence
    parameters = {f"weights {n}": text for n, text in enumerate(algorithm.weights, start=1)}
    identification = hd.AlgorithmIdentificationSequence(
        algorithm.name, family, algorithm.version, source=MANUFACTURER, parameters=parameters or None
    )
    return hd.seg.SegmentDescription(
        segment_number=number, segment_label=region.label[:MOST_LETTERS],
        segmented_property_category=STRUCTURE, segmented_property_type=region.kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm_identification=identification,
        tracking_uid=region.tracking_uid, tracking_id=region.label if region.tracking_uid else None,
        anatomic_regions=None if region.place is None else [region.place],
        display_color=hd.color.CIELabColor.from_rgb(*region.color),
    )


def _name_the_frame(segmentation: hd.seg.Segmentation, source: SourceFrame) -> None:
    """Say of which frame of the source this is, and take out the pixel size that the source does not have."""
    del segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    segmentation.PatientOrientation = source.header.get("PatientOrientation")
    if source.frame_numbers is None:
        return
    # highdicom lists the same objects among the references by series, where DICOM knows no frame numbers.
    segmentation.SourceImageSequence = [deepcopy(one) for one in segmentation.SourceImageSequence]
    references = list(segmentation.SourceImageSequence)
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        references += [image for derived in group.DerivationImageSequence for image in derived.SourceImageSequence]
    for reference in references:
        reference.ReferencedFrameNumber = source.frame_numbers

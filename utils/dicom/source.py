"""The frame that DICOM results are about: what they need of its file's header, and how they refer to it.

    source = SourceFrame.of(header, frame_index=7)          # header: data.dicom.read_dicom_header
    source.header, source.frame_numbers

`highdicom` writes segmentations of single projection images, and of several frames only where these have a place in
the patient. Frames of an X-ray cine have none, and it refuses them ("Only a single frame is supported when the source
image has no Frame of Reference UID"). It is therefore given the header as of that one frame, and the frame's number is
added to the references afterwards. In DICOM such a segmentation needs no geometry: its pixels are the frame's, and each
of its frames names the one that it was derived from (PS3.3, A.51 and C.7.6.16.2.6).
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataelem import DataElement
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import DA, TM

from data.errors import DataError

NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
# Elements that must stand in every file and may be empty: in de-identified files some are empty, some are gone.
EMPTY_ALLOWED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                 "StudyDate", "StudyTime", "ReferringPhysicianName", "Modality")
SEXES = ("M", "F", "O")
_IMAGE_GROUPS = (0x0028, 0x5200, 0x7FE0)  # pixels and their description; functional groups
_PLACES = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness")
_OF_THE_PIXELS = ("Rows", "Columns", "LossyImageCompression", "LossyImageCompressionRatio",
                  "LossyImageCompressionMethod")


@dataclass(frozen=True, kw_only=True)
class SourceFrame:
    """One frame of a DICOM image. header: what results take over of its file, as of an image of one frame;
    frame_numbers: [the frame's number, from 1], None where the image has but one; name: of the file, for messages."""

    header: Dataset
    frame_numbers: list[int] | None
    name: str

    @classmethod
    def of(cls, dataset: Dataset, frame_index: int) -> SourceFrame:
        """The frame `frame_index` (from 0) of an image; its pixels are not looked at.

        Raises DataError, naming the file, where the header lacks what results must refer to.
        """
        name = str(getattr(dataset, "filename", None) or "the DICOM dataset")
        header, frames = _header_of_one_frame(dataset), int(_value(dataset, "NumberOfFrames") or 1)
        missing = [keyword for keyword in NEEDED if header.get(keyword) in (None, "")]
        if missing:
            raise DataError(f"{name}: the header has no {', '.join(missing)}, by which DICOM results refer to it. Give "
                            "the file as the archive sends it, or leave out the DICOM results")
        if not 0 <= frame_index < frames:
            raise DataError(f"{name}: no frame {frame_index}; allowed: 0 to {frames - 1}")
        return cls(header=header, frame_numbers=[frame_index + 1] if frames > 1 else None, name=name)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px."""
        return int(self.header.Rows), int(self.header.Columns)


def _header_of_one_frame(dataset: Dataset) -> Dataset:
    """Patient, study and references as they are, and the pixels' size: no pixels, no places, no private elements."""
    header = Dataset()
    for tag in dataset.keys():
        pixels = tag.group in _IMAGE_GROUPS or 0x6000 <= tag.group <= 0x60FF
        if tag.is_private or pixels and keyword_for_tag(tag) not in _OF_THE_PIXELS:
            continue
        if (element := _element(dataset, tag)) is not None:
            header.add(element)
    for keyword in _PLACES:
        if keyword in header:
            delattr(header, keyword)
    for keyword in EMPTY_ALLOWED:
        if keyword not in header:
            setattr(header, keyword, None)
    _empty_what_is_wrong(header)
    header.NumberOfFrames = 1
    # highdicom wants the size of a pixel in the patient here; there is none, see utils/dicom/segmentation.py.
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    header.SharedFunctionalGroupsSequence = [shared]
    return header


def _element(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """None for a damaged one: whether it was needed is seen when it is missed."""
    try:
        return dataset[tag]
    except Exception:  # bytes that are no value surface as whatever error their conversion meets
        return None


def _value(dataset: Dataset, keyword: str):
    tag = Tag(keyword)
    element = _element(dataset, tag) if tag in dataset else None
    return None if element is None else element.value


def _empty_what_is_wrong(header: Dataset) -> None:
    """Replacements such as 00000000 or ANON, which tools put in place of a date or sex, are in no valid file."""
    for keyword, parse in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM), ("PatientSex", _sex)):
        try:
            parse(header[keyword].value)
        except (ValueError, TypeError):
            setattr(header, keyword, None)


def _sex(value: str | None) -> None:
    if value and value not in SEXES:
        raise ValueError(value)

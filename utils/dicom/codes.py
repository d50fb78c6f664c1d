"""The codes, names and notes that the DICOM results share: what a viewer reads in place of our words.

Standard codes are those of DICOM's context groups; what has none is in the project's own scheme `SCHEME`, which every
file that uses it declares. The minimum lumen diameter is coded as in DICOM's template of quantitative arterial analysis
(PS3.16, TID 3214): vessel lumen diameter, derivation minimum.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import highdicom as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from data.cass import SEGMENTS

SCHEME = "99SAM3CORO"  # 99...: private, PS3.16 chapter 8
MANUFACTURER = "SAM 3 on X-ray coronary angiography"
RESEARCH_NOTE = "Research output, not for clinical use"
MOST_LETTERS = 64  # of a DICOM long string

VESSEL = codes.SCT.CoronaryArtery
LUMEN = codes.SCT.LumenOfBloodVessel
STRUCTURE = codes.SCT.AnatomicalStructure
STENOSIS = codes.SCT.Stenosis
NARROWEST_PLACE = codes.DCM.SiteOfLumenMinimum
LUMEN_DIAMETER = codes.SCT.VesselLumenDiameter
DIAMETER_STENOSIS = codes.SCT.LumenDiameterStenosis
AREA_STENOSIS = codes.SCT.LumenAreaStenosis
LESION_LENGTH = codes.SCT.StenoticLesionLength
REFERENCE_DIAMETER = hd.sr.CodedConcept("RVD", SCHEME, "Reference vessel diameter at the minimum lumen diameter")
MILLIMETRE = hd.sr.CodedConcept("mm", "UCUM", "millimeter")
PIXELS = hd.sr.CodedConcept("{pixels}", "UCUM", "pixels")
PERCENT = hd.sr.CodedConcept("%", "UCUM", "percent")


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What made the results: name and version of the software; weights: one text for each checkpoint, such as
    `phase4_quantitative_best.pth sha256 0f3c...`, by which it can be told from any other."""

    name: str
    version: str
    weights: tuple[str, ...] = ()

    @property
    def serial_number(self) -> str:
        """16 hexadecimal digits, the same for the same software with the same weights."""
        told = "\n".join((self.name, self.version, *self.weights))
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def device_uid(self) -> str:
        """The UID of this software with these weights, the same every time."""
        return generate_uid(entropy_srcs=[MANUFACTURER, self.name, self.version, *self.weights])


def segment_code(cass_id: int | None) -> hd.sr.CodedConcept:
    """The code of a CASS segment; of the coronary arteries for None, a segment that is not known."""
    if cass_id is None:
        return hd.sr.CodedConcept.from_code(VESSEL)
    segment = SEGMENTS[cass_id]
    if segment.snomed_ct is not None:
        return hd.sr.CodedConcept(segment.snomed_ct, "SCT", segment.name)
    return hd.sr.CodedConcept(f"CASS{cass_id}", SCHEME, segment.name)


def own_scheme() -> CodingSchemeIdentificationItem:
    """The declaration of the project's own codes."""
    return CodingSchemeIdentificationItem(
        SCHEME, name="Codes of SAM 3 on X-ray coronary angiography", version="1", responsible_organization=MANUFACTURER
    )

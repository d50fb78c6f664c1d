"""A prediction's results as DICOM files beside its others: what `predict.py --dicom` writes.

    paths = write_prediction_dicom(out, prediction, described)          # DataError: not of a DICOM
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data.dicom import read_dicom_header
from data.errors import DataError
from utils.checkpoint import FORMAT
from utils.dicom.export import Algorithm, write_dicom_results
from utils.lumens.quantify import QuantifiedLesion
from utils.obstructions.report import segment_of
from utils.reports.records import Prediction

SOFTWARE = "SAM 3 on X-ray coronary angiography, predict.py"


def write_prediction_dicom(out: Path, prediction: Prediction, checkpoints: Sequence[Mapping]) -> dict[str, Path]:
    """Write NAME_seg.dcm and NAME_sr.dcm, see `utils.dicom.export`; checkpoints: of `describe_checkpoint`.

    Raises DataError for an input that is no DICOM, or whose header results cannot refer to.
    """
    source = prediction.source
    if source.kind != "DICOM":
        raise DataError(f"{source.path}: is no DICOM file, and results in DICOM must refer to one; leave out --dicom")
    segments = [] if prediction.findings is None else [(one.cass_id, one.mask) for one in prediction.findings.segments]
    weights = tuple(f"{Path(one['path']).name} sha256 {one['sha256']}" for one in checkpoints)
    return write_dicom_results(
        out, prediction.name, read_dicom_header(source.path), prediction.frame_index, vessel_mask=prediction.mask,
        segments=segments, lesions=[(_segment_of(prediction, one), one) for one in prediction.measurements or ()],
        algorithm=Algorithm(name=SOFTWARE, version=f"checkpoint format {FORMAT}", weights=weights),
    )


def _segment_of(prediction: Prediction, measured: QuantifiedLesion) -> int | None:
    """CASS number of the segment of a measured obstruction; None where it has no name."""
    found = prediction.obstructions
    if found is None or measured.detection is None:
        return None
    lesion = next((one for one in found.lesions if found.here(one) is measured.detection), None)
    named = None if lesion is None else segment_of(found, lesion)
    return None if named is None else named[0]

"""The files of a whole run of `predict.py`, and its last words.

    report = RunReport(out=out, checkpoints=described, software=describe_software())
    report.add(prediction, record)                          # each input, as soon as it is done
    report.write()                                          # report.html, report.json, measurements.csv
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from utils.files import write_text_atomic
from utils.history import readable_json
from utils.lumens.report import csv_of, measured_obstructions
from utils.reports.markup import Html
from utils.reports.page import RESEARCH_ONLY, TITLE, input_section, page
from utils.reports.records import Prediction
from utils.segments.report import describe_pointed

PICTURED_INPUTS = 100  # about 0.5 MB each: a page of more opens slowly; the others are in its table


@dataclass(kw_only=True)
class RunReport:
    """records: of the inputs that were done; failures: of the others, a line each; sections: of the page."""

    out: Path
    checkpoints: Sequence[dict]
    software: dict
    records: list[dict] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    sections: list[Html] = field(default_factory=list)

    @property
    def contact_sheet(self) -> Path:
        return self.out / "predictions.png"

    @property
    def page(self) -> Path:
        return self.out / "report.html"

    def add(self, prediction: Prediction, record: dict) -> None:
        """Take in what was found in one input; its frames need not be kept."""
        if len(self.sections) < PICTURED_INPUTS:
            self.sections.append(input_section(prediction, record, len(self.records)))
        self.records.append(record)

    def write(self) -> None:
        """Write what is there until now, each file whole or not at all."""
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        inputs = [{name: value for name, value in record.items() if name not in ("checkpoints", "software")}
                  for record in self.records]
        content = {"title": TITLE, "note": RESEARCH_ONLY, "created": created, "software": self.software,
                   "checkpoints": list(self.checkpoints), "inputs": inputs, "failures": self.failures}
        write_text_atomic(self.out / "report.json", readable_json(content))
        if any("calibration" in record for record in self.records):
            write_text_atomic(self.out / "measurements.csv", csv_of(self.records))
        when = created.replace("T", " ").removesuffix("+00:00") + " UTC"
        text = page(self.records, self.sections, self.failures, self.checkpoints, self.software, when)
        write_text_atomic(self.page, text)


def print_summary(report: RunReport) -> None:
    """Say what was found, the mean scores where there were labels, and what could not be read."""
    records, failures = report.records, report.failures
    for name in ("dice_deepsa", "dice_truth", "top1_pointed", "top1_blind", "top1_blind_map"):
        values = [record["scores"][name] for record in records if name in record["scores"]]
        if values:
            print(f"mean {name} over {len(values)} frames: {np.mean(values):.4f}")
    found = [record["scores"].get("obstruction_found") for record in records]
    if annotated := [hit for hit in found if hit is not None]:
        print(f"found {sum(annotated)} of {len(annotated)} annotated obstructions")
    if measured := [one for record in records for *_, one in measured_obstructions(record)]:
        print(f"measured {sum(one['failure'] is None for one in measured)} of {len(measured)}: "
              f"{report.out / 'measurements.csv'}")
    for record in records:
        if record.get("pointed"):
            print(describe_pointed(record["pointed"]))
    sheet = f"; to read: {report.page}, all in one picture: {report.contact_sheet}" if records else ""
    print(f"{len(records)} predictions in {report.out}{sheet}")
    if failures:
        print(f"{len(failures)} inputs could not be predicted:", *failures, sep="\n  ", file=sys.stderr)

"""The page of a run, `report.html`: one file that opens without a network, prints on A4, and suits a phone.

    section = input_section(prediction, record)                     # at once: a prediction holds its frames in memory
    text = page(records, sections, failures, checkpoints, software)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from utils.drawing import segment_name
from utils.lumens.measurement_drawing import EDGES_LEGEND, LUMEN_COLOR, edges_crop
from utils.lumens.report import BOX_NUMBER, measured_obstructions, measurement_words
from utils.obstructions.report import estimated_stenoses, obstruction_legend
from utils.reports.frame_calibration import scale_words
from utils.reports.markup import Html, join, table, tag
from utils.reports.page_figures import curve_element, picture_element
from utils.reports.page_style import CSS
from utils.reports.pictures import VESSEL_LEGEND, measured_by_number, overlay
from utils.reports.records import Prediction
from utils.segments.drawing import legend_of

TITLE = "Coronary angiography: what the models see and measure"
RESEARCH_ONLY = "Research only. Not a medical device: not for diagnosis, not for decisions about a patient."
HOW_TO_READ = (
    "Measured numbers come from a lumen that a model has drawn in this one projection: MLD, the least diameter of the "
    "lumen; RVD, the diameter that the vessel would have there without the lesion; %DS = 100 (1 - MLD / RVD); area "
    "stenosis takes every cross-section for a circle; lesion length is along the vessel as projected. The detector's "
    "estimate is another number: it is guessed from the picture and not measured."
)
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser then refuses every request
# Label, name of the number in mm (or %), digits, name in px.
_ROWS = (
    ("MLD", "mld_mm", 2, "mld_px"), ("RVD", "rvd_mm", 2, "rvd_px"),
    ("Diameter stenosis (%DS)", "stenosis_pct", 0, None), ("Area stenosis", "area_stenosis_pct", 0, None),
    ("Lesion length", "lesion_length_mm", 1, "lesion_length_px"),
)


def page(
    records: Sequence[Mapping], sections: Sequence[Html], failures: Sequence[str], checkpoints: Sequence[Mapping],
    software: Mapping, created: str,
) -> str:
    """The whole page; sections: of the first records."""
    missing = len(records) - len(sections)
    note = tag("p", f"The last {missing} inputs are in the table only: their pictures are NAME_overlay.png.")
    body = join([
        tag("header", tag("h1", TITLE), tag("p", RESEARCH_ONLY, class_="banner"), _summary(records, failures, created),
            tag("p", HOW_TO_READ, class_="quiet"), _identity(checkpoints, software)),
        tag("main", _overview(records, len(sections)), note if missing else None, sections, _failed(failures)),
    ])
    head = join([
        tag("meta", charset="utf-8"), tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY), tag("title", TITLE),
        tag("style", Html(CSS)),
    ])
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"


def _summary(records: Sequence[Mapping], failures: Sequence[str], created: str) -> Html:
    found = [one for record in records for one in measured_obstructions(record)]
    measured = sum(measurement["failure"] is None for *_, measurement in found)
    obstructions = sum(len(record.get("obstructions", ())) for record in records)
    parts = [_count(len(records), "input"), _count(obstructions, "obstruction")]
    if any("calibration" in record for record in records):
        failed = len(found) - measured
        parts.append(f"{measured} measured" + (f", {failed} could not be" if failed else ""))
    bad = tag("a", f"{_count(len(failures), 'input')} failed", href="#failed") if failures else "none failed"
    return tag("p", " · ".join(parts), " · ", bad, " · made ", created)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _identity(checkpoints: Sequence[Mapping], software: Mapping) -> Html:
    rows = [(one["stage"], PurePath(one["path"]).name, ", ".join(one["used_for"]) or "nothing",
             f"{one['backbone']}, {one['image_size']} px", one["epoch"], tag("code", one["sha256"][:12]))
            for one in checkpoints]
    versions = ", ".join(f"{name} {number}" for name, number in software.items())
    weights = table(("weights", "file", "used for", "model", "epoch", "SHA-256"), rows, kind="stack")
    return tag("div", weights, tag("p", f"Software: {versions}", class_="quiet"), class_="identity")


def _overview(records: Sequence[Mapping], linked: int) -> Html:
    """A row for each obstruction, and one for an input without any."""
    rows = []
    for number, record in enumerate(records):
        name = tag("a", record["name"], href=f"#input-{number}") if number < linked else record["name"]
        lines = _found_lines(record) or [("none found" if "obstructions" in record else "not asked for", "", "")]
        first, *others = lines
        rows += [(name, record["view"]["text"], *first), *(("", "", *line) for line in others)]
    header = ("input", "view", "obstruction", "measured", "detector's estimate")
    return tag("section", tag("h2", "All inputs"), table(header, rows, kind="stack"))


def _found_lines(record: Mapping) -> list[tuple[str, str, str]]:
    """Name, measurement and the detector's estimate of each obstruction of an input, and of a box given, in words."""
    measured = {number: _words_and_warnings(one) for number, _, one in measured_obstructions(record)}
    lines = [(_name(one["rank"], one["segment"]), measured.get(one["rank"], "not measured"), _estimate_words(one))
             for one in record.get("obstructions", ())]
    return lines + ([(_name(BOX_NUMBER, None), measured[BOX_NUMBER], "")] if BOX_NUMBER in measured else [])


def _words_and_warnings(measurement: Mapping) -> str:
    warnings = len(measurement["warnings"])
    return measurement_words(measurement) + (f" ({_count(warnings, 'warning')})" if warnings else "")


def _failed(failures: Sequence[str]) -> Html:
    said = tag("ul", [tag("li", failure) for failure in failures]) if failures else tag("p", "None.")
    return tag("section", tag("h2", "Inputs that failed"), said, id="failed")


def input_section(prediction: Prediction, record: Mapping, number: int) -> Html:
    """One input: its frame with all that was found, and each obstruction; number: its place among the records."""
    frames = f"{record['frame_index']} of 0 to {record['frames'] - 1} ({record['frame_choice']})"
    facts = {"File": record["input"], "Frame": frames if record["frames"] > 1 else None,
             "View": f"{record['view']['text']} ({record['view']['source']})",
             "Calibration": scale_words(record["calibration"]) if "calibration" in record else None}
    lines = _found_lines(record)
    found = table(("obstruction", "measured", "detector's estimate"), lines, kind="stack") if lines else None
    if record.get("obstructions") == [] and not lines:
        found = tag("p", "No obstruction was found.")
    beside = tag("div", _facts(facts), _warnings(record.get("calibration", {}).get("warnings", ())), found)
    measured = {at: one for at, _, one in measured_obstructions(record)}
    lesions = [_obstruction(prediction, record, one, measured.get(one["rank"]))
               for one in record.get("obstructions", ())]
    if BOX_NUMBER in measured:
        lesions.append(_obstruction(prediction, record, None, measured[BOX_NUMBER]))
    top = tag("div", _frame_figure(prediction), beside, class_="columns")
    return tag("section", tag("h2", record["name"]), top, lesions, id=f"input-{number}", class_="input")


def _facts(facts: Mapping[str, object]) -> Html:
    return tag("dl", [(tag("dt", name), tag("dd", value)) for name, value in facts.items() if value is not None])


def _frame_figure(prediction: Prediction) -> Html:
    legend = VESSEL_LEGEND if prediction.findings is None else legend_of(prediction.findings)
    if prediction.obstructions is not None:
        legend = legend | obstruction_legend(estimated_stenoses(prediction.obstructions))
    number = 0 if prediction.obstructions is None else len(prediction.obstructions.lesions)
    alt = f"Frame {prediction.frame_index} of {prediction.name} with vessels coloured and {number} obstructions marked"
    caption = "Beside each mark: number, the detector's estimated %DS (score), in how many frames of a cine it was seen"
    return picture_element(overlay(prediction), alt, legend, caption if number else "")


def _obstruction(
    prediction: Prediction, record: Mapping, obstruction: Mapping | None, measurement: Mapping | None
) -> Html:
    """obstruction None: what was measured is a box that was given; measurement None: nothing was measured."""
    number, segment = (BOX_NUMBER, None) if obstruction is None else (obstruction["rank"], obstruction["segment"])
    parts = [tag("h3", _title(number, segment))]
    if measurement is not None:
        facts, warnings = _measured_facts(record, segment, measurement), _measurement_warnings(record, measurement)
        crop, curve = _measured_figures(prediction, number, measurement)
        beside = tag("div", curve, _numbers(measurement))
        if measurement["failure"] is not None:
            beside, facts, warnings = tag("div", warnings, facts), None, None
        parts += [tag("div", crop, beside, class_="columns"), facts, warnings]
    elif "calibration" in record:
        parts.append(_warnings(["the chosen frame does not show it, so it was not measured"]))
    if obstruction is not None:
        said = tag("b", "Detector's estimate, not a measurement: ")
        seen = obstruction["seen_in"]
        frames = f", seen in {seen['frames']} of {seen['of']} frames" if seen["of"] > 1 else ""
        parts.append(tag("p", said, _estimate_words(obstruction) + frames, class_="estimate"))
    return tag("article", parts)


def _title(number: int | str, segment: Mapping | None) -> str:
    return _name(number, segment) if number == BOX_NUMBER else f"Obstruction {_name(number, segment)}"


def _name(number: int | str, segment: Mapping | None) -> str:
    """`1: 13 Mid LAD`."""
    name = "Box given" if number == BOX_NUMBER else str(number)
    return f"{name}: {segment_name(segment['cass_id'])}" if segment else name


def _measured_figures(prediction: Prediction, number: int | str, measurement: Mapping) -> tuple[Html, Html | None]:
    picture = edges_crop(prediction.frame, measured_by_number(prediction, number))
    words, title = measurement_words(measurement), _title(number, None)
    if measurement["failure"] is not None:
        legend = {"lumen that was drawn, and the box asked for": LUMEN_COLOR}
        return picture_element(picture, f"{title} enlarged, with the lumen that was drawn", legend), None
    crop = picture_element(picture, f"{title} enlarged, with its measured edges: {words}", EDGES_LEGEND)
    return crop, curve_element(measurement["curve"], f"{title}: diameter and reference along the vessel; {words}")


def _numbers(measurement: Mapping) -> Html | None:
    if measurement["failure"] is not None:
        return None
    recorded = measurement["recorded"]
    rows = [[label, tag("strong", _shown(measurement, name, digits, in_px))] for label, name, digits, in_px in _ROWS]
    if recorded is None:
        return table(("", "measured"), rows, kind="numbers")
    for row, (_, name, digits, _) in zip(rows, _ROWS, strict=True):
        row += [_shown(recorded, name, digits), _difference(measurement, recorded, name, digits)]
    return table(("", "measured", "Medis", "difference"), rows, kind="numbers")


def _shown(numbers: Mapping, name: str, digits: int, in_px: str | None = None) -> str:
    value, unit = numbers[name], "%" if name.endswith("_pct") else "mm"
    if value is None and in_px is not None:
        return f"{numbers[in_px]:.1f} px"
    return "unknown" if value is None else f"{value:.{digits}f} {unit}"


def _difference(measurement: Mapping, recorded: Mapping, name: str, digits: int) -> str:
    if measurement[name] is None or recorded[name] is None:
        return ""
    return f"{measurement[name] - recorded[name]:+.{digits}f}" + (" points" if name.endswith("_pct") else " mm")


def _measured_facts(record: Mapping, segment: Mapping | None, measurement: Mapping) -> Html:
    point = measurement["mld_point_px"]
    named = f"{segment_name(segment['cass_id'])} (probability {segment['probability']:.2f})" if segment else "not named"
    return _facts({
        "CASS segment": named, "View": record["view"]["text"], "Calibration": scale_words(record["calibration"]),
        "MLD at": None if point is None else f"x {point[0]:.0f}, y {point[1]:.0f} px",
        "Lumen asked for by": measurement["asked_for"]["by"],
    })


def _measurement_warnings(record: Mapping, measurement: Mapping) -> Html | None:
    """Beside the calibration's own, which stand once at the top of the input."""
    of_scale = record["calibration"]["warnings"]
    said = [one for one in measurement["warnings"] if one not in of_scale]
    if measurement["failure"] is not None:
        said = [f"could not be measured: {measurement['failure']}", *said]
    return _warnings(said)


def _warnings(said: Sequence[str]) -> Html | None:
    if not said:
        return None
    return tag("div", tag("b", "Unsure"), tag("ul", [tag("li", one) for one in said]), class_="warning", role="note")


def _estimate_words(obstruction: Mapping) -> str:
    stenosis = obstruction["estimated_stenosis_pct"]
    words = "no severity" if stenosis is None else f"{stenosis:.0f} %DS ({obstruction['grade']})"
    return f"{words}, score {obstruction['score']:.2f}"

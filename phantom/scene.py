"""What is in front of the detector in one examination: lesions, C-arm, contrast, motion, catheter, wire."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.cass import SEGMENTS
from phantom.anatomy import RIGHT, draw_body
from phantom.carm import CArm
from phantom.catheter import Catheter, draw_catheter, draw_wire
from phantom.contrast import Bolus, Motion, choose_frame, draw_bolus, draw_motion
from phantom.lesions import Lesion, draw_disease, lesion_samples, phase_lesions, with_lesions
from phantom.patient import build_tree
from phantom.plan import VESSEL, Analysis
from phantom.tree import Tree
from phantom.views import draw_carm

LEFT_DOMINANT = 0.12  # of patients; right dominance in about 85 % (Dodge et al. 1992), the rest balanced
CRUX_SEGMENTS = frozenset((3, 4))  # analysed in no right coronary that ends before the crux
CINE_S = (2.6, 3.6)  # a bolus of contrast comes and goes in this time
# Light lost per mm of contrast, natural log, before scattered light is added; main vessels of eight real
# frames show 0.15-0.25 after it.
OPACITY_PER_MM = (0.14, 0.36)
DOMINANCE, TREE, DISEASE, SCENE, PICTURE, BODY, CEILING = range(7)  # what a generator is for


@dataclass(frozen=True)
class Case:
    """One examination, one row of the CSV; `number` counts the patient's rows."""

    patient: int
    number: int
    cass_id: int
    phase: str
    split: str

    @property
    def patient_id(self) -> str:
        """As in the user's data: `101-0025`."""
        return f"{101 + self.patient // 9999}-{self.patient % 9999 + 1:04d}"

    @property
    def name(self) -> str:
        """File name of the case, without ending."""
        return f"{self.patient_id}_{VESSEL[self.cass_id].pattern}_{self.phase}"

    @property
    def side(self) -> str:
        """Which coronary artery is injected: "left" or "right"."""
        return SEGMENTS[self.cass_id].side


@dataclass(frozen=True)
class Scene:
    """Everything in front of the detector.

    lesions: the analysed one first. times_s: (F,) of the frames. wire: (n,) samples of the tree in which a
    guide wire lies, tip last; none without a wire.
    """

    tree: Tree
    lesions: tuple[Lesion, ...]
    carm: CArm
    bolus: Bolus
    motion: Motion
    catheter: Catheter
    times_s: np.ndarray
    frame_index: int
    opacity_per_mm: float
    wire: np.ndarray

    def filling(self) -> np.ndarray:
        """Concentration of contrast at every sample of the tree in the analysed frame. (P,)"""
        return self.bolus.concentration(self.tree.reach_mm, self.times_s[self.frame_index])


def patient_cases(analyses: list[Analysis]) -> list[Case]:
    """The rows of one patient, numbered."""
    rows = [(one, phase) for one in analyses for phase in one.phases]
    return [
        Case(one.patient, number, one.cass_id, phase, one.split) for number, (one, phase) in enumerate(rows)
    ]


def generator(seed: int, patient: int, purpose: int, *more: int) -> np.random.Generator:
    """A random generator of its own for each patient and purpose: the same numbers whoever computes them."""
    return np.random.default_rng(np.random.SeedSequence([seed, patient, purpose, *more]))


def build_trees(seed: int, cases: list[Case]) -> dict[str, Tree]:
    """One patient's trees without lesions, by side, as far as the cases need them."""
    patient, segments = cases[0].patient, frozenset(case.cass_id for case in cases)
    drawn = generator(seed, patient, DOMINANCE).random() < LEFT_DOMINANT
    left_dominant = drawn and not segments & CRUX_SEGMENTS
    body = draw_body(generator(seed, patient, BODY))
    return {
        side: build_tree(
            side,
            generator(seed, patient, TREE, side == RIGHT),
            needed=segments,
            left_dominant=left_dominant,
            body=body,
        )
        for side in sorted({case.side for case in cases})
    }


def build_scene(
    seed: int, case: Case, trees: dict[str, Tree], size_px: int, frames: int, severe_others: float = 0.0
) -> Scene:
    """The scene of one examination; view, contrast and motion are drawn anew each time.

    Disease is the same in all examinations of one analysed segment. A second segment of the same tree has a
    course of its own: the worst lesion lies where the analysis is, so the two do not show each other's.
    severe_others: see `draw_disease`.
    """
    healthy = trees[case.side]
    disease = generator(seed, case.patient, DISEASE, case.cass_id)
    worst, others = draw_disease(healthy, case.cass_id, disease, severe_others=severe_others)
    rng = generator(seed, case.patient, SCENE, case.number)
    lesions = phase_lesions(healthy, case.cass_id, case.phase, worst, others, rng)
    tree = with_lesions(healthy, lesions)
    carm = draw_carm(tree, case.cass_id, size_px, rng, lesion_samples(tree, lesions[0]))
    duration_s = rng.uniform(*CINE_S)
    times_s = np.arange(frames) * duration_s / frames
    bolus = draw_bolus(tree.reach_mm.max(), duration_s, rng)
    frame_index = choose_frame(bolus, tree.reach_mm, times_s, rng)
    motion = draw_motion(times_s[frame_index], rng)
    return Scene(
        tree,
        lesions,
        carm,
        bolus,
        motion,
        draw_catheter(tree, case.side, rng),
        times_s,
        frame_index,
        float(rng.uniform(*OPACITY_PER_MM)),
        draw_wire(tree, case.cass_id, case.phase, rng),
    )

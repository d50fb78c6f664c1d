"""Random lesions of the phantom as lumen masks with exact truth, without any X-ray picture.

A tree is drawn, one segment of it narrowed, and projected by a C-arm at a usual view of that segment. The mask is
the lumen of the segment alone, as an analyst's edges enclose it: the polygon between the projected edges, of which
each pixel's covered share (`coverage`) and whether its centre is inside (`mask`) are known without noise.

Truth is what the phantom's contours record (`phantom.contours.measure`). The phantom's lumen is round, also in an
eccentric lesion, whose centre moves: so its width in any view, across its projected axis, is its diameter by the
magnification there. MLD: that diameter where the lumen is narrowest by its healthy wall. RVD: interpolated along
the vessel between the healthy diameters at both ends of the lesion. Lengths: along the projected centreline,
between the feet of the bell-shaped narrowing, by the magnification at the MLD; what is foreshortened stays so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scipy.ndimage import gaussian_filter, map_coordinates

from phantom.anatomy import LEFT, RIGHT
from phantom.carm import CArm
from phantom.contours import measure, segment_mask, trace_segment
from phantom.lesions import LESION_MM, LESION_SEGMENTS, Lesion, draw_lesion, gap_mm, lesion_samples, with_lesions
from phantom.masks import fill_tube
from phantom.patient import build_tree
from phantom.rendering import outline
from phantom.tree import Tree
from phantom.views import draw_carm

KINDS = ("single", "tandem", "bifurcation")
STENOSIS_PCT = (20.0, 90.0)
SPACING_MM = (0.18, 0.39)  # of the detector's pixels, as in the headers of clinical files
LEAST_GAP_MM, TANDEM_TRIES = 1.0, 60
SUPERSAMPLING = 8  # 64 points a pixel: the share is known to 0.01
BLUR_PX = 1.0  # sigma, of maps as they come from a network
MARGIN_PX = 24
POINTS = 600
STUB_DIAMETERS = (1.0, 3.0)  # how far beyond the segment's wall a side branch is left, in its own diameters
LEAST_BRANCH = 0.4  # of the segment's diameter: what a reader calls a bifurcation; thinner twigs are left too
# A branch at the very end of a segment divides it from the next one: which of the two ends is its own, a mask
# does not tell. So many of the tree's samples are 3 mm.
END_SAMPLES = 6
CASE_TRIES = 200
SEGMENTS = {LEFT: (12, 13, 14, 15, 16, 18, 19, 20, 21, 28), RIGHT: (1, 2, 3, 4)}


@dataclass(frozen=True)
class LumenCase:
    """One lesion: coverage float32 (H, W) in [0, 1], mask bool (H, W), trace and truth as the phantom's contours
    have them, `px_per_mm` at the MLD, and what it is a case of."""

    kind: str
    coverage: np.ndarray
    mask: np.ndarray
    trace: dict[str, np.ndarray]
    truth: dict[str, float]
    px_per_mm: float
    spacing_mm: float
    eccentricity: float
    turning_deg: float
    stubs: int
    proximal_px: tuple[float, float]

    @property
    def blurred(self) -> np.ndarray:
        """The coverage as a network would predict it, its edges soft: float32 (H, W)."""
        return gaussian_filter(self.coverage, BLUR_PX)

    @property
    def hidden(self) -> float:
        """How much lumen there is just outside of the edges at the MLD, 0 to 1: of a branch, or of the vessel itself
        where it folds. What is hidden there no mask tells."""
        at = int(self.truth["MLD_centerline_index"])
        left, right = self.trace["left_edge"][at], self.trace["right_edge"][at]
        outwards = (right - left) / np.linalg.norm(right - left)
        beside = np.stack([left - outwards, right + outwards])[:, ::-1].T
        return float(map_coordinates(self.coverage, beside, order=1).max())


def draw_case(seed: int, kind: str) -> LumenCase:
    """The case of a seed: the same one whenever it is asked for. kind: one of `KINDS`."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    for _ in range(CASE_TRIES):
        found = _try_case(kind, rng)
        if found is not None:
            return found
    raise ValueError(f"no {kind} case in {CASE_TRIES} draws of seed {seed}; take another seed")


def _try_case(kind: str, rng: np.random.Generator) -> LumenCase | None:
    side = LEFT if rng.random() < len(SEGMENTS[LEFT]) / len(LESION_SEGMENTS) else RIGHT
    cass_id = int(rng.choice(SEGMENTS[side]))
    healthy = build_tree(side, rng, needed=frozenset({cass_id}))
    if not (healthy.cass_id == cass_id).any():
        return None
    lesions = _draw_lesions(healthy, cass_id, kind, rng)
    if lesions is None:
        return None
    tree = with_lesions(healthy, lesions)
    spacing = float(rng.uniform(*SPACING_MM))
    carm = _draw_close_view(tree, cass_id, lesions[0], spacing, rng)
    trace = trace_segment(tree, cass_id, carm, POINTS)
    truth, px_per_mm = measure(tree, lesions[0], trace)
    tubes = [(trace["left_edge"], trace["right_edge"])]
    mask = segment_mask(trace, carm.size_px)
    stubs = _stubs(tree, cass_id, carm, rng) if kind == "bifurcation" else []
    if kind == "bifurcation" and not stubs:
        return None
    for left, right in stubs:
        fill_tube(mask, left, right, True)
    return LumenCase(
        kind, _coverage(tubes + stubs, carm.size_px), mask, trace, truth, px_per_mm, spacing,
        lesions[0].eccentricity, _turning_deg(trace, truth), len(stubs), tuple(trace["centerline"][0].tolist()),
    )


def _draw_lesions(tree: Tree, cass_id: int, kind: str, rng: np.random.Generator) -> tuple[Lesion, ...] | None:
    """The worst lesion first; None where a second one finds no room."""
    first = draw_lesion(tree, cass_id, STENOSIS_PCT, rng)
    if kind != "tandem":
        return (first,)
    for _ in range(TANDEM_TRIES):
        second = draw_lesion(tree, cass_id, STENOSIS_PCT, rng, length_mm=(LESION_MM[0] / 2, LESION_MM[1] / 2))
        if gap_mm(tree, first, second) >= LEAST_GAP_MM:
            return tuple(sorted((first, second), key=lambda lesion: -lesion.stenosis_pct))
    return None


def _draw_close_view(tree: Tree, cass_id: int, lesion: Lesion, spacing_mm: float, rng) -> CArm:
    """A usual view with pixels of this size, its picture just as large as the segment needs."""
    carm = draw_carm(tree, cass_id, 512, rng, lesion_samples(tree, lesion))
    carm = replace(carm, spacing_mm=spacing_mm)
    own, _ = carm.project(tree.center_mm[tree.segment(cass_id)])
    low, high = own.min(axis=0), own.max(axis=0)
    widest_px = (tree.healthy_mm[tree.segment(cass_id)].max() * carm.project(tree.center_mm)[1]).max()
    carm = replace(carm, size_px=int(np.ceil((high - low).max() + 3 * widest_px + 2 * MARGIN_PX)))
    own, _ = carm.project(tree.center_mm[tree.segment(cass_id)])
    return carm.panned((carm.size_px - 1) / 2 - (own.min(axis=0) + own.max(axis=0)) / 2)


def _stubs(tree: Tree, cass_id: int, carm: CArm, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """First stretches of the branches that leave the segment, as edges (n, 2) px; none without a large one."""
    own, arc = tree.segment(cass_id), tree.arc_mm()
    inner = own[END_SAMPLES:-END_SAMPLES]
    left, right = outline(tree.center_mm, tree.lumen_mm / 2, tree.line, carm)
    found, largest = [], 0.0
    for line in np.setdiff1d(tree.line, tree.line[own[0]]):
        branch = np.flatnonzero(tree.line == line)
        away = np.linalg.norm(tree.wall_mm[inner] - tree.wall_mm[branch[0]], axis=1)
        if away.min() > 1.0:
            continue
        trunk_mm = tree.lumen_mm[inner[away.argmin()]]
        reach = trunk_mm / 2 + rng.uniform(*STUB_DIAMETERS) * tree.lumen_mm[branch[0]]
        kept = branch[arc[branch] <= reach]
        if len(kept) > 2:
            found.append((left[kept], right[kept]))
            largest = max(largest, tree.lumen_mm[kept[-1]] / trunk_mm)
    return found if largest >= LEAST_BRANCH else []


def _coverage(tubes: list[tuple[np.ndarray, np.ndarray]], size_px: int) -> np.ndarray:
    """float32 (size, size): the share of each pixel between the edges of any of the tubes."""
    fine = np.zeros((size_px * SUPERSAMPLING,) * 2, bool)
    for edges in tubes:
        fill_tube(fine, *((edge + 0.5) * SUPERSAMPLING - 0.5 for edge in edges), True)
    blocks = fine.reshape(size_px, SUPERSAMPLING, size_px, SUPERSAMPLING)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _turning_deg(trace: dict[str, np.ndarray], truth: dict[str, float]) -> float:
    """By how much the projected vessel turns in all between the ends of the lesion."""
    line = trace["centerline"]
    ends = [[truth[f"lesion_{name}_{axis}_coord"] for axis in "xy"] for name in ("start", "end")]
    start, end = (int(np.linalg.norm(line - np.array(point), axis=1).argmin()) for point in ends)
    coarse = line[start : end + 1 : 10]  # a turn is that of the vessel, not of the polyline's corners
    heading = np.unwrap(np.arctan2(*np.diff(coarse, axis=0).T[::-1]))
    return float(np.degrees(np.abs(np.diff(heading)).sum()))

"""What anatomy says of the names of vessels, as rules over beads: short pieces of a vessel's centreline.

A cost (B, C) says what each of C names would cost on each of B beads, in units of -log probability a bead;
the last name is "none of the classes". Lower is better.
"""
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from data.cass import SEGMENTS
from utils.segments.vessel_tree import Beads

# Segments that follow or leave each other in the coronary tree, by CASS number: parents in data/anatomy.csv,
# and neighbours where a border is drawn by eye.
TOUCHING = frozenset({
    (1, 2), (2, 3), (3, 4), (3, 5), (5, 6), (5, 7), (5, 8), (6, 7), (7, 8), (4, 9), (1, 10), (2, 10),
    (11, 12), (11, 18), (11, 28), (12, 18), (12, 28), (18, 28),
    (12, 13), (13, 14), (12, 15), (13, 15), (13, 16), (14, 16), (13, 29), (14, 29), (12, 17), (13, 17),
    (18, 19), (18, 20), (19, 20), (19, 21), (19, 22), (19, 23), (19, 24), (19, 25), (19, 27),
    (23, 24), (23, 25), (23, 26), (23, 27), (24, 25), (25, 26),
})
FORBIDDEN = 1e3             # a cost that no sum of others outweighs
# Of 0.5 to 4 and 1.5 to 16, the best segment F1 of a map trained on drawn trees, on 130 frames of the training
# patients: 0.823, against 0.802 without the rules (2026-11-22).
SWITCH_COST, STRANGER_COST = 2.0, 4.0
_ROUNDS = 3


def fill_one_artery(log_probs: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return log probabilities (K + 1, N) with the names of the artery that was not injected ruled out.

    One injection fills the left or the right coronary artery: the one with the higher sum of probability is
    kept.
    """
    left = np.array([SEGMENTS[cass_id].side == "left" for cass_id in classes] + [False])
    right = np.array([SEGMENTS[cass_id].side == "right" for cass_id in classes] + [False])
    evidence = np.exp(log_probs).sum(axis=1)
    other = right if evidence[left].sum() >= evidence[right].sum() else left
    kept = log_probs.copy()
    kept[other] = -FORBIDDEN
    return kept - np.logaddexp.reduce(kept, axis=0)


def switch_costs(classes: Sequence[int], switch: float = SWITCH_COST,
                 stranger: float = STRANGER_COST) -> np.ndarray:
    """Return the cost (C, C) of one name beside another: 0 for the same, `switch` where they touch in a tree.

    `switch` also beside "none of the classes", which may be anything; `stranger` for all others.
    """
    costs = np.full((len(classes) + 1,) * 2, float(stranger))
    for i, one in enumerate(classes):
        for j, other in enumerate(classes):
            if (min(one, other), max(one, other)) in TOUCHING:
                costs[i, j] = switch
    costs[-1, :] = costs[:, -1] = switch
    np.fill_diagonal(costs, 0.0)
    return costs


def agree_along_vessels(costs: np.ndarray, pairs: np.ndarray, switch: np.ndarray) -> np.ndarray:
    """Return the names (B,) of least total cost, where neighbours pay `switch` (C, C) to differ.

    Exact (Viterbi's way, from the leaves to a root and back) on a spanning tree of the pairs (E, 2). Vessels
    that cross make rings; each is opened between the two neighbours whose costs differ most.
    """
    total, best = costs.astype(np.float64), np.zeros(costs.shape, np.int64)
    order, parent = _walk(len(costs), pairs, costs)
    for bead in order[::-1]:
        if parent[bead] >= 0:
            choices = total[bead][:, None] + switch
            best[bead] = choices.argmin(axis=0)
            total[parent[bead]] += choices.min(axis=0)
    names = np.zeros(len(costs), np.int64)
    for bead in order:
        names[bead] = total[bead].argmin() if parent[bead] < 0 else best[bead, names[parent[bead]]]
    return names


def _walk(count: int, pairs: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Beads (B,) in an order in which each follows its parent, and parents (B,), -1 for a piece's root."""
    difference = np.abs(costs[pairs[:, 0]] - costs[pairs[:, 1]]).sum(axis=1) + 1e-9  # 0 would be no edge
    graph = sparse.csr_matrix((difference, tuple(pairs.T)), shape=(count, count))
    tree = csgraph.minimum_spanning_tree(graph).tocoo()
    _, piece = csgraph.connected_components(tree, directed=False)
    roots = np.unique(piece, return_index=True)[1]
    # One node above all roots, so that one walk reaches every piece.
    rows, columns = np.concatenate([tree.row, np.full(len(roots), count)]), np.concatenate([tree.col, roots])
    joined = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(count + 1, count + 1))
    order, parent = csgraph.breadth_first_order(joined, count, directed=False)
    return order[1:], np.where(parent[:-1] == count, -1, parent[:-1])


def keep_one_place(names: np.ndarray, costs: np.ndarray, beads: Beads, gap_px: float) -> np.ndarray:
    """Return costs (B, C) that forbid a name on the beads of all but its weightiest place, a copy.

    A segment occurs once in a tree, so its beads hang together: neighbours, or at most `gap_px` apart where
    the mask has a gap or another vessel crosses. `names` (B,) are those given so far.
    """
    near = cKDTree(beads.centre).query_pairs(gap_px, output_type="ndarray").reshape(-1, 2)
    joined = np.concatenate([beads.pairs, near])
    joined = joined[names[joined[:, 0]] == names[joined[:, 1]]]
    graph = sparse.csr_matrix((np.ones(len(joined)), tuple(joined.T)), shape=(len(names),) * 2)
    count, place = csgraph.connected_components(graph, directed=False)
    of_own = costs[np.arange(len(names)), names]
    trust = np.exp(-np.clip(of_own, 0, FORBIDDEN))
    weight = np.bincount(place, weights=beads.length_px * trust, minlength=count)
    forbidden = costs.copy()
    for name in range(costs.shape[1] - 1):
        places = np.unique(place[names == name])
        if len(places) > 1:
            lesser = places[places != places[weight[places].argmax()]]
            forbidden[np.isin(place, lesser), name] += FORBIDDEN
    return forbidden


def name_beads(costs: np.ndarray, beads: Beads, switch: np.ndarray, gap_px: float | None) -> np.ndarray:
    """Return the names (B,) that the rules agree on; without the rule of one place where `gap_px` is None."""
    names = agree_along_vessels(costs, beads.pairs, switch)
    for _ in range(_ROUNDS if gap_px is not None else 0):
        costs = keep_one_place(names, costs, beads, gap_px)
        before, names = names, agree_along_vessels(costs, beads.pairs, switch)
        if np.array_equal(before, names):
            break
    return names

"""The centreline of a vessel mask as a graph: pixels, short pieces of it in a row, and its longest way.

Rows and columns here; (x, y) only where a name says so.
"""
import itertools
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # each pair of touching pixels once
_BRIDGED_PIECES = 12    # the largest of a mask; smaller specks are not worth a comparison of every two


@dataclass(frozen=True)
class Beads:
    """A mask (H, W) cut across into B short pieces along its centreline.

    of_pixel: int32 (N,), the bead of each mask pixel in the order of `np.nonzero(mask)`. pairs: int64 (E, 2),
    beads that follow each other along a vessel or meet at a bifurcation or crossing, each pair once.
    length_px: float64 (B,), number of centreline pixels. centre: float64 (B, 2), mean row and column of
    these.
    """
    of_pixel: np.ndarray
    pairs: np.ndarray
    length_px: np.ndarray
    centre: np.ndarray


def thread_beads(mask: np.ndarray, bead_px: float) -> Beads:
    """Cut a bool (H, W) mask, not empty, into beads of about `bead_px` along the centreline.

    A bead never reaches over a bifurcation or crossing, where the name may change. Each pixel belongs to the
    bead of the centreline pixel next to it.
    """
    skeleton = skeletonize(mask)
    points = np.argwhere(skeleton)
    links = _links(skeleton, points)
    degree = np.bincount(links.ravel(), minlength=len(points))
    junction = degree > 2
    inner = links[junction[links[:, 0]] == junction[links[:, 1]]]
    _, branch = csgraph.connected_components(_graph(inner, points), directed=False)
    along = _distance_from_an_end(inner, points, branch)
    step = np.where(junction, 0, along // bead_px).astype(np.int64)
    alike = (branch[links] == branch[links][:, :1]) & (step[links] == step[links][:, :1])
    _, bead = csgraph.connected_components(_graph(links[alike.all(axis=1)], points), directed=False)
    pairs = np.unique(np.sort(bead[links], axis=1), axis=0)
    count = np.bincount(bead)
    sums = [np.bincount(bead, weights=points[:, axis]) for axis in (0, 1)]
    centre = np.stack(sums, axis=1) / count[:, None]
    of_pixel = bead[_nearest_point(skeleton, points)[mask]]
    return Beads(of_pixel, pairs[pairs[:, 0] != pairs[:, 1]], count.astype(np.float64), centre)


def _links(skeleton: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Pairs (E, 2) of places in `points` (n, 2) of skeleton pixels that touch, corners included."""
    place = np.full(np.add(skeleton.shape, 2), -1, np.int64)
    place[tuple((points + 1).T)] = np.arange(len(points))
    pairs = []
    for step in _NEIGHBOURS:
        other = place[tuple((points + 1 + step).T)]
        pairs.append(np.stack([np.flatnonzero(other >= 0), other[other >= 0]], axis=1))
    return np.concatenate(pairs)


def _graph(links: np.ndarray, points: np.ndarray) -> sparse.csr_matrix:
    """The graph of `links` with the distances of their points in px."""
    lengths = np.hypot(*(points[links[:, 0]] - points[links[:, 1]]).T)
    return sparse.csr_matrix((lengths, tuple(links.T)), shape=(len(points), len(points)))


def _distance_from_an_end(links: np.ndarray, points: np.ndarray, branch: np.ndarray) -> np.ndarray:
    """Distance (n,) in px along the links of each point from one end of its branch, any point of a ring."""
    degree = np.bincount(links.ravel(), minlength=len(points))
    order = np.lexsort((degree, branch))
    first = order[np.unique(branch[order], return_index=True)[1]]
    return csgraph.dijkstra(_graph(links, points), directed=False, indices=first, min_only=True)


def _nearest_point(skeleton: np.ndarray, points: np.ndarray) -> np.ndarray:
    """For each pixel (H, W) the place in `points` of the skeleton pixel nearest to it."""
    _, label = cv2.distanceTransformWithLabels((~skeleton).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5,
                                               labelType=cv2.DIST_LABEL_PIXEL)
    place = np.zeros(label.max() + 1, np.int64)
    place[label[tuple(points.T)]] = np.arange(len(points))
    return place[label]


def centreline_of(mask: np.ndarray, bridge_px: float) -> np.ndarray:
    """Return the longest way through the skeleton of a bool (H, W) mask, not empty: float64 (n, 2) of (x, y).

    In px, ordered along the vessel, n >= 1. Pieces of the mask up to `bridge_px` apart, as where another
    vessel crosses over, are joined by a straight step.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    cut = np.pad(mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1], 1)
    skeleton = skeletonize(cut)
    points = np.argwhere(skeleton)
    links = _links(skeleton, points)
    graph = _graph(np.concatenate([links, _bridges(links, points, bridge_px)]), points)
    start = _farthest(graph, _longest_piece_start(graph))[0]
    end, before = _farthest(graph, start)
    way = [end]
    while way[-1] != start:
        way.append(before[way[-1]])
    return points[way][:, ::-1] + np.array([columns[0], rows[0]], np.float64) - 1


def _bridges(links: np.ndarray, points: np.ndarray, bridge_px: float) -> np.ndarray:
    """Pairs (m, 2) of the nearest points of every two large pieces that are at most `bridge_px` apart."""
    _, piece = csgraph.connected_components(_graph(links, points), directed=False)
    largest = np.bincount(piece).argsort()[::-1][:_BRIDGED_PIECES]
    bridges = []
    for one, other in itertools.combinations([np.flatnonzero(piece == number) for number in largest], 2):
        distance, nearest = cKDTree(points[one]).query(points[other])
        if distance.min() <= bridge_px:
            end = distance.argmin()
            bridges.append((one[nearest[end]], other[end]))
    return np.array(bridges, np.int64).reshape(-1, 2)


def _longest_piece_start(graph: sparse.csr_matrix) -> int:
    """A point of the piece with the most points."""
    _, piece = csgraph.connected_components(graph, directed=False)
    return int(np.flatnonzero(piece == np.bincount(piece).argmax())[0])


def _farthest(graph: sparse.csr_matrix, start: int) -> tuple[int, np.ndarray]:
    """The point that is farthest from `start` along the graph, and the point before each on the way there."""
    distance, before = csgraph.dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    distance[np.isinf(distance)] = -1
    return int(distance.argmax()), before

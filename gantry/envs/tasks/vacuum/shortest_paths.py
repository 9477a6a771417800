"""Shortest paths between an apartment's cells, and the shortest tour of a few places."""

import numpy as np

MAX_TOUR_PLACES = 10
"""Largest number of places of a tour; the cost of computing it doubles with every place."""


def cell_distances(neighbors: np.ndarray) -> np.ndarray:
    """Return the number of moves (m, m) on the shortest path between any two cells, -1 where there is none.

    Args:
        neighbors: (m, 4) cells adjacent to each cell, -1 for none; symmetric.
    """
    from scipy.sparse import csr_array  # imported here: most environments do without
    from scipy.sparse.csgraph import shortest_path

    cell, direction = np.nonzero(neighbors >= 0)
    count = len(neighbors)
    graph = csr_array((np.ones(len(cell)), (cell, neighbors[cell, direction])), shape=(count, count))
    distances = shortest_path(graph, unweighted=True)
    return np.where(np.isinf(distances), -1, distances).astype(np.int64)


def shortest_tour(from_start: np.ndarray, between: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the moves (k,) of the shortest path that visits all wanted places, ending at any of them.

    Held & Karp's dynamic program ("A dynamic programming approach to sequencing problems", 1962) over all k
    problems at once: `best[:, visited, last]` is the length of the shortest path through a set of
    places that ends at `last`.

    Args:
        from_start: (k, places) distances from each start to each place.
        between: (k, places, places) distances between places.
        wanted: (k, places) bool: places to visit.
    """
    problems, places = from_start.shape
    best = np.full((problems, 2**places, places), np.inf)
    for place in range(places):
        best[:, 1 << place, place] = from_start[:, place]
    for visited in range(1, 2**places):
        for place in range(places):
            if visited >> place & 1 and visited != 1 << place:
                before = best[:, visited ^ (1 << place)] + between[:, :, place]
                best[:, visited, place] = before.min(axis=1)
    goal = wanted @ (1 << np.arange(places))
    shortest = best[np.arange(problems), goal].min(axis=1)
    return np.where(goal == 0, 0.0, shortest)

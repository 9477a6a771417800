"""Ways through an apartment's cells: shortest distances, and the shortest tour of a few places."""

import numpy as np

MOST_PLACES = 10
"""The most places whose shortest tour is computed: its cost doubles with every place."""


def walking_distances(neighbours: np.ndarray) -> np.ndarray:
    """Return the moves (m, m) between any two cells on the shortest way, -1 where there is none.

    Args:
        neighbours: (m, 4) the cells next to each cell, -1 for none; symmetric.
    """
    count = len(neighbours)
    distances = np.full((count, count), -1)
    reached = np.zeros((count, count + 1), bool)  # the last column, never reached, is the neighbour number -1
    new = np.eye(count, dtype=bool)
    moves = 0
    while new.any():
        distances[new] = moves
        reached[:, :count] |= new
        new = reached[:, neighbours].any(axis=2) & ~reached[:, :count]
        moves += 1
    return distances


def shortest_tour(from_start: np.ndarray, between: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the moves (k,) of the shortest walk that visits all wanted places, ending at any of them.

    Held & Karp's dynamic programme ("A dynamic programming approach to sequencing problems", 1962) over all k
    problems at once: `best[:, visited, last]` is the shortest walk that has visited a set of places, the last of them
    `last`.

    Args:
        from_start: (k, places) distances from each start to each place.
        between: (k, places, places) distances between places.
        wanted: (k, places) bool; the others need no visit.
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

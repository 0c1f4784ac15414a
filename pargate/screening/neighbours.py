"""Nearest neighbours, by faiss."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Vectors
from pargate.errors import OperationalError

EXACT = 100_000
"""Most vectors that are searched exactly."""

PROBES = 32
"""Lists of an inverted index that are searched for one vector."""

SAMPLE = 256
"""Vectors on which an approximate search is compared with the exact one."""


def check_installed() -> None:
    """Raise if a library of the extra `screen` is missing.

    Raises:
        OperationalError: as above.
    """
    missing = [name for name, module in (("faiss-cpu", "faiss"), ("scikit-learn", "sklearn")) if not find_spec(module)]
    if missing:
        raise OperationalError(f"screening needs {' and '.join(missing)}", "pip install 'pargate[screen]'")


@dataclass
class Index:
    """Vectors among which neighbours are searched: exactly up to `EXACT`, else by an inverted index."""

    vectors: Vectors
    """[m, d]."""
    recall: float | None = None
    """Share of the true neighbours that an approximate search finds, on a sample; None for an exact search."""
    _index: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import faiss

        vectors = np.ascontiguousarray(self.vectors, dtype=np.float32)
        flat = faiss.IndexFlatL2(vectors.shape[1])
        self._index = flat
        if len(vectors) <= EXACT:
            flat.add(vectors)
            return
        lists = int(4 * np.sqrt(len(vectors)))
        self._index = faiss.IndexIVFFlat(flat, vectors.shape[1], lists)
        self._index.train(vectors[:: max(1, len(vectors) // (64 * lists))])
        self._index.add(vectors)
        self._index.nprobe = PROBES
        self.recall = self._measured(vectors)

    def _measured(self, vectors: Vectors) -> float:
        import faiss

        sample = np.ascontiguousarray(vectors[:: len(vectors) // SAMPLE][:SAMPLE])
        k = min(16, len(vectors))
        _, true = faiss.knn(sample, vectors, k)
        _, found = self._index.search(sample, k)
        return float(np.mean([len({*a} & {*b}) / k for a, b in zip(true.tolist(), found.tolist(), strict=True)]))

    def search(
        self, queries: Vectors, k: int, own: NDArray[np.integer] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return distances and rows of the k nearest vectors, nearest first: [n, k] each.

        Args:
            queries: [n, d].
            k: number of neighbours.
            own: [n], row of each query itself, which is no neighbour of its own; −1 where it is not among the vectors.
        """
        squares, rows = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), k + (own is not None))
        distances = np.sqrt(np.maximum(squares, 0.0)).astype(np.float64)
        if own is None:
            return distances, rows
        itself = rows == own[:, None]
        # Copies of an image may take its own place among the first k + 1: then the last one is left out.
        itself[~itself.any(axis=1), -1] = True
        kept = ~itself
        return distances[kept].reshape(-1, k), rows[kept].reshape(-1, k)

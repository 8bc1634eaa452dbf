"""Exact search with FAISS's flat inner-product index."""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.contenders.serve import arguments, serve


def main() -> None:
    """Serve."""
    given = arguments()
    faiss.omp_set_num_threads(given["threads"])
    arrays = np.load(given["inputs"])
    index = faiss.IndexFlatIP(arrays["vectors"].shape[1])
    index.add(arrays["vectors"])
    serve(lambda: index.search(arrays["queries"], given["k"])[1].tolist(), {"faiss": faiss.__version__})


if __name__ == "__main__":
    main()

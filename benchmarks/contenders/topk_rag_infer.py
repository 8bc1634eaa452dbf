"""Exact search with rag_infer's kernel, in float32 or through the int8 scan."""

from __future__ import annotations

import numpy as np

from benchmarks.contenders.serve import arguments, serve
from rag_infer import _kernels
from rag_infer.version import __version__


def main() -> None:
    """Serve."""
    given = arguments()
    arrays = np.load(given["inputs"])
    vectors, queries, threads = arrays["vectors"], arrays["queries"], given["threads"]
    if given["int8"]:
        quantised = _kernels.quantise_rows(vectors, threads=threads)

        def run() -> object:
            return _kernels.topk_int8(*quantised, vectors, queries, given["k"], threads=threads)[1].tolist()

    else:

        def run() -> object:
            return _kernels.topk(vectors, queries, given["k"], threads=threads)[1].tolist()

    serve(run, {"rag_infer": __version__})


if __name__ == "__main__":
    main()

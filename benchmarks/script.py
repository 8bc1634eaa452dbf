"""What every script's command line shares: how it reports what goes wrong."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from benchmarks.report import BenchmarkError
from rag_infer.errors import RagInferError

FAILURE, INTERRUPTED = 1, 130


def script(main: Callable[[], int]) -> int:
    """Run a script; returns its exit status.

    What stops it is one line on stderr and status 1, after a traceback where ``--debug`` is given.
    """
    try:
        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (BenchmarkError, RagInferError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            traceback.print_exception(error)
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {message}", file=sys.stderr)
        return FAILURE

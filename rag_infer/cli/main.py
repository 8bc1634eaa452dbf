"""Entry point of ``rag-infer``: finds the verb, and turns errors into one line and an exit status."""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module

from rag_infer.cli.options import add_shared_options
from rag_infer.errors import RagInferError
from rag_infer.version import __version__

VERBS = ("export", "verify", "index", "search", "ask", "eval", "bench", "doctor")

MISUSE, FAILURE, INTERRUPTED = 2, 1, 130


def build_parser() -> argparse.ArgumentParser:
    """The parser with all verbs. Verbs are light to import; what is heavy they import when they run."""
    parser = argparse.ArgumentParser(
        prog="rag-infer",
        description="Exact, fast inference for retrieval-augmented generation models, without PyTorch.",
    )
    parser.add_argument("--version", action="version", version=f"rag-infer {__version__}")
    shared = shared_options()
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name in VERBS:
        verb = import_module(f"rag_infer.cli.{name}")
        sub = verbs.add_parser(
            name,
            help=verb.HELP,
            description=verb.HELP,
            epilog=f"example:\n  {verb.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[shared],
        )
        sub.set_defaults(run=verb.run)
        verb.configure(sub)
    return parser


def shared_options() -> argparse.ArgumentParser:
    """The options that every verb has, to be given as a parent."""
    shared = argparse.ArgumentParser(add_help=False)
    add_shared_options(shared)
    return shared


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for a failure, 2 for misuse, 130 for Ctrl-C."""
    debug = False
    warnings.showwarning = _show_warning
    try:
        arguments = build_parser().parse_args(argv)
        debug = arguments.debug
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("rag-infer: interrupted; what was committed is kept", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: nothing to tell anybody.
        sys.stdout = None
        return FAILURE
    except (RagInferError, OSError) as error:
        return _report(error, FAILURE, debug=debug)
    except MemoryError as error:
        return _report(RagInferError(f"not enough memory: {error}"), FAILURE, debug=debug)
    except (ValueError, TypeError) as error:
        return _report(error, MISUSE, debug=debug)


def _report(error: Exception, status: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    message = " ".join(str(error).split()) or type(error).__name__
    print(f"rag-infer: error: {message}", file=sys.stderr)
    return status


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, file, line
    print(f"rag-infer: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

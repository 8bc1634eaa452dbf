"""A Ray cluster of two nodes with two processors each, until standard input is closed. Prints its address."""

from __future__ import annotations

import os
import sys
from typing import Any

NODES = 2
PROCESSORS = 2
STORE_BYTES = 160 * 1024 * 1024
TRIES = 3


def main() -> None:
    # Before Ray is imported: the loopback interface only, and nothing reported.
    os.environ.update({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"})
    from ray.cluster_utils import Cluster

    node = {"num_cpus": PROCESSORS, "object_store_memory": STORE_BYTES}
    cluster = Cluster()
    start(cluster, {**node, "include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            start(cluster, node)
        cluster.wait_for_nodes()
        print(cluster.address, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


def start(cluster: Any, node: dict[str, Any]) -> None:
    """Add a node. Ray gives one half a minute to come up, which may be too little on a busy machine."""
    for left in reversed(range(TRIES)):
        try:
            cluster.add_node(**node)
            return
        except Exception as error:  # Ray raises just that
            if not left or "timed out" not in str(error):
                raise


if __name__ == "__main__":
    main()

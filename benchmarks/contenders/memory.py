"""What memory this process holds, and the most it has held."""

from __future__ import annotations

from pathlib import Path

NAMES = {"VmHWM": "peak_mb", "RssAnon": "anonymous_mb", "RssFile": "mapped_mb"}


def memory() -> dict[str, float]:
    """Resident MiB: the most so far, and now what is no file's and what is a mapped file's."""
    listing = Path("/proc/self/status")
    lines = listing.read_text(encoding="ascii").splitlines() if listing.exists() else []
    values = dict(line.split(":", 1) for line in lines)
    return {NAMES[name]: int(values[name].split()[0]) / 1024 for name in NAMES if name in values}

"""A picture of a benchmark's cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw(cases: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A bar for each contender's median, case by case."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rag_infer"  # the same picture for the same numbers
    from matplotlib import pyplot

    height = 0.6 + 0.35 * sum(len(case["contenders"]) + 1 for case in cases)
    figure, panels = pyplot.subplots(len(cases), 1, figsize=(8, height), squeeze=False, layout="constrained")
    for panel, case in zip(panels[:, 0], cases, strict=True):
        names = list(case["contenders"])
        medians = [case["contenders"][name]["median_ms"] for name in names]
        bars = panel.barh(names, medians, color=["#c44e52" if "rag_infer" in n else "#8c8c8c" for n in names])
        panel.bar_label(bars, labels=[f" {m:,.1f} ms" for m in medians])
        panel.invert_yaxis()
        panel.margins(x=0.2)
        panel.set_title(case["case"], loc="left", fontsize=10)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)

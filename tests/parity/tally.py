"""What the comparisons with transformers came to, printed at the end of the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tally:
    """Of one run of the tests.

    Attributes:
        equal: settings whose sequences are transformers'.
        ties: settings where another sequence of the same score was given.
        largest_difference: between our scores and transformers', with the score.
    """

    equal: int = 0
    ties: int = 0
    largest_difference: tuple[float, float] = (0.0, 0.0)

    def __str__(self) -> str:
        difference, score = self.largest_difference
        return (
            f"{self.equal} settings give transformers' sequences, {self.ties} another of the same score; "
            f"largest difference of scores {difference:.1e} (of {score:.4g})"
        )


TALLY = Tally()

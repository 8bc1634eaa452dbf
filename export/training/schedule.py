"""Steps of a training: the learning rate, the step itself, and a line of progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

GRADIENT_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a model learns.

    Attributes:
        steps: how many.
        learning_rate: the highest, which rises linearly over ``warm_up`` steps and falls linearly to 0.
        warm_up: steps.
        weight_decay: AdamW's.
        report_every: steps between two lines of progress; 0 for none.

    Raises:
        ValueError: no step, or none left after ``warm_up``.
    """

    steps: int
    learning_rate: float
    warm_up: int = 20
    weight_decay: float = 0.01
    report_every: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up < self.steps:
            raise ValueError(f"warm_up must be from 0 to below steps={self.steps}, got {self.warm_up}")

    def factor(self, step: int) -> float:
        """The share of the highest learning rate at a step, from 0 on.

        >>> schedule = Schedule(steps=100, learning_rate=1.0, warm_up=10)
        >>> schedule.factor(4), schedule.factor(55)
        (0.5, 0.5)
        """
        return min((step + 1) / max(self.warm_up, 1), (self.steps - step) / (self.steps - self.warm_up))


def train(
    models: Iterable[nn.Module],
    loss_of_step: Callable[[], Tensor],
    schedule: Schedule,
    *,
    name: str,
    tell: Callable[[str], None],
) -> list[float]:
    """Minimise a loss with AdamW (Loshchilov & Hutter 2019).

    Args:
        models: what learns.
        loss_of_step: draws a batch and gives its loss.
        schedule: how long and how fast.
        name: of the model, in the lines of progress.
        tell: is given each line.

    Returns:
        The loss of every step.
    """
    modules = nn.ModuleList(models).train()
    parameters = list(modules.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, betas=(0.9, 0.98)
    )
    learning = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    started, losses = time.perf_counter(), []
    for step in range(1, schedule.steps + 1):
        optimizer.zero_grad()
        loss = loss_of_step()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
        optimizer.step()
        learning.step()
        losses.append(loss.item())
        if schedule.report_every and (step % schedule.report_every == 0 or step == schedule.steps):
            recent = losses[-schedule.report_every :]
            seconds = time.perf_counter() - started
            mean = sum(recent) / len(recent)
            tell(f"{name}: step {step} of {schedule.steps}, loss {mean:.3f}, {seconds:.0f} s")
    modules.eval()
    return losses

"""A sequential test for a change of a mean: Page-Hinkley, which is CUSUM around the mean so far."""

from typing import Literal


class PageHinkley:
    """Watches a series of numbers for a rise of its mean, a fall, or both.

    The sums max(0, S + x - m - delta) and max(0, S + m - x - delta) are compared with `threshold` (Page 1954,
    Continuous Inspection Schemes, Biometrika 41). m is the `mean` that is known, or that of what was seen so far.

    Args:
        delta: a change of the mean that is let pass.
        threshold: what a sum has to exceed.
        mean: what is known to be right.
        least: numbers to be seen before a change is told.
        mode: whether a rise ("up"), a fall ("down") or both are told.
    """

    def __init__(
        self,
        *,
        delta: float,
        threshold: float,
        mean: float | None = None,
        least: int = 1,
        mode: Literal["up", "down", "both"] = "both",
    ) -> None:
        self._up, self._down = mode != "down", mode != "up"
        self._delta = delta
        self._threshold = threshold
        self._known = mean
        self._least = least
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.count = 0
        self.mean = 0.0 if self._known is None else self._known
        self.rise = self.fall = 0.0
        self.since_rise = self.since_fall = 0
        """Numbers since a sum was last 0: how long a change has lasted, if it is one."""

    @property
    def lasted(self) -> int:
        """Numbers that belong to the change that a true `update` tells of."""
        return self.since_rise if self._up and self.rise > self._threshold else self.since_fall

    def update(self, number: float) -> bool:
        """Take the next number; whether the mean has changed."""
        self.count += 1
        if self._known is None:
            self.mean += (number - self.mean) / self.count
        deviation = number - self.mean
        self.rise += deviation - self._delta
        self.fall -= deviation + self._delta
        if self.rise > 0:
            self.since_rise += 1
        else:
            self.rise, self.since_rise = 0.0, 0
        if self.fall > 0:
            self.since_fall += 1
        else:
            self.fall, self.since_fall = 0.0, 0
        risen, fallen = self._up and self.rise > self._threshold, self._down and self.fall > self._threshold
        return self.count >= self._least and (risen or fallen)

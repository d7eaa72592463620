"""Statistics of episodic returns. Torch-free."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def interquartile_mean(values: Floats) -> float:
    """Mean of the middle half of `values` `[N]` (Agarwal et al., 2021, section 4.3).

    Values at the quartiles count partially, so N need not be divisible by four.
    """
    return float(_interquartile_means(np.asarray(values, dtype=np.float64)))


def bootstrap_interval(
    values: Floats, *, seed: int, level: float = 0.95, resamples: int = 2_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the interquartile mean of `values` `[N]`."""
    generator = np.random.default_rng(seed)
    samples = generator.choice(np.asarray(values, dtype=np.float64), size=(resamples, len(values)))
    low, high = np.quantile(_interquartile_means(samples), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _interquartile_means(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Interquartile means `[...]` of samples `[..., N]`."""
    N = samples.shape[-1]
    weights = np.diff(np.clip(np.arange(N + 1) / N, 0.25, 0.75))
    return np.asarray(np.average(np.sort(samples, axis=-1), axis=-1, weights=weights))

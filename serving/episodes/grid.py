"""A picture of an observation of bits, for environments that draw none."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

_COLOURS: Final = np.array(
    [
        (0, 114, 178), (230, 159, 0), (204, 121, 167), (0, 158, 115), (213, 94, 0), (86, 180, 233), (240, 228, 66),
        (255, 255, 255),
    ],
    dtype=np.uint8,
)  # fmt: skip
"""Of the channels, from the first on: Okabe and Ito's, which differ for the colour-blind too. Then they repeat."""
_SIZE: Final = 320
"""About the height or width of a picture in pixels, whichever is greater."""


def is_grid(space: Any) -> bool:
    """Whether a space's elements are bits `[height, width, channels]`."""
    return isinstance(space, spaces.Box) and space.dtype == np.bool_ and len(space.shape) == 3


def grid(observation: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Bits `[H, W, C]` as squares `[height, width, 3]`: of a cell's channels that are set, the last one is seen."""
    height, width, channels = observation.shape
    is_set = np.asarray(observation, dtype=np.bool_)
    last = channels - 1 - is_set[..., ::-1].argmax(2)
    picture: npt.NDArray[np.uint8] = _COLOURS[last % len(_COLOURS)] * is_set.any(2, keepdims=True).astype(np.uint8)
    side = 2 * max(1, _SIZE // 2 // max(height, width))  # even, as videos need
    return picture.repeat(side, 0).repeat(side, 1)

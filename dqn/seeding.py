"""Disjoint streams of seeds for training, selection and test."""

from typing import Final

import numpy as np

TRAINING: Final = 0
SELECTION: Final = 1
TEST: Final = 2

_BLOCK_BITS: Final = 29
_DRAW_BITS: Final = 28


def stream_seed(seed: int, stream: int, *index: int) -> int:
    """A 31-bit seed, determined by all arguments.

    Each stream has a block of 2^29 seeds. This function returns seeds from the block's lower half. Vector environments
    seed sub-environment i with seed + i, which therefore stays inside the block.
    """
    state = np.random.SeedSequence(seed, spawn_key=(stream, *index)).generate_state(1)
    return (stream << _BLOCK_BITS) | (int(state[0]) >> (32 - _DRAW_BITS))


def further_seed(version: int, *, episodes: int) -> int:
    """First seed of a registered version's further test episodes, which are played if its first ones do not decide."""
    half = 1 << (_DRAW_BITS - 1)
    return (TEST << _BLOCK_BITS) | (1 << _DRAW_BITS) | half | (version * episodes) % (half - episodes)


def version_seed(version: int, *, episodes: int) -> int:
    """First test seed of a registered version, one seed per episode; the versions of a model do not share seeds.

    They come from the half of the test stream's block that `stream_seed` does not use.
    """
    return (TEST << _BLOCK_BITS) | (1 << _DRAW_BITS) | (version * episodes) % (1 << _DRAW_BITS)

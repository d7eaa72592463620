"""Seeds of streams that never meet: what an agent is judged on, it was not trained on."""

from typing import Final

import numpy as np

TRAINING: Final = 0
SELECTION: Final = 1
TEST: Final = 2

_BLOCK_BITS: Final = 29
_DRAW_BITS: Final = 28


def stream_seed(seed: int, stream: int, *index: int) -> int:
    """A 31-bit seed that depends on everything given.

    Each stream has a block of 2^29 seeds and draws from its lower half: vector environments seed sub-environment i
    with seed + i, which then stays inside the block.
    """
    state = np.random.SeedSequence(seed, spawn_key=(stream, *index)).generate_state(1)
    return (stream << _BLOCK_BITS) | (int(state[0]) >> (32 - _DRAW_BITS))


def further_seed(version: int, *, episodes: int) -> int:
    """First of the seeds of a version's further test episodes, where its first ones have not decided.

    They come from the upper half of the seeds that `version_seed` counts through, which it reaches after 1.3 million
    versions of 100 episodes; no two versions of 900 further episodes each share any before the 149,000th.
    """
    half = 1 << (_DRAW_BITS - 1)
    return (TEST << _BLOCK_BITS) | (1 << _DRAW_BITS) | half | (version * episodes) % (half - episodes)


def version_seed(version: int, *, episodes: int) -> int:
    """First of the test seeds of a registered version, one an episode; no two versions of a model share any.

    They come from the half of the test stream's block that `stream_seed` leaves free.
    """
    return (TEST << _BLOCK_BITS) | (1 << _DRAW_BITS) | (version * episodes) % (1 << _DRAW_BITS)

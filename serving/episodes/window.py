"""Plays a policy in Gymnasium's window."""

import itertools
import sys
from typing import Final

from serving.commands import command
from serving.episodes.limits import MAX_SEED
from serving.episodes.simulation import Simulation
from serving.policy import OnnxPolicy

_PUSH: Final = 60.0


class NoDisplayError(RuntimeError):
    """There is no display for a window."""


def watch(policy: OnnxPolicy, *, seed: int, episodes: int | None = None) -> None:
    """Play in a window until it is closed; the arrow keys push, q quits.

    Raises:
        NoDisplayError: if SDL has no display.
    """
    import pygame  # slow to import and not used by the server

    simulation = Simulation(policy.metadata.environment, policy.metadata.world, render_mode="human")
    pushing = f"the left and right arrow keys push with {_PUSH:g} N, " if simulation.can_be_pushed else ""
    sys.stdout.write(f"{pushing}q quits\n")
    try:
        for episode in itertools.count() if episodes is None else range(episodes):
            simulation.reset((seed + episode) % (MAX_SEED + 1))
            driver = pygame.display.get_driver()
            if driver in ("dummy", "offscreen"):
                raise NoDisplayError(
                    f"there is no display here (SDL draws to its '{driver}' driver, which shows no window): "
                    f"run `{command('serve')}` and open the page, or `{command('record')}` for a video"
                )
            total = 0.0
            while not simulation.over:
                force = 0.0
                for event in pygame.event.get():
                    if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_q):
                        return
                    if event.type == pygame.KEYDOWN and simulation.can_be_pushed:
                        force += {pygame.K_LEFT: -_PUSH, pygame.K_RIGHT: _PUSH}.get(event.key, 0.0)
                total = simulation.step(policy, force).episodic_return
            sys.stdout.write(f"seed {simulation.seed}: return {total:g}\n")
            sys.stdout.flush()
    finally:
        simulation.close()

"""Two versions side by side: on the same unseen episodes, by the gate's statistics, and under the same stress."""

from collections.abc import Sequence

from dqn.seeding import TEST, stream_seed
from flows.registry.evaluation import play, require_playable, threshold_of, under_stress
from flows.registry.gate import CONFIDENCE, LOOKS, Comparison
from flows.registry.versions import Artifact

_STREAM = 3
"""Of the test episodes: no evaluation, gate or adaptation plays these."""


def side_by_side(a: Artifact, b: Artifact) -> str:
    """Play two versions of one environment in the world of the first. Returns a table and a sentence.

    Raises:
        RegistryError: if one of them cannot play.
    """
    metadata = a.policy.metadata
    environment, world = metadata.environment, metadata.world
    for artifact in (a, b):
        require_playable(artifact, environment)
    seed, episodes = stream_seed(a.version, TEST, _STREAM, b.version), LOOKS[-1]
    first, second = (play(x.policy, world, seed=seed, episodes=episodes, environment=environment) for x in (a, b))
    compared = Comparison(challenger=first, champion=second, threshold=threshold_of(environment))
    told = compared.to_dict()
    rows = [
        ("", f"version {a.version}", f"version {b.version}"),
        ("trained for the world", str(world), str(b.policy.metadata.world)),
        ("mean return", f"{first.mean():.1f}", f"{second.mean():.1f}"),
        ("lowest return", f"{first.min():g}", f"{second.min():g}"),
        (f"failures (below {compared.failing:g})", str(told["failures"]), str(told["champion's failures"])),
    ]
    stress = [under_stress(each.policy, world, seed=seed) for each in (a, b)]
    if stress[0] and stress[1]:
        one, other = stress[0], stress[1]
        rows += [(f"balanced, {cell}", f"{one.shares[cell]:.0%}", f"{other.shares[cell]:.0%}") for cell in one.shares]
        rows += [
            ("robustness", f"{one.robustness:.1%}", f"{other.robustness:.1%}"),
            ("greatest single push", f"{one.push} N", f"{other.push} N"),
        ]
    mean, low, high = told["difference"]
    return (
        f"{table(rows)}\n\nversion {a.version} {verdict(compared)} version {b.version}: its mean return differs by "
        f"{mean:+.2f}, from {low:+.2f} to {high:+.2f} (each bound with {CONFIDENCE:.0%} confidence), in the same "
        f"{len(first):,} unseen episodes in the world {world}"
    )


def verdict(compared: Comparison) -> str:
    """What the gate's tests say of the first version."""
    if compared.better():
        return "is better than"
    if compared.worse():
        return "is worse than"
    if compared.not_worse():
        return f"is not worse, by the margin of {compared.margin:g}, than"
    return "is neither surely better nor surely worse than"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines, with columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )

"""The champions of a model, one after another: a rollback returns to the one before."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from mlflow import MlflowClient

from flows.failures.errors import InputError
from flows.registry import versions
from flows.registry.lock import hold
from flows.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from flows.tracking.labels import user

CHAMPIONS_TAG: Final = "champions"
"""Tag of a registered model: its champions as JSON, each once, the latest last. A version that was rolled back may
follow the present champion; no rollback returns to it."""
ROLLBACK_TAG: Final = "rollback"
"""Tag of a version after a rollback to it: what requested it."""
PROMOTED_TAG: Final = "promoted"
"""Tag of a version that is or was champion: when it last became champion, and by which user."""
RETIRED_TAG: Final = "retired"
"""Tag of a version that is not to be used any more: when it was retired."""
_KEPT: Final = 50


def earlier_champions(client: MlflowClient, name: str) -> list[int]:
    """The versions that a rollback can return to, the next one last: they exist and are not retired."""
    usable = [int(v.version) for v in client.search_model_versions(f"name='{name}'") if RETIRED_TAG not in v.tags]
    champion, previous = (versions.version_of(client, name, alias) for alias in (CHAMPION, PREVIOUS))
    return [version for version in before(_read(client, name), champion, previous) if version in usable]


def before(champions: Sequence[int], champion: int | None, previous: int | None) -> list[int]:
    """The champions before the present one, the latest last.

    Args:
        champions: as the tag lists them.
        champion: the present one, which a person may have chosen in MLflow.
        previous: the version with the alias, which is the latest where the tag is missing or says otherwise.
    """
    found = list(champions[: champions.index(champion)] if champion in champions else champions)
    if previous is not None and previous not in (champion, *found[-1:]):
        found = [*(version for version in found if version != previous), previous]
    return found


def add_champion(client: MlflowClient, name: str, version: int, champion: int | None, token: str) -> None:
    """List a version as the next champion, after the present one. This is written before the alias moves."""
    earlier = before(_read(client, name), champion, versions.version_of(client, name, PREVIOUS))
    listed = [each for each in (*earlier, champion) if each not in (None, version)]
    hold(client, name, token)
    client.set_registered_model_tag(name, CHAMPIONS_TAG, json.dumps([*listed, version][-_KEPT:]))


def return_to_previous(client: MlflowClient, name: str, token: str, request: str) -> int:
    """Make the champion before the present one champion again. Returns its version.

    Args:
        client: of the tracking server.
        name: of the registered model.
        token: of this promotion.
        request: what requests it, such as a flow run. If it was interrupted and requests again, nothing more is rolled
            back.

    Raises:
        InputError: if there is no earlier champion.
    """
    champion, earlier = versions.version_of(client, name, CHAMPION), earlier_champions(client, name)
    again = champion and versions.get_version(client, name, champion).tags.get(ROLLBACK_TAG) == request
    if champion and again:
        _set_previous(client, name, earlier, token)
        return champion
    if not earlier:
        where = f"version {champion} is the first of its champions" if champion else "it has no champion"
        raise InputError(f"{name} has no earlier champion to return to, {where}: promote another version instead")
    target = earlier.pop()
    if champion is not None:
        hold(client, name, token)
        versions.set_tags(client, name, champion, {"gate": f"rolled back to version {target}"})
    hold(client, name, token)
    versions.set_tags(client, name, target, {ROLLBACK_TAG: request, PROMOTED_TAG: f"{signed()}, a rollback"})
    hold(client, name, token)
    versions.set_alias(client, name, CHAMPION, target)
    _set_previous(client, name, earlier, token)
    return target


def retire(client: MlflowClient, name: str, version: int, token: str) -> None:
    """Take a version out of use: it loses its aliases, and no rollback and no adaptation chooses it.

    Raises:
        InputError: if it is the champion.
        RegistryError: if it does not exist.
    """
    versions.get_version(client, name, version)
    if versions.version_of(client, name, CHAMPION) == version:
        raise InputError(f"version {version} is the champion of {name}: promote another one or roll back first")
    hold(client, name, token)
    versions.set_tags(client, name, version, {RETIRED_TAG: signed()})
    if versions.version_of(client, name, CHALLENGER) == version:
        hold(client, name, token)
        versions.remove_alias(client, name, CHALLENGER)
    if versions.version_of(client, name, PREVIOUS) == version:
        _set_previous(client, name, earlier_champions(client, name), token)


def require_usable(client: MlflowClient, name: str, version: int, *, force: bool) -> None:
    """Refuse to promote a retired version, unless that is forced: then it is not retired any more.

    Raises:
        InputError: if it is retired or does not exist.
    """
    known = versions.require(client, name, str(version))
    if since := versions.get_version(client, name, known).tags.get(RETIRED_TAG):
        if not force:
            raise InputError(f"version {version} of {name} was retired at {since}: promote another one, or use force")
        client.delete_model_version_tag(name, str(version), RETIRED_TAG)


def signed() -> str:
    """The present moment and user, as a tag has them."""
    return f"{datetime.now(UTC).isoformat(timespec='seconds')} by {user()}"


def _set_previous(client: MlflowClient, name: str, earlier: Sequence[int], token: str) -> None:
    previous = versions.version_of(client, name, PREVIOUS)
    if earlier and previous != earlier[-1]:
        hold(client, name, token)
        versions.set_alias(client, name, PREVIOUS, earlier[-1])
    elif not earlier and previous is not None:
        hold(client, name, token)
        versions.remove_alias(client, name, PREVIOUS)


def _read(client: MlflowClient, name: str) -> list[int]:
    listed = client.get_registered_model(name).tags.get(CHAMPIONS_TAG, "[]")
    return [int(version) for version in json.loads(listed)]

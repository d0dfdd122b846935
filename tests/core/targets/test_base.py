"""What all targets have in common: names, and how requests fall to versions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from echo_repository import echo
from kfp_trtllm.core.manifest import RepositoryFacts
from kfp_trtllm.core.targets import base
from kfp_trtllm.errors import InvalidSpec


def facts(folder: Path, versions: tuple[int, ...]) -> RepositoryFacts:
    return echo(folder, versions=versions)[0].facts


@pytest.mark.parametrize(
    ("versions", "weights", "shares", "kept"),
    [
        ((1,), {}, {1: 100}, {}),
        ((1, 2), {}, {1: 0, 2: 100}, {}),
        ((2, 1), {2: 10, 1: 90}, {1: 90, 2: 10}, {1: 90, 2: 10}),
        ((1, 2, 3), {1: 90, 2: 10, 3: 0}, {1: 90, 2: 10, 3: 0}, {1: 90, 2: 10}),
        ((1, 2), {2: 100}, {1: 0, 2: 100}, {}),
        ((1, 2, 3), {2: 100}, {1: 0, 2: 100, 3: 0}, {2: 100}),
        ((2, 3), {1: 90, 2: 10}, {2: 0, 3: 100}, {}),
        ((9, 10), {9: 50, 10: 50}, {9: 50, 10: 50}, {9: 50, 10: 50}),
    ],
)
def test_shares_of_versions(
    tmp_path: Path,
    versions: tuple[int, ...],
    weights: dict[int, int],
    shares: dict[int, int],
    kept: dict[int, int],
) -> None:
    found = base.version_shares(facts(tmp_path, versions), weights)
    assert list(found.items()) == list(shares.items())
    assert base.kept_weights(facts(tmp_path / "again", versions), weights) == kept


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({1: 50, 4: 50}, "must be of versions that {name} serves (1, 2, 3), but got 4."),
        ({0: 0, 5: 0, 1: 100}, "must be of versions that {name} serves (1, 2, 3), but got 0, 5."),
        ({1: 110, 2: -10}, "must be 0 or more and add up to 100, but got 1=110 2=-10."),
        ({1: 50, 2: 49}, "must be 0 or more and add up to 100, but got 1=50 2=49."),
        ({1: 100, 2: 1}, "must be 0 or more and add up to 100, but got 1=100 2=1."),
        ({}, "must be 0 or more and add up to 100, but got none."),
    ],
)
@pytest.mark.parametrize("decoupled", [True, False])
def test_weights_that_are_none(tmp_path: Path, weights: dict[int, int], words: str, decoupled: bool) -> None:
    revision, _ = echo(tmp_path, versions=(1, 2, 3), decoupled=decoupled)
    with pytest.raises(InvalidSpec) as error:
        base.check_version_weights(revision, weights)
    assert str(error.value) == "version weights of echo " + words.format(name=revision.name)


def test_weights_that_are_some(tmp_path: Path) -> None:
    revision, _ = echo(tmp_path, versions=(1, 2, 3))
    for weights in ({1: 90, 2: 10}, {3: 100}, {1: 0, 2: 0, 3: 100}):
        base.check_version_weights(revision, weights)


def test_shares_do_not_need_ascending_facts(tmp_path: Path) -> None:
    unsorted = dataclasses.replace(facts(tmp_path, (1, 2, 10)), versions=(10, 2, 1))
    assert base.version_shares(unsorted, {}) == {1: 0, 2: 0, 10: 100}

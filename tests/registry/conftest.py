"""Fixtures of the world of late flights."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from late_flights import World, make_world
from trimtab.training import TrainingSet


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session")
def training_set(world: World) -> TrainingSet:
    return world.training_set()


@pytest.fixture(scope="session")
def make() -> Callable[..., World]:
    return make_world

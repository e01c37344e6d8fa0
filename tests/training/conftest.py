"""Fixtures of the world of late flights, and this folder on the path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from late_flights import World, make_world
from trimtab.training import TrainingSet

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session")
def training_set(world: World) -> TrainingSet:
    return world.training_set()


@pytest.fixture(scope="session")
def make() -> Callable[..., World]:
    return make_world

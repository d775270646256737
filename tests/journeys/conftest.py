"""One PostgreSQL and one Redis for all journeys; each has processes and tenants of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.journeys.rig import Rig


@pytest.fixture(scope="session")
async def installation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """What stays."""
    async with Rig(tmp_path_factory.mktemp("journeys")) as rig:
        yield rig


@pytest.fixture
async def rig(installation: Rig) -> AsyncIterator[Rig]:
    """Nothing runs yet but the databases; whatever is started ends with the test."""
    yield installation
    await installation.clear()

"""`punchconnect dev`: alone in its directory and at its port; the demo tenant."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from app import dev, ids
from app.database import Database
from app.domain import tenants
from app.embedded import DataDirInUse
from app.listening import PortTaken
from tests.conftest import SECRET_KEY


async def test_a_data_directory_that_is_older_than_a_trial_still_works(fresh_database_url: str, tmp_path: Path) -> None:
    here = dev.Installation(
        dev.Plan("127.0.0.1", 8080, tmp_path, devices=1, workers=0), SECRET_KEY, "token", "password"
    )
    here.owner_url = here.app_url = fresh_database_url
    db = Database(fresh_database_url, pool=2)

    async def plan() -> str:
        async with db.across("operate") as connection:
            return (await tenants.get_any(connection, ids.read("ten", here.tenant["tenant_id"]))).plan

    try:
        await dev._provide_tenant(here, tmp_path)
        key, first = here.tenant["api_key"], await plan()
        async with db.across("operate") as connection:  # as it was made by an earlier version, eight days ago
            await connection.execute(
                "UPDATE tenants SET plan = 'TRIAL', trial_ends_at = now() - interval '1 day', created_at = now()"
            )
        await dev._provide_tenant(here, tmp_path)
        again = await plan()
        async with db.across("operate") as connection:
            await tenants.suspend(connection, ids.read("ten", here.tenant["tenant_id"]))
        await dev._provide_tenant(here, tmp_path)

        assert (first, again) == ("ACTIVE", "ACTIVE")
        assert here.tenant["api_key"] == key
        assert await plan() == "SUSPENDED"  # for who tries out what that is like
    finally:
        await db.stop()


def plan_in(data_dir: Path, port: int) -> dev.Plan:
    return dev.Plan("127.0.0.1", port, data_dir, devices=0, workers=0)


async def test_beside_another_in_its_directory_it_ends_and_what_that_one_announced_stays(tmp_path: Path) -> None:
    announced = tmp_path / "dev.json"
    announced.write_text("{}")

    with dev._alone(tmp_path), pytest.raises(DataDirInUse, match="already has a dev running"):
        await dev.run(plan_in(tmp_path, 0), None)

    assert announced.read_text() == "{}"


def test_without_a_terminal_each_fact_is_a_name_and_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("graphql_url", "ws_url", "playground_url", "dashboard_url", "enrollment_url", "api_key", "tenant_id")

    dev._say({name: name for name in names}, None)

    lines = [line.split(": ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [(name, value.strip()) for name, value in lines] == [
        ("GraphQL", "graphql_url"),
        ("Live feed", "ws_url"),
        ("Playground", "playground_url"),
        ("Dashboard", "dashboard_url"),
        ("Terminals", "enrollment_url"),
        ("API key", "api_key"),
        ("Tenant", "tenant_id"),
    ]


async def test_at_a_port_that_is_taken_it_ends_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "_PORT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port} on 127.0.0.1 is taken"):
            await dev.run(plan_in(tmp_path, port), None)

    assert [found.name for found in tmp_path.iterdir()] == ["dev.lock"]

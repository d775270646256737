"""A customer of its own for each test of the edge, with a terminal whose clock is in UTC."""

from __future__ import annotations

import pytest

from app.database import Database
from app.domain.devices import Device
from app.vault import Vault
from tests.app.web.customers import Customer, make_customer
from tests.factories import make_device


@pytest.fixture
async def customer(db: Database, vault: Vault) -> Customer:
    """A tenant with addresses."""
    return await make_customer(db, vault)


@pytest.fixture
async def device(db: Database, customer: Customer) -> Device:
    """A terminal of the customer's that is bound on its own address. A module that wants another says so itself."""
    return await make_device(db, customer.tenant_id)

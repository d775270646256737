"""Presence: what was last said of each device

A change is announced once, whichever process notices it first: the flag is looked at and turned under the row's lock.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012b"
down_revision: str | None = "0016b"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("devices", sa.Column("online", sa.Boolean(), server_default="false", nullable=False))
    op.create_index(
        "ix_devices_online",
        "devices",
        ["last_seen_at"],
        unique=False,
        postgresql_where=sa.text("online AND status <> 'RETIRED'"),
    )


def downgrade() -> None:
    op.drop_index("ix_devices_online", table_name="devices")
    op.drop_column("devices", "online")

"""A device's comings and goings, and what it sent, found without reading everybody's"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0019b"
down_revision: str | None = "0015b"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_index(
        "ix_events_presence",
        "events",
        ["tenant_id", sa.text("((body::jsonb #>> '{data,id}'))"), "position"],
        postgresql_where=sa.text("type IN ('device.bound', 'device.online', 'device.offline')"),
    )
    op.create_index(op.f("ix_kept_uploads_tenant_id_device_id_id"), "kept_uploads", ["tenant_id", "device_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_kept_uploads_tenant_id_device_id_id", "kept_uploads")
    op.drop_index("ix_events_presence", "events")

"""Commands that ended long ago can be removed"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0014c"
down_revision: str | None = "0014b"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_index(
        "ix_device_commands_completed",
        "device_commands",
        ["completed_at"],
        postgresql_where=sa.text("completed_at IS NOT NULL"),
    )
    # SKIP LOCKED takes locks, and those take the right to update.
    op.execute("GRANT UPDATE, DELETE ON device_commands TO pc_ops")


def downgrade() -> None:
    op.execute("REVOKE UPDATE, DELETE ON device_commands FROM pc_ops")
    op.drop_index("ix_device_commands_completed", table_name="device_commands")

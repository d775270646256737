"""An index that cannot be taken for the primary key

On a table without statistics yet, one that begins with the tenant looks as good as the primary key to the planner, and
a look-up by id then reads all of the tenant's rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

revision: str = "0016c"
down_revision: str | None = "0012b"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.drop_index("ix_webhook_deliveries_position", "webhook_deliveries")
    op.create_index("ix_webhook_deliveries_position", "webhook_deliveries", ["position", "tenant_id"])


def downgrade() -> None:
    op.drop_index("ix_webhook_deliveries_position", "webhook_deliveries")
    op.create_index("ix_webhook_deliveries_position", "webhook_deliveries", ["tenant_id", "position"])

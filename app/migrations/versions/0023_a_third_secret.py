"""A webhook secret signs until its own grace ends, whatever was rotated after it"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0023"
down_revision: str | None = "0022"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("webhook_endpoints", sa.Column("older_secret_sealed", sa.LargeBinary(), nullable=True))
    op.add_column("webhook_endpoints", sa.Column("older_secret_expires_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for name in ("older_secret_expires_at", "older_secret_sealed"):
        op.drop_column("webhook_endpoints", name)

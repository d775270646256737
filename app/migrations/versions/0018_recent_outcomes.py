"""An endpoint remembers how its last twenty attempts went"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0018"
down_revision: str | None = "0019b"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    # With a default that is a constant, no row is written.
    op.add_column("webhook_endpoints", sa.Column("recent", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("webhook_endpoints", "recent")

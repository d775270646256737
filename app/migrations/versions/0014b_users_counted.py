"""Users that a terminal counts and does not show"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0014b"
down_revision: str | None = "0013"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("reconciliations", sa.Column("users_differ", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("reconciliations", "users_differ")

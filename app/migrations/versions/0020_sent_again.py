"""Up to which number a unit of the security dialect was asked to send its records again"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0020"
down_revision: str | None = "0018"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("reconciliations", sa.Column("resent_through", sa.BigInteger(), nullable=True))
    op.add_column("reconciliations", sa.Column("resent_generation", sa.Integer(), nullable=True))
    op.add_column("reconciliations", sa.Column("unanswered", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    for name in ("unanswered", "resent_generation", "resent_through"):
        op.drop_column("reconciliations", name)

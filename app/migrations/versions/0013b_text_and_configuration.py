"""The code page of a terminal's text, and whether it was configured since it began anew"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013b"
down_revision: str | None = "0017"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

COLUMNS: tuple[sa.Column[str] | sa.Column[bool], ...] = (
    sa.Column("language", sa.String(), nullable=True),
    sa.Column("charset", sa.String(), nullable=True),
    sa.Column("configured", sa.Boolean(), server_default="false", nullable=False),
)


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("devices", column)


def downgrade() -> None:
    for column in reversed(COLUMNS):
        op.drop_column("devices", column.name)

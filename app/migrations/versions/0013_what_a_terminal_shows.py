"""What a terminal shows of itself: its clock, where it calls from, how far its memory goes

Judged and written down on contacts, beside the punches: how punches are stored stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0013"
down_revision: str | None = "0014"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

COLUMNS = (
    sa.Column("clock_hint_ms", sa.Integer(), nullable=True),
    sa.Column("clock_hint_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("told_offset", sa.Integer(), nullable=True),
    sa.Column("callers", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
    sa.Column("two_sources_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("generation", sa.Integer(), server_default="1", nullable=False),
    sa.Column("generation_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("mark", sa.BigInteger(), nullable=True),
    sa.Column("mark_at", sa.DateTime(timezone=False), nullable=True),
)


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("devices", column)


def downgrade() -> None:
    for column in reversed(COLUMNS):
        op.drop_column("devices", column.name)

"""The attempts of the last minute are found without an index that each attempt would have to pay for"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

revision: str = "0017"
down_revision: str | None = "0015"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_index(
        "ix_webhook_attempts_started_at",
        "webhook_attempts",
        ["started_at"],
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on", "pages_per_range": "32"},
    )


def downgrade() -> None:
    op.drop_index("ix_webhook_attempts_started_at", "webhook_attempts")

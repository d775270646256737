"""Claims: proof of possession for terminals on the shared address"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012c"
down_revision: str | None = "0016c"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# Which tenants wait for this serial, and for which user? The oldest claims only: a serial that everybody claims must
# not make a terminal's contact dear.
OPEN_CLAIMS = "open_claims(serial text)"
DEFINITION = """
RETURNS TABLE (tenant_id uuid, device_id uuid, pin text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public
AS $$
    SELECT d.tenant_id, d.id, d.claim_pin FROM public.devices d
    WHERE d.serial_number = open_claims.serial AND d.status = 'PENDING' AND d.claim_expires_at > now()
      AND d.claim_tries < 50
    ORDER BY d.claim_expires_at LIMIT 20
$$
"""


def upgrade() -> None:
    op.add_column("devices", sa.Column("claim_pin", sa.String(), nullable=True))
    op.add_column("devices", sa.Column("claim_expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("devices", sa.Column("claim_tries", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "ix_devices_claims", "devices", ["serial_number"], postgresql_where=sa.text("claim_pin IS NOT NULL")
    )
    op.execute("GRANT CREATE ON SCHEMA public TO pc_definer")
    op.execute(f"CREATE FUNCTION {OPEN_CLAIMS} {DEFINITION}")
    op.execute(f"ALTER FUNCTION {OPEN_CLAIMS} OWNER TO pc_definer")
    op.execute("SET LOCAL ROLE pc_definer")
    op.execute(f"REVOKE ALL ON FUNCTION {OPEN_CLAIMS} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {OPEN_CLAIMS} TO pc_lookup")
    op.execute("RESET ROLE")
    op.execute("REVOKE CREATE ON SCHEMA public FROM pc_definer")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {OPEN_CLAIMS}")
    op.drop_index("ix_devices_claims", table_name="devices")
    op.drop_column("devices", "claim_tries")
    op.drop_column("devices", "claim_expires_at")
    op.drop_column("devices", "claim_pin")

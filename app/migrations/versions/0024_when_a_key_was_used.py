"""A key's last use is the moment at which it was seen, and no later than its end"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

revision: str = "0024"
down_revision: str | None = "0023"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

FUNCTIONS = {
    # The keys, and how long ago each was used: the moment is by the clock of the database. The one without `ages` stays
    # for processes of the version before, which run beside the new ones for a while.
    "touch_api_keys(ids uuid[], ages interval[])": """
        RETURNS void
        LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
            -- A row that someone else is writing is left alone: two processes never wait for each other here.
            WITH stale AS MATERIALIZED (
                SELECT k.id, least(now() - used.age, k.revoked_at, k.expires_at) AS used_at
                FROM unnest(ids, ages) AS used (id, age) JOIN public.api_keys k ON k.id = used.id
                WHERE k.last_used_at IS NULL OR k.last_used_at < now() - interval '30 seconds'
                FOR NO KEY UPDATE OF k SKIP LOCKED
            )
            UPDATE public.api_keys k SET last_used_at = stale.used_at FROM stale
            WHERE k.id = stale.id AND (k.last_used_at IS NULL OR k.last_used_at < stale.used_at)
        $$""",
}


def upgrade() -> None:
    op.execute("GRANT CREATE ON SCHEMA public TO pc_definer")
    for signature, definition in FUNCTIONS.items():
        op.execute(f"CREATE FUNCTION {signature} {definition}")
        op.execute(f"ALTER FUNCTION {signature} OWNER TO pc_definer")
        op.execute("SET LOCAL ROLE pc_definer")
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO pc_lookup")
        op.execute("RESET ROLE")
    op.execute("REVOKE CREATE ON SCHEMA public FROM pc_definer")


def downgrade() -> None:
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")

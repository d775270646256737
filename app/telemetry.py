"""Log lines and metrics. A line is one thing that happened; its ids are fields, and no secret is among them."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final, Literal

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry()

UPLOADS = Counter("punchconnect_uploads", "Uploads of terminals by outcome.", ["outcome"], registry=REGISTRY)
RECORDS = Counter("punchconnect_records", "Records of terminals by what became of them.", ["fate"], registry=REGISTRY)
COMMIT_SECONDS = Histogram("punchconnect_commit_seconds", "One group commit.", registry=REGISTRY)
COMMIT_UPLOADS = Histogram(
    "punchconnect_commit_uploads",
    "Uploads in one commit.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)
WAITING_RECORDS = Gauge("punchconnect_waiting_records", "Records waiting for a commit.", registry=REGISTRY)
POINTS = Counter(
    "punchconnect_api_points",
    "Points asked for by API requests, by who judged: Redis, or this process alone.",
    ["judge"],
    registry=REGISTRY,
)
REFUSED = Counter("punchconnect_api_refused", "API requests over their tenant's budget.", registry=REGISTRY)


def configure(level: str = "INFO", style: Literal["json", "console"] = "json") -> None:
    """Set up structlog, and the standard library's loggers through it. Everything goes to stderr."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = structlog.dev.ConsoleRenderer() if style == "console" else structlog.processors.JSONRenderer(_json)
    structlog.configure(
        # Past the standard library's loggers: a line costs half as much, and a busy worker writes a thousand a second.
        processors=[*shared, renderer],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Its lines hold query strings, and those hold what terminals and strangers put there.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _json(event: Any, **_options: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()

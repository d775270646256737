"""Every knob: type, unit, default, one sentence. Read once from the environment (`PUNCHCONNECT_…`, `.env` too)."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Network = IPv4Network | IPv6Network


class Settings(BaseSettings):
    """Checked together: a lease outlasts a timeout, a secret is long enough."""

    model_config = SettingsConfigDict(env_prefix="PUNCHCONNECT_", env_file=".env", extra="ignore", frozen=True)

    database_url: SecretStr = Field(
        default=SecretStr(""), description="PostgreSQL 15 to 18, as postgresql://user:password@host:port/database."
    )
    redis_url: SecretStr | None = Field(
        default=None, description="A Redis-protocol server; without one the feed polls and lags by up to a second."
    )
    secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="At least 32 characters; encrypts stored webhook secrets, signs cursors and bus messages.",
    )
    public_url: str = Field(
        default="http://127.0.0.1:8080", description="Where clients reach us; the base of every link."
    )
    device_domain: str | None = Field(
        default=None, description="Terminals may be pointed at <label>.<this domain>; wildcard DNS leads it here."
    )
    shared_address: Literal["challenge", "approve", "off"] = Field(
        default="challenge", description="How a terminal on the shared address is bound to a tenant."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Host names answered to, comma-separated, `*.` for subdomains; empty means any."
    )

    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        default=(), description="CIDRs, comma-separated, of proxies whose `X-Forwarded-For` is believed."
    )

    database_pool: int = Field(default=10, ge=2, le=100, description="Connections per process and kind of work.")
    statement_cache: int = Field(
        default=200, ge=0, description="Prepared statements kept per connection; 0 behind a transaction-mode pooler."
    )
    database_timeout_seconds: float = Field(default=10, gt=0, description="Longest a statement may run.")

    ingest_queue: int = Field(
        default=50_000, ge=100, description="Records that may wait for a commit in one process; beyond it 503."
    )
    ingest_batch: int = Field(default=2_000, ge=1, le=50_000, description="Most records in one commit.")
    device_rate: float = Field(default=20, gt=0, description="Requests per second of one terminal.")
    device_burst: int = Field(default=200, ge=1, description="Requests one terminal may make at once.")
    device_delay_seconds: int = Field(default=10, ge=2, le=60, description="Seconds between a terminal's polls.")
    device_body_bytes: int = Field(default=16 * 2**20, ge=2**16, description="Largest upload of a terminal.")

    command_keep_days: float = Field(
        default=90, ge=2, description="Days that commands which ended are kept; the last one of a device stays."
    )
    reconcile_hours: float = Field(
        default=6, gt=0, description="Hours between two counts of a terminal's punches, more or less."
    )
    reconcile_days: int = Field(default=31, ge=1, le=366, description="How many days back they are counted.")
    reconcile_settle_seconds: float = Field(
        default=60, gt=0, description="How long a count that differs is left alone before the terminal counts again."
    )
    clock_drift_seconds: float = Field(
        default=300, gt=0, description="A terminal's clock further off than this is flagged, and so are its punches."
    )

    api_points: int = Field(default=20_000, gt=0, description="Query-cost points a tenant may spend at once.")
    api_restore: float = Field(default=500, gt=0, description="Points given back per second.")
    sockets_per_key: int = Field(
        default=100, gt=0, description="Sockets and event streams one API key may hold, in all processes together."
    )
    sockets_per_tenant: int = Field(default=1000, gt=0, description="The same of all API keys of a tenant.")
    signup: bool = Field(default=False, description="Whether strangers may sign up for a trial on the dashboard.")
    signup_per_address: int = Field(default=3, ge=1, description="Trials that one network address may start in a day.")
    signup_per_day: int = Field(default=100, ge=1, description="Trials that may be started in a day altogether.")
    demo_key: SecretStr | None = Field(
        default=None,
        description="An API key that the playground opens with, in a browser on this machine only; `dev` sets its own.",
    )
    metrics_token: SecretStr | None = Field(
        default=None, description="Bearer token of /metrics; without one it is closed."
    )
    price_per_device: str = Field(
        default="200 USD", description="What the plan costs per device; shown, never charged here."
    )

    webhook_retry_delays: Annotated[tuple[float, ...], NoDecode] = Field(
        default=(10, 60, 300, 1800, 7200, 43200, 86400, 86400, 86400),
        description="Seconds before each retry, comma-separated; one attempt more than there are delays.",
    )
    webhook_allow_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        default=(), description="CIDRs, comma-separated, that webhooks may reach although they are not public."
    )
    webhook_allow_http: bool = Field(
        default=False, description="Whether an endpoint may be http:// instead of https://."
    )
    webhook_timeout_seconds: float = Field(default=10, gt=0, description="One attempt, from DNS to the last body byte.")
    webhook_lease_seconds: float = Field(default=30, gt=0, description="How long a worker holds a delivery it claimed.")
    webhook_endpoint_share: float = Field(
        default=0.25, gt=0, le=1, description="Share of a worker's slots that one endpoint may have at a time."
    )
    webhook_tenant_share: float = Field(
        default=0.5, gt=0, le=1, description="Share of a worker's slots that one tenant may have at a time."
    )
    webhook_endpoint_in_flight: int = Field(
        default=50, gt=0, description="Posts to one endpoint that may be under way at a time, over all workers."
    )
    webhook_tenant_in_flight: int = Field(
        default=500, gt=0, description="Posts of one tenant that may be under way at a time, over all workers."
    )
    webhook_breaker_failures: int = Field(
        default=5, gt=0, description="Failures in a row after which an endpoint is left alone for a while."
    )
    webhook_breaker_seconds: float = Field(
        default=30, gt=0, description="How long it is left alone, at most, before one delivery tries it again."
    )
    webhook_replay_rate: float = Field(default=100, ge=1, description="Deliveries per second of one replay.")
    webhook_keep_days: float = Field(
        default=90, gt=0, description="Days that ended deliveries and their attempts are kept."
    )
    webhook_disable_after_days: float = Field(
        default=5, ge=0, description="Days of nothing but failure after which an endpoint is disabled; 0: never."
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe line logged."
    )
    log_format: Literal["json", "console"] = Field(default="json", description="One JSON object a line, or for people.")

    @field_validator("webhook_retry_delays", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        return tuple(float(part) for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("webhook_allow_networks", "trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())
        return value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().lower() for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.webhook_lease_seconds <= self.webhook_timeout_seconds * 2:
            raise ValueError("WEBHOOK_LEASE_SECONDS must be more than twice WEBHOOK_TIMEOUT_SECONDS.")
        secret = self.secret_key.get_secret_value()
        if secret and len(secret) < 32:
            raise ValueError("SECRET_KEY must have at least 32 characters.")
        return self

    @property
    def clock_drift(self) -> timedelta:
        """The bound as a span."""
        return timedelta(seconds=self.clock_drift_seconds)

    @property
    def retry_delays(self) -> tuple[timedelta, ...]:
        """The webhook schedule as spans."""
        return tuple(timedelta(seconds=delay) for delay in self.webhook_retry_delays)

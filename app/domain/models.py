"""Every table, in one import: what migrations compare with the database."""

from __future__ import annotations

from app.domain import (
    commands,
    deliveries,
    devices,
    employees,
    endpoints,
    enrollments,
    events,
    idempotency,
    keys,
    punches,
    records,
    sites,
    tenants,
)

TABLES = (
    tenants.Tenant,
    keys.ApiKey,
    enrollments.Enrollment,
    sites.Site,
    devices.Device,
    commands.DeviceCommand,
    employees.Employee,
    punches.Punch,
    records.KeptUpload,
    records.RejectedRecord,
    events.FeedHead,
    events.Event,
    endpoints.Endpoint,
    deliveries.Delivery,
    deliveries.Attempt,
    idempotency.IdempotencyKey,
)

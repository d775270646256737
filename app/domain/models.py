"""Every table, in one import: what migrations compare with the database."""

from __future__ import annotations

from app.domain import (
    biometrics,
    commands,
    deliveries,
    devices,
    employees,
    endpoints,
    enrollments,
    events,
    idempotency,
    keys,
    placements,
    punches,
    reconciliations,
    records,
    signups,
    sites,
    tenants,
    terminal_users,
)

TABLES = (
    tenants.Tenant,
    signups.Signup,
    keys.ApiKey,
    enrollments.Enrollment,
    sites.Site,
    devices.Device,
    commands.DeviceCommand,
    placements.Placement,
    reconciliations.Reconciliation,
    terminal_users.TerminalUser,
    biometrics.BiometricEnrollment,
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

"""What goes out: the contract's types over the domain's rows.

Most fields are plain attributes, filled once by `of`, because a computed field costs many times as much. What leads to
another row is a method that goes through a loader. A field that crosses into another scope asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated, Any, NewType, TypeVar
from uuid import UUID

import orjson
import strawberry
from strawberry import ID, UNSET
from strawberry.scalars import JSON

from app import ids
from app.domain import deliveries, devices, employees, endpoints, enrollments, keys, punches, records, sites, tenants
from app.domain.deliveries import DeliveryStatus
from app.domain.devices import DeviceConnectionState, DeviceStatus
from app.domain.employees import EmployeePrivilege
from app.domain.endpoints import EndpointStatus
from app.domain.feed import FeedStart
from app.domain.punches import PunchDirection, VerifyMode
from app.domain.tables import now
from app.domain.tenants import Plan
from schema.connections import After, Before, Connection, First, Last, ask, connect
from schema.context import Context, Info
from schema.fields import resolved

if True:  # the filters and orders stand in a file of their own
    from schema import inputs

#: A wall-clock reading: a datetime without zone.
LocalDateTime = NewType("LocalDateTime", datetime)

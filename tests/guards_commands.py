"""The guards of commands: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import Guard

COMMANDS, WIRE = "app/domain/commands.py", "protocol/adms/commands.py"
AT_COMMANDS, AT_WIRE = "tests/app/domain/test_commands.py::test_", "tests/protocol/adms/test_commands.py::test_"
AT_SOCKETS = "tests/app/web/test_commands.py::test_"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "commands: a lease that lasts is not handed out",
        COMMANDS,
        [
            (
                "(c.status = 'QUEUED' OR (c.lease_until <= now() AND c.kind <> ALL ($3::text[])))",
                "(c.status = 'QUEUED' OR c.kind <> ALL ($3::text[]))",
            )
        ],
        [AT_COMMANDS + "each_poll_gets_the_oldest_command_that_is_due_and_no_other"],
    ),
    Guard(
        "commands: what must not happen twice",
        COMMANDS,
        [
            (
                "(c.lease_until <= now() AND c.kind <> ALL ($3::text[]))",
                "(c.lease_until <= now() AND ($3::text[]) IS NOT NULL)",
            )
        ],
        [AT_COMMANDS + "what_must_not_happen_twice_is_handed_out_once"],
    ),
    Guard(
        "commands: twins take turns",
        COMMANDS,
        [("WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE", "WHERE tenant_id = $1 AND id = $2")],
        [AT_COMMANDS + "twins_that_are_polled_at_once_hand_out_different_commands"],
    ),
    Guard(
        "commands: too late is not handed out",
        COMMANDS,
        [("c.status IN ('QUEUED', 'SENT') AND c.expires_at > now()\n", "c.status IN ('QUEUED', 'SENT')\n")],
        [AT_COMMANDS + "a_command_whose_time_is_over_is_not_handed_out_any_more"],
    ),
    Guard(
        "commands: a report counts once",
        COMMANDS,
        [("        if status == CommandStatus.SENT:\n", "        if status:\n")],
        [
            AT_COMMANDS + "a_report_that_comes_again_changes_and_announces_nothing",
            AT_COMMANDS + "a_cancelled_command_is_not_handed_out_and_a_late_report_is_only_noted",
        ],
    ),
    Guard(
        "commands: a report settles its own device's",
        COMMANDS,
        [
            (
                "WHERE c.tenant_id = $1 AND c.device_id = $2 AND c.number = ANY",
                "WHERE c.tenant_id = $1 AND $2::uuid IS NOT NULL AND c.number = ANY",
            )
        ],
        [AT_COMMANDS + "a_terminal_settles_its_own_commands_only"],
    ),
    Guard(
        "commands: no code is no result",
        COMMANDS,
        [("        if result.return_code is None:\n            continue\n", "")],
        [AT_COMMANDS + "a_result_without_a_code_is_no_result"],
    ),
    Guard(
        "commands: a queue has a bound",
        COMMANDS,
        [("    if waiting >= MOST_OPEN:\n        raise CommandQueueFull\n", "    del waiting\n")],
        [AT_COMMANDS + "a_queue_has_a_bound"],
    ),
    Guard(
        "commands: only an active device",
        COMMANDS,
        [("    if device.status != DeviceStatus.ACTIVE:\n", "    if not device.status:\n")],
        [AT_COMMANDS + "only_an_active_device_takes_commands"],
    ),
    Guard(
        "commands: passwords stay where they are",
        COMMANDS,
        [
            (
                "    return any(word in key.lower() for word in",
                "    return False and any(word in key.lower() for word in",
            )
        ],
        [AT_COMMANDS + "what_the_terminal_reports_ends_the_command_and_is_announced"],
    ),
    Guard(
        "wire: no control characters in a line",
        WIRE,
        [("    if any(_CONTROL.search(part) for part in (text, *columns)):\n", "    if not text:\n")],
        [AT_WIRE + "a_control_character_in_any_part_of_a_command_is_refused"],
    ),
)

PLACEMENTS, BIOMETRICS = "app/domain/placements.py", "app/domain/biometrics.py"
AT_PLACEMENTS = "tests/app/domain/test_placements.py::test_"

GUARDS += (
    Guard(
        "placements: a write alone confirms nothing",
        PLACEMENTS,
        [
            (
                "UPDATE placements SET due = 'READ', acknowledged = true, written = $4\n",
                "UPDATE placements SET due = NULL, state = 'CONFIRMED', acknowledged = true, written = $4\n",
            )
        ],
        [AT_PLACEMENTS + "a_person_is_written_read_back_and_confirmed"],
    ),
    Guard(
        "placements: a line from before the write",
        PLACEMENTS,
        [("WHERE p.acknowledged AND p.due = 'READ' AND p.state = 'WANTED'", "WHERE p.state = 'WANTED'")],
        [AT_PLACEMENTS + "a_line_from_before_the_write_confirms_nothing"],
    ),
    Guard(
        "placements: what is shown is what was written",
        PLACEMENTS,
        [("    wanted = orjson.loads(written)\n", "    wanted = orjson.loads(written)\n    return True\n")],
        [AT_PLACEMENTS + "what_the_terminal_shows_has_to_be_what_it_took"],
    ),
    Guard(
        "placements: an old command is withdrawn",
        PLACEMENTS,
        [('    await commands.withdraw(connection, tenant_id, stale, ["userUpdate", "userDelete"])\n', "")],
        [AT_PLACEMENTS + "a_command_with_old_data_does_not_come_after_the_one_with_new"],
    ),
    Guard(
        "placements: not for ever",
        PLACEMENTS,
        [("        if tries >= MOST_TRIES:\n", "        if tries < 0:\n")],
        [
            AT_PLACEMENTS + "a_terminal_that_is_busy_is_asked_again_and_not_for_ever",
            AT_PLACEMENTS + "what_the_terminal_took_and_does_not_keep_fails_after_some_tries",
        ],
    ),
    Guard(
        "placements: another tenant's device",
        PLACEMENTS,
        [
            (
                "        _check(device_id, statuses.get(device_id), paths",
                "        _check(device_id, statuses.get(device_id, ''), paths",
            )
        ],
        [AT_PLACEMENTS + "placements_of_another_tenants_or_a_retired_device_are_refused_and_nothing_is_written"],
    ),
    Guard(
        "placements: a removal is read back",
        PLACEMENTS,
        [
            (
                '            (again if row["there"] else gone).append(row["pin"])\n',
                '            gone.append(row["pin"])\n',
            )
        ],
        [AT_PLACEMENTS + "a_person_who_is_still_there_is_removed_again"],
    ),
    Guard(
        "enrolment: a line that comes again",
        BIOMETRICS,
        [
            ("        if (key := (tenant_id, device.id, line.digest)) in fresh:\n", "        if fresh is not None:\n"),
            ("            fresh.discard(key)\n", ""),
        ],
        [
            AT_PLACEMENTS + "a_finger_registered_at_a_terminal_is_announced_once",
            AT_PLACEMENTS + "a_template_that_nobody_asked_for_tells_that_somebody_registered_and_is_not_kept",
        ],
    ),
)

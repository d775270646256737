#!/bin/bash
# Punches as they happen. Goes on where it was after a lost connection.
set -u
query='{"query": "subscription { punches { cursor punches { localTime pin direction } } }"}'
cursor=
while :; do
  while IFS= read -r line; do
    case $line in
    data:*'"errors"'*) echo "$line" >&2; exit 1 ;;
    data:*'"cursor"'*)
      grep -o '{"localTime":[^}]*}' <<<"$line" | sed 's/.*"localTime":"\([^"]*\)","pin":"\([^"]*\)","direction":"\([^"]*\)".*/\1 \2 \3/'
      cursor=$(grep -o '"cursor":"[^"]*"' <<<"$line" | cut -d'"' -f4) ;; # after what was done with the batch, never before
    esac
    # The server says something every 15 seconds: after 40 of silence the connection is dead.
  done < <(curl -sfN --speed-limit 1 --speed-time 40 "$PUNCHCONNECT_URL" -H "Authorization: Bearer $PUNCHCONNECT_KEY" \
    -H 'Content-Type: application/json' -H 'Accept: text/event-stream' ${cursor:+-H "Last-Event-ID: $cursor"} -d "$query")
  sleep 1
done

#!/bin/bash
# All punches since a moment, page by page.
set -eu
query='query ($after: String) { punches(first: 100, after: $after, filter: {receivedAt: {gte: \"2020-01-01T00:00:00Z\"}}) { nodes { localTime pin direction } pageInfo { hasNextPage endCursor } } }'
after=null
while :; do
  page=$(curl -sf "$PUNCHCONNECT_URL" -H "Authorization: Bearer $PUNCHCONNECT_KEY" -H 'Content-Type: application/json' \
    -d "{\"query\": \"$query\", \"variables\": {\"after\": $after}}")
  grep -o '{"localTime":[^}]*}' <<<"$page" | sed 's/.*"localTime":"\([^"]*\)","pin":"\([^"]*\)","direction":"\([^"]*\)".*/\1 \2 \3/'
  grep -q '"hasNextPage":true' <<<"$page" || break
  after=$(grep -o '"endCursor":"[^"]*"' <<<"$page" | cut -d: -f2)
done

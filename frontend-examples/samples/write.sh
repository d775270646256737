#!/bin/bash
# A write that may be sent again.
set -eu
answer=$(curl -sf "$PUNCHCONNECT_URL" -H "Authorization: Bearer $PUNCHCONNECT_KEY" -H 'Content-Type: application/json' \
  -H 'Idempotency-Key: hire-0042' -d '{
    "query": "mutation ($input: EmployeeUpsertInput!) { employeeUpsert(input: $input) { employee { pin name } idempotentReplay userErrors { code message } } }",
    "variables": {"input": {"pin": "0042", "name": "Zineb Zaoui"}}}')
grep -q '"userErrors":\[\]' <<<"$answer" || { echo "$answer" >&2; exit 1; }
grep -q '"idempotentReplay":true' <<<"$answer" && word=again || word=new
echo "$(grep -o '"name":"[^"]*"' <<<"$answer" | cut -d'"' -f4) $word"

#!/bin/sh
# Send a signed sample to a receiver, as PunchConnect would:
#
#     WEBHOOK_SECRET=whsec_… sh send.sh http://127.0.0.1:9000/ [body.json]
#
# Needs curl and openssl. Prints the answer and fails unless it is a 2xx. The same EVENT_ID again is a repeat.
set -eu

url=${1:?Usage: WEBHOOK_SECRET=whsec_... sh send.sh URL [FILE]}
secret=${WEBHOOK_SECRET:?Set WEBHOOK_SECRET to the secret of the endpoint.}
body=$(mktemp)
trap 'rm -f "$body"' EXIT

timestamp=$(date +%s)
event_id=${EVENT_ID:-evt_sample_$timestamp$$}
if [ -n "${2:-}" ]; then
  cp "$2" "$body"
else
  printf '{"id":"%s","type":"webhook.test","data":{}}' "$event_id" > "$body"
fi

# The plain signature: the key is the secret's text.
plain=$(openssl dgst -sha256 -hmac "$secret" -r < "$body" | cut -d ' ' -f 1)
# Standard Webhooks: the key is what the base64 after whsec_ stands for; it covers id and time too.
key=$(printf '%s' "${secret#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
standard=$({ printf '%s.%s.' "$event_id" "$timestamp"; cat "$body"; } |
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A)

curl --silent --show-error --fail-with-body --max-time 10 "$url" \
  -H 'Content-Type: application/json' \
  -H "webhook-id: $event_id" \
  -H "webhook-timestamp: $timestamp" \
  -H "webhook-signature: v1,$standard" \
  -H "X-PunchConnect-Signature: $plain" \
  -H 'X-PunchConnect-Signature-Key: current' \
  -H 'X-PunchConnect-Event: webhook.test' \
  -H 'X-PunchConnect-Attempt: 1' \
  --data-binary "@$body"
echo

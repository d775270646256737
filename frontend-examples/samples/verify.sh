#!/bin/bash
# A webhook's signature: body on stdin, headers in the environment. Needs openssl.
set -eu
key=$(printf %s "${WEBHOOK_SECRET#whsec_}" | base64 -d | od -An -v -tx1 | tr -d ' \n')
expected="v1,$({ printf '%s.%s.' "$WEBHOOK_ID" "$WEBHOOK_TIMESTAMP"; cat; } |
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64)"
verdict=refused
for each in $WEBHOOK_SIGNATURE; do # two while a rotation lasts
  [ "$each" = "$expected" ] && verdict=good
done
age=$(($(date +%s) - WEBHOOK_TIMESTAMP))
[ "${age#-}" -lt 300 ] || verdict=refused
echo $verdict

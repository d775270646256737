#!/bin/sh
# What the examples need, on Debian and Ubuntu. Skips what is here already.
set -eu
missing=
for pair in php:php-cli ruby:ruby curl:curl openssl:openssl; do
  command -v "${pair%%:*}" > /dev/null || missing="$missing ${pair#*:}"
done
[ -z "$missing" ] || { apt-get update -q && apt-get install -q -y --no-install-recommends $missing; }

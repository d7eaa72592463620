#!/bin/sh
# Gives the command each secret that is mounted as a file as the variable of that name. Of variables that are set from
# outside, `docker inspect` would tell everybody.
set -eu
for secret in /run/secrets/*; do
  [ -e "$secret" ] || continue # none are mounted
  [ -f "$secret" ] || { echo "$secret is no file: start the stack by \`make up\`, which writes the secrets" >&2; exit 1; }
  value=$(cat "$secret")
  [ -z "$value" ] || export "$(basename "$secret")=$value"
done
exec "$@"

#!/bin/sh
# Exports each secret, which is mounted as a file, as a variable of the same name to the command. Variables that are set
# from outside would be visible in `docker inspect`.
set -eu
for secret in /run/secrets/*; do
  [ -e "$secret" ] || continue # none are mounted
  [ -f "$secret" ] || { echo "$secret is no file: start the stack by \`make up\`, which writes the secrets" >&2; exit 1; }
  value=$(cat "$secret")
  [ -z "$value" ] || export "$(basename "$secret")=$value"
done
exec "$@"

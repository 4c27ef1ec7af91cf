#!/bin/sh
# Secrets lie in files: where NAME_FILE is set, NAME becomes what that file holds, for the command alone.
# TIDEMILL_SECRETS may list more names, as a webhook needs.
set -eu

for name in PGPASSWORD PREFECT_SERVER_DATABASE_PASSWORD PREFECT_SERVER_API_AUTH_STRING PREFECT_API_AUTH_STRING \
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY HF_TOKEN TIDEMILL_TOKEN ${TIDEMILL_SECRETS:-}; do
    eval "file=\${${name}_FILE:-}"
    [ -n "$file" ] || continue
    if [ ! -s "$file" ] || [ ! -r "$file" ]; then
        echo "The secret $name is to come from $file, which is missing, empty or not to be read. See docs/machines.md." >&2
        exit 2
    fi
    export "$name=$(cat "$file")"
    unset "${name}_FILE"
done

exec "$@"

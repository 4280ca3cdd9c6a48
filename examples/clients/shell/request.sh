#!/bin/sh
# Request and response in one command: request.sh MODULE INPUT [ID]
#
# Raw bytes both ways, the fields as user properties. mosquitto_rr subscribes before it publishes, and waits.
# Exit code 0: it succeeded, 3: it did not, 27 (mosquitto_rr's own): no answer came.
set -eu
module=$1 input=$2 id=${3:-$(cat /proc/sys/kernel/random/uuid)}
answer=$(mosquitto_rr -h "${MQTT_HOST:-127.0.0.1}" -p "${MQTT_PORT:-1883}" -V 5 -q 1 -W 30 \
  -t task_queue -e "replies/$(cat /proc/sys/kernel/random/uuid)" -m "$input" -F '%P\n%p' \
  -D publish correlation-data "$id" \
  -D publish user-property module "$module" \
  -D publish user-property id "$id")
properties=$(printf '%s\n' "$answer" | head -n 1)
case $properties in
"id:$id status:succeeded "*) printf '%s\n' "$answer" | tail -n +2 ;;
*)
  printf '%s\n' "$properties" >&2
  exit 3
  ;;
esac

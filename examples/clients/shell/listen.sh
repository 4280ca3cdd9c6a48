#!/bin/sh
# Handles every outcome of a JSON task once: listen.sh NAME
#
# Needs mosquitto-clients and jq. NAME is this listener's own: the broker keeps for it what comes while it is away, and
# NAME.ids what it has handled. mosquitto_sub acknowledges before the outcome is handled: where none may be lost when
# this is killed, take a client that is told when to (python, javascript).
set -eu
name=$1
touch "$name.ids"
sub() {
  mosquitto_sub -h "${MQTT_HOST:-127.0.0.1}" -p "${MQTT_PORT:-1883}" -V 5 -i "$name" -c -x 86400 -q 1 \
    -t task_completed "$@"
}
handle() {
  while read -r outcome; do
    # What is no JSON object is the output of a task that travelled as user properties.
    id=$(printf %s "$outcome" | jq -re 'objects | .id' 2>/dev/null) || continue
    # At least once means: twice, now and then.
    if grep -qxF -e "$id" "$name.ids"; then continue; fi
    printf %s "$outcome" | jq -r '
      if .status == "succeeded" then "\(.id) succeeded \(.output)"
      else "\(.id) \(.status) \(.error.code)" end' # failed, timed_out, rejected, expired or canceled
    echo "$id" >>"$name.ids"
  done
}
sub -E | handle # subscribes; what came while it was away may come now
echo listening
sub | handle

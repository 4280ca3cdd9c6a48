#!/bin/sh
# Submits a task and waits for its outcome: submit.sh MODULE INPUT [ID]
#
# Needs mosquitto-clients and jq. Exit code 0: it succeeded, 3: it did not, 4: no outcome came.
set -eu
module=$1 input=$2 id=${3:-$(cat /proc/sys/kernel/random/uuid)}
host=${MQTT_HOST:-127.0.0.1} port=${MQTT_PORT:-1883}
session=submit-$(cat /proc/sys/kernel/random/uuid)
task=$(jq -cn --arg id "$id" --arg name "$module" --arg input "$input" --arg reply_to "replies/$session" \
  '{id: $id, module: $name, input: $input, reply_to: $reply_to}')

listen() {
  mosquitto_sub -h "$host" -p "$port" -V 5 -i "$session" -c -x 3600 -q 1 -t "replies/$session" "$@"
}

# Subscribed before the task is published: the broker keeps the outcome for this session.
listen -E
outcome=
for _ in 1 2 3 4; do
  # Whatever is lost on the way: the same id again is answered with its outcome, not run again.
  mosquitto_pub -h "$host" -p "$port" -q 1 -t task_queue -m "$task"
  outcome=$(listen -C 1 -W 30) && break # longer than the task may take
done
[ -n "$outcome" ] || exit 4
if [ "$(printf %s "$outcome" | jq -r .status)" = succeeded ]; then
  printf %s "$outcome" | jq -r '.output // .output_base64'
else
  printf %s "$outcome" | jq -r '"\(.status) \(.error.code) \(.error.message)"' >&2
  exit 3
fi

"""Submits a task and waits for its outcome: submit.py MODULE INPUT [ID]

Request and response of MQTT 5. Exit code 0: it succeeded, 3: it did not, 4: no outcome came.
"""
import json
import os
import queue
import sys
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

module, text = sys.argv[1:3]
task_id = sys.argv[3] if len(sys.argv) > 3 else str(uuid.uuid4())
correlation = uuid.uuid4().bytes
replies = f"replies/{uuid.uuid4()}"

subscribed, heard = queue.Queue(), queue.Queue()
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.on_connect = lambda *_: client.subscribe(replies, qos=1)  # after every reconnect
client.on_subscribe = lambda *_: subscribed.put(True)
client.on_message = lambda _client, _userdata, message: heard.put(message)
client.connect(os.environ.get("MQTT_HOST", "127.0.0.1"), int(os.environ.get("MQTT_PORT", "1883")))
client.loop_start()
subscribed.get(timeout=30)  # before the task is published, so that its outcome cannot be missed

properties = Properties(PacketTypes.PUBLISH)
properties.ResponseTopic = replies
properties.CorrelationData = correlation
task = json.dumps({"id": task_id, "module": module, "input": text})


def outcome():
    # Whatever is lost on the way: the same id again is answered with its outcome, not run again.
    for _ in range(4):
        client.publish("task_queue", task, qos=1, properties=properties)
        try:
            message = heard.get(timeout=30)  # longer than the task may take
        except queue.Empty:
            continue
        if message.properties.CorrelationData == correlation:
            return json.loads(message.payload)
    sys.exit(4)


ended = outcome()
client.disconnect()
client.loop_stop()
if ended["status"] != "succeeded":
    error = ended.get("error", {})  # a canceled task has none
    print(ended["status"], error.get("code"), error.get("message"), file=sys.stderr)
    sys.exit(3)
print(ended.get("output", ended.get("output_base64")))

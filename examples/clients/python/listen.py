"""Handles every outcome once: listen.py NAME

NAME is this listener's own: the broker keeps for it what comes while it is away, and NAME.db what it has handled.
"""
import json
import os
import sqlite3
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

name = sys.argv[1]
handled = sqlite3.connect(f"{name}.db")
handled.execute("CREATE TABLE IF NOT EXISTS handled (id TEXT PRIMARY KEY)")


def handle(outcome):
    if outcome["status"] == "succeeded":
        print(outcome["id"], "succeeded", outcome.get("output"), flush=True)
    else:  # failed, timed_out, rejected, expired or canceled
        code = outcome.get("error", {}).get("code") or outcome.get("error_code")
        print(outcome["id"], outcome["status"], code, flush=True)


def on_message(client, _userdata, message):
    # The outcome of a task that travelled as user properties is user properties, its output the payload.
    user = dict(getattr(message.properties, "UserProperty", []))
    if "status" in user:
        outcome = {**user, "output": message.payload.decode(errors="backslashreplace")}
    else:
        outcome = json.loads(message.payload)
    # At least once means: twice, now and then. What is recorded in the transaction of its effect happens once.
    with handled:
        if handled.execute("INSERT OR IGNORE INTO handled VALUES (?)", [outcome["id"]]).rowcount:
            handle(outcome)
    client.ack(message.mid, message.qos)  # only now: what is not handled comes again


client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5, manual_ack=True
)
client.on_connect = lambda *_: client.subscribe("task_completed", qos=1)
client.on_subscribe = lambda *_: print("listening", flush=True)
client.on_message = on_message
session = Properties(PacketTypes.CONNECT)
session.SessionExpiryInterval = 24 * 3600
client.connect(
    os.environ.get("MQTT_HOST", "127.0.0.1"),
    int(os.environ.get("MQTT_PORT", "1883")),
    clean_start=False,
    properties=session,
)
client.loop_forever()

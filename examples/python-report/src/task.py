"""Readings of sensors in, as JSON; out, a report on each sensor: how many, from when to when, mean, median, spread,
quartiles, and how fast it drifts. All of it with Python's standard library."""

import json
import statistics
from collections import defaultdict
from datetime import datetime

from wit_world.imports import host
from wit_world.imports.types import Context, Output

from wasmqtt import Reject


def run(context: Context, data: bytes) -> Output:
    try:
        readings = json.loads(data)
    except ValueError as why:
        raise Reject(f"the input is no JSON: {why}")
    if not isinstance(readings, list) or not readings:
        raise Reject("the input is no list of readings")

    sensors: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for index, reading in enumerate(readings):
        try:
            time = datetime.fromisoformat(reading["time"])
            sensors[str(reading["sensor"])].append((time, float(reading["value"])))
        except (KeyError, TypeError, ValueError) as why:
            raise Reject(f"reading {index}: {type(why).__name__}: {why}")

    host.log(host.Level.INFO, f"{len(readings)} readings of {len(sensors)} sensors")
    report = {sensor: describe(sorted(values)) for sensor, values in sorted(sensors.items())}
    return Output(json.dumps(report, indent=2).encode() + b"\n", "application/json")


def describe(readings: list[tuple[datetime, float]]) -> dict:
    times, values = zip(*readings)
    report = {
        "count": len(values),
        "from": times[0].isoformat(),
        "to": times[-1].isoformat(),
        "min": min(values),
        "max": max(values),
        "mean": round(statistics.fmean(values), 3),
        "median": round(statistics.median(values), 3),
    }
    if len(values) > 1:
        report["stdev"] = round(statistics.stdev(values), 3)
        report["quartiles"] = [round(cut, 3) for cut in statistics.quantiles(values, n=4)]
        hours = [(time - times[0]).total_seconds() / 3600 for time in times]
        if hours[-1] > 0:
            report["drift_per_hour"] = round(statistics.linear_regression(hours, values).slope, 4)
    return report

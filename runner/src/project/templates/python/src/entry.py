"""What the runner calls: the world `wasmqtt:task/task` of wit/, with task.py behind it. The same in every project."""

import traceback

from componentize_py_types import Err
from wit_world.imports import host, types

import task
import wasmqtt


class WitWorld:
    def run(self, context: types.Context, data: bytes) -> types.Output:
        try:
            return task.run(context, data)
        except wasmqtt.Reject as why:
            raise Err(types.Error_Reject(str(why)))
        except wasmqtt.RetryAfter as why:
            raise Err(types.Error_RetryAfter(types.RetryAfter(str(why), why.delay_ms)))
        except Exception as why:
            host.log(host.Level.ERROR, traceback.format_exc())
            raise Err(types.Error_Failed(f"{type(why).__name__}: {why}"))

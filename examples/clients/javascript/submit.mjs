// Submits a task and waits for its outcome: node submit.mjs MODULE INPUT [ID]
//
// Request and response of MQTT 5. Exit code 0: it succeeded, 3: it did not, 4: no outcome came.
import { randomUUID } from 'node:crypto'
import mqtt from 'mqtt'

const [module, input, id = randomUUID()] = process.argv.slice(2)
const { MQTT_HOST = '127.0.0.1', MQTT_PORT = '1883' } = process.env
const broker = `mqtt://${MQTT_HOST}:${MQTT_PORT}`
const client = await mqtt.connectAsync(broker, { protocolVersion: 5 })

const responseTopic = `replies/${randomUUID()}`
const correlationData = Buffer.from(randomUUID())
const heard = new Promise((resolve) => {
  client.on('message', (_topic, payload, { properties }) => {
    if (properties?.correlationData?.equals(correlationData)) resolve(JSON.parse(payload))
  })
})
// Before the task is published, so that its outcome cannot be missed. The library does it again after a reconnect.
await client.subscribeAsync(responseTopic, { qos: 1 })

const task = JSON.stringify({ id, module, input })
const publish = () =>
  client.publishAsync('task_queue', task, {
    qos: 1,
    properties: { responseTopic, correlationData },
  })
await publish()
// Whatever is lost on the way: the same id again is answered with its outcome, not run again.
const again = setInterval(publish, 30_000) // longer than the task may take
const enough = setTimeout(() => process.exit(4), 120_000)

const { status, output, output_base64, error } = await heard
clearInterval(again)
clearTimeout(enough)
await client.endAsync()
if (status === 'succeeded') {
  console.log(output ?? output_base64)
} else {
  console.error(status, error?.code, error?.message) // a canceled task has no error
  process.exitCode = 3
}

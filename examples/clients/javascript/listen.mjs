// Handles every outcome once: node listen.mjs NAME
//
// NAME is this listener's own: the broker keeps for it what comes while it is away, and NAME.ids what it has handled.
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import mqtt from 'mqtt'

const [name] = process.argv.slice(2)
const { MQTT_HOST = '127.0.0.1', MQTT_PORT = '1883' } = process.env
const file = `${name}.ids`
const handled = new Set(existsSync(file) ? readFileSync(file, 'utf8').split('\n') : [])

function handle(outcome) {
  if (outcome.status === 'succeeded') {
    console.log(outcome.id, 'succeeded', outcome.output)
  } else {
    // failed, timed_out, rejected, expired or canceled
    console.log(outcome.id, outcome.status, outcome.error?.code ?? outcome.error_code)
  }
}

const client = mqtt.connect(`mqtt://${MQTT_HOST}:${MQTT_PORT}`, {
  protocolVersion: 5,
  clientId: name,
  clean: false,
  properties: { sessionExpiryInterval: 24 * 3600 },
})
// The library acknowledges a message when this calls `done`, and not before.
client.handleMessage = ({ payload, properties }, done) => {
  // The outcome of a task that travelled as user properties is user properties, its output the payload.
  const user = properties?.userProperties
  const outcome = user?.status ? { ...user, output: payload.toString() } : JSON.parse(payload)
  // At least once means: twice, now and then.
  if (!handled.has(outcome.id)) {
    handle(outcome)
    handled.add(outcome.id)
    appendFileSync(file, `${outcome.id}\n`)
  }
  done()
}
client.on('connect', async () => {
  await client.subscribeAsync('task_completed', { qos: 1 })
  console.log('listening')
})

<?php
// Handles every outcome on task_completed once: php listen.php NAME
//
// NAME is this listener's own: the broker keeps for it what comes while it is away, and NAME.ids what it has handled.
// libmosquitto acknowledges before the outcome is handled: where none may be lost when this is killed, take a client
// that is told when to (python, javascript).
require __DIR__ . '/mosquitto.php';

$name = $argv[1];
$handled = array_flip(@file("$name.ids", FILE_IGNORE_NEW_LINES) ?: []);

function handle(array $outcome): void
{
    if ($outcome['status'] === 'succeeded') {
        $output = $outcome['output'] ?? '';
        echo $outcome['id'], ' succeeded ', is_string($output) ? $output : json_encode($output), "\n";
    } else { // failed, timed_out, rejected, expired or canceled
        echo $outcome['id'], ' ', $outcome['status'], ' ', $outcome['error']['code'] ?? $outcome['error_code'] ?? '', "\n";
    }
}

/** The outcome of a task that travelled as user properties is user properties, its output the payload. */
function outcome($message, $properties): array
{
    global $lib;
    [$field, $value] = [$lib->new('char *'), $lib->new('char *')];
    $payload = FFI::string($message->payload, $message->payloadlen);
    $outcome = ['output' => $payload];
    $more = false;
    while ($properties !== null) {
        $properties = $lib->mosquitto_property_read_string_pair(
            $properties, USER_PROPERTY, FFI::addr($field), FFI::addr($value), $more);
        if ($properties !== null) {
            $outcome[FFI::string($field)] = FFI::string($value);
            $lib->free($field);
            $lib->free($value);
        }
        $more = true;
    }
    return isset($outcome['status']) ? $outcome : json_decode($payload, true);
}

$client = connect($name);
$lib->mosquitto_connect_callback_set($client, fn ($client) => must($lib->mosquitto_subscribe($client, null, 'task_completed', 1)));
$lib->mosquitto_subscribe_callback_set($client, function () {
    echo "listening\n";
});
$lib->mosquitto_message_v5_callback_set($client, function ($client, $object, $message, $properties) use (&$handled, $name) {
    $outcome = outcome($message, $properties);
    // At least once means: twice, now and then.
    if (!isset($handled[$outcome['id']])) {
        handle($outcome);
        $handled[$outcome['id']] = true;
        file_put_contents("$name.ids", $outcome['id'] . "\n", FILE_APPEND);
    }
});
must($lib->mosquitto_loop_forever($client, 1000, 1));

<?php
// Publishes its argument on task_queue: php publish.php TEXT [MODULE [ID]]
//
// Without MODULE the tenant's default module runs, if the runner has one (serve --default-module NAME). Ends when the
// broker has the task (QoS 1); listen.php hears what became of it. Publishing an ID again is safe: it is answered
// with its outcome, not run again.
require __DIR__ . '/mosquitto.php';

[, $text, $module, $id] = $argv + [2 => null, 3 => bin2hex(random_bytes(16))];
$client = connect(null);
$taken = false;

$properties = $lib->new('property *');
if ($module !== null) {
    // MQTT 5: the payload is the raw input, the fields of the task are user properties.
    foreach (['module' => $module, 'id' => $id] as $name => $value) {
        must($lib->mosquitto_property_add_string_pair(FFI::addr($properties), USER_PROPERTY, $name, $value));
    }
}
$lib->mosquitto_connect_callback_set($client, function ($client, $object, int $code) use ($lib, $text, $properties) {
    // After every reconnect as well, until the broker has it.
    $list = FFI::isNull($properties) ? null : $properties;
    must($lib->mosquitto_publish_v5($client, null, 'task_queue', strlen($text), $text, 1, false, $list));
});
$lib->mosquitto_publish_callback_set($client, function () use (&$taken) {
    $taken = true;
});
while (!$taken) {
    must($lib->mosquitto_loop($client, 1000, 1));
}
$lib->mosquitto_disconnect($client);
if ($module !== null) {
    echo "$id\n";
}

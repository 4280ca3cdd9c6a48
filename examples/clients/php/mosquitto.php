<?php
// Debian's libmosquitto1 for Debian's php-cli, by FFI: there is no packaged PHP library that speaks MQTT 5.
const MQTT = 'libmosquitto.so.1';
const V5 = 5, OPTION_VERSION = 1;
const USER_PROPERTY = 38, SESSION_EXPIRY = 17;

$lib = FFI::cdef('
    typedef struct property property;
    typedef struct { int mid; char *topic; char *payload; int payloadlen; int qos; bool retain; } message;
    void free(void *memory);
    int mosquitto_lib_init(void);
    void *mosquitto_new(const char *id, bool clean, void *object);
    int mosquitto_int_option(void *client, int option, int value);
    int mosquitto_connect_bind_v5(void *client, const char *host, int port, int keepalive, const char *bind, property *properties);
    int mosquitto_subscribe(void *client, int *mid, const char *filter, int qos);
    int mosquitto_publish_v5(void *client, int *mid, const char *topic, int bytes, const char *payload, int qos, bool retain, property *properties);
    int mosquitto_loop(void *client, int timeout_ms, int max_packets);
    int mosquitto_loop_forever(void *client, int timeout_ms, int max_packets);
    int mosquitto_disconnect(void *client);
    const char *mosquitto_strerror(int error);
    int mosquitto_property_add_int32(property **list, int id, uint32_t value);
    int mosquitto_property_add_string_pair(property **list, int id, const char *name, const char *value);
    const property *mosquitto_property_read_string_pair(const property *list, int id, char **name, char **value, bool skip_first);
    void mosquitto_connect_callback_set(void *client, void (*heard)(void *client, void *object, int code));
    void mosquitto_publish_callback_set(void *client, void (*heard)(void *client, void *object, int mid));
    void mosquitto_subscribe_callback_set(void *client, void (*heard)(void *client, void *object, int mid, int count, const int *granted));
    void mosquitto_message_v5_callback_set(void *client, void (*heard)(void *client, void *object, const message *message, const property *properties));
', MQTT);

/** Ends the script when the library says no. */
function must(int $error): void
{
    global $lib;
    if ($error !== 0) {
        fwrite(STDERR, $lib->mosquitto_strerror($error) . "\n");
        exit(1);
    }
}

/** A client that is connecting: a session of that name outlives the connection, one without a name does not. */
function connect(?string $name): FFI\CData
{
    global $lib;
    $lib->mosquitto_lib_init();
    $client = $lib->mosquitto_new($name, $name === null, null);
    must($lib->mosquitto_int_option($client, OPTION_VERSION, V5));
    $properties = $lib->new('property *');
    must($lib->mosquitto_property_add_int32(FFI::addr($properties), SESSION_EXPIRY, $name === null ? 0 : 24 * 3600));
    [$host, $port] = [getenv('MQTT_HOST') ?: '127.0.0.1', (int) (getenv('MQTT_PORT') ?: 1883)];
    must($lib->mosquitto_connect_bind_v5($client, $host, $port, 60, null, $properties));
    return $client;
}

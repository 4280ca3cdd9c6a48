//! The same rights for mosquitto's dynamic security plugin, with everything else denied.
//!
//! Not an ACL file: its patterns let a tenant subscribe `$share/{group}/…`, whose messages the broker then routes to it and drops.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::access::password::PasswordHash;
use crate::access::{Access, Role};

/// Somebody who may connect.
#[derive(Debug, Clone)]
pub struct Client {
    /// The user name.
    pub name: String,
    /// Of its password.
    pub password: PasswordHash,
    /// Which rights it has.
    pub role: Role,
    /// The same, as filters.
    pub access: Access,
}

/// The plugin's configuration, as `mosquitto_ctrl dynsec init` would begin it: default deny, a role for each user.
pub fn config(clients: &[Client]) -> Value {
    let users: Vec<Value> = clients.iter().map(user).collect();
    let roles: Vec<Value> = clients.iter().map(role).collect();
    json!({
        "defaultACLAccess": {
            "publishClientSend": false,
            "publishClientReceive": false,
            "subscribe": false,
            "unsubscribe": false,
        },
        "clients": users,
        "groups": [],
        "roles": roles,
    })
}

fn user(client: &Client) -> Value {
    json!({
        "username": client.name,
        "password": STANDARD.encode(&client.password.hash),
        "salt": STANDARD.encode(&client.password.salt),
        "iterations": client.password.iterations,
        "roles": [{ "rolename": client.name }],
    })
}

fn role(client: &Client) -> Value {
    let mut acls = Vec::new();
    let mut add = |acltype: &str, topics: &[String], allow: bool| {
        // The plugin takes the first that matches, of the highest priority.
        let priority = if allow { 0 } else { 10 };
        acls.extend(topics.iter().map(|topic| {
            json!({ "acltype": acltype, "topic": topic, "priority": priority, "allow": allow })
        }));
    };
    let Access {
        publish_denied,
        publish,
        subscribe,
    } = &client.access;
    add("publishClientSend", publish_denied, false);
    add("publishClientSend", publish, true);
    add("publishClientReceive", &client.access.receive(), true);
    if client.role != Role::Runner {
        // To the plugin `#` is any filter, `$share/…` too.
        add("subscribePattern", &["$share/#".to_owned()], false);
    }
    add("subscribePattern", subscribe, true);
    add("unsubscribePattern", subscribe, true);
    if client.role == Role::Operator {
        // For `mosquitto_ctrl dynsec`.
        let control = ["$CONTROL/dynamic-security/#".to_owned()];
        for acltype in [
            "publishClientSend",
            "publishClientReceive",
            "subscribePattern",
        ] {
            add(acltype, &control, true);
        }
    }
    json!({ "rolename": client.name, "acls": acls })
}

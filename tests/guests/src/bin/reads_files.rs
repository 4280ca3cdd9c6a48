//! Reaches for whatever a command might find outside its sandbox and prints what it got, a line each.

use std::io::{Error, Read};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};

fn main() {
    report(
        "read /etc/passwd",
        std::fs::read_to_string("/etc/passwd").map(|text| text.len()),
    );
    report(
        "read ../Cargo.toml",
        std::fs::read_to_string("../Cargo.toml").map(|text| text.len()),
    );
    report("list /", std::fs::read_dir("/").map(Iterator::count));
    report("list .", std::fs::read_dir(".").map(Iterator::count));
    report("write /tmp/wasmqtt", std::fs::write("/tmp/wasmqtt", "x"));
    report(
        "connect 127.0.0.1:1883",
        TcpStream::connect(("127.0.0.1", 1883)).map(drop),
    );
    report(
        "listen 127.0.0.1:0",
        TcpListener::bind(("127.0.0.1", 0)).map(drop),
    );
    report(
        "udp 127.0.0.1:0",
        UdpSocket::bind(("127.0.0.1", 0)).map(drop),
    );
    report(
        "resolve localhost",
        ("localhost", 80).to_socket_addrs().map(Iterator::count),
    );

    let mut input = Vec::new();
    report("stdin", std::io::stdin().read_to_end(&mut input));
    println!("args: {:?}", std::env::args().collect::<Vec<_>>());
    let mut vars: Vec<_> = std::env::vars().collect();
    vars.sort();
    for (name, value) in vars {
        println!("env {name}={value}");
    }
}

fn report<T: std::fmt::Debug>(what: &str, result: Result<T, Error>) {
    match result {
        Ok(got) => println!("{what}: got {got:?}"),
        Err(error) => println!("{what}: denied: {error}"),
    }
}

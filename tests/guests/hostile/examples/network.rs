//! Connects, listens, sends a packet and looks up a name. Every one is refused, whoever listens.

use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};

const REDIS: &str = "127.0.0.1:6379";

hostile::provoked!(|entry| {
    let found = [
        TcpStream::connect(REDIS).is_ok(),
        TcpListener::bind("127.0.0.1:0").is_ok(),
        UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"x", REDIS)).is_ok(),
        "localhost:6379".to_socket_addrs().is_ok(),
    ];
    hostile::tell(entry, format!("{{\"found\":{found:?}}}"))
});

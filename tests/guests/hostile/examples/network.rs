//! Connects, listens, sends a packet and looks up a name. All is refused, whoever listens.

use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};

hostile::provoked!(|entry| {
    let target = format!("127.0.0.1:{}", hostile::amount(entry, 6_379));
    let found = [
        TcpStream::connect(&target).is_ok(),
        TcpListener::bind("127.0.0.1:0").is_ok(),
        UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"x", &target)).is_ok(),
        "localhost:6379".to_socket_addrs().is_ok(),
    ];
    hostile::tell(entry, format!("{{\"found\":{found:?}}}"))
});

//! The two ends of an echo benchmark that have nothing of weft's: a bare epoll server, and the load.
//!
//! ```text
//! echo serve PORT                                  a server that sends back what it receives
//! echo load PORT CONNECTIONS SIZE SECONDS          prints messages a second
//! ```
//!
//! `benches/hub/echo.py` starts them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use weft_sys::epoll::{Epoll, EventFlags, Reports};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| arguments[index].parse::<f64>().expect("a number");
    match arguments[0].as_str() {
        "serve" => serve(number(1) as u16),
        "load" => {
            let rate = load(number(1) as u16, number(2) as usize, number(3) as usize, number(4));
            println!("{rate:.0}");
        }
        other => panic!("{other} is neither serve nor load"),
    }
}

fn serve(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
    listener.set_nonblocking(true).expect("a socket");
    let epoll = Epoll::new().expect("descriptors");
    epoll.add(listener.as_fd(), 0, EventFlags::IN).expect("a socket");
    let mut connections: Vec<Option<TcpStream>> = vec![None];
    let mut reports = Reports::default();
    let mut buffer = vec![0; 65536];
    println!("ready");
    loop {
        match epoll.wait(None, &mut reports) {
            Ok(()) => {}
            Err(_) => continue,
        }
        for report in reports.iter() {
            if report.token == 0 {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).expect("a socket");
                    stream.set_nodelay(true).expect("a socket");
                    let number = stream.as_raw_fd() as usize;
                    epoll.add(stream.as_fd(), number as u64, EventFlags::IN).expect("a socket");
                    connections.resize_with(connections.len().max(number + 1), || None);
                    connections[number] = Some(stream);
                }
                continue;
            }
            let slot = &mut connections[report.token as usize];
            let Some(stream) = slot else { continue };
            let outcome = stream.read(&mut buffer).and_then(|got| {
                stream.write_all(&buffer[..got])?;
                Ok(got)
            });
            if !matches!(outcome, Ok(1..)) {
                *slot = None;
            }
        }
    }
}

/// A connection under load: how much of its message has come back, and how much of it was sent.
struct Loaded {
    stream: TcpStream,
    got: usize,
    sent: usize,
}

impl Loaded {
    /// Sends what there is room for.
    fn send(&mut self, message: &[u8]) {
        while self.sent < message.len() {
            match self.stream.write(&message[self.sent..]) {
                Ok(more) => self.sent += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Keeps one message on its way in every connection.
fn load(port: u16, connections: usize, size: usize, seconds: f64) -> f64 {
    let message = vec![b'x'; size];
    let mut buffer = vec![0; size.max(65536)];
    let epoll = Epoll::new().expect("descriptors");
    // What does not fit into a socket's buffer is sent piece by piece.
    let large = size > 65536;
    let flags = if large { EventFlags::IN | EventFlags::OUT | EventFlags::ET } else { EventFlags::IN };
    let mut streams: Vec<Loaded> = (0..connections)
        .map(|index| {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server listens");
            stream.set_nonblocking(true).expect("a socket");
            stream.set_nodelay(true).expect("a socket");
            epoll.add(stream.as_fd(), index as u64, flags).expect("a socket");
            Loaded { stream, got: 0, sent: 0 }
        })
        .collect();
    for loaded in &mut streams {
        loaded.send(&message);
    }
    let mut reports = Reports::default();
    let (mut begin, mut count, warm) = (Instant::now(), 0_u64, Duration::from_secs_f64(seconds / 4.0));
    let mut warmed = false;
    loop {
        if epoll.wait(Some(Duration::from_secs(5)), &mut reports).is_err() {
            continue;
        }
        for report in reports.iter() {
            let loaded = &mut streams[report.token as usize];
            loaded.send(&message);
            loop {
                match loaded.stream.read(&mut buffer) {
                    Ok(0) => panic!("the server closed a connection"),
                    Ok(more) => loaded.got += more,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
                if loaded.got >= size {
                    loaded.got -= size;
                    count += 1;
                    loaded.sent = 0;
                    loaded.send(&message);
                }
                if !large {
                    break;
                }
            }
        }
        let elapsed = begin.elapsed();
        if !warmed && elapsed > warm {
            (warmed, count, begin) = (true, 0, Instant::now());
        } else if warmed && elapsed.as_secs_f64() > seconds {
            return count as f64 / elapsed.as_secs_f64();
        }
    }
}

//! PROXY headers of both versions: no verdict depends on how the bytes were cut; what is read can be written and
//! read again; a line of version 1 is what a naive reader takes it for.
//!
//! Input: what arrives.

use loopwright::proto::proxy_protocol::{
    Endpoints, Front, MAX_V1, MAX_V2, Malformed, read, write_v1, write_v2,
};
use std::net::SocketAddr;

pub(crate) fn run(data: &[u8]) {
    let whole = read(data);
    for end in 0..data.len().min(MAX_V2 + 1) {
        let part = read(&data[..end]);
        if part != Ok(Front::More) {
            assert_eq!(part, whole, "at {end} of {}", data.len());
        }
    }
    let is_v1 = data.starts_with(b"PROXY ");
    if whole == Ok(Front::More) {
        let most = if is_v1 { MAX_V1 } else { MAX_V2 };
        assert!(
            data.len() < most,
            "{} bytes, and more is wanted",
            data.len()
        );
    }
    if is_v1 && data.len() >= MAX_V1 {
        assert_eq!(whole.as_ref().ok(), naive(data).as_ref().ok());
    }
    let Ok(Front::Header { endpoints, used }) = whole else {
        return;
    };
    assert!(used <= if is_v1 { MAX_V1 } else { MAX_V2 }.min(data.len()));
    let mut again = Vec::new();
    match endpoints {
        Endpoints::Inet { .. } | Endpoints::Unknown => {
            write_v1(&mut again, endpoints);
            assert_eq!(header(&again), Some((endpoints, again.len())));
        }
        Endpoints::Local | Endpoints::Unix { .. } => {}
    }
    again.clear();
    write_v2(&mut again, endpoints);
    assert_eq!(header(&again), Some((endpoints, again.len())));
}

fn header(bytes: &[u8]) -> Option<(Endpoints<'_>, usize)> {
    match read(bytes) {
        Ok(Front::Header { endpoints, used }) => Some((endpoints, used)),
        _ => None,
    }
}

/// Version 1 as its specification tells it (§2.1), of input that is long enough.
fn naive(data: &[u8]) -> Result<Front<'_>, Malformed> {
    let no = |_| Malformed("");
    let end = data[..MAX_V1].windows(2).position(|two| two == b"\r\n");
    let end = end.ok_or(Malformed(""))?;
    let line = std::str::from_utf8(&data[..end]).map_err(|_| Malformed(""))?;
    if !line.is_ascii() || line.contains(['\r', '\n']) {
        return Err(Malformed(""));
    }
    let words: Vec<&str> = line.split(' ').collect();
    let port = |text: &str| -> Result<u16, Malformed> {
        let port: u16 = text.parse().map_err(|_| Malformed(""))?;
        match port.to_string() == text {
            true => Ok(port),
            false => Err(Malformed("")),
        }
    };
    let endpoints = match words[..] {
        [_, "UNKNOWN", ..] => Endpoints::Unknown,
        [_, family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
            let address = |ip: &str, at: &str| -> Result<SocketAddr, Malformed> {
                let ip: std::net::IpAddr = ip.parse().map_err(no)?;
                match ip.is_ipv4() == (family == "TCP4") {
                    true => Ok(SocketAddr::new(ip, port(at)?)),
                    false => Err(Malformed("")),
                }
            };
            Endpoints::Inet {
                source: address(from, from_port)?,
                destination: address(to, to_port)?,
            }
        }
        _ => return Err(Malformed("")),
    };
    Ok(Front::Header {
        endpoints,
        used: end + 2,
    })
}

//! Floor 1. A stub resolver (RFC 1035): asks the name servers of this machine for addresses and services, and blocks
//! meanwhile.
//!
//! ```text
//! name ─► hosts file ─► each of its full names ─► each server, so many times ─► UDP ─┬─► answer
//!                         (search, ndots)           refused, failed: the next        └─ truncated ─► TCP ─► answer
//! ```
//! Each question goes from a port of its own, with an id of its own, both at random; what comes back counts only
//! if it comes from the server that was asked, and has the id and the question. What does not is as if it had not come.
//!
//! Invariants: nothing takes longer than [`Resolver::total`]; all that arrives is bounded (512 bytes by UDP, 64 KiB by TCP,
//! 16 links, 64 hosts of a service).

use crate::base::lookup::{Address, Answer, Failure, Question, is_name};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, RCODE, TYPE, header_buffer};
use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Names that lead to other names, one after the other, in one answer.
const LINKS: usize = 16;
/// Hosts of one service, the first choices first; the others are left out.
const TARGETS: usize = 64;
/// Questions that are under way at once, each with a socket.
const AT_ONCE: usize = 32;
/// Of `/etc/resolv.conf` and `/etc/hosts`, so much is read.
const FILE: u64 = 1024 * 1024;
const NAMESERVERS: usize = 3;
const SEARCHED: usize = 8;

/// How names are looked up; by default without any server or host.
///
/// ```
/// use loopwright::net::dns::Resolver;
/// let resolver = Resolver::read("nameserver 10.0.0.53\nsearch internal\noptions ndots:2", "10.0.0.1 app.internal app");
/// assert_eq!(resolver.nameservers, ["10.0.0.53:53".parse().unwrap()]);
/// let answer = resolver.resolve(&"app:80".parse().unwrap()).unwrap();
/// assert_eq!(answer.addresses[0].addr, "10.0.0.1:80".parse().unwrap());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolver {
    /// Who is asked, in this order.
    pub nameservers: Vec<SocketAddr>,
    /// Domains that names are completed with.
    pub search: Vec<String>,
    /// A name with fewer dots is completed first, and asked for as it is last. 1 by default.
    pub ndots: usize,
    /// How often each server is asked. 2 by default.
    pub attempts: u32,
    /// How long each time. 5 s by default.
    pub timeout: Duration,
    /// How long all of it may take. 15 s by default.
    pub total: Duration,
    /// Names that need no asking, in lower case.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver {
            nameservers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            attempts: 2,
            timeout: Duration::from_secs(5),
            total: Duration::from_secs(15),
            hosts: BTreeMap::new(),
        }
    }
}

impl Resolver {
    /// As this machine is set up: read anew each time, for both files may change.
    pub fn system() -> Resolver {
        let read = |path| {
            let mut bytes = Vec::new();
            // What cannot be read says nothing.
            let _ = File::open(path).and_then(|file| file.take(FILE).read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let mut resolver = Resolver::read(&read("/etc/resolv.conf"), &read("/etc/hosts"));
        if resolver.nameservers.is_empty() {
            // As resolv.conf(5) has it.
            resolver.nameservers.push((Ipv4Addr::LOCALHOST, 53).into());
        }
        resolver
    }

    /// As these two files say. What is not known in them is passed over.
    pub fn read(resolv_conf: &str, hosts: &str) -> Resolver {
        let mut resolver = Resolver::default();
        for line in resolv_conf.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if resolver.nameservers.len() < NAMESERVERS => {
                    let ip = words.next().and_then(|ip| ip.parse::<IpAddr>().ok());
                    resolver
                        .nameservers
                        .extend(ip.map(|ip| SocketAddr::new(ip, 53)));
                }
                // The last of them holds.
                Some("search" | "domain") => {
                    let domain = |word: &str| word.trim_matches('.').to_owned();
                    let domains = words.map(domain).filter(|word| !word.is_empty());
                    resolver.search = domains.take(SEARCHED).collect();
                }
                Some("options") => words.for_each(|option| resolver.option(option)),
                _ => {}
            }
        }
        for line in hosts.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            if let Some(ip) = words.next().and_then(|ip| ip.parse::<IpAddr>().ok()) {
                for name in words {
                    let ips = resolver.hosts.entry(name.to_ascii_lowercase()).or_default();
                    if !ips.contains(&ip) {
                        ips.push(ip);
                    }
                }
            }
        }
        resolver
    }

    /// With the bounds of resolv.conf(5).
    fn option(&mut self, option: &str) {
        let Some((name, number)) = option.split_once(':') else {
            return;
        };
        let Ok(number) = number.parse::<u32>() else {
            return;
        };
        match name {
            "ndots" => self.ndots = number.min(15) as usize,
            "attempts" => self.attempts = number.clamp(1, 5),
            "timeout" => self.timeout = Duration::from_secs(number.clamp(1, 30).into()),
            _ => {}
        }
    }

    /// Looks up one name.
    pub fn resolve(&self, question: &Question) -> Result<Answer, Failure> {
        let until = Instant::now() + self.total;
        match question {
            Question::Host { name, port } => {
                let mut found = self.hosts_of(std::slice::from_ref(name), true, until);
                found
                    .pop()
                    .unwrap_or(Err(Failure::NotFound))?
                    .answer(name, *port)
            }
            Question::Service { name } => self.service(name, until),
        }
    }

    /// The hosts that offer a service, with their addresses.
    fn service(&self, name: &str, until: Instant) -> Result<Answer, Failure> {
        let mut found = Err(Failure::NotFound);
        for full in self.full_names(name) {
            let mut answers = self.ask(&[(full, TYPE::SRV)], until);
            found = answers.pop().unwrap_or(Err(Failure::NotFound));
            if found != Err(Failure::NotFound) {
                break;
            }
        }
        let found = found?;
        let mut offers: Vec<_> = found.records.iter().filter_map(Record::offer).collect();
        offers.sort();
        offers.truncate(TARGETS);
        let mut targets: Vec<String> = offers.iter().map(|o| o.target.clone()).collect();
        targets.sort();
        targets.dedup();
        let hosts = self.hosts_of(&targets, false, until);

        let mut answer = Answer {
            addresses: Vec::new(),
            ttl: found.ttl,
            missing: None,
        };
        for offer in offers {
            let at = targets.binary_search(&offer.target);
            match at.ok().and_then(|at| hosts.get(at)) {
                Some(Ok(host)) => {
                    answer.ttl = shorter(answer.ttl, host.ttl);
                    answer.missing = answer.missing.or(host.missing.clone());
                    let address = |ip| Address {
                        priority: offer.priority,
                        // A weight of 0 is "rarely" (RFC 2782), not "never".
                        weight: offer.weight.max(1),
                        host: offer.target.trim_end_matches('.').to_owned(),
                        addr: SocketAddr::new(ip, offer.port),
                    };
                    answer.addresses.extend(host.ips().map(address));
                }
                Some(Err(Failure::NotFound)) | None => {}
                Some(Err(failure)) => answer.missing = Some(failure.clone()),
            }
        }
        match (answer.addresses.is_empty(), &answer.missing) {
            (true, missing) => Err(missing.clone().unwrap_or(Failure::NotFound)),
            (false, _) => Ok(answer),
        }
    }

    /// The addresses of hosts: each by itself, all at once. `completed`: by the search list, for names of people.
    fn hosts_of(
        &self,
        names: &[String],
        completed: bool,
        until: Instant,
    ) -> Vec<Result<Found, Failure>> {
        let mut found: Vec<Option<Result<Found, Failure>>> = names
            .iter()
            .map(|name| self.at_hand(name).map(Ok))
            .collect();
        let full = |name: &String| match completed {
            true => self.full_names(name),
            false => vec![name.clone()],
        };
        let full: Vec<_> = names.iter().map(full).collect();
        for round in 0..full.iter().map(Vec::len).max().unwrap_or(0) {
            // Whoever has not been found by another name of its own.
            let is_open = |at: &usize| matches!(found[*at], None | Some(Err(Failure::NotFound)));
            let open: Vec<_> = (0..names.len())
                .filter(is_open)
                .filter_map(|at| Some((at, full[at].get(round)?)))
                .collect();
            let questions: Vec<_> = open
                .iter()
                .flat_map(|(_, name)| [TYPE::AAAA, TYPE::A].map(|kind| ((*name).clone(), kind)))
                .collect();
            let mut answers = self.ask(&questions, until).into_iter();
            for (at, _) in open {
                if let (Some(v6), Some(v4)) = (answers.next(), answers.next()) {
                    found[at] = Some(both(v6, v4));
                }
            }
        }
        let or_nothing = |found: Option<_>| found.unwrap_or(Err(Failure::NotFound));
        found.into_iter().map(or_nothing).collect()
    }

    /// What needs no asking: the hosts file, and `localhost` (RFC 6761 §6.3).
    fn at_hand(&self, name: &str) -> Option<Found> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let loopback = || {
            let is_local = name == "localhost" || name.ends_with(".localhost");
            is_local.then(|| vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()])
        };
        let ips = self.hosts.get(&name).cloned().or_else(loopback)?;
        Some(Found {
            records: ips.into_iter().map(Record::Ip).collect(),
            ttl: None,
            missing: None,
        })
    }

    /// The names that `name` may be short for, in the order to be asked for.
    fn full_names(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let completed = self.search.iter().map(|domain| format!("{name}.{domain}."));
        let mut names: Vec<_> = completed.collect();
        let at = match name.matches('.').count() < self.ndots {
            true => names.len(),
            false => 0,
        };
        names.insert(at, format!("{name}."));
        names
    }

    /// Asks the servers. There are as many answers as questions.
    fn ask(&self, questions: &[(String, TYPE)], until: Instant) -> Vec<Result<Found, Failure>> {
        let mut answers = Vec::with_capacity(questions.len());
        for some in questions.chunks(AT_ONCE) {
            answers.extend(self.ask_some(some, until));
        }
        answers
    }

    fn ask_some(
        &self,
        questions: &[(String, TYPE)],
        until: Instant,
    ) -> Vec<Result<Found, Failure>> {
        // What is not final is what the last server that was asked made of it.
        let nobody = || Failure::Other("no name server is known".to_owned());
        let mut answers: Vec<_> = questions.iter().map(|_| Err(nobody())).collect();
        let mut is_final = vec![false; questions.len()];
        for server in (0..self.attempts).flat_map(|_| &self.nameservers) {
            let deadline = until.min(Instant::now() + self.timeout);
            // All are sent before any is waited for.
            let open = (0..questions.len()).filter(|at| !is_final[*at]);
            let sent: Vec<_> = open
                .map(|at| (at, Query::send(&questions[at], *server)))
                .collect();
            for (at, query) in sent {
                let answer = query.and_then(|query| query.receive(*server, deadline));
                is_final[at] = matches!(answer, Ok(_) | Err(Failure::NotFound | Failure::Other(_)));
                answers[at] = answer;
            }
            if is_final.iter().all(|done| *done) || Instant::now() >= until {
                break;
            }
        }
        answers
    }
}

/// What one question has brought.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Found {
    records: Vec<Record>,
    ttl: Option<Duration>,
    missing: Option<Failure>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Record {
    Ip(IpAddr),
    Offer(Offer),
}

/// Who offers a service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Offer {
    priority: u16,
    weight: u16,
    port: u16,
    /// With a dot at its end: it is a full name.
    target: String,
}

impl Record {
    fn offer(&self) -> Option<&Offer> {
        match self {
            Record::Offer(offer) => Some(offer),
            Record::Ip(_) => None,
        }
    }
}

impl Found {
    fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.records.iter().filter_map(|record| match record {
            Record::Ip(ip) => Some(*ip),
            Record::Offer(_) => None,
        })
    }

    fn answer(self, host: &str, port: u16) -> Result<Answer, Failure> {
        let address = |ip| Address::new(host, SocketAddr::new(ip, port));
        Ok(Answer {
            addresses: self.ips().map(address).collect(),
            ttl: self.ttl,
            missing: self.missing,
        })
    }
}

fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

/// The addresses of both families. One family is an answer, if it is known that there is no other; if that is not known,
/// it is a part of one.
fn both(v6: Result<Found, Failure>, v4: Result<Found, Failure>) -> Result<Found, Failure> {
    match (v6, v4) {
        (Ok(mut v6), Ok(v4)) => {
            v6.records.extend(v4.records);
            v6.ttl = shorter(v6.ttl, v4.ttl);
            Ok(v6)
        }
        (Ok(found), Err(Failure::NotFound)) | (Err(Failure::NotFound), Ok(found)) => Ok(found),
        (Ok(found), Err(failure)) | (Err(failure), Ok(found)) => Ok(Found {
            missing: Some(failure),
            ..found
        }),
        (Err(Failure::NotFound), Err(failure)) | (Err(failure), Err(_)) => Err(failure),
    }
}

/// One question to one server.
struct Query<'a> {
    socket: UdpSocket,
    id: u16,
    name: Name<'a>,
    kind: TYPE,
    message: Vec<u8>,
}

impl<'a> Query<'a> {
    fn send((name, kind): &'a (String, TYPE), server: SocketAddr) -> Result<Query<'a>, Failure> {
        // Somebody who can guess it can answer in the server's place: the operating system's randomness, by way of
        // the hash maps' keys.
        let id = RandomState::new().build_hasher().finish() as u16;
        let name = Name::new(name).map_err(|_| Failure::NotFound)?;
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let question =
            simple_dns::Question::new(name.clone(), (*kind).into(), CLASS::IN.into(), false);
        packet.questions.push(question);
        let message = packet
            .build_bytes_vec()
            .map_err(|e| Failure::Other(e.to_string()))?;
        let any: IpAddr = match server.is_ipv4() {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let connected = || {
            let socket = UdpSocket::bind((any, 0))?;
            // Datagrams of others are not received from then on, and refusals are.
            socket.connect(server)?;
            socket.send(&message)?;
            Ok(socket)
        };
        let socket = connected().map_err(|e| refused(server, &e))?;
        Ok(Query {
            socket,
            id,
            name,
            kind: *kind,
            message,
        })
    }

    fn receive(&self, server: SocketAddr, deadline: Instant) -> Result<Found, Failure> {
        let mut buffer = [0; 4096];
        loop {
            self.socket
                .set_read_timeout(Some(left(deadline)?))
                .map_err(|e| refused(server, &e))?;
            let message = match self.socket.recv(&mut buffer) {
                Ok(n) => buffer.get(..n).unwrap_or_default(),
                Err(e) if is_patience(&e) => continue,
                Err(e) => return Err(refused(server, &e)),
            };
            match self.read(message, server) {
                Some(Reply::Is(answer)) => return answer,
                Some(Reply::IsTruncated) => return self.by_tcp(server, deadline),
                None => {}
            }
        }
    }

    fn by_tcp(&self, server: SocketAddr, deadline: Instant) -> Result<Found, Failure> {
        let exchange = || -> io::Result<Vec<u8>> {
            let late = |_| io::Error::from(io::ErrorKind::TimedOut);
            let wait = || left(deadline).map_err(late);
            let mut stream = TcpStream::connect_timeout(&server, wait()?)?;
            let length = u16::try_from(self.message.len()).unwrap_or(u16::MAX);
            stream.set_write_timeout(Some(wait()?))?;
            stream.write_all(&[&length.to_be_bytes()[..], &self.message].concat())?;
            // Each piece may take as long as is left of all the time.
            let mut fill = |buffer: &mut [u8]| {
                let mut filled = 0;
                while filled < buffer.len() {
                    stream.set_read_timeout(Some(wait()?))?;
                    match stream.read(buffer.get_mut(filled..).unwrap_or_default()) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(n) => filled += n,
                        Err(e) if is_patience(&e) => {}
                        Err(e) => return Err(e),
                    }
                }
                Ok(())
            };
            let mut length = [0; 2];
            fill(&mut length)?;
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            fill(&mut message)?;
            Ok(message)
        };
        let message = exchange().map_err(|e| match e.kind() {
            io::ErrorKind::TimedOut => Failure::Timeout,
            _ => refused(server, &e),
        })?;
        match self.read(&message, server) {
            Some(Reply::Is(answer)) => answer,
            _ => Err(Failure::Refused(format!(
                "name server {server}: no answer to the question, by TCP"
            ))),
        }
    }

    /// What a message means; `None`: it is no answer to this.
    fn read(&self, message: &[u8], server: SocketAddr) -> Option<Reply> {
        if header_buffer::id(message).ok()? != self.id {
            return None;
        }
        // What is counted has to be there: nothing is to be reserved for what is not.
        let counts = [
            (header_buffer::questions(message).ok()?, 5),
            (header_buffer::answers(message).ok()?, 11),
            (header_buffer::name_servers(message).ok()?, 11),
            (header_buffer::additional_records(message).ok()?, 11),
        ];
        let least: usize = counts
            .iter()
            .map(|(n, least)| usize::from(*n) * least)
            .sum();
        let is_truncated = header_buffer::has_flags(message, PacketFlag::TRUNCATION).ok()?;
        let is_response = header_buffer::has_flags(message, PacketFlag::RESPONSE).ok()?;
        if is_truncated && is_response {
            // It may end within a record.
            return Some(Reply::IsTruncated);
        }
        if !is_response || least > message.len() {
            return None;
        }
        let packet = Packet::parse(message).ok()?;
        let [question] = &packet.questions[..] else {
            return None;
        };
        let is_ours = question.qname == self.name
            && question.qtype == QTYPE::TYPE(self.kind)
            && question.qclass == QCLASS::CLASS(CLASS::IN);
        is_ours.then(|| {
            Reply::Is(match packet.rcode() {
                RCODE::NoError => self.found(&packet),
                RCODE::NameError => Err(Failure::NotFound),
                code => Err(Failure::Refused(format!("name server {server}: {code:?}"))),
            })
        })
    }

    /// The records of the name, or of the one that it leads to.
    fn found(&self, packet: &Packet<'_>) -> Result<Found, Failure> {
        let mut name = &self.name;
        // A TTL with the highest bit set is none (RFC 2181 §8).
        let seconds = |ttl: u32| if ttl > i32::MAX as u32 { 0 } else { ttl };
        let mut ttl = u32::MAX;
        let answers = || packet.answers.iter().filter(|r| r.class == CLASS::IN);
        for _ in 0..LINKS {
            let link = answers().find_map(|record| match &record.rdata {
                RData::CNAME(to) if record.name == *name => Some((&to.0, record.ttl)),
                _ => None,
            });
            let Some((to, its)) = link else { break };
            (name, ttl) = (to, ttl.min(seconds(its)));
        }
        let mut records = Vec::new();
        for record in answers().filter(|record| record.name == *name) {
            let read = match (&record.rdata, self.kind) {
                (RData::A(a), TYPE::A) => Record::Ip(Ipv4Addr::from(a.address).into()),
                (RData::AAAA(a), TYPE::AAAA) => Record::Ip(Ipv6Addr::from(a.address).into()),
                // The root as target: the service is not offered (RFC 2782). What is no name is not to be logged as one.
                (RData::SRV(srv), TYPE::SRV) => {
                    let target = format!("{}.", srv.target).to_ascii_lowercase();
                    if !is_name(&target) {
                        continue;
                    }
                    Record::Offer(Offer {
                        priority: srv.priority,
                        weight: srv.weight,
                        port: srv.port,
                        target,
                    })
                }
                _ => continue,
            };
            ttl = ttl.min(seconds(record.ttl));
            records.push(read);
        }
        if records.is_empty() {
            return Err(Failure::NotFound);
        }
        Ok(Found {
            records,
            ttl: Some(Duration::from_secs(ttl.into())),
            missing: None,
        })
    }
}

enum Reply {
    Is(Result<Found, Failure>),
    IsTruncated,
}

fn refused(server: SocketAddr, e: &io::Error) -> Failure {
    Failure::Refused(format!("name server {server}: {e}"))
}

fn left(deadline: Instant) -> Result<Duration, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    // A timeout of zero would be none.
    match left.is_zero() {
        true => Err(Failure::Timeout),
        false => Ok(left),
    }
}

/// A wait that is over, or was interrupted: `left` says whether there is another.
fn is_patience(e: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(e.kind(), Interrupted | TimedOut | WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, AAAA, CNAME, SRV};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::thread;

    /// A name server of one test, on one port of UDP and TCP. It answers with what it is told: so many messages.
    struct Server {
        addr: SocketAddr,
        asked: Arc<Mutex<Vec<String>>>,
        by_tcp: Arc<AtomicUsize>,
        stop: Arc<AtomicBool>,
        threads: Vec<thread::JoinHandle<()>>,
    }

    type Answers = dyn Fn(&Packet<'_>, bool) -> Vec<Vec<u8>> + Send + Sync;

    impl Server {
        fn new(
            answers: impl Fn(&Packet<'_>, bool) -> Vec<Vec<u8>> + Send + Sync + 'static,
        ) -> Server {
            let answers: Arc<Answers> = Arc::new(answers);
            // The port that one of them gets may be taken for the other.
            let both = || {
                let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
                Some((UdpSocket::bind(tcp.local_addr().ok()?).ok()?, tcp))
            };
            let (udp, tcp) = (0..50).find_map(|_| both()).expect("a free port");
            let addr = udp.local_addr().unwrap();
            udp.set_read_timeout(Some(Duration::from_millis(10)))
                .unwrap();
            tcp.set_nonblocking(true).unwrap();
            let (asked, by_tcp) = (
                Arc::new(Mutex::new(Vec::new())),
                Arc::new(AtomicUsize::new(0)),
            );
            let stop = Arc::new(AtomicBool::new(false));
            let note = |asked: &Mutex<Vec<String>>, packet: &Packet<'_>| {
                let question = &packet.questions[0];
                asked
                    .lock()
                    .unwrap()
                    .push(format!("{} {:?}", question.qname, question.qtype));
            };
            let on_udp = {
                let (answers, asked, stop) = (answers.clone(), asked.clone(), stop.clone());
                move || {
                    let mut buffer = [0; 2048];
                    while !stop.load(Ordering::Relaxed) {
                        let Ok((n, from)) = udp.recv_from(&mut buffer) else {
                            continue;
                        };
                        let packet = Packet::parse(&buffer[..n]).expect("a question");
                        note(&asked, &packet);
                        for answer in answers(&packet, false) {
                            udp.send_to(&answer, from).unwrap();
                        }
                    }
                }
            };
            let on_tcp = {
                let (by_tcp, stop) = (by_tcp.clone(), stop.clone());
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        let Ok((mut stream, _)) = tcp.accept() else {
                            thread::sleep(Duration::from_millis(5));
                            continue;
                        };
                        by_tcp.fetch_add(1, Ordering::Relaxed);
                        stream.set_nonblocking(false).unwrap();
                        let mut length = [0; 2];
                        stream.read_exact(&mut length).unwrap();
                        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
                        stream.read_exact(&mut message).unwrap();
                        let packet = Packet::parse(&message).expect("a question");
                        for answer in answers(&packet, true) {
                            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                            // In pieces.
                            for piece in [&length[..1], &length[1..], &answer[..7], &answer[7..]] {
                                let _ = stream.write_all(piece);
                                thread::sleep(Duration::from_millis(2));
                            }
                        }
                    }
                }
            };
            let threads = vec![thread::spawn(on_udp), thread::spawn(on_tcp)];
            Server {
                addr,
                asked,
                by_tcp,
                stop,
                threads,
            }
        }

        /// It knows these records, by name.
        fn with(records: Vec<(&'static str, u32, RData<'static>)>) -> Server {
            Server::new(move |packet, _| vec![bytes(&zone(&records, packet))])
        }

        fn resolver(&self) -> Resolver {
            Resolver {
                nameservers: vec![self.addr],
                ..Resolver::default()
            }
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            for thread in self.threads.drain(..) {
                // What it has panicked with, the test should.
                if thread.join().is_err() && !thread::panicking() {
                    panic!("the name server has panicked");
                }
            }
        }
    }

    fn v4(n: u8) -> RData<'static> {
        RData::A(A {
            address: Ipv4Addr::new(10, 0, 0, n).into(),
        })
    }

    fn v6(n: u16) -> RData<'static> {
        RData::AAAA(AAAA {
            address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into(),
        })
    }

    fn cname(to: &'static str) -> RData<'static> {
        RData::CNAME(CNAME(Name::new(to).unwrap()))
    }

    fn srv(priority: u16, weight: u16, port: u16, target: &'static str) -> RData<'static> {
        RData::SRV(SRV {
            priority,
            weight,
            port,
            target: Name::new(target).unwrap(),
        })
    }

    fn bytes(packet: &Packet<'_>) -> Vec<u8> {
        packet.build_bytes_vec_compressed().unwrap()
    }

    /// What a recursive server says: the names that lead on, and what they lead to.
    fn zone(
        records: &[(&'static str, u32, RData<'static>)],
        packet: &Packet<'_>,
    ) -> Packet<'static> {
        let question = packet.questions[0].clone().into_owned();
        let mut reply = Packet::new_reply(packet.id());
        let mut name = question.qname.clone();
        let of = |name: &Name<'_>| {
            let is_it = |record: &&(&'static str, u32, RData<'static>)| {
                Name::new(record.0).unwrap() == *name
            };
            records.iter().filter(is_it).collect::<Vec<_>>()
        };
        if of(&name).is_empty() {
            *reply.rcode_mut() = RCODE::NameError;
        }
        for _ in 0..20 {
            let mut next = None;
            for (owner, ttl, data) in of(&name) {
                let is_asked = QTYPE::TYPE(data.type_code()) == question.qtype;
                if let RData::CNAME(to) = data {
                    next = Some(to.0.clone());
                } else if !is_asked {
                    continue;
                }
                let name = Name::new(owner).unwrap();
                reply
                    .answers
                    .push(ResourceRecord::new(name, CLASS::IN, *ttl, data.clone()));
            }
            let Some(next) = next else { break };
            name = next;
        }
        reply.questions.push(question);
        reply
    }

    fn failing(packet: &Packet<'_>, code: RCODE) -> Vec<u8> {
        let mut reply = Packet::new_reply(packet.id());
        reply.questions = packet.questions.clone();
        *reply.rcode_mut() = code;
        bytes(&reply)
    }

    fn host(name: &str) -> Question {
        Question::Host {
            name: name.to_owned(),
            port: 80,
        }
    }

    fn service(name: &str) -> Question {
        Question::Service {
            name: name.to_owned(),
        }
    }

    /// `host addr priority weight`, each.
    fn listed(answer: &Answer) -> Vec<String> {
        let one = |a: &Address| format!("{} {} {} {}", a.host, a.addr, a.priority, a.weight);
        answer.addresses.iter().map(one).collect()
    }

    #[test]
    fn both_families_with_the_shorter_ttl() {
        let server = Server::with(vec![
            ("App.internal", 60, v4(1)),
            ("app.internal", 60, v4(2)),
            ("app.internal", 20, v6(3)),
            ("other", 1, v4(9)),
        ]);
        let answer = server.resolver().resolve(&host("app.Internal")).unwrap();
        assert_eq!(
            listed(&answer),
            [
                "app.Internal [fd00::3]:80 0 1",
                "app.Internal 10.0.0.1:80 0 1",
                "app.Internal 10.0.0.2:80 0 1"
            ]
        );
        assert_eq!(
            (answer.ttl, answer.missing),
            (Some(Duration::from_secs(20)), None)
        );
        let mut asked = server.asked();
        asked.sort();
        assert_eq!(asked, ["app.Internal TYPE(A)", "app.Internal TYPE(AAAA)"]);
        // One family alone is all there is.
        let answer = server.resolver().resolve(&host("other.")).unwrap();
        assert_eq!(
            (listed(&answer), answer.missing),
            (vec!["other. 10.0.0.9:80 0 1".to_owned()], None)
        );
    }

    #[test]
    fn names_that_lead_to_names() {
        let server = Server::with(vec![
            ("www.a", 300, cname("web.a")),
            ("web.a", 7, cname("host.a")),
            ("host.a", 60, v4(1)),
            ("loop.a", 60, cname("pool.a")),
            ("pool.a", 60, cname("loop.a")),
            ("old.a", u32::MAX, v4(2)),
        ]);
        let answer = server.resolver().resolve(&host("www.a")).unwrap();
        assert_eq!(
            (answer.addresses.len(), answer.ttl),
            (1, Some(Duration::from_secs(7)))
        );
        assert_eq!(
            server.resolver().resolve(&host("loop.a")),
            Err(Failure::NotFound)
        );
        // A TTL that is out of range is none.
        assert_eq!(
            server.resolver().resolve(&host("old.a")).unwrap().ttl,
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn services_have_priorities_weights_and_ports() {
        let server = Server::with(vec![
            ("_http._tcp.a", 60, srv(10, 3, 8081, "One.a")),
            ("_http._tcp.a", 60, srv(10, 0, 8082, "two.a")),
            ("_http._tcp.a", 60, srv(20, 1, 8083, "known.a")),
            ("_http._tcp.a", 60, srv(20, 1, 8084, "gone.a")),
            ("one.a", 5, v4(1)),
            ("one.a", 60, v6(1)),
            ("two.a", 60, v4(2)),
            ("_none._tcp.a", 60, srv(0, 0, 0, ".")),
            ("_odd._tcp.a", 60, srv(0, 0, 80, r"a\010b.a")),
            ("_gone._tcp.a", 60, srv(0, 0, 80, "gone.a")),
        ]);
        let mut resolver = server.resolver();
        resolver
            .hosts
            .insert("known.a".into(), vec![[10, 0, 0, 7].into()]);
        let answer = resolver.resolve(&service("_http._tcp.a")).unwrap();
        assert_eq!(
            listed(&answer),
            [
                "two.a 10.0.0.2:8082 10 1",
                "one.a [fd00::1]:8081 10 3",
                "one.a 10.0.0.1:8081 10 3",
                "known.a 10.0.0.7:8083 20 1",
            ]
        );
        assert_eq!(
            (answer.ttl, answer.missing),
            (Some(Duration::from_secs(5)), None)
        );
        for name in [
            "_none._tcp.a",
            "_odd._tcp.a",
            "_gone._tcp.a",
            "_unknown._tcp.a",
        ] {
            assert_eq!(
                resolver.resolve(&service(name)),
                Err(Failure::NotFound),
                "{name}"
            );
        }
    }

    #[test]
    fn more_hosts_than_are_asked_for_at_once() {
        let name = |n: u8| &*format!("h{n}.a").leak();
        let mut records: Vec<_> = (0..100).map(|n| (name(n), 60, v4(n))).collect();
        records.extend((0..100).map(|n| ("_http._tcp.a", 60, srv(n.into(), 1, 80, name(n)))));
        let server = Server::new(move |packet, is_tcp| {
            let mut reply = zone(&records, packet);
            if bytes(&reply).len() > 512 && !is_tcp {
                reply.answers.clear();
                reply.set_flags(PacketFlag::TRUNCATION);
            }
            vec![bytes(&reply)]
        });
        let answer = server.resolver().resolve(&service("_http._tcp.a")).unwrap();
        let priorities: Vec<_> = answer
            .addresses
            .iter()
            .map(|a| usize::from(a.priority))
            .collect();
        assert_eq!(
            priorities,
            (0..TARGETS).collect::<Vec<_>>(),
            "the first choices"
        );
        assert_eq!(server.by_tcp.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_truncated_comes_by_tcp() {
        for (cut, want) in [(usize::MAX, 41), (20, 41)] {
            let server = Server::new(move |packet, is_tcp| {
                let mut records = vec![("app", 60, v6(1))];
                records.extend((0..40).map(|n| ("app", 60, v4(n))));
                let mut reply = zone(&records, packet);
                if !is_tcp {
                    reply.set_flags(PacketFlag::TRUNCATION);
                }
                let mut bytes = bytes(&reply);
                bytes.truncate(if is_tcp { usize::MAX } else { cut.min(512) });
                vec![bytes]
            });
            let answer = server.resolver().resolve(&host("app")).unwrap();
            assert_eq!(
                (
                    answer.addresses.len(),
                    server.by_tcp.load(Ordering::Relaxed)
                ),
                (want, 2)
            );
        }
        // A server that does not do TCP properly.
        for answer in [vec![], vec![vec![0; 9]]] {
            let server = Server::new(move |packet, is_tcp| {
                if is_tcp {
                    return answer.clone();
                }
                let mut reply = zone(&[], packet);
                reply.set_flags(PacketFlag::TRUNCATION);
                vec![bytes(&reply)]
            });
            let failure = server.resolver().resolve(&host("app")).unwrap_err();
            assert!(matches!(failure, Failure::Refused(_)), "{failure}");
        }
    }

    #[test]
    fn a_server_that_fails_is_not_the_last_word() {
        let bad = Server::new(|packet, _| vec![failing(packet, RCODE::ServerFailure)]);
        let good = Server::with(vec![("app", 60, v4(1))]);
        let mut resolver = bad.resolver();
        let failure = resolver.resolve(&host("app")).unwrap_err();
        assert_eq!(
            failure.to_string(),
            format!("name server {}: ServerFailure", bad.addr)
        );
        assert_eq!(bad.asked().len(), 4, "two questions, twice");
        resolver.nameservers.push(good.addr);
        assert_eq!(resolver.resolve(&host("app")).unwrap().addresses.len(), 1);
        // What one has said need not be asked of the next.
        assert_eq!((bad.asked().len(), good.asked().len()), (6, 2));
        // Nobody listens there.
        let closed = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        resolver.nameservers = vec![closed];
        let failure = resolver.resolve(&host("app")).unwrap_err();
        assert!(matches!(failure, Failure::Refused(_)), "{failure}");
        resolver.nameservers.push(good.addr);
        assert!(resolver.resolve(&host("app")).is_ok());
        resolver.nameservers.clear();
        let failure = resolver.resolve(&host("app")).unwrap_err();
        assert_eq!(failure.to_string(), "no name server is known");
    }

    #[test]
    fn a_family_that_cannot_be_asked_for_is_missing() {
        let server = Server::new(|packet, _| match packet.questions[0].qtype {
            QTYPE::TYPE(TYPE::A) => vec![bytes(&zone(&[("app", 60, v4(1))], packet))],
            _ => vec![failing(packet, RCODE::Refused)],
        });
        let answer = server.resolver().resolve(&host("app")).unwrap();
        assert!(matches!(answer.missing, Some(Failure::Refused(_))));
        assert_eq!(answer.addresses.len(), 1);
        // Neither: that there is none of the one does not say that there is none of the other.
        let failure = server.resolver().resolve(&host("other")).unwrap_err();
        assert!(matches!(failure, Failure::Refused(_)), "{failure}");
    }

    #[test]
    fn silence_ends() {
        let server = Server::new(|_, _| vec![]);
        let mut resolver = server.resolver();
        resolver.timeout = Duration::from_millis(60);
        let began = Instant::now();
        assert_eq!(resolver.resolve(&host("app")), Err(Failure::Timeout));
        assert!(began.elapsed() >= Duration::from_millis(120));
        assert_eq!(server.asked().len(), 4);
        // Whatever the attempts.
        (resolver.attempts, resolver.total) = (1000, Duration::from_millis(200));
        let began = Instant::now();
        assert_eq!(resolver.resolve(&host("app")), Err(Failure::Timeout));
        assert!(began.elapsed() < Duration::from_secs(2));
        assert!(server.asked().len() < 20);
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_not_one() {
        let records = [("app", 60, v4(1)), ("evil", 60, v4(66))];
        type Forge = fn(&mut Packet<'static>);
        let forgeries: [Forge; 5] = [
            |reply| reply.set_id(reply.id().wrapping_add(1)),
            |reply| reply.questions.clear(),
            |reply| reply.questions[0].qname = Name::new("evil").unwrap(),
            |reply| reply.questions[0].qtype = TYPE::TXT.into(),
            |reply| reply.remove_flags(PacketFlag::RESPONSE),
        ];
        for (n, forge) in forgeries.into_iter().enumerate() {
            let server = Server::new({
                let records = records.clone();
                move |packet, _| {
                    let mut forged = zone(&records, packet);
                    for record in &mut forged.answers {
                        record.rdata = v4(66);
                    }
                    forge(&mut forged);
                    let garbage = [vec![], vec![1, 2, 3], vec![0xff; 400]];
                    [
                        garbage.to_vec(),
                        vec![bytes(&forged), bytes(&zone(&records, packet))],
                    ]
                    .concat()
                }
            });
            let answer = server.resolver().resolve(&host("app")).unwrap();
            assert_eq!(listed(&answer), ["app 10.0.0.1:80 0 1"], "{n}");
            assert_eq!(server.asked().len(), 2, "{n}: no second attempt was needed");
        }
        // A record of another name, in an answer to the question.
        let server = Server::new(|packet, _| {
            let mut reply = zone(&[("app", 60, v4(1))], packet);
            for record in &mut reply.answers {
                record.name = Name::new("evil").unwrap();
            }
            vec![bytes(&reply)]
        });
        assert_eq!(
            server.resolver().resolve(&host("app")),
            Err(Failure::NotFound)
        );
        // Nothing but garbage.
        let server = Server::new(|_, _| vec![vec![0xff; 600]; 3]);
        let resolver = Resolver {
            timeout: Duration::from_millis(60),
            ..server.resolver()
        };
        assert_eq!(resolver.resolve(&host("app")), Err(Failure::Timeout));
    }

    #[test]
    fn names_are_completed() {
        let server = Server::with(vec![
            ("app.b.c", 60, v4(1)),
            ("x.y", 60, v4(2)),
            ("_http._tcp.x.b.c", 60, srv(0, 0, 80, "x.y")),
        ]);
        let mut resolver = server.resolver();
        resolver.search = vec!["a.c".into(), "b.c".into()];
        let names = |server: &Server| {
            let mut asked = server.asked();
            asked.retain(|asked| !asked.ends_with("(AAAA)"));
            asked
                .iter()
                .map(|asked| asked.split(' ').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert!(resolver.resolve(&host("app")).is_ok());
        assert_eq!(names(&server), ["app.a.c", "app.b.c"]);
        assert!(resolver.resolve(&host("x.y")).is_ok(), "enough dots");
        assert_eq!(resolver.resolve(&host("app.")), Err(Failure::NotFound));
        assert_eq!(names(&server)[2..], ["x.y", "app"]);
        resolver.ndots = 2;
        assert!(resolver.resolve(&host("x.y")).is_ok());
        assert_eq!(names(&server)[4..], ["x.y.a.c", "x.y.b.c", "x.y"]);
        let answer = resolver.resolve(&service("_http._tcp.x")).unwrap();
        assert_eq!(listed(&answer), ["x.y 10.0.0.2:80 0 1"]);
        // What fails is not asked for by another name: that one might be another's.
        let bad = Server::new(|packet, _| vec![failing(packet, RCODE::ServerFailure)]);
        resolver.nameservers = vec![bad.addr];
        assert!(resolver.resolve(&host("app")).is_err());
        assert!(names(&bad).iter().all(|name| name == "app.a.c"));
    }

    #[test]
    fn the_files_of_this_machine() {
        let resolver = Resolver::read(
            "# a comment\nnameserver 10.0.0.1 ; first\nnameserver nonsense\nnameserver ::1\nnameserver 10.0.0.2\n\
             nameserver 10.0.0.3\ndomain old\nsearch a.b. . c\noptions ndots:99 timeout:0 rotate attempts:x attempts:3 timeout\nunknown x",
            "127.0.0.1 localhost # here\n::1 LocalHost\n10.0.0.9 a b\n10.0.0.9 a\nnonsense c\n10.0.0.8 # d\n",
        );
        let servers = ["10.0.0.1:53", "[::1]:53", "10.0.0.2:53"].map(|addr| addr.parse().unwrap());
        assert_eq!(resolver.nameservers, servers);
        assert_eq!(resolver.search, ["a.b", "c"]);
        assert_eq!(
            (
                resolver.ndots,
                resolver.attempts,
                resolver.timeout.as_secs()
            ),
            (15, 3, 1)
        );
        let names: Vec<_> = resolver
            .hosts
            .iter()
            .map(|(name, ips)| (name.as_str(), ips.len()))
            .collect();
        assert_eq!(names, [("a", 1), ("b", 1), ("localhost", 2)]);
        // Nobody is asked.
        let resolver = Resolver {
            nameservers: Vec::new(),
            ..resolver
        };
        assert_eq!(
            listed(&resolver.resolve(&host("A.")).unwrap()),
            ["A. 10.0.0.9:80 0 1"]
        );
        let local = Resolver::default().resolve(&host("app.localhost")).unwrap();
        assert!(local.addresses.iter().all(|a| a.addr.ip().is_loopback()) && local.ttl.is_none());
        assert!(!Resolver::system().nameservers.is_empty());
    }

    proptest! {
        /// A message that is changed, cut or made up leads nowhere else: no panic, no address that was not in it.
        #[test]
        fn any_message_is_read(
            changes in prop::collection::vec((0usize..400, any::<u8>()), 0..6),
            cut in 0usize..400,
            made_up in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        ) {
            let question = ("www.a.".to_owned(), TYPE::SRV);
            let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let query = Query::send(&question, nobody).unwrap();
            let packet = Packet::parse(&query.message).unwrap();
            let records = [("www.a", 300, cname("web.a")), ("web.a", 7, srv(1, 2, 3, "one.a")), ("web.a", 7, srv(4, 5, 6, "two.a"))];
            let mut message = bytes(&zone(&records, &packet));
            let is_whole = matches!(query.read(&message, nobody), Some(Reply::Is(Ok(found))) if found.records.len() == 2);
            prop_assert!(is_whole);
            if let Some(made_up) = made_up {
                message.truncate(2);
                message.extend(made_up);
            }
            for (at, byte) in changes {
                if let Some(place) = message.get_mut(at) {
                    *place = byte;
                }
            }
            message.truncate(cut.max(2));
            if let Some(Reply::Is(Ok(found))) = query.read(&message, nobody) {
                prop_assert!(!found.records.is_empty() && found.records.len() <= message.len() / 11);
            }
        }

        /// Whatever the files say.
        #[test]
        fn any_file_is_read(resolv_conf in "(nameserver |search |options |domain |ndots:|timeout:|[0-9.:]|[a-z]| |\\n){0,60}", hosts in "([0-9.:]| |[a-z]|#|\\n){0,60}") {
            let resolver = Resolver::read(&resolv_conf, &hosts);
            prop_assert!(resolver.nameservers.len() <= NAMESERVERS && resolver.search.len() <= SEARCHED);
            prop_assert!(resolver.ndots <= 15 && resolver.attempts <= 5 && resolver.timeout <= Duration::from_secs(30));
        }
    }
}

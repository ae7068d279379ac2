//! Floor 5. What may stand in a config: each section, each key, what it is. The one list from which
//! the reader, the JSON Schema and the test of docs/config.md are made.

use super::databases::{DatabaseSection, QueryAction};
use super::decode::{At, Named, OneOrMany, Short, choice, table};
use super::kinds::{
    Count, NameServers, Network, RedisUrl, ServerHeader, Size, Status, Wait, Workers,
};
use super::proxy::ProxyAction;
use super::upstreams::UpstreamSection;
use crate::proto::forwarded::Dialect;
use crate::service::access_log::Format;
use crate::service::bus::RedisSettings;
use crate::{Limits, Lookups, Slow, Timeouts};
use std::path::PathBuf;
use std::time::Duration;

/// A whole config, as written.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    pub(super) server: ServerSection,
    pub(super) limits: Limits,
    pub(super) timeouts: Timeouts,
    pub(super) names: Lookups,
    pub(super) log: LogSection,
    pub(super) bus: BusSection,
    pub(super) headers: Named<Named<String>>,
    pub(super) errors: Named<At<PathBuf>>,
    pub(super) upstreams: Named<At<UpstreamSection>>,
    pub(super) databases: Named<At<DatabaseSection>>,
    pub(super) routes: Vec<At<RouteSection>>,
}

table! { Document {
    "Where and how to serve." server: ServerSection,
    "How much of anything there may be." limits: Limits,
    "How long anybody may take." timeouts: Timeouts,
    "How names of upstreams' servers are looked up." names: Lookups,
    "What is logged, and where to." log: LogSection,
    "How publications reach other processes." bus: BusSection,
    "Sets of response fields, by a name of yours, for `use = [\"headers:NAME\"]`." headers: Named<Named<String>>,
    "Pages of your own by status (\"404\", \"405\", \"500\" …): files, read when the config is." errors: Named<At<PathBuf>>,
    "Servers behind, by a name of yours, for `proxy = \"NAME\"`." upstreams: Named<At<UpstreamSection>>,
    "Databases, by a name of yours, for `query = { database = \"NAME\", … }`." databases: Named<At<DatabaseSection>>,
    "What is served. The most specific path wins, whatever the order." routes: Vec<At<RouteSection>>,
} }

#[derive(Clone, Debug)]
pub(super) struct ServerSection {
    pub(super) listen: OneOrMany<At<String>>,
    pub(super) workers: Workers,
    pub(super) server_header: ServerHeader,
    pub(super) proxy_protocol: Vec<Network>,
    pub(super) middleware: Vec<At<String>>,
    pub(super) trusted_proxies: Vec<Network>,
    pub(super) trusted_fields: Dialect,
}

impl Default for ServerSection {
    fn default() -> Self {
        let address = At {
            value: "127.0.0.1:8080".to_string(),
            span: 0..0,
        };
        ServerSection {
            listen: OneOrMany(vec![address]),
            workers: Workers::Number(1),
            server_header: ServerHeader(Some("loopwright".to_string())),
            proxy_protocol: Vec::new(),
            middleware: Vec::new(),
            trusted_proxies: Vec::new(),
            trusted_fields: Dialect::default(),
        }
    }
}

table! { ServerSection {
    "Addresses: \"ip:port\", \"[ipv6]:port\", \"localhost:port\", \"unix:/path\". Port 0 takes a free one." listen: OneOrMany<At<String>>,
    "Processes that serve: a number, or \"auto\" for one on each core." workers: Workers,
    "The value of the server field; false leaves it out." server_header: ServerHeader,
    "Whose connections begin with a PROXY header, version 1 or 2, and have to: \"10.0.0.0/8\", \"::1\", \"unix\"." proxy_protocol: Vec<Network>,
    "Middleware of every answer, by name, in order: \"headers:NAME\"." middleware as "use": Vec<At<String>>,
    "Proxies in front, whose word on a client's address, scheme and host counts: addresses, networks, \"unix\"." trusted_proxies: Vec<Network>,
    "Which of their fields are heard: \"either\" is x-forwarded-for if it is there, else forwarded." trusted_fields: Dialect,
} }

table! { Limits {
    "Request line and fields of one request; 431 past it. At most 1 MiB." head: Size,
    "The request target alone; 414 past it." target: Size,
    "Field lines of one request; 431 past it. At most 128." fields: Count,
    "A request's body, unless its route says otherwise; 413 past it." body: Size,
    "How much of a body nobody wants is read and dropped to keep the connection." discard: Size,
    "Output of one connection past which its producers wait." high_water: Size,
    "Output of one connection past which a streamed answer is broken off." output: Size,
    "A WebSocket message; closed with 1009 past it." message: Size,
    "Messages that wait for one WebSocket client, some 40 bytes more for each; past it the socket's policy decides." socket_output: Size,
    "WebSocket messages shorter than this are sent uncompressed; 0 for none of them." compress_from: Size,
    "Topics and patterns that one subscriber may be subscribed to." subscriptions: Count,
    "Publications that wait to be delivered." publications: Count,
    "Their bytes." published: Size,
    "Publications handed to subscribers in one turn." deliveries_per_turn: Count,
    "Output of one connection that the kernel holds and has not sent." unsent: Size,
    "Open connections of one process; past it accepting pauses." connections: Count,
    "Open connections from one IP address (IPv6: one /64); past it they are answered 503 and closed." connections_per_address: Count,
    "Connections accepted from one listener in one turn." accepts_per_turn: Count,
    "Reads of one connection in one turn, of 128 KiB each." reads_per_turn: Count,
    "Requests of one connection answered in one turn." requests_per_turn: Count,
    "Bytes written to one connection in one turn." writes_per_turn: Size,
    "Commands settled and timers called in one turn, and tasks polled." commands_per_turn: Count,
    "Closures posted from other threads that may wait." posts: Count,
    "Tasks that run at once; past it a request whose handler would be one is answered 503." tasks: Count,
    "Threads for work that blocks, such as listing a folder." offload_threads: Count,
    "Pieces of such work that may wait for a thread." offload_queue: Count,
} }

table! { Timeouts {
    "For a whole request head; then 408." head: Wait,
    "Between two pieces of a request's body; then 408." body: Wait,
    "The least rate of a request's body, and of a WebSocket message, per second; below it 408, or 1008." body_rate: Size,
    "How long a body, or a message, is given before its rate counts." body_grace: Wait,
    "For a client, or a side of a tunnel, to take some of what waits for it; then the connection closes." write: Wait,
    "Between two requests on a kept connection; then it closes." idle: Wait,
    "For anything from a WebSocket client; then it is asked with a ping." socket_idle: Wait,
    "For the answer to that ping; then the socket is closed." pong: Wait,
    "Between two comments in a stream of server-sent events; \"0s\" for none." heartbeat: Wait,
    "For a connection that the server makes." connect: Wait,
    "For open requests when the server is told to stop; then they are cut." drain: Wait,
    "For idle connections when the server is told to stop." drain_idle: Wait,
    "For a client to close its side after we closed ours." linger: Wait,
    "How long a callback may keep the loop before the log names it; \"0s\" for never." stall: Wait,
    "For a silent peer, until the kernel asks whether it is still there; \"0s\" for never." tcp_keepalive: Wait,
    "How long accepting pauses when the process is out of descriptors or memory, or may not accept." accept_pause: Wait,
} }

table! { Lookups {
    "Name servers that are asked in place of those of /etc/resolv.conf: \"ip\" or \"ip:port\"." servers: NameServers,
    "An answer holds for no shorter time, whatever it says." shortest: Wait,
    "Nor for longer." longest: Wait,
    "How long an answer holds that does not say." unsaid: Wait,
    "How long it holds that there is no such name." negative: Wait,
    "How long a name that is gone keeps its addresses." hold: Wait,
    "The longest pause before a look-up that has failed is made again." retry: Wait,
    "Addresses of one name that are used." addresses: Count,
    "Look-ups that are made at once, each on one of limits.offload_threads." at_once: Count,
    "The head start of one address of a name before the next is tried beside it." delay: Wait,
    "Whether IPv4 addresses are tried first." prefer_v4: bool,
} }

#[derive(Clone, Debug)]
pub(super) struct LogSection {
    pub(super) level: At<String>,
    pub(super) access: Access,
    pub(super) access_file: Option<At<PathBuf>>,
    pub(super) buffer: At<Size>,
    pub(super) flush: Wait,
}

impl Default for LogSection {
    fn default() -> Self {
        LogSection {
            level: At {
                value: "info".to_string(),
                span: 0..0,
            },
            access: Access::Off,
            access_file: None,
            buffer: At {
                value: Size(1 << 20),
                span: 0..0,
            },
            flush: Wait(Duration::from_millis(200)),
        }
    }
}

table! { LogSection {
    "What goes to standard error: \"error\", \"warn\", \"info\", \"debug\", \"trace\", \"off\", or a filter as RUST_LOG, which wins." level: At<String>,
    "The format of the access log." access: Access,
    "The file the access log is appended to; standard output if left out." access_file: Option<At<PathBuf>>,
    "How much of each log may wait to be written; past it lines are dropped, and counted. At least 4 KiB." buffer: At<Size>,
    "How long lines of the access log are gathered before they are written." flush: Wait,
} }

#[derive(Clone, Debug)]
pub(super) struct BusSection {
    pub(super) workers: bool,
    pub(super) redis: Option<RedisUrl>,
    pub(super) prefix: String,
    pub(super) publication: At<Size>,
    pub(super) queue: At<Count>,
    pub(super) queue_size: At<Size>,
    pub(super) patterns: Count,
    pub(super) idle: At<Wait>,
    pub(super) reply: At<Wait>,
    pub(super) retry: At<Wait>,
}

impl Default for BusSection {
    fn default() -> Self {
        fn at<T>(value: T) -> At<T> {
            At { value, span: 0..0 }
        }
        let redis = RedisSettings::default();
        let limits = redis.limits;
        BusSection {
            workers: true,
            redis: None,
            prefix: redis.prefix,
            publication: at(limits.publication.into()),
            queue: at(limits.queue.into()),
            queue_size: at(limits.queue_size.into()),
            patterns: limits.patterns.into(),
            idle: at(redis.idle.into()),
            reply: at(redis.reply.into()),
            retry: at(redis.retry.into()),
        }
    }
}

table! { BusSection {
    "Whether several workers hear what is published in each other." workers: bool,
    "A Redis to publish through instead: \"redis://[[user]:password@]host[:port]\"; keep the password in ${…}." redis: Option<RedisUrl>,
    "Before each topic, in the name of its channel in Redis." prefix: String,
    "The longest publication that leaves its process." publication: At<Size>,
    "Publications that wait for a Redis that is away." queue: At<Count>,
    "Bytes of publications that wait for Redis, or for each of the other workers." queue_size: At<Size>,
    "Patterns that a worker names to another; one with more asks for everything." patterns: Count,
    "How long Redis may be silent before it is asked whether it is there." idle: At<Wait>,
    "How long Redis may owe an answer; then the connection is given up." reply: At<Wait>,
    "The longest pause before Redis is tried again." retry: At<Wait>,
} }

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Off,
    Combined,
    Json,
}

impl Access {
    pub(super) fn format(self) -> Option<Format> {
        match self {
            Access::Off => None,
            Access::Combined => Some(Format::Combined),
            Access::Json => Some(Format::Json),
        }
    }
}

choice! { Access { "off" => Access::Off, "combined" => Access::Combined, "json" => Access::Json } }

#[derive(Clone, Debug, Default)]
pub(super) struct RouteSection {
    pub(super) path: At<String>,
    pub(super) methods: At<Vec<At<String>>>,
    pub(super) host: At<OneOrMany<At<String>>>,
    pub(super) middleware: Vec<At<String>>,
    pub(super) headers: Named<String>,
    pub(super) limits: RouteLimits,
    pub(super) respond: Option<At<RespondAction>>,
    pub(super) redirect: Option<At<RedirectAction>>,
    pub(super) files: Option<At<FilesAction>>,
    pub(super) channel: Option<At<ChannelAction>>,
    pub(super) proxy: Option<At<Short<ProxyAction>>>,
    pub(super) query: Option<At<QueryAction>>,
}

table! { RouteSection {
    "\"/exact\", \"/users/{id}\" for one segment, \"/static/{*rest}\" for the rest." path: At<String>,
    "Left out: every method the action knows. HEAD comes with GET." methods: At<Vec<At<String>>>,
    "Only for these hosts: \"example.org\", \"*.example.org\"." host: At<OneOrMany<At<String>>>,
    "Middleware by name, in order: \"headers:NAME\"." middleware as "use": Vec<At<String>>,
    "Fields added to every answer of this route." headers: Named<String>,
    "Limits of this route." limits: RouteLimits,
    "Answers always the same." respond: Option<At<RespondAction>>,
    "Sends the client elsewhere." redirect: Option<At<RedirectAction>>,
    "Serves the files below a folder." files: Option<At<FilesAction>>,
    "Lets clients follow a topic, and publish to it." channel: Option<At<ChannelAction>>,
    "Passes requests on to an upstream: its name, or a table." proxy: Option<At<Short<ProxyAction>>>,
    "Answers with what a database says to a statement, as JSON." query: Option<At<QueryAction>>,
} required ["path"] }

#[derive(Clone, Debug, Default)]
pub(super) struct RouteLimits {
    pub(super) body: Option<Size>,
}

table! { RouteLimits {
    "A request's body; 413 past it." body: Option<Size>,
} }

#[derive(Clone, Debug)]
pub(super) struct RespondAction {
    pub(super) status: Status,
    pub(super) body: String,
    pub(super) headers: Named<String>,
}

impl Default for RespondAction {
    fn default() -> Self {
        RespondAction {
            status: Status(200),
            body: String::new(),
            headers: Named::default(),
        }
    }
}

table! { RespondAction {
    "The status." status: Status,
    "The body; text/plain unless a content-type is among the headers." body: String,
    "Fields." headers: Named<String>,
} }

#[derive(Clone, Debug)]
pub(super) struct RedirectAction {
    pub(super) to: At<String>,
    pub(super) status: At<Status>,
}

impl Default for RedirectAction {
    fn default() -> Self {
        let status = At {
            value: Status(308),
            span: 0..0,
        };
        RedirectAction {
            to: At::default(),
            status,
        }
    }
}

table! { RedirectAction {
    "The location; {name} stands for the path's parameter of that name, {host} for the host asked for. The query is kept unless there is one here." to: At<String>,
    "301 and 308 for good, 302 and 307 for now, 303 to read the result of a POST." status: At<Status>,
} required ["to"] }

#[derive(Clone, Debug)]
pub(super) struct FilesAction {
    pub(super) root: At<PathBuf>,
    pub(super) index: Vec<At<String>>,
    pub(super) listing: bool,
    pub(super) precompressed: bool,
    pub(super) cache: Vec<At<CacheRule>>,
    pub(super) try_files: Vec<At<String>>,
    pub(super) errors: Named<At<String>>,
}

impl Default for FilesAction {
    fn default() -> Self {
        FilesAction {
            root: At::default(),
            index: vec![At {
                value: "index.html".to_string(),
                span: 0..0,
            }],
            listing: false,
            precompressed: true,
            cache: Vec::new(),
            try_files: Vec::new(),
            errors: Named::default(),
        }
    }
}

table! { FilesAction {
    "The folder. Nothing outside it is served, whatever a symbolic link says." root: At<PathBuf>,
    "What a folder is answered with: the first of these that it has." index: Vec<At<String>>,
    "Whether folders without an index are listed." listing: bool,
    "Whether name.br, name.zst and name.gz are sent to clients that take them." precompressed: bool,
    "The cache-control of files: the first rule that matches." cache: Vec<At<CacheRule>>,
    "Where a path gives nothing, these are looked up in turn: \"{path}.html\", \"/index.html\"." try_files as "try": Vec<At<String>>,
    "Pages below the root by status: 403, 404, 406, 412, 416 and 500 are the ones that files answer with." errors: Named<At<String>>,
} required ["root"] }

#[derive(Clone, Debug, Default)]
pub(super) struct CacheRule {
    pub(super) matches: At<String>,
    pub(super) value: At<String>,
}

table! { CacheRule {
    "Paths below the root; * is any run of characters, / included." matches as "match": At<String>,
    "The value of cache-control." value: At<String>,
} required ["match", "value"] }

#[derive(Clone, Debug)]
pub(super) struct ChannelAction {
    pub(super) topic: At<String>,
    pub(super) history: Count,
    pub(super) history_bytes: Size,
    pub(super) history_age: At<Wait>,
    pub(super) message: At<Size>,
    pub(super) publish: At<bool>,
    pub(super) publish_sockets: bool,
    pub(super) origins: At<Vec<At<String>>>,
    pub(super) slow: Slow,
    pub(super) wait: At<Wait>,
    pub(super) topics: At<Count>,
}

impl Default for ChannelAction {
    fn default() -> Self {
        fn at<T>(value: T) -> At<T> {
            At { value, span: 0..0 }
        }
        ChannelAction {
            topic: At::default(),
            history: Count(100),
            history_bytes: Size(1 << 20),
            history_age: at(Wait(Duration::from_secs(3600))),
            message: at(Size(64 << 10)),
            publish: at(true),
            publish_sockets: false,
            origins: At::default(),
            slow: Slow::Close,
            wait: at(Wait(Duration::from_secs(25))),
            topics: at(Count(256)),
        }
    }
}

table! { ChannelAction {
    "Segments between slashes; {name} stands for the path's parameter of that name." topic: At<String>,
    "Messages of a topic that are remembered; 0 for none." history: Count,
    "Their bytes." history_bytes: Size,
    "How long a message is remembered, and a topic that nobody follows." history_age: At<Wait>,
    "The longest message; 413 past it, for a WebSocket 1009." message: At<Size>,
    "Whether POST publishes." publish: At<bool>,
    "Whether what a WebSocket sends is published; closed with 1008 otherwise." publish_sockets: bool,
    "Pages that may use it: \"https://example.org\", or \"*\" for all. Left out: those of the same host. 403 otherwise." origins: At<Vec<At<String>>>,
    "What happens to a follower that takes less than it is sent." slow: Slow,
    "How long a long poll waits; then 204." wait: At<Wait>,
    "Topics remembered or followed at once, in each process; 503 past it." topics: At<Count>,
} required ["topic"] }

choice! { Slow {
    "close" => Slow::Close,
    "drop-oldest" => Slow::DropOldest,
    "drop-newest" => Slow::DropNewest,
} }

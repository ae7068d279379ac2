//! Floor 0. Time as the loop sees it, and the date line of every answer.
//!
//! Nothing above this floor asks the operating system what time it is: `Net` says so once a turn.
//! That is what lets the simulator run a week of timeouts in a second.

use std::io::Write;
use std::time::{Duration, SystemTime};

/// A moment of the loop's monotonic clock, in microseconds since the loop was made.
///
/// ```
/// use loopwright::Instant;
/// use std::time::Duration;
///
/// let start = Instant::default();
/// let later = start + Duration::from_millis(20);
/// assert_eq!(later - start, Duration::from_millis(20));
/// assert_eq!(start - later, Duration::ZERO); // never negative
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The moment `micros` microseconds after the loop was made.
    pub const fn from_micros(micros: u64) -> Instant {
        Instant(micros)
    }

    /// Microseconds since the loop was made.
    pub const fn as_micros(self) -> u64 {
        self.0
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(
            self.0
                .saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

impl std::ops::Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// The `date` and `server` lines, formatted once a second and copied into every answer.
#[derive(Debug)]
pub struct StockFields {
    /// The status line of nearly every answer, then the lines.
    head: Vec<u8>,
    server: Option<String>,
    refresh_at: Instant,
    /// The wall clock when it was last asked, and when that was.
    asked: (SystemTime, Instant),
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";
/// `date: Sun, 06 Nov 1994 08:49:37 GMT\r\n`
const DATE_LINE: usize = 37;

impl StockFields {
    /// `server` is the value of the `server` field; `None` leaves the field out.
    pub fn new(server: Option<String>) -> StockFields {
        StockFields {
            head: Vec::new(),
            server,
            refresh_at: Instant::default(),
            asked: (SystemTime::UNIX_EPOCH, Instant::default()),
        }
    }

    /// Called once a turn; formats only when the second has changed.
    pub fn refresh(&mut self, now: Instant, wall: impl FnOnce() -> SystemTime) {
        if now < self.refresh_at && !self.head.is_empty() {
            return;
        }
        let wall = wall();
        self.asked = (wall, now);
        let into_second = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.subsec_micros());
        self.refresh_at = now + Duration::from_micros(1_000_000 - u64::from(into_second));
        self.head.clear();
        self.head.extend_from_slice(OK);
        self.head.extend_from_slice(b"date: ");
        // Writing to a Vec cannot fail, and this way allocates nothing.
        let _ = write!(self.head, "{}", httpdate::HttpDate::from(wall));
        self.head.extend_from_slice(b"\r\n");
        if let Some(server) = &self.server {
            self.head.extend_from_slice(b"server: ");
            self.head.extend_from_slice(server.as_bytes());
            self.head.extend_from_slice(b"\r\n");
        }
    }

    /// The wall clock now, as far as it has been asked.
    pub fn wall_clock(&self, now: Instant) -> SystemTime {
        self.asked.0 + (now - self.asked.1)
    }

    /// `HTTP/1.1 200 OK`, and the lines.
    pub fn ok_head(&self) -> &[u8] {
        &self.head
    }

    /// `date: …\r\nserver: …\r\n`.
    pub fn lines(&self) -> &[u8] {
        self.head.get(OK.len()..).unwrap_or_default()
    }

    /// `date: …\r\n` alone.
    pub fn date_line(&self) -> &[u8] {
        self.lines().get(..DATE_LINE).unwrap_or_default()
    }

    /// `server: …\r\n` alone, or nothing.
    pub fn server_line(&self) -> &[u8] {
        self.lines().get(DATE_LINE..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_changes_with_the_second_and_not_before() {
        let mut stock = StockFields::new(Some("x".into()));
        let wall = SystemTime::UNIX_EPOCH + Duration::from_micros(784_111_776_400_000);
        stock.refresh(Instant::from_micros(10), || wall);
        assert_eq!(
            stock.lines(),
            b"date: Sun, 06 Nov 1994 08:49:36 GMT\r\nserver: x\r\n"
        );
        assert_eq!(
            stock.date_line(),
            b"date: Sun, 06 Nov 1994 08:49:36 GMT\r\n"
        );
        assert_eq!(stock.server_line(), b"server: x\r\n");
        stock.refresh(Instant::from_micros(600_009), || {
            unreachable!("the second is not over")
        });
        stock.refresh(Instant::from_micros(600_010), || {
            wall + Duration::from_millis(600)
        });
        assert!(
            stock
                .lines()
                .starts_with(b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n")
        );
    }
}

//! The latencies as a picture: a panel a day, a row a policy, from p50 over p99 to p99.9, on a logarithmic scale.

use crate::simulation::Results;
use std::fmt::Write;
use std::time::Duration;

const LEFT: f64 = 160.0;
const WIDTH: f64 = 440.0;
const ROW: f64 = 18.0;
/// Milliseconds: where the scale begins and ends, and how many powers of ten that is.
const FROM: f64 = 5.0;
const TO: f64 = 5000.0;

const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #212529 } .title { font-size: 17px; font-weight: 600 }
.day { font-weight: 600 } .soft { fill: #6c757d; font-size: 12px } .value { font-size: 11.5px }
.grid { stroke: #dee2e6 } .range { stroke: #ffa94d; stroke-width: 4; stroke-linecap: round } .back { fill: #fff }
.p50 { fill: #868e96 } .p99 { fill: #e8590c } .p999 { fill: #fff; stroke: #e8590c; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e9ecef } .soft { fill: #adb5bd } .grid { stroke: #343a40 } .back, .p999 { fill: #16191d }
}";

pub(crate) fn draw<const POLICIES: usize>(days: &[(&str, [(&str, Results); POLICIES])]) -> String {
    let mut svg = Svg(String::new());
    svg.text(
        20.0,
        32.0,
        "title",
        "start",
        "Latency by policy of load balancing",
    );
    let about = "milliseconds, simulated; ten servers at three quarters of their capacity; at the right, what fails";
    svg.text(20.0, 51.0, "soft", "start", about);
    for (x, kind, label) in [
        (27.0, "p50", "p50"),
        (87.0, "p99", "p99"),
        (147.0, "p999", "p99.9"),
    ] {
        svg.dot(x, 72.0, kind);
        svg.text(x + 10.0, 76.5, "", "start", label);
    }
    let mut y = 108.0;
    for (name, results) in days {
        svg.text(20.0, y, "day", "start", name);
        let bottom = y + 12.0 + ROW * POLICIES as f64;
        for ms in [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] {
            let x = at(Duration::from_millis(ms));
            svg.line((x, y + 8.0), (x, bottom), "grid");
            svg.text(x, bottom + 13.0, "soft", "middle", &ms.to_string());
        }
        for (policy, result) in results {
            y += ROW;
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| at(result.latency(part)));
            svg.text(LEFT - 14.0, y + 4.5, "", "end", policy);
            svg.line((p50, y), (p999, y), "range");
            svg.dot(p50, y, "p50");
            svg.dot(p999, y, "p999");
            svg.dot(p99, y, "p99");
            if result.errors > 0.0 {
                let errors = format!("{:.2} %", result.errors * 100.0);
                svg.text(LEFT + WIDTH + 80.0, y + 4.5, "value", "end", &errors);
            }
        }
        y = bottom + 48.0;
    }
    let size = format!(
        r#"viewBox="0 0 720 {0}" width="720" height="{0}""#,
        y - 20.0
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" {size} role=\"img\">\n<title>Latency by policy</title>\n\
        <style>{STYLE}\n</style>\n<rect class=\"back\" width=\"100%\" height=\"100%\" rx=\"8\"/>\n{}</svg>\n",
        svg.0
    )
}

/// Where a latency is on the scale.
fn at(latency: Duration) -> f64 {
    let ms = (latency.as_secs_f64() * 1000.0).clamp(FROM, TO);
    LEFT + WIDTH * (ms / FROM).ln() / (TO / FROM).ln()
}

/// Elements, one after the other. Writing to a String cannot fail.
struct Svg(String);

impl Svg {
    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, words: &str) {
        let place = format!(r#"x="{x:.1}" y="{y:.1}""#);
        let _ = writeln!(
            self.0,
            r#"<text {place} class="{class}" text-anchor="{anchor}">{words}</text>"#
        );
    }

    fn dot(&mut self, x: f64, y: f64, class: &str) {
        let _ = writeln!(
            self.0,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="4.5" class="{class}"/>"#
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ends = format!("M{:.1} {:.1}L{:.1} {:.1}", from.0, from.1, to.0, to.1);
        let _ = writeln!(self.0, r#"<path d="{ends}" class="{class}"/>"#);
    }
}

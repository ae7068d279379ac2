// The pages' one script: figures of the loop, demos, copying. Paths are relative to the site.
"use strict";

const at = id => document.getElementById(id);
const all = selector => document.querySelectorAll(selector);
const count = n => Math.round(n).toLocaleString("en");
const rate = n => n < 9.95 ? n.toFixed(1) : count(n);
const percent = share => `${(share * 100).toFixed(share < 0.0995 ? 2 : 1)} %`;

// Navigation and curl lines.

for (const link of all("nav a")) {
  if (link.pathname.replace(/\/$/, "") === location.pathname.replace(/\/$/, "")) link.setAttribute("aria-current", "page");
}
const site = new URL(".", document.baseURI).href;
for (const line of all("[data-curl]")) line.textContent = line.textContent.replace("http://127.0.0.1:8080/", site);

for (const button of all("[data-copy]")) button.onclick = async () => {
  const source = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    // No clipboard without https, but for this machine: then a copy by hand.
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => button.textContent = "Copy", 1500);
};

// The loop.

const SPAN = 30; // seconds that a strip shows, at four units of its width each
const still = matchMedia("(prefers-reduced-motion: reduce)");
const readings = []; // the last second, to smooth the figures
const strips = new Map();
for (const figure of all("[data-strip]")) strips.set(figure.dataset.strip, { figure, values: [] });

// Totals in, rates out: a rate is the difference of two readings by the time between them.
function show(now) {
  const last = readings.at(-1);
  if (last && (last.process_id !== now.process_id || now.uptime_seconds <= last.uptime_seconds)) forget();
  readings.push(now);
  if (readings.length > 5) readings.shift();

  for (const cell of all("[data-total]")) cell.textContent = count(now[cell.dataset.total]);
  at("uptime").textContent = duration(now.uptime_seconds);
  at("process").textContent = now.process_id;
  if (readings.length < 2) return;

  const since = name => now[name] - readings[0][name];
  const seconds = since("uptime_seconds");
  const closed = reading => reading.accepted - reading.connections;
  const work = since("worked_seconds") / ((since("worked_seconds") + since("waited_seconds")) || 1);

  at("turns-rate").textContent = rate(since("turns") / seconds);
  at("events-a-turn").textContent = (since("events") / (since("turns") || 1)).toFixed(2);
  at("work-share").textContent = percent(work);
  at("wait-share").textContent = percent(1 - work);
  at("work-arc").setAttribute("stroke-dasharray", `${work * 100} 100`);

  const before = readings.at(-2);
  // What comes by the stream was sent by a timer, and flushed.
  const isBeat = stream.readyState === EventSource.OPEN;
  phase("poll", now.events > before.events, `${rate(since("events") / seconds)} events/s`);
  phase("accept", now.accepted > before.accepted, `${rate(since("accepted") / seconds)}/s`);
  phase("timers", isBeat, `${count(now.timers)} set`);
  phase("run", now.requests > before.requests, `${rate(since("requests") / seconds)} requests/s`);
  phase("flush", isBeat, `${count(now.open_exchanges)} open`);
  phase("reap", closed(now) > closed(before), `${rate((closed(now) - closed(readings[0])) / seconds)}/s`);

  const time = now.uptime_seconds;
  strip("work", time, work, percent, 0.01);
  strip("turns", time, since("turns") / seconds, rate, 10);
  strip("requests", time, since("requests") / seconds, rate, 10);
}

// Figures of before a gap say nothing about it.
function forget() {
  readings.length = 0;
  for (const { values } of strips.values()) values.length = 0;
}

function duration(seconds) {
  const [s, m, h] = [seconds % 60, seconds / 60 % 60, seconds / 3600].map(Math.floor);
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

function phase(id, isLit, figure) {
  at(id).querySelector("[data-figure]").textContent = figure;
  at(id).classList.toggle("lit", isLit);
  // It goes out again, so that the next beat is seen.
  if (isLit && !still.matches) setTimeout(() => at(id).classList.remove("lit"), 120);
}

function strip(name, time, value, text, least) {
  const { figure, values } = strips.get(name);
  const step = values.length ? (time - values.at(-1).time) * 4 : 0;
  values.push({ time, value });
  while (values[0].time < time - SPAN - 2) values.shift();
  const top = scale(Math.max(least, ...values.map(point => point.value)));
  const x = then => (SPAN * 4 - (time - then) * 4).toFixed(2);
  const y = value => (40 - 38 * value / top).toFixed(2);
  const line = values.map(point => `L${x(point.time)} ${y(point.value)}`).join("");
  const path = figure.querySelector("path");
  // Its right edge is outside of what is seen.
  path.setAttribute("d", `M${x(values[0].time)} 42${line}H${SPAN * 4 + 3}V42`);
  if (!still.matches) path.animate([{ transform: `translateX(${step}px)` }, { transform: "none" }], 250);
  figure.querySelector("b").textContent = text(value);
  figure.querySelector("small").textContent = `0 to ${name === "work" ? `${+(top * 100).toFixed(2)} %` : count(top)}`;
}

// The next of 1, 2, 5, 10, 20 …: a scale that does not change with every value.
function scale(value) {
  const ten = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map(n => n * ten).find(n => n >= value * 0.999);
}

function state(text, kind) {
  if (at("state").textContent === text) return;
  at("state").textContent = text;
  at("state").className = `state ${kind}`;
}

let stream, polling;

function watch() {
  stream = new EventSource("loop");
  stream.onmessage = event => {
    state("Live: one streamed answer, four readings a second.", "live");
    show(JSON.parse(event.data));
  };
  stream.onerror = () => {
    if (stream.readyState !== EventSource.CLOSED) return state("The server has gone. Trying again.", "gone");
    // Refused: enough others watch. A reading a second does, too.
    poll();
    polling = setInterval(poll, 1000);
  };
}

async function poll() {
  try {
    const answer = await fetch("loop.json");
    show(await answer.json());
    state("Many watch the stream. Here it is one reading a second.", "live");
  } catch {
    state("The server has gone. Trying again.", "gone");
  }
}

function leave() {
  stream?.close();
  clearInterval(polling);
  forget();
}

if (at("state")) {
  // A page that nobody sees keeps no answer open.
  document.addEventListener("visibilitychange", () => document.hidden ? leave() : watch());
  addEventListener("pagehide", leave);
  addEventListener("pageshow", event => { if (event.persisted) { leave(); watch(); } });
  if (!document.hidden) watch();
}

// Work for the loop.

if (at("work")) at("work").onsubmit = async event => {
  event.preventDefault();
  const [button, output] = [at("work").querySelector("button"), at("work").querySelector("output")];
  const all = 1000;
  let left = all, failed = 0;
  button.disabled = true;
  output.textContent = "…";
  const start = performance.now();
  // As many at once as a browser opens connections, but for the stream's.
  await Promise.all(Array.from({ length: 5 }, async () => {
    while (left-- > 0) {
      try {
        const answer = await fetch("hello/loop", { cache: "no-store" });
        await answer.text();
      } catch { failed++ }
    }
  }));
  const seconds = (performance.now() - start) / 1000;
  const trouble = failed ? `, ${count(failed)} without an answer` : "";
  output.textContent = `${count(all)} requests in ${seconds.toFixed(2)} s, ${count(all / seconds)} a second, as fast as this browser asks${trouble}`;
  button.disabled = false;
};

// Demos.

for (const form of all("[data-demo]")) form.onsubmit = async event => {
  event.preventDefault();
  const [button, output] = [form.querySelector("button:not([data-copy])"), form.querySelector("output")];
  const head = document.createElement("b");
  const body = document.createTextNode("");
  head.textContent = "…";
  output.replaceChildren(head, body);
  button.disabled = true;
  const start = performance.now();
  const took = () => `${count(performance.now() - start)} ms`;
  try {
    const answer = await fetch(...request(form));
    const status = `${answer.status} ${answer.statusText}`;
    const pieces = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece; !(piece = await pieces.read()).done;) {
      head.textContent = `${status}, so far ${took()}`;
      body.data += piece.value;
    }
    head.textContent = `${status}, ${took()}`;
  } catch (e) {
    head.textContent = `no answer after ${took()}`;
    body.data = e.message;
  }
  button.disabled = false;
};

function request(form) {
  switch (form.dataset.demo) {
    case "hello": return [`hello/${encodeURIComponent(form.elements.name.value || "nobody")}`];
    case "upload": {
      const [file] = form.elements.file.files;
      return ["upload", { method: "POST", body: file ?? new Blob([new Uint8Array(16 << 20)]) }];
    }
    default: return [form.dataset.demo];
  }
}

// The curl line says what the form would send.
if (at("name")) at("name").oninput = () => {
  const name = encodeURIComponent(at("name").value || "nobody").replaceAll("'", "%27");
  const line = at("name").form.querySelector("[data-curl]");
  line.textContent = `curl ${site}hello/${name}`;
};

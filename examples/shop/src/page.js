"use strict";

const $ = (id) => document.getElementById(id);
const DASH = "\u2013", SECONDS = 60;

// ---- Formats

const whole = (n) => Math.round(n).toLocaleString("en-US");
const percent = (share) => (share === null ? DASH : `${(100 * share).toFixed(1)}%`);
const dollars = (cents) => `$${(cents / 100).toFixed(2)}`;

function short(number) {
  return number < 10 ? number.toFixed(1) : whole(number);
}

function micros(us) {
  if (us === null || us === undefined) return DASH;
  if (us < 1000) return `${short(us)} \u00b5s`;
  return us < 1e6 ? `${short(us / 1e3)} ms` : `${short(us / 1e6)} s`;
}

function seconds(s) {
  if (s < 1) return micros(s * 1e6);
  if (s < 120) return `${short(s)} s`;
  return s < 7200 ? `${short(s / 60)} min` : `${short(s / 3600)} h`;
}

// ---- Charts

function line(points, color, x, y) {
  const runs = points.map((p, i) => (p === null ? null : `${x(i)},${y(p)}`));
  // The line is interrupted where there is no value.
  const parts = runs.join(" ").split(/ {2,}/).filter((part) => part.trim());
  return parts.map((part) => `<polyline class="${color}" points="${part.trim()}"/>`).join("");
}

function chart(svg, hits, loads, scale, label, title) {
  const [left, right, top, bottom] = [44, 398, 6, 186];
  const x = (i) => (left + ((i + SECONDS - hits.length) * (right - left)) / (SECONDS - 1)).toFixed(1);
  const y = (value) => (bottom - scale.place(value) * (bottom - top)).toFixed(1);
  const ticks = scale.ticks.map((tick) =>
    `<line x1="${left}" x2="${right}" y1="${y(tick)}" y2="${y(tick)}"/>` +
    `<text x="${left - 6}" y="${+y(tick) + 4}" text-anchor="end">${label(tick)}</text>`);
  svg.innerHTML = ticks.join("") + line(loads, "load", x, y) + line(hits, "hit", x, y);
  const last = (points) => (points.at(-1) ?? null) === null ? "none" : label(points.at(-1));
  svg.setAttribute("aria-label", `${title}: cache ${last(hits)}, database ${last(loads)}`);
}

function linear(values) {
  const most = Math.max(10, ...values.filter((v) => v !== null));
  const unit = 10 ** Math.floor(Math.log10(most));
  const step = [1, 2, 5, 10].map((n) => (n * unit) / 2).find((n) => n * 3 >= most);
  return { place: (v) => v / (3 * step), ticks: [0, step, 2 * step, 3 * step] };
}

function decades(values) {
  const logs = values.filter((v) => v > 0).map(Math.log10);
  const low = Math.floor(Math.min(0, ...logs)), high = Math.ceil(Math.max(3, ...logs));
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
  return { place: (v) => (Math.log10(Math.max(v, 10 ** low)) - low) / (high - low), ticks };
}

// ---- Statistics of the shop, polled each second

const history = { lookups: [], reads: [], cached: [], loaded: [] };
let before = null;

const sum = (stats, name) => stats.caches.reduce((all, cache) => all + cache[name], 0);

// The mean of the times that were recorded between two reports.
function mean(now, then) {
  const count = now.count - then.count;
  return count > 0 ? (now.mean_us * now.count - then.mean_us * then.count) / count : null;
}

function addToHistory(now, then) {
  const passed = now.seconds - then.seconds;
  const lookups = (stats) => sum(stats, "hits") + sum(stats, "misses");
  const newest = {
    lookups: (lookups(now) - lookups(then)) / passed,
    reads: (now.database_reads - then.database_reads) / passed,
    cached: mean(now.cached, then.cached),
    loaded: mean(now.database_times, then.database_times),
  };
  for (const [name, value] of Object.entries(newest)) {
    history[name] = [...history[name], value].slice(-SECONDS);
  }
}

function tiles(now) {
  const hits = sum(now, "hits"), all = hits + sum(now, "misses");
  $("hit-ratio").textContent = percent(all ? hits / all : null);
  $("hit-note").textContent = all ? `${whole(hits)} of ${whole(all)} lookups` : "no lookups yet";
  $("rate").textContent = history.lookups.length ? `${whole(history.lookups.at(-1))}/s` : DASH;
  $("rate-note").textContent = history.reads.length
    ? `${whole(history.reads.at(-1))}/s database reads` : "none yet";
  const times = [["cached", now.cached, "reads"], ["loaded", now.database_times, "queries"]];
  for (const [id, summary, unit] of times) {
    $(id).textContent = summary.count ? micros(summary.mean_us) : DASH;
    $(`${id}-note`).textContent = summary.count
      ? `p50 ${micros(summary.p50_us)}, p99 ${micros(summary.p99_us)}` : `no ${unit} yet`;
  }
}

function charts() {
  const { lookups, reads, cached, loaded } = history;
  const rates = linear([...lookups, ...reads]);
  chart($("rates"), lookups, reads, rates, whole, "per second");
  chart($("times"), cached, loaded, decades([...cached, ...loaded]), micros, "mean time");
}

function row(cache) {
  const { load_times: load, ages, redis } = cache;
  const share = cache.hit_ratio === null ? 0 : 100 * cache.hit_ratio;
  const pair = (is, low, high) => (is ? `${low} / ${high}` : DASH);
  const backplane = redis && (redis.breaker_open ? "breaker open"
    : redis.proven_seconds === null ? "not proven" : `proven ${seconds(redis.proven_seconds)}`);
  const cells = [
    whole(cache.hits), whole(cache.loads), whole(cache.coalesced), whole(cache.entries),
    whole(cache.evicted), pair(load.count, micros(load.p50_us), micros(load.p99_us)),
    pair(ages.sampled, seconds(ages.p50), seconds(ages.p99)),
  ];
  const tier = redis
    ? [whole(redis.hits), redis.queued ? `${backplane}, ${whole(redis.queued)} queued` : backplane] : [DASH, DASH];
  return `<tr data-cache="${cache.name}"><th scope="row">${cache.name}</th><td class="wide">` +
    `<span class="bar"><i style="width:${share}%"></i></span>${percent(cache.hit_ratio)}</td>` +
    cells.map((cell) => `<td>${cell}</td>`).join("") +
    tier.map((cell) => `<td class="tier">${cell}</td>`).join("") + "</tr>";
}

function heading(now) {
  const tiers = now.caches.map((cache) => cache.redis).filter(Boolean);
  document.body.classList.toggle("local", !tiers.length);
  $("source").textContent = `${whole(now.products)} products in ${now.database}, ` +
    `open for ${seconds(now.seconds)}`;
  const open = tiers.some((tier) => tier.breaker_open);
  const lost = tiers.some((tier) => tier.proven_seconds === null);
  $("redis").textContent = !tiers.length ? "caches of this process"
    : open ? "Redis does not answer: the circuit breaker is open"
    : lost ? "Redis: invalidations are not proven to arrive"
    : "Redis: invalidations are proven to arrive";
  $("redis").classList.toggle("bad", open || lost);
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

async function request(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function poll() {
  try {
    const now = await request("/stats");
    // The shop was restarted.
    if (before && now.seconds < before.seconds) before = null;
    if (before) addToHistory(now, before);
    before = now;
    heading(now);
    tiles(now);
    charts();
    $("caches").innerHTML = now.caches.map(row).join("");
    await showPrice();
    trouble("");
  } catch (error) {
    trouble(`The shop does not answer: ${error.message}`);
  }
}

// ---- Products

const shown = (id) => document.querySelector(`#products li[data-id="${id}"]`);

function put(element, text) {
  if (!element || element.textContent === text) return;
  element.textContent = text;
  element.classList.remove("changed");
  void element.offsetWidth; // restarts the animation
  element.classList.add("changed");
}

const putPrice = (price) => put(shown(price.id)?.querySelector(".price"), dollars(price.cents));
const putStock = (stock) => put(shown(stock.id)?.querySelector(".stock"), `${stock.count} left`);

async function showPrice() {
  const id = $("product").value;
  if (!id) return;
  const price = await request(`/prices/${id}`);
  putPrice(price);
  put($("price"), dollars(price.cents));
  $("price-note").textContent = `version ${price.version}, read every second through the cache`;
}

async function change(event) {
  event.preventDefault();
  const cents = Math.round(100 * $("cents").valueAsNumber);
  try {
    await request(`/prices/${$("product").value}`, { method: "PUT", body: JSON.stringify({ cents }) });
    await showPrice();
    trouble("");
  } catch (error) {
    trouble(`The price was not changed: ${error.message}`);
  }
}

// ---- Simulated customers

const CUSTOMERS = 5, PAUSE_MS = 15; // the time between two visits of a customer

// A Zipf distribution: the second product is chosen half as often as the first, the third a third as often.
const popular = (products) => Math.min(products, Math.floor((products + 1) ** Math.random()));

async function visit() {
  const id = popular(before.products), user = popular(before.products);
  const [price, stock] = await Promise.all([
    request(`/prices/${id}`), request(`/stock/${id}`), request(`/products/${id}`),
    request(`/sessions/${user}`), request(`/profiles/${user}`),
  ]);
  putPrice(price);
  putStock(stock);
  if (Math.random() < 0.1) await (await fetch("/")).text();
}

let customers = null;

async function customer(mine) {
  while (customers === mine) {
    await visit();
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

function setTraffic(on) {
  customers = on && before ? {} : null;
  $("traffic").textContent = customers ? "Stop the traffic" : "Send traffic";
  $("traffic").setAttribute("aria-pressed", String(Boolean(customers)));
  if (!customers) return;
  const all = Array.from({ length: CUSTOMERS }, () => customer(customers));
  Promise.all(all).catch((error) => {
    setTraffic(false);
    trouble(`The traffic has stopped: ${error.message}`);
  });
}

for (const item of document.querySelectorAll("#products li")) {
  $("product").add(new Option(item.querySelector("a").textContent, item.dataset.id));
}
$("cents").value = "9.99";
$("product").addEventListener("change", showPrice);
$("change").addEventListener("submit", change);
$("traffic").addEventListener("click", () => setTraffic(!customers));

(async function live() {
  await poll();
  setTimeout(live, 1000);
})();

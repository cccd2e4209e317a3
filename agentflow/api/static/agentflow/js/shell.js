/* What all pages share: icons and states, times, requests, the live connection, the theme. */
"use strict";
const AF = {};
AF.$ = (selector, root = document) => root.querySelector(selector);
AF.$$ = (selector, root = document) => [...root.querySelectorAll(selector)];
AF.states = JSON.parse(AF.$("#states").textContent);
AF.text = value => String(value ?? "").replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
AF.icon = (name, extra = "") => `<svg class="ic ${extra}" aria-hidden="true"><use href="${document.body.dataset.icons}#${name}"/></svg>`;
AF.state = (status, attempt = 1) => {
  const [look, icon, word] = AF.states[status === "completed" && attempt > 1 ? "healed" : status] || ["pending", "point", status];
  return { look, icon, word };
};
AF.pill = (status, attempt, word) => {
  const s = AF.state(status, attempt);
  return `<span class="st" data-st="${s.look}">${AF.icon(s.icon, s.look === "running" ? "spin" : "")}${AF.text(word || s.word)}</span>`;
};

/* Times. The server writes UTC; readers see their own zone, the exact moment is in the title. */
AF.span = (ms, parts = 2) => {
  const s = ms / 1000;
  if (s < 1) return `${Math.max(0, Math.round(ms))} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  const out = [];
  let left = Math.floor(s);
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (left >= size) out.push(`${Math.floor(left / size)} ${unit}`), (left %= size);
  }
  return out.slice(0, parts).join(" ");
};
AF.clock = (at, seconds = true) => {
  const d = new Date(at), today = d.toDateString() === new Date().toDateString();
  const time = d.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: seconds ? "2-digit" : undefined, hour12: false });
  return today ? time : `${d.toLocaleDateString([], { day: "numeric", month: "short" })} ${time.slice(0, 5)}`;
};
const SHOWN_AS = {
  clock: at => AF.clock(at), minute: at => AF.clock(at, false),
  ago: at => { const ms = Date.now() - at; return ms < 5000 ? "just now" : `${AF.span(ms, 1)} ago`; },
  since: at => AF.span(Date.now() - at),
  left: at => { const ms = at - Date.now(); return ms >= 0 ? AF.span(Math.max(ms, 1000), ms < 36e5 || ms > 18e6 ? 1 : 2) : `${AF.span(-ms, 1)} over`; },
};
AF.times = (root = document) => AF.$$("time[data-as]", root).forEach(el => {
  const at = Date.parse(el.dateTime), text = SHOWN_AS[el.dataset.as](at);
  if (el.textContent !== text) el.textContent = text;
  if (!el.dataset.local) { el.dataset.local = 1; el.title = new Date(at).toLocaleString([], { dateStyle: "full", timeStyle: "long" }); }
});
AF.times();
setInterval(AF.times, 1000);

/* Requests. A refusal is thrown as the problem the server sent; no network is {status: 0}. */
AF.send = async (method, path, body, headers = {}) => {
  const options = { method, credentials: "same-origin", headers: { Accept: "application/json", ...headers } };
  if (body !== undefined) { options.body = JSON.stringify(body); options.headers["Content-Type"] = "application/json"; }
  if (method !== "GET") options.headers["X-CSRFToken"] = document.body.dataset.csrf;
  let response;
  try { response = await fetch(path, options); } catch {
    throw { status: 0, code: "offline", detail: "The server cannot be reached.", remedy: "Nothing was lost. Try again.", issues: [] };
  }
  if (response.redirected && new URL(response.url).pathname.startsWith("/login")) location.reload();
  const isJson = /json/.test(response.headers.get("Content-Type") || "");
  const answer = isJson ? await response.json() : await response.text();
  if (response.ok) return answer;
  if (response.status === 401) location.reload();
  throw isJson ? { issues: [], ...answer, status: response.status } : { status: response.status, code: "error", detail: `The server answered ${response.status}.`, remedy: "", issues: [] };
};
AF.get = path => AF.send("GET", path);
AF.post = (path, body) => AF.send("POST", path, body, { "Idempotency-Key": crypto.randomUUID?.() || `${Date.now()}-${Math.random()}` });
AF.fragment = path => AF.send("GET", path, undefined, { "X-Fragment": "1", Accept: "text/html" });
AF.why = problem => [problem.detail || problem.title || "It did not work.", problem.remedy].filter(Boolean).join(" ");

/* At most one run at a time and none more often than `pause` ms; a slow one makes the next wait longer. */
AF.coalesce = (work, pause = 300) => {
  let busy = false, again = false, rest = 0;
  const run = async () => {
    if (busy) { again = true; return; }
    busy = true; again = false;
    const began = performance.now();
    try { await work(); } catch (problem) { console.warn(problem); }
    rest = Math.min(Math.max(pause, (performance.now() - began) * 3), 5000);
    setTimeout(() => { busy = false; if (again) run(); }, rest);
  };
  return run;
};

/* The live connection: keeps its place by cursor, comes back by itself, says when it is off. */
AF.live = (path, { message, off, on }) => {
  const light = AF.$("#live");
  let cursor = "", tries = 0, socket, timer, lastSeen = new Date(), wasOff = false;
  const show = (text, isOff) => { light.hidden = false; light.classList.toggle("off", isOff); light.lastElementChild.textContent = text; };
  const retry = () => {
    clearInterval(timer);
    let wait = Math.round(Math.min(2 ** tries++, 20) * (0.8 + Math.random() * 0.4)) || 1;
    wasOff = true;
    show("Reconnecting", true);
    const tick = () => {
      if (wait <= 0) { clearInterval(timer); return connect(); }
      off?.({ seen: lastSeen, wait: wait-- });
    };
    tick();
    timer = setInterval(tick, 1000);
  };
  const connect = () => {
    clearInterval(timer);
    socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}${cursor ? `?cursor=${encodeURIComponent(cursor)}` : ""}`);
    socket.onopen = () => { tries = 0; lastSeen = new Date(); show("Live", false); on?.(wasOff); wasOff = false; };
    socket.onmessage = event => {
      lastSeen = new Date();
      const data = JSON.parse(event.data);
      if (data.cursor) cursor = data.cursor;
      message(data);
    };
    socket.onclose = event => { if ([4401, 4403, 4404].includes(event.code)) return show("Not live", true); retry(); };
  };
  addEventListener("online", () => socket.readyState > 1 && connect());
  addEventListener("pagehide", () => { socket.onclose = null; socket.close(); });
  addEventListener("pageshow", event => event.persisted && connect());
  connect();
};

/* Shell */
AF.$("#theme")?.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme:dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.cookie = `theme=${root.dataset.theme};path=/;max-age=31536000;samesite=lax`;
  dispatchEvent(new Event("themechange"));
});
addEventListener("click", event => AF.$$("details.menu[open]").forEach(menu => menu.contains(event.target) || (menu.open = false)));
addEventListener("keydown", event => event.key === "Escape" && AF.$$("details.menu[open]").forEach(menu => { menu.open = false; AF.$("summary", menu).focus(); }));
AF.inboxCount = (count, unread = 0) => AF.$$("[data-inbox-count]").forEach(el => { el.hidden = !count; el.textContent = count > 99 ? "99+" : count; el.classList.toggle("unread", unread > 0); el.setAttribute("aria-label", `${count} waiting, ${unread} not opened`); });
if (AF.$("[data-inbox-count]") && !AF.$("main.inbox")) AF.get("/inbox/count").then(answer => AF.inboxCount(answer.count, answer.unread), () => {});
/* Typing keys are never shortcuts. */
AF.typing = event => event.metaKey || event.ctrlKey || event.altKey || /INPUT|TEXTAREA|SELECT/.test(event.target.tagName) || event.target.isContentEditable;

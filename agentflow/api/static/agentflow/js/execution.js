/* The page of one execution: fetches the graph once and the state whenever something happened, and
   hands both to the graph, the timeline, the step panel and the log. */
"use strict";
(async () => {
  const { $, $$ } = AF, page = JSON.parse($("#page").textContent), base = `/executions/${page.id}`, api = `/api/v1/executions/${page.id}`;
  const ACTIVE = ["pending", "running", "paused", "cancelling"], TROUBLE = ["failed", "waiting_human"];
  let state, graph, timeline, chosen = null, chosenMark = "", fetchedAt = 0, headHtml = "", tab = "explain", problemAt = -1, armed = null;

  const trouble = text => { const el = $("#trouble"); el.hidden = !text; $("div", el).textContent = text; };
  const now = () => state.now + (performance.now() - fetchedAt);
  const took = () => { const el = $("#took"); if (el) el.textContent = AF.span(Date.parse(el.dataset.to) - Date.parse(el.dataset.from)); };
  took();

  /* What a step says in two words below its name. */
  function sub(step, raw) {
    const [, status, attempt, reason, started, ended, again] = raw, tries = attempt > 1 ? `, try ${attempt}` : "";
    if (status === "running") return AF.span(Math.max(now() - started, 0)) + tries;
    if (status === "completed") return (started === null ? "done" : AF.span(ended - started) + tries) + (raw[8] ? ", edited" : "");
    if (status === "failed") return state.tries[step.id]?.at(-1)?.[2] || reason || "failed";
    if (status === "waiting_human") { const asked = state.waits[step.id]?.at(-1); return asked ? `asked ${AF.span(Math.max(now() - asked[0], 0), 1)} ago` : "asked"; }
    if (status === "ready") return again && again > now() ? `again in ${AF.span(again - now(), 1)}` : "in line" + tries;
    if (status === "blocked") { const open = step.before.filter(b => !["completed", "skipped", "failed", "cancelled"].includes(b.raw?.[1])).length; return open ? `after ${open} ${open === 1 ? "step" : "steps"}` : "about to start"; }
    return reason || AF.state(status).word.toLowerCase();
  }
  function describe() {
    const rows = new Map(state.steps.map(raw => [raw[0], raw]));
    for (const step of graph.steps) step.raw = rows.get(step.id) || [step.id, "blocked", 0, "", null, null, null, null];
    const states = new Map();
    for (const step of graph.steps) {
      step.now = { ...AF.state(step.raw[1], step.raw[2]), status: step.raw[1], attempt: step.raw[2], choice: step.raw[7], sub: sub(step, step.raw) };
      states.set(step.id, step.now);
    }
    return states;
  }
  function draw() {
    const states = describe();
    graph.update(states);
    const shown = timeline.render(graph.order, state, chosen, now());
    $("#rows-note").textContent = shown ? `${shown} of ${graph.steps.length} steps, those that failed or wait among them` : "";
  }
  function summary() {
    const count = {};
    for (const step of graph.steps) count[step.now.look] = (count[step.now.look] || 0) + 1;
    const settled = ["completed", "healed", "failed", "skipped", "cancelled"].reduce((sum, look) => sum + (count[look] || 0), 0);
    $("#settled").textContent = `${settled} of ${graph.steps.length} settled`;
    $("#legend").innerHTML = Object.entries(count).map(([look, n]) => `<span data-st="${look}"><i></i>${Object.values(AF.states).find(s => s[0] === look)[2]} ${n}</span>`).join("");
    $("#problem").hidden = problems().length < 1 || graph.steps.length < 2;
  }
  const problems = () => graph.steps.filter(step => TROUBLE.includes(step.raw[1]));
  function head() {
    if (state.head === headHtml) return;
    const focus = $("#head").contains(document.activeElement) ? document.activeElement.dataset.do : null;
    headHtml = state.head; $("#head").innerHTML = headHtml; AF.times($("#head")); took(); armed = null;
    const pill = $(".head .st");
    document.title = `${pill?.textContent.trim()} - ${$("h1").textContent} - agentflow`;
    $("#say").textContent = $(".why p")?.textContent || pill?.textContent || "";
    if (focus) ($(`[data-do="${focus}"]`) || $("[data-do]"))?.focus();
  }
  async function load() {
    const answer = await AF.get(`${base}/state`);
    if (answer.undo !== page.undo) return location.reload(); // steps that undo others have come, or gone
    state = answer; fetchedAt = performance.now();
    head();
    if (!graph) return;
    draw(); summary();
    const step = graph.byId.get(chosen);
    if (step && JSON.stringify(step.raw) !== chosenMark) await panel(step);
  }

  /* Step panel */
  async function panel(step) {
    const mark = chosenMark = JSON.stringify(step.raw);
    const html = await AF.fragment(`${base}/step?block=${encodeURIComponent(step.id)}&tab=${tab}`);
    if (step.id !== chosen || mark !== chosenMark) return; // another step, or a newer state of it, was asked for since
    const scrolls = $$(".box", $("#step")).map(el => el.scrollTop), focus = $("#step").contains(document.activeElement) ? document.activeElement.id : "";
    $("#step").innerHTML = html; AF.times($("#step"));
    const open = document.getElementById(`tab-${tab}`); // may have been turned to meanwhile
    if (open && open.getAttribute("aria-selected") !== "true") turn(open);
    $$(".box", $("#step")).forEach((el, i) => (el.scrollTop = scrolls[i] || 0));
    if (focus) document.getElementById(focus)?.focus();
  }
  /* What an agent has written so far: shown while it comes, and gone with the next state of its step. */
  function writing({ blockId, text }) {
    if (blockId !== chosen || !$("#writing")) return;
    $("#writing").hidden = false;
    $("#writing pre").textContent = text;
    $("#writing .box").scrollTop = $("#writing .box").scrollHeight;
  }
  function choose(id, show = false) {
    chosen = id; graph.choose(id);
    $$(".g-row", $("#gantt")).forEach(row => row.dataset.id === id ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current"));
    scope(null);
    const step = graph.byId.get(id);
    panel(step).then(() => show && innerWidth < 1200 && $("#step").scrollIntoView({ behavior: "smooth", block: "start" }), problem => trouble(AF.why(problem)));
  }
  $("#step").addEventListener("click", event => { const button = event.target.closest("[role=tab]"); if (button) turn(button); });
  $("#step").addEventListener("keydown", event => {
    const tabs = $$("[role=tab]", $("#step")), at = tabs.indexOf(event.target), by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (at >= 0 && by) { const to = tabs[(at + by + tabs.length) % tabs.length]; turn(to); to.focus(); }
  });
  function turn(button) {
    tab = button.id.slice(4);
    $$("[role=tab]", $("#step")).forEach(el => { const on = el === button; el.setAttribute("aria-selected", on); el.tabIndex = on ? 0 : -1; document.getElementById(el.getAttribute("aria-controls")).hidden = !on; });
  }

  /* Log */
  const log = $("#log"), LINES = 400;
  let cursor = "", follow = true, only = null, logRun = 0;
  const line = entry => `<div class="${entry.level === "error" ? "e" : entry.level === "warning" ? "w" : ""}"><time datetime="${entry.timestamp}" title="${AF.text(new Date(entry.timestamp).toLocaleString())}">${AF.clock(entry.timestamp)}</time><span>${AF.text(entry.message)}</span></div>`;
  const more = AF.coalesce(async () => {
    const run = logRun, query = only === null ? "" : `&blockId=${encodeURIComponent(only)}`;
    if (!cursor && !log.childElementCount) {
      const { total } = await AF.get(`${api}/logs?limit=1${query}`);
      const { logs } = await AF.get(`${api}/logs?limit=${LINES}&offset=${Math.max(0, total - LINES)}${query}`);
      if (run === logRun) show(logs);
      if (run === logRun && !logs.length) log.innerHTML = "";
      return;
    }
    for (;;) {
      const { logs } = await AF.get(`${api}/logs?limit=200&after=${encodeURIComponent(cursor)}${query}`);
      if (run !== logRun) return;
      show(logs);
      if (logs.length < 200) return;
    }
  }, 400);
  function show(logs) {
    if (!logs.length) return;
    cursor = logs[logs.length - 1].cursor;
    log.insertAdjacentHTML("beforeend", logs.map(line).join(""));
    while (log.childElementCount > LINES) log.firstElementChild.remove();
    if (follow) log.scrollTop = log.scrollHeight;
  }
  function following(on) { follow = on; const button = $("#follow"); button.setAttribute("aria-pressed", on); button.textContent = on ? "Following" : "Follow"; if (on) log.scrollTop = log.scrollHeight; }
  $("#follow").onclick = () => following(!follow);
  log.addEventListener("scroll", () => { const end = log.scrollHeight - log.scrollTop - log.clientHeight < 24; if (end !== follow) following(end); });
  function scope(id) {
    const button = $("#log-scope");
    button.hidden = chosen === null;
    button.textContent = id === null ? "All steps" : "This step only";
    button.setAttribute("aria-label", id === null ? "Log of all steps; press for the chosen step only" : "Log of the chosen step; press for all steps");
    if (id !== only) { only = id; cursor = ""; logRun++; log.innerHTML = ""; more(); }
  }
  $("#log-scope").onclick = () => scope(only === null ? chosen : null);

  /* Commands. Cancelling takes a second press within four seconds. */
  $("#head").addEventListener("click", async event => {
    const button = event.target.closest("button");
    if (button?.dataset.show) return choose(button.dataset.show, true);
    const command = button?.dataset.do;
    if (!command) return;
    if (command === "cancel" && armed !== button) {
      const span = $("span", button), word = span.textContent;
      armed = button; span.textContent = `Confirm: ${word.toLowerCase()}`;
      setTimeout(() => { if (armed === button) armed = null; if (!button.disabled) span.textContent = word; }, 4000);
      return;
    }
    button.disabled = true; trouble("");
    try { await AF.post(`${api}/${command}`, "compensate" in button.dataset ? { compensate: true } : {}); headHtml = ""; refresh(); }
    catch (problem) { button.disabled = false; trouble(AF.why(problem)); }
  });

  const refresh = AF.coalesce(async () => {
    try { await load(); } catch (problem) { if (!state) trouble(AF.why(problem)); throw problem; }
  }, 300);

  const [data] = await Promise.all([AF.get(page.graph), load()]).catch(problem => { trouble(`The graph could not be loaded. ${AF.why(problem)}`); return [null]; });
  if (!data) return;
  timeline = AF.timeline($("#gantt"), { pick: id => choose(id, true) });
  graph = AF.graph($("#dag"), data, { pick: id => choose(id, true) });
  draw(); summary();
  const first = problems()[0] || graph.steps.find(step => step.raw[1] === "running") || null;
  graph.start(first?.id);
  if (first) choose(first.id); else if (graph.order.length) choose(graph.order.at(-1).id);
  more();
  const points = AF.points($("#points"), { base, api, trouble, done: () => { headHtml = ""; refresh(); } });

  const healing = AF.coalesce(async () => {
    const root = $("#healing"), fresh = await AF.fragment(`${base}/healing`);
    root.hidden = !fresh.trim();
    if (root.innerHTML !== fresh) { root.innerHTML = fresh; AF.times(root); }
  }, 2000);
  healing();

  $("#fit").onclick = () => graph.fit();
  $("#zoom-in").onclick = () => graph.zoom(1.3);
  $("#zoom-out").onclick = () => graph.zoom(1 / 1.3);
  const next = () => { const all = problems(); if (all.length) choose(all[(problemAt = (problemAt + 1) % all.length)].id); };
  $("#problem").onclick = next;
  const scaled = fold => { timeline.fold(fold); $("#folded").setAttribute("aria-pressed", fold); $("#scaled").setAttribute("aria-pressed", !fold); draw(); };
  $("#folded").onclick = () => scaled(true);
  $("#scaled").onclick = () => scaled(false);
  addEventListener("keydown", event => { if (AF.typing(event)) return; if (event.key === "n") next(); if (event.key === "f") graph.fit(); });
  setInterval(() => { if (ACTIVE.includes(state.status) && !document.hidden) draw(); }, graph.big ? 5000 : 1000);

  const strip = $("#off");
  AF.live(`/ws/executions/${page.id}`, {
    message: event => {
      if (event.type === "block_text") return writing(event);
      if (event.type === "block_step" && event.blockId === chosen) chosenMark = "";
      if (event.type !== "block_log" && event.type !== "hello") { refresh(); points(); healing(); } if (event.type !== "hello") more();
    },
    on: () => { strip.hidden = true; refresh(); more(); points(); healing(); },
    off: ({ seen, wait }) => { strip.hidden = false; $("div", strip).innerHTML = `<b>Live updates are off.</b> You see ${AF.clock(seen)}. Trying again in ${wait} s.`; },
  });
})();

/* The inbox: the server renders rows and details, this keeps them live and sends the decisions. */
"use strict";
(() => {
  const { $, $$ } = AF, waitingTab = $("main").dataset.tab === "waiting", wide = matchMedia("(min-width:720px)");
  const rows = $("#rows"), pane = $("#pane"), say = text => ($("#say").textContent = text);
  const touched = new Set(); // questions that something happened to since they were last looked at
  let query = $("main").dataset.query, ask = null, editor = null, draft = {}, sending = false, tried = false, arriving = null, armed = 0;

  /* List */
  const items = () => $$(".item", rows), current = () => $('.item[aria-current="true"]', rows);
  const shownId = () => $(".detail", pane)?.dataset.id;
  function mark(id) {
    items().forEach(el => el.dataset.id === id ? el.setAttribute("aria-current", "true") : el.removeAttribute("aria-current"));
    const all = items(), at = all.findIndex(el => el.dataset.id === id), place = $("#place");
    if (place && at >= 0) place.textContent = `${at + 1} of ${all.length}`;
  }
  function counts(root = rows) {
    const { count, words, urgent, unread } = $("#facts-of-rows", root).dataset;
    if (!waitingTab) return;
    $("#count").textContent = words;
    $("#urgent").hidden = urgent === "0"; $("#urgent").textContent = `${urgent} act now`;
    $("#unread").hidden = unread === "0"; $("#unread").textContent = `${unread} not opened`;
    document.title = `${+count ? `Inbox (${words})` : "Inbox"} - agentflow`;
    AF.inboxCount(+count, +unread);
  }
  const rowsPath = extra => `/inbox/rows?${[query, extra].filter(Boolean).join("&")}`;
  /* What is shown already, whatever came in between: up to its last row, or all there is. */
  const shownPath = () => rowsPath($("#more", rows) || items().length >= 500 ? `through=${encodeURIComponent($("#facts-of-rows", rows).dataset.end)}` : "size=500");
  const rankOf = text => parseFloat(text || "0");
  function show(html) { rows.innerHTML = html; $("#fresh").hidden = true; arriving = null; AF.times(rows); mark(shownId()); counts(); }
  /* Another text of the same row, in its place. */
  function renew(el, now) {
    if (el.dataset.version === now.dataset.version && el.classList.contains("new") === now.classList.contains("new") && !el.classList.contains("gone")) return;
    const chosen = el.getAttribute("aria-current");
    el.innerHTML = now.innerHTML; el.className = now.className; el.dataset.version = now.dataset.version; el.dataset.place = now.dataset.place;
    if (chosen) el.setAttribute("aria-current", chosen);
    AF.times(el);
  }
  /* Looks again. Rows that left are struck where they are; new ones wait behind a button, so nothing jumps. */
  const refresh = AF.coalesce(async () => {
    if (touched.size > 1000) touched.clear();
    const asked = query, html = await AF.fragment(shownPath());
    if (asked !== query) return;
    const box = document.createElement("div"); box.innerHTML = html;
    const now = new Map($$(".item", box).map(el => [el.dataset.id, el])), known = new Map(items().map(el => [el.dataset.id, el]));
    const end = $("#more", box) ? rankOf($("#facts-of-rows", box).dataset.end) : Infinity;
    const fresh = [...now.keys()].filter(id => !known.has(id));
    const left = [...known.values()].filter(el => !now.has(el.dataset.id) && rankOf(el.dataset.place) <= end && !el.classList.contains("gone"));
    counts(box);
    left.forEach(el => { el.classList.add("gone"); el.classList.remove("new"); $(".left", el).textContent = "Moved on"; });
    const id = shownId(), was = known.get(id)?.dataset.version;
    for (const [one, el] of known) if (now.has(one)) renew(el, now.get(one));
    if (!known.size) { show(html); if (fresh.length && !shownId() && wide.matches) open(fresh[0], false); }
    else if (fresh.length) { arriving = html; const button = $("#fresh"); button.hidden = false; button.textContent = `${fresh.length} new`; }
    if (fresh.length) say(`${fresh.length} new ${fresh.length === 1 ? "question" : "questions"}`);
    if (!id || sending || $(".detail", pane).dataset.status !== "pending") return;
    if (left.some(el => el.dataset.id === id)) await moved(id);
    else if (touched.delete(id) || (now.has(id) && was && now.get(id).dataset.version !== was)) await renewParts(id);
  }, 200);
  $("#fresh").onclick = () => { if (arriving) { show(arriving); $("#scroll").scrollTop = 0; (items()[0] || $("#scroll")).focus(); } };
  rows.addEventListener("click", async event => {
    const more = event.target.closest("#more");
    if (!more) return;
    event.preventDefault();
    const before = items().length, top = $("#scroll").scrollTop;
    show(await AF.fragment(rowsPath(`size=${more.dataset.size}`)));
    $("#scroll").scrollTop = top; items()[before]?.focus({ preventScroll: true });
  });

  /* Narrowing the list leaves the question beside it as it is. */
  const narrow = $("#narrow");
  async function narrowed() {
    query = new URLSearchParams([...new FormData(narrow)].filter(([, value]) => value)).toString();
    history.replaceState(history.state, "", `${location.pathname}${query ? `?${query}` : ""}`);
    show(await AF.fragment(rowsPath("")));
    say(`${items().length} shown`);
  }
  if (narrow) {
    let typing; const button = $("#filters");
    button.onclick = () => { const yes = $("#choices").hidden; $("#choices").hidden = !yes; button.setAttribute("aria-expanded", yes); };
    narrow.addEventListener("submit", event => { if (event.submitter?.form !== narrow) return; event.preventDefault(); narrowed(); });
    narrow.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(narrowed, 250); });
    $("#save-view").addEventListener("submit", event => {
      $$("input[data-wish]", event.target).forEach(el => el.remove());
      for (const [name, value] of new URLSearchParams(query)) { const el = document.createElement("input"); el.type = "hidden"; el.name = name; el.value = value; el.dataset.wish = ""; event.target.append(el); }
    });
  }

  /* Detail */
  async function open(id, push = true, quiet = false) {
    if (push) { history.pushState({ id }, "", `/inbox/${id}/${query ? `?${query}` : ""}`); }
    if (!quiet) mark(id);
    const busy = setTimeout(() => pane.setAttribute("aria-busy", "true"), 200);
    try {
      pane.innerHTML = await AF.fragment(`/inbox/${id}/`);
    } catch (problem) {
      pane.innerHTML = `<section class="detail"><div class="empty"><h2>This could not be opened</h2><p class="muted">${AF.text(AF.why(problem))}</p><button class="b" type="button" id="again">Try again</button></div></section>`;
      $("#again").onclick = () => open(id, false);
    }
    clearTimeout(busy); pane.removeAttribute("aria-busy"); opened(id);
    pane.classList.toggle("solo", !$(".rail", pane));
    if (push) { document.body.classList.add("open"); scrollTo(0, 0); if (!wide.matches) $("#question")?.focus(); }
    ready();
  }
  /* Opened is read: the mark goes, here and in the number beside the word Inbox. */
  function opened(id) {
    const row = $(`.item[data-id="${id}"]`, rows);
    if (!row?.classList.contains("new")) return;
    row.classList.remove("new"); $(".sr", row)?.remove();
    AF.post(`/inbox/${id}/seen`).catch(() => {});
    const facts = $("#facts-of-rows", rows).dataset; facts.unread = Math.max(facts.unread - 1, 0); counts();
  }
  /* What others do to a question that is open here: only the parts that nobody types in. */
  async function renewParts(id) {
    const box = document.createElement("div"); box.innerHTML = await AF.fragment(`/inbox/${id}/`);
    if (shownId() !== id) return;
    const now = $("#ask", box) ? JSON.parse($("#ask", box).textContent) : null;
    if (now?.contentHash !== ask?.contentHash) return changed(id);
    for (const part of $$("[data-part]", pane)) { const other = $(`[data-part="${part.dataset.part}"]`, box); if (other) { part.innerHTML = other.innerHTML; AF.times(part); } }
  }
  async function changed(id) {
    const kept = typed();
    await open(id, false, true); await put(kept);
    trouble("This question changed while you were reading. Your text was kept; read it again, then decide.");
  }
  /* One that is no longer open; of one that was asked again what is asked now, with what was typed. */
  async function moved(id, newer = "", lost = "") {
    const kept = typed();
    await open(newer || id, false, true);
    for (let link; (link = $("#newer", pane)); ) { newer = link.dataset.id; await open(newer, false, true); }
    if (newer && location.pathname.includes(id)) history.replaceState({ id: newer }, "", `/inbox/${newer}/${location.search}`);
    await put(kept);
    if (newer) trouble(`${lost}What the question showed has changed, so it is asked again: this is the new one. ${kept.some ? "Your text was kept; read it again" : "Read it again"}, then decide.`);
  }
  /* What somebody wrote and has not sent; of a value that was shown to be changed, only the changes. */
  const BOXES = ["#comment", "#reason", "#return-why"];
  function typed() {
    const now = value(), before = ask?.editable, texts = BOXES.map(box => $(box, pane)?.value || "");
    const values = now && before && typeof before === "object" ? other(before, now) : now;
    return { texts, values, some: texts.some(Boolean) || Object.keys(values || {}).length > 0 };
  }
  async function put({ texts, values }) {
    if (!ask) return;
    BOXES.forEach((box, at) => { if ($(box, pane)) $(box, pane).value = texts[at]; });
    await editor?.promise;
    if (editor) fill(values);
    keep();
  }
  function back() { document.body.classList.remove("open"); (current() || $("#scroll")).focus(); }
  addEventListener("popstate", () => { const id = location.pathname.split("/")[2]; /^[0-9a-f-]{36}$/.test(id) ? (document.body.classList.add("open"), open(id, false)) : back(); });

  const key = () => `draft:${ask.id}:${ask.contentHash}`;
  const keep = () => { draft = { value: editor?.getValue(), comment: $("#comment").value }; try { localStorage.setItem(key(), JSON.stringify(draft)); } catch { /* private mode: the draft lives in the page only */ } };
  function ready() {
    editor?.destroy(); editor = null; ask = null; tried = false; clearTimeout(armed); armed = 0;
    AF.times(pane); mark(shownId());
    const data = $("#ask", pane);
    if (!data) return;
    ask = JSON.parse(data.textContent);
    try { draft = JSON.parse(localStorage.getItem(key())) || {}; } catch { draft = {}; }
    $("#comment").value = draft.comment || "";
    $("#comment").oninput = keep;
    hands(); returning();
    if (ask.form) form();
    $$("[data-p]", pane).forEach(el => { el.onmouseenter = el.onfocus = () => hot(el.dataset.p); });
    hot("approve");
    if ($("#fixes", pane)) return fixes();
    $("#approve").onclick = () => { const bad = invalid(); bad ? toField(bad) : confirmed() && send(true, answer()); };
    $("#reject").onclick = () => refuse(true);
    $("#unrefuse").onclick = () => refuse(false);
    $("#refusal").onsubmit = event => { event.preventDefault(); send(false, null, $("#reason").value || $("#comment").value); };
  }
  /* Taking, giving away, and saying something without deciding */
  async function handed(action, body, then) {
    const id = ask.id;
    trouble("");
    try { await AF.post(`/api/v1/approvals/${id}/${action}`, body); await then(id); refresh(); }
    catch (problem) { await refused(problem, id); }
  }
  function hands() {
    const menu = $("#more-actions"), giving = yes => { $("#actions").hidden = yes; $("#giving").hidden = !yes; if (menu) menu.open = false; (yes ? $("#give-to") : $("summary", menu)).focus(); };
    menu?.addEventListener("click", event => {
      const action = event.target.closest("[data-hand]")?.dataset.hand;
      if (action === "give") return giving(true);
      if (action === "back") { menu.open = false; return sendBack(true); }
      if (action) { menu.open = false; handed(action, {}, renewParts); }
    });
    $("#ungive").onclick = () => giving(false);
    $("#giving").onsubmit = event => { event.preventDefault(); handed("delegate", { to: $("#give-to").value, reason: $("#give-why").value }, async id => { await open(id, false, true); say("Given"); }); };
    $("#say-only").onclick = () => {
      const box = $("#comment"), text = box.value.trim();
      if (!text) return box.focus();
      handed("comments", { text }, async id => { box.value = ""; keep(); await renewParts(id); say("Said"); });
    };
  }
  /* Fields report when they are left; leaving the page counts. */
  addEventListener("pagehide", () => { if (!ask) return; if ($("#form")?.contains(document.activeElement)) document.activeElement.dispatchEvent(new Event("change", { bubbles: true })); keep(); });
  const hot = path => $$(".path", pane).forEach(el => el.classList.toggle("hot", el.dataset.path === path));
  function refuse(yes) { $("#actions").hidden = yes; $("#refusal").hidden = !yes; hot(yes ? "reject" : "approve"); yes ? ($("#reason").value ||= $("#comment").value, $("#reason").focus()) : $("#reject").focus(); }

  /* Sending back: what runs again is told from what is chosen, before it is sent. */
  function sendBack(yes) {
    const over = $("#back")?.title, form = $("#returning");
    if (over) return trouble(`${over}. Approve it, or reject it.`);
    if (!form) return;
    $("#actions").hidden = yes; form.hidden = !yes; hot(yes ? "rework" : "approve");
    if (yes) { again(); $("#return-why").value ||= $("#comment").value; $("#return-why").focus(); } else $("#back").focus();
  }
  const named = () => $$("[name=to]:checked", pane);
  function again() {
    const names = [...new Set(named().flatMap(el => ask.again[el.value]))];
    $("#again").textContent = named().length ? `Runs again: ${names.join(", ")}. Then you are asked again.` : "Choose a step.";
    $("#returning [type=submit]").disabled = !named().length;
  }
  function returning() {
    const form = $("#returning");
    if ($("#back")) $("#back").onclick = () => sendBack(true);
    if (!form) return;
    form.onchange = again; $("#unreturn").onclick = () => sendBack(false);
    form.onsubmit = event => { event.preventDefault(); post("rework", { blocks: named().map(el => el.value), comments: $("#return-why").value }, $("[type=submit]", form)); };
  }

  /* Form */
  function form() {
    const place = $("#form"); place.hidden = false;
    Object.assign(JSONEditor.defaults.languages.en, { button_delete_all: "Remove all", button_delete_all_title: "Remove all", button_delete_row_title: "Remove {{0}}", button_delete_row_title_short: "Remove" });
    editor = new JSONEditor(place, {
      schema: schema(), ...(ask.editable === null ? {} : { startval: ask.editable }), theme: "bootstrap5", object_layout: /grid_columns/.test(JSON.stringify(ask.inputSchema)) ? "grid" : "normal", show_errors: "interaction",
      disable_collapse: true, disable_edit_json: true, disable_properties: true, no_additional_properties: false, prompt_before_delete: false, disable_array_delete_last_row: true, ajax: false, use_name_attributes: false,
    });
    editor.on("ready", () => {
      fill(draft.value);
      $$("#form [data-schemapath] > .form-group, #form .form-group").forEach(group => { const input = $("input,select,textarea", group), label = $("label", group); if (input && label && !label.contains(input)) { input.id ||= `f-${Math.random().toString(36).slice(2)}`; label.htmlFor = input.id; } });
    });
    editor.on("change", () => { keep(); if (tried) showErrors(); label(); });
  }
  const schema = () => Object.keys(ask.inputSchema).length ? ask.inputSchema : shapeOf(ask.editable);
  /* A value that came without a schema is edited as what it is. */
  const shapeOf = one => Array.isArray(one) ? { type: "array", items: one.length ? shapeOf(one[0]) : {} }
    : one && typeof one === "object" ? { type: "object", properties: Object.fromEntries(Object.entries(one).map(([name, inner]) => [name, shapeOf(inner)])) }
    : { type: one === null ? "string" : typeof one };
  const same = (one, other) => JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));
  const sorted = one => Array.isArray(one) ? one.map(sorted) : one && typeof one === "object" ? Object.fromEntries(Object.keys(one).sort().map(name => [name, sorted(one[name])])) : one;
  /* What is sent: of a value that was shown to be changed, only what is otherwise. */
  const answer = () => { const given = value(); return ask.editable === null ? given : same(given, ask.editable) ? null : { edited: given }; };
  /* Field by field: a whole value would take away the optional fields it does not name. */
  const fill = values => Object.entries(values || {}).forEach(([name, one]) => editor.getEditor(`root.${name}`)?.setValue(one));
  /* An optional field that was left empty was not answered. */
  const empty = one => one === "" || (Array.isArray(one) && !one.length);
  function value() {
    if (!editor) return null;
    const given = structuredClone(editor.getValue()), required = ask.editable === null ? ask.inputSchema.required || [] : Object.keys(ask.editable || {});
    if (given && typeof given === "object" && !Array.isArray(given)) for (const name of Object.keys(given)) if (empty(given[name]) && !required.includes(name)) delete given[name];
    return given;
  }
  const errors = () => editor ? editor.validate(value()) : [];
  function showErrors(found = errors()) { Object.values(editor.editors).forEach(one => one && (one.is_dirty = true)); editor.root.showValidationErrors(found); }
  const invalid = () => errors()[0];
  /* What leads to something that cannot be undone takes a second press. */
  function confirmed() {
    if (!ask.once || armed) { label(); return true; }
    const text = $("#approve span"), word = text.textContent.toLowerCase();
    armed = setTimeout(label, 4000);
    text.textContent = `Confirm: ${word}`; say("What follows cannot be undone. Press again to confirm.");
    return false;
  }
  function label() {
    clearTimeout(armed); armed = 0;
    const bad = new Set(errors().map(e => e.path)).size, text = $("#approve span");
    if (text) text.textContent = bad && tried ? `Fill in ${bad} ${bad === 1 ? "field" : "fields"}` : ask.editable !== null && answer() ? "Approve with changes" : ask.approveWord;
  }
  function toField(error) { tried = true; showErrors(); label(); focus(error.path); }
  function focus(path) { const place = $(`[data-schemapath="${CSS.escape(path)}"]`, pane); (place && $("input,select,textarea", place) || $("#form")).focus(); place?.scrollIntoView({ block: "center" }); }
  /* The server's pointers are /response/amount; the form calls that root.amount. */
  const pathOf = pointer => ["root", ...pointer.split("/").slice(/^\/response\/(edited|input)\//.test(pointer) ? 3 : 2).map(part => part.replace(/~1/g, "/").replace(/~0/g, "~"))].join(".");

  /* The ways out of a step that cannot go on, and of a budget that is used up */
  function fixes() {
    let action = null, agentId = null; const apply = $("#apply"), box = $("#fix-output"), more = $("#more-of-it"), change = $("#change");
    $$("[data-fix]", pane).forEach(el => { el.onclick = () => {
      action = el.dataset.fix; agentId = el.dataset.agent; $$("[data-fix]", pane).forEach(b => b.setAttribute("aria-expanded", b === el));
      if (box) box.hidden = action !== "complete";
      if (more) { more.hidden = !("more" in el.dataset); el.after(more); }
      if (change) { change.hidden = !("changes" in el.dataset); el.after(change); if (!change.hidden && !editor && ask.editable !== null) form(); }
      hot(action === "stop" ? "reject" : "approve");
      apply.disabled = false; apply.textContent = $("b", el).textContent;
      if (box && !box.hidden) $("textarea", box).focus(); else if (more && !more.hidden) { $("input", more).focus({ preventScroll: true }); more.scrollIntoView({ block: "center" }); } else if (!change || change.hidden) apply.focus();
    }; });
    apply.onclick = () => {
      const response = { action };
      if (agentId) response.agentId = agentId;
      if (more && !more.hidden) for (const input of $$("input", more)) {
        if (!input.reportValidity()) return;
        if (input.value) response[input.name] = Math.round(input.value * input.dataset.scale * 1e9) / 1e9;
      }
      if (action === "complete" && (response.output = written(box)) === undefined) return;
      if (change && !change.hidden) { const found = changes(); if (!found) return; Object.assign(response, found); }
      send(!["fail", "stop"].includes(action), response);
    };
  }
  /* What somebody wrote as JSON; undefined, and said so, where it is none. */
  function written(box) {
    try { const value = JSON.parse($("textarea", box).value); wrong(box, ""); return value; }
    catch (error) { wrong(box, `This is not JSON: ${error.message}`); }
  }
  function wrong(box, text) {
    const bad = $(".err", box), area = $("textarea", box);
    bad.hidden = !text; bad.textContent = text; text ? area.setAttribute("aria-invalid", "true") : area.removeAttribute("aria-invalid");
    if (text) area.focus();
  }
  /* What is otherwise than the step is called with: only that is sent. */
  function changes() {
    const { step } = ask.change, found = {}, agent = $("[name=change-agent]:checked", pane)?.value, box = $("#change-input");
    const configuration = written($("#change-configuration"));
    if (configuration === undefined) return null;
    const laid = other(step.configuration, configuration);
    for (const name of Object.keys(step.configuration)) if (!(name in configuration)) laid[name] = null;
    if (agent) found.agentId = agent;
    if (Object.keys(laid).length) found.configuration = laid;
    if (box) {
      const input = written(box);
      if (input === undefined) return null;
      if (!same(input, step.input || {})) found.input = input;
    } else {
      const bad = invalid(), now = other(ask.editable, value());
      if (bad) { toField(bad); return null; }
      if (Object.keys(now).length) found.input = { ...(step.input || ask.editable), ...now };
    }
    if (Object.keys(found).length) return found;
    trouble("Nothing is changed yet. Change something, or choose Run again.");
    return null;
  }
  const other = (before, after) => Object.fromEntries(Object.entries(after).filter(([name, one]) => !(name in before) || !same(one, before[name])));

  /* Sending: never shown as done before the server says so. */
  function send(approved, response, comments = $("#comment").value) {
    const body = { approved };
    if (comments) body.comments = comments;
    if (response !== null) body.response = response;
    return post("respond", body, approved ? $("#approve span") || $("#apply") : $("#refusal button") || $("#apply"));
  }
  async function post(action, body, pressed) {
    if (sending) return;
    sending = true;
    const { id, contentHash } = ask, buttons = $$("#bar button", pane), word = pressed.textContent;
    buttons.forEach(b => (b.disabled = true)); pressed.textContent = "Saving"; trouble("");
    try {
      await AF.post(`/api/v1/approvals/${id}/${action}`, { ...body, contentHash });
      localStorage.removeItem(key());
      await open(id, false, true);
      done();
    } catch (problem) {
      buttons.forEach(b => (b.disabled = false)); pressed.textContent = word;
      await refused(problem, id);
    } finally { sending = false; refresh(); }
  }
  async function refused(problem, id) {
    if (["already_decided", "approval_expired", "approval_cancelled"].includes(problem.code)) {
      await open(id, false, true);
      const outcome = $("#outcome > div");
      outcome?.insertAdjacentHTML("beforeend", "<br>Your answer came later and was not saved.");
      $("#question")?.focus();
    } else if (problem.code === "approval_stale") {
      await moved(id, problem.supersededBy, "Not saved. ");
      if (!problem.supersededBy) trouble(AF.why(problem));
    } else if (problem.code === "content_changed") {
      await changed(id);
    } else {
      const issues = problem.issues || [], box = $("#change-configuration"), laid = issues.find(issue => issue.pointer?.startsWith("/response/configuration"));
      if (box && laid) wrong(box, laid.message);
      const fields = issues.filter(issue => issue.pointer?.startsWith("/response/"));
      if (editor && fields.length) {
        tried = true; showErrors(fields.map(issue => ({ path: pathOf(issue.pointer), property: issue.code, message: issue.message })));
        const unseen = fields.filter(issue => !$(`[data-schemapath="${CSS.escape(pathOf(issue.pointer))}"]`, pane));
        trouble(unseen.length ? unseen.map(issue => issue.message).join(" ") : `${fields.length === 1 ? "One field needs" : `${fields.length} fields need`} another value.`);
        focus(pathOf(fields[0].pointer));
      } else trouble((problem.issues || []).map(issue => issue.message).join(" ") || AF.why(problem));
    }
  }
  function trouble(text) { const el = $("#trouble"); if (el) { el.hidden = !text; $("div", el).textContent = text; if (text) el.scrollIntoView({ block: "nearest" }); } }
  function done() {
    const row = $(`.item[data-id="${shownId()}"]`, rows);
    if (row) { row.classList.add("gone"); row.classList.remove("new"); $(".left", row).textContent = "Decided"; }
    const next = items().find(el => !el.classList.contains("gone")), outcome = $("#outcome");
    outcome?.insertAdjacentHTML("afterend", next ? `<p class="lead"><a class="b" href="${next.getAttribute("href")}" data-id="${next.dataset.id}">Next question</a></p>` : `<p class="lead">Nothing else waits for you.</p>`);
    say($("b", outcome)?.textContent || "Saved"); $("#question")?.focus();
  }

  addEventListener("click", event => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    const link = event.target.closest("a[data-id]");
    if (link) { event.preventDefault(); open(link.dataset.id); }
    else if (event.target.closest(".back") && history.state?.id) { event.preventDefault(); history.back(); }
  });

  /* Keys */
  const keysOn = $("#keys-on"), help = () => $("#keys").showModal();
  keysOn.checked = localStorage.getItem("keys") !== "off";
  keysOn.onchange = () => localStorage.setItem("keys", keysOn.checked ? "on" : "off");
  $("#help")?.addEventListener("click", help);
  addEventListener("keydown", event => {
    if (AF.typing(event) || $("dialog[open]") || (!keysOn.checked && event.key !== "?")) return;
    const all = items(), at = all.indexOf(current()), act = {
      j: () => all[at + 1], k: () => all[Math.max(at - 1, 0)], a: () => $("#approve")?.focus() ?? $("[data-fix]")?.focus(), r: () => $("#reject") && refuse(true), b: () => $("#back") && sendBack(true), c: () => $("#comment")?.focus(), "?": help, "/": () => ($("#search") || current() || all[0])?.focus(), o: () => { const row = document.activeElement?.closest?.(".item") || current() || all[0]; if (row) open(row.dataset.id); },
    }[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    const to = act();
    if (to?.dataset?.id && "jk".includes(event.key.toLowerCase())) { to.scrollIntoView({ block: "nearest" }); to.focus({ preventScroll: true }); wide.matches ? open(to.dataset.id, false) : mark(to.dataset.id); }
  });

  /* The browser's own notices: asked for by the button alone, shown while the page is not looked at. */
  const bell = $("#bell"), may = "Notification" in window;
  const ring = () => { if (!bell) return; const on = may && Notification.permission === "granted" && localStorage.getItem("notices") === "on"; bell.hidden = !may || Notification.permission === "denied"; bell.setAttribute("aria-pressed", on); bell.lastElementChild.textContent = on ? "Notices on" : "Notify me"; return on; };
  bell?.addEventListener("click", async () => {
    const on = ring();
    if (!on && Notification.permission !== "granted") await Notification.requestPermission();
    localStorage.setItem("notices", on || Notification.permission !== "granted" ? "off" : "on");
    ring();
  });
  const news = []; // numbers of events; the server says which of them this person wants to be told of, and how
  const tell = AF.coalesce(async () => {
    if (!news.length) return;
    const asked = news.splice(0).slice(-20).map(id => `event=${id}`).join("&");
    const { notices } = await AF.get(`/notifications/browser?${asked}`).catch(() => ({ notices: [] }));
    if (notices.length > 3) return notice(`${notices.length} questions of yours moved`, "", "inbox", () => {});
    notices.forEach(one => notice(one.title, one.text, one.approvalId, () => open(one.approvalId)));
  }, 200);
  function notice(title, body, about, then) {
    const shown = new Notification(title, { tag: `agentflow-${about}`, body });
    shown.onclick = () => { window.focus(); then(); shown.close(); };
  }
  ring();

  /* Live */
  const strip = $("#off");
  if (waitingTab) AF.live("/ws/approvals", {
    message: data => { if (!data.type?.startsWith("approval_")) return; touched.add(data.approvalId); refresh(); if (ring() && document.hidden) { news.push(data.id); tell(); } },
    on: () => { strip.hidden = true; refresh(); },
    off: ({ seen, wait }) => { strip.hidden = false; $("div", strip).innerHTML = `<b>Live updates are off.</b> You see ${AF.clock(seen)}. Trying again in ${wait} s. You can still decide.`; },
  });
  counts(); ready();
  if (waitingTab && shownId() && (wide.matches || document.body.classList.contains("open"))) opened(shownId());
})();

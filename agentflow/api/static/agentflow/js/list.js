/* Keeps a table of runs fresh: known rows change in place, new ones wait behind a button. */
"use strict";
(() => {
  const { $, $$ } = AF, box = $("#table"), id = row => $("a", row)?.getAttribute("href");
  const parse = html => { const el = document.createElement("div"); el.innerHTML = html; return el; };
  const refresh = AF.coalesce(async () => {
    const address = location.pathname + location.search;
    const fresh = parse(await AF.send("GET", address, undefined, { "HX-Request": "true", Accept: "text/html" }));
    if (address !== location.pathname + location.search) return;
    const rows = $$("tbody tr", box), known = new Map(rows.map(row => [id(row), row])), now = $$("tbody tr", fresh);
    if (!rows.length) { box.replaceChildren(...fresh.childNodes); AF.times(box); return; }
    for (const row of now) { const old = known.get(id(row)); if (old && !old.contains(document.activeElement)) old.innerHTML = row.innerHTML; }
    AF.times(box);
    const more = now.filter(row => !known.has(id(row))).length, button = $("#fresh") || Object.assign(document.createElement("button"), { id: "fresh", className: "b sm fresh", type: "button" });
    button.textContent = `${more} new`; button.onclick = () => { box.replaceChildren(...fresh.childNodes); AF.times(box); };
    if (more) box.prepend(button); else button.remove();
  }, 1000);
  document.addEventListener("htmx:afterSwap", () => AF.times(box));
  setInterval(() => document.hidden || refresh(), 4000);
})();

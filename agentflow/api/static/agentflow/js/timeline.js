/* The timeline: one row per step, solid where it works, hatched where it waits. Long stretches in which
   nothing works are folded, so that seconds of work stay readable beside hours of waiting. */
"use strict";
AF.timeline = (box, { pick }) => {
  const ROWS_MAX = 100, FOLD_PERCENT = 5, FOLDS_MAX = 6;
  let folded = true, shown = new Set();
  box.innerHTML = '<div class="g-row axis"><span></span><div class="track"></div></div><div class="overlay"></div>';
  const axisTrack = AF.$(".axis .track", box), overlayBox = AF.$(".overlay", box), made = new Map();
  /* Rows stay the same elements while they change: a press, focus and scroll survive. */
  function rowOf(step) {
    if (!made.has(step.id)) made.set(step.id, Object.assign(document.createElement("button"), { type: "button", className: "g-row" })).get(step.id).dataset.id = step.id;
    return made.get(step.id);
  }

  function bars(step, state, now) {
    const [, status, , , started, ended] = step.raw, out = [];
    const end = ended ?? now;
    for (const [from, to, who, result] of state.waits[step.id] || []) out.push({ from, to: to ?? (result === "pending" ? now : end), kind: "wait", text: who });
    const tries = state.tries[step.id] || [];
    for (const [from, to, words] of tries) out.push({ from, to, kind: "try", text: words });
    /* Asked first, then run: what is left of the time after the last answer is work. */
    const begin = Math.max(started ?? Infinity, ...out.filter(bar => bar.kind === "wait").map(bar => bar.to));
    const failed = tries.some(([from]) => from === started);
    if (begin < end && !failed && !["blocked", "ready", "skipped", "waiting_human"].includes(status)) out.push({ from: begin, to: status === "waiting_external" ? now : end, kind: status === "running" ? "run" : status === "waiting_external" ? "other" : "done", text: "" });
    return out;
  }

  /* Where time goes on the page: a list of [from, to, left %, width %, isFold]. */
  function scale(rows, from, to) {
    const work = rows.flatMap(row => row.bars.filter(bar => bar.kind !== "wait" && bar.kind !== "other").map(bar => [bar.from, Math.max(bar.to, bar.from + 1)])).sort((a, b) => a[0] - b[0]);
    const busy = [];
    for (const [a, b] of work) { const last = busy[busy.length - 1]; if (last && a <= last[1]) last[1] = Math.max(last[1], b); else busy.push([a, b]); }
    const total = busy.reduce((sum, [a, b]) => sum + b - a, 0), least = Math.max(5000, total * 0.5);
    let at = from;
    const gaps = [];
    for (const [a, b] of [...busy, [to, to]]) { if (a - at > least) gaps.push([at, a]); at = Math.max(at, b); }
    const folds = folded && total ? gaps.sort((a, b) => b[1] - b[0] - (a[1] - a[0])).slice(0, FOLDS_MAX).sort((a, b) => a[0] - b[0]) : [];
    const inFolds = folds.reduce((sum, [a, b]) => sum + b - a, 0), solid = Math.max(to - from - inFolds, 1), room = 96 - folds.length * FOLD_PERCENT;
    const pieces = [];
    let left = 0; at = from;
    for (const [a, b] of [...folds, [to, to]]) {
      if (a > at) { const width = (a - at) / solid * room; pieces.push([at, a, left, width, false]); left += width; }
      if (b > a) { pieces.push([a, b, left, FOLD_PERCENT, true]); left += FOLD_PERCENT; }
      at = b;
    }
    return pieces;
  }

  function render(steps, state, chosen, now) {
    if (!state.started) return 0;
    let rows = steps.map(step => ({ step, bars: bars(step, state, now) }));
    const total = rows.length;
    if (total > ROWS_MAX) {
      /* While it runs, rows that are shown stay: only what fails or waits takes a place. */
      const rank = { failed: 4, waiting_human: 3 };
      const weight = row => (row.step.id === chosen ? 9 : rank[row.step.raw[1]] || (state.ended === null && shown.has(row.step) ? 2 : 0)) * 1e15 + row.bars.reduce((sum, bar) => sum + bar.to - bar.from, 0);
      const kept = new Set(rows.map(row => [weight(row), row]).sort((a, b) => b[0] - a[0]).slice(0, ROWS_MAX).map(([, row]) => row));
      rows = rows.filter(row => kept.has(row));
      shown = new Set(rows.map(row => row.step));
    }
    const end = state.ended ?? now, pieces = scale(rows, state.started, Math.max(end, state.started + 1));
    const last = pieces[pieces.length - 1];
    const x = t => {
      for (const [a, b, left, width] of pieces) if (t <= b) return left + Math.max(t - a, 0) / Math.max(b - a, 1) * width;
      return last ? last[2] + last[3] : 0;
    };
    const right = last ? last[2] + last[3] : 96, p = n => `${n.toFixed(2)}%`, track = Math.max(box.clientWidth - (innerWidth < 720 ? 124 : 192), 80), wide = px => px / track * 100;
    let axis = `<span class="first" style="left:0">${AF.clock(state.started)}</span>`, overlay = "", used = wide(80);
    for (const [a, b, left, width, fold] of pieces) {
      if (fold) { overlay += `<i class="fold" style="left:${p(left)};width:${p(width)}"></i>`; const mid = left + width / 2; if (mid - wide(50) > used && mid < 100 - wide(110)) { axis += `<span style="left:${p(mid)}">${AF.span(b - a)} folded</span>`; used = mid + wide(60); } continue; }
      const step = nice((b - a) / Math.max(1, Math.floor(width / wide(90))));
      for (let t = Math.ceil((a - state.started + 1) / step) * step; t < b - state.started; t += step) {
        const at = x(state.started + t);
        overlay += `<i class="grid-l" style="left:${p(at)}"></i>`;
        if (at - wide(20) > used && at < 100 - wide(70)) { axis += `<span style="left:${p(at)}">+${AF.span(t)}</span>`; used = at + wide(30); }
      }
    }
    if (state.ended === null) { overlay += `<i class="nowl" style="left:${p(right)}"></i>`; axis += `<span class="last" style="left:${p(Math.min(right + 2, 100))};color:var(--accent);font-weight:700">now</span>`; }
    axisTrack.innerHTML = axis;
    if (overlayBox.innerHTML !== overlay) overlayBox.innerHTML = overlay;
    rows.forEach(({ step, bars }, place) => {
      const s = step.now, first = bars[0], final = bars[bars.length - 1];
      const drawn = bars.map(bar => {
        const left = x(bar.from), width = Math.max(x(bar.to) - left, 0.2);
        const look = bar.kind === "wait" ? 'hatch" data-st="human' : bar.kind === "other" ? 'hatch" data-st="other' : bar.kind === "run" ? "run" : bar.kind;
        return `<i class="bar-g ${look}" aria-hidden="true" style="left:${p(left)};width:${p(width)}" title="${AF.text(bar.text)}"></i>`;
      }).join("");
      /* The words stand after the bars, or before them, or inside a bar that leaves no room beside it. */
      const from = first ? x(first.from) : 0, to = final ? x(final.to) : 0, room = wide(s.sub.length * 7 + 14);
      const at = !first ? ["faint", 0] : to + room < 100 ? ["", to] : from > room ? ["before", from] : to - x(final.from) > room ? [final.kind === "wait" || final.kind === "other" ? "on" : "in", x(final.from)] : null;
      const text = at ? `<span class="lab opt ${at[0]}" aria-hidden="true" style="left:${p(at[1])}">${AF.text(s.sub)}</span>` : "";
      const row = rowOf(step), html = `<span class="nm">${AF.icon(s.icon)}<span>${AF.text(step.name)}</span></span><span class="track">${drawn}${text}</span><span class="sr">${AF.text(s.sub)}, ${AF.text(s.word)}</span>`;
      row.dataset.st = s.look;
      step.id === chosen ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
      if (row.drawn !== html) row.innerHTML = row.drawn = html;
      if (box.children[place + 2] !== row) box.insertBefore(row, box.children[place + 2] || null);
    });
    while (box.childElementCount > rows.length + 2) box.lastElementChild.remove();
    return total > ROWS_MAX ? ROWS_MAX : 0;
  }
  const nice = ms => { for (const step of [10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5, 216e5, 864e5]) if (step >= ms) return step; return Math.ceil(ms / 864e5) * 864e5; };
  box.addEventListener("click", event => { const row = event.target.closest("button.g-row"); if (row) pick(row.dataset.id); });
  return { render, fold: on => { folded = on; } };
};

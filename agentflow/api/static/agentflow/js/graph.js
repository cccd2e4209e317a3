/* The graph of one execution. Up to CARDS_MAX steps are HTML buttons over the canvas, laid out by dagre;
   beyond that the canvas paints plain boxes at positions computed here, because dagre takes seconds. */
"use strict";
AF.graph = (box, data, { pick }) => {
  const CARDS_MAX = 150, FAR = 0.45, { $ } = AF;
  const big = data.steps.length > CARDS_MAX, down = box.clientWidth < 640, cards = $(".cards", box);
  const tools = { API: "api", Script: "code", MCP: "plug", LLM: "sparkles", UseCase: "stack-2", Decision: "arrows-split-2", Person: "user" };
  const steps = data.steps.map(([id, name, tool, once], index) => ({ id, name, tool, once, index, before: [], after: [], level: 0, key: `n${index}` }));
  const byId = new Map(steps.map(step => [step.id, step]));
  const pairs = new Map();
  for (const [from, to, branch, label] of data.edges) {
    const key = `${from}>${to}`;
    if (!pairs.has(key)) { pairs.set(key, { key, from: steps[from], to: steps[to], branches: [], labels: [] }); steps[from].after.push(steps[to]); steps[to].before.push(steps[from]); }
    if (branch !== null) { pairs.get(key).branches.push(branch); pairs.get(key).labels.push(label); }
  }
  /* Levels by longest path, in one pass over a topological order. */
  const open = steps.map(step => step.before.length), order = steps.filter(step => !step.before.length);
  for (let i = 0; i < order.length; i++) for (const next of order[i].after) { next.level = Math.max(next.level, order[i].level + 1); if (!--open[next.index]) order.push(next); }

  const short = text => { const bare = text.replace(/\binput\./g, ""), most = down ? 24 : 12; return bare.length > most ? `${bare.slice(0, most - 1)}…` : bare; };
  const probe = document.createElement("i"); probe.hidden = true; box.append(probe);
  const css = name => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
  const looks = ["pending", "ready", "running", "human", "other", "completed", "failed", "skipped", "cancelled", "healed"];
  const style = () => {
    const line = css("--line-strong"), ink = css("--ink"), muted = css("--muted"), bad = css("--failed-bar");
    return [
      { selector: "node", style: big ? { shape: "round-rectangle", width: 132, height: 30, label: "data(name)", "font-size": 12, "font-family": "Inter, sans-serif", "text-valign": "center", "text-max-width": 120, "text-wrap": "ellipsis", "min-zoomed-font-size": 8, color: css("--surface") } : { shape: "round-rectangle", width: 172, height: 56, "background-opacity": 0, "border-width": 0 } },
      ...looks.map(look => ({ selector: big ? `node[look="${look}"]` : `node.far[look="${look}"]`, style: { "background-opacity": 1, "background-color": css(`--${look}-bar`) } })),
      { selector: 'node[look="pending"],node[look="skipped"]', style: big ? { "background-opacity": 0.25, color: muted, "border-width": 1, "border-style": "dashed", "border-color": line } : {} },
      { selector: "node.chosen", style: big ? { "border-width": 4, "border-style": "solid", "border-color": css("--accent") } : {} },
      { selector: "edge", style: big ? { width: 1, "curve-style": "haystack", "line-color": line, opacity: 0.25 } : { width: 1.8, "curve-style": down ? "bezier" : "taxi", "taxi-direction": "rightward", "taxi-turn": 18, "taxi-radius": 8, "target-arrow-shape": "triangle", "arrow-scale": 0.9, "line-color": line, "target-arrow-color": line } },
      { selector: 'edge[kind="todo"]', style: { "line-style": "dashed", "line-dash-pattern": [5, 4] } },
      { selector: 'edge[kind="taken"]', style: { "line-style": "solid", ...(big ? { opacity: 0.5 } : {}) } },
      { selector: 'edge[kind="dead"]', style: { "line-style": "dotted", opacity: big ? 0.1 : 0.55 } },
      { selector: 'edge[kind="bad"]', style: { "line-style": "dotted", "line-color": bad, ...(big ? {} : { "target-arrow-color": bad }) } },
      { selector: "edge[label]", style: big ? {} : { [down ? "label" : "target-label"]: "data(label)", "target-text-offset": 36, "font-family": "Inter, sans-serif", "font-size": 10.5, "font-weight": 600, color: muted, "text-background-color": css("--sunken"), "text-background-opacity": 1, "text-background-padding": 2 } },
      { selector: "edge.near", style: { "line-color": ink, "target-arrow-color": ink, opacity: 1 } },
    ];
  };

  /* Above CARDS_MAX: a block of rows and columns per level, in the order of what came before. */
  function positions() {
    const levels = [];
    for (const step of order) (levels[step.level] ||= []).push(step);
    const place = new Map();
    let x = 0;
    for (const level of levels) {
      const weight = step => step.before.length ? step.before.reduce((sum, b) => sum + place.get(b.key).y, 0) / step.before.length : step.index;
      const sorted = level.map(step => [weight(step), step]).sort((a, b) => a[0] - b[0] || a[1].index - b[1].index);
      const rows = Math.max(1, Math.ceil(Math.sqrt(level.length * 2.2)));
      sorted.forEach(([, step], i) => place.set(step.key, { x: x + Math.floor(i / rows) * 144, y: ((i % rows) - (Math.min(rows, level.length) - 1) / 2) * 42 }));
      x += Math.ceil(level.length / rows) * 144 + 90;
    }
    return place;
  }

  const labelled = steps.length <= 40 && data.edges.some(edge => edge[3]);
  const place = big ? positions() : null;
  const cy = cytoscape({
    container: $(".cy", box), minZoom: 0.02, maxZoom: 1.5, boxSelectionEnabled: false, autoungrabify: true, autounselectify: true, userZoomingEnabled: false,
    hideEdgesOnViewport: big, textureOnViewport: false, pixelRatio: big ? 1 : "auto", style: style(),
    elements: [
      ...steps.map(step => ({ data: { id: step.key, name: step.name, look: "pending", index: step.index } })),
      ...[...pairs.values()].map(pair => ({ data: { id: pair.key, source: pair.from.key, target: pair.to.key, kind: "todo", ...(labelled && pair.labels.length ? { label: short([...new Set(pair.labels)].join(", ")) } : {}) } })),
    ],
    layout: big ? { name: "preset", positions: node => place.get(node.id()) } : { name: "dagre", rankDir: down ? "TB" : "LR", nodeSep: down ? 16 : 30, rankSep: down ? 40 : labelled ? 84 : 52, animate: false, fit: false },
  });

  if (!big) for (const step of steps) {
    const el = (step.el = document.createElement("button")), at = cy.getElementById(step.key).position();
    el.type = "button"; el.className = "node"; el.style.left = `${at.x}px`; el.style.top = `${at.y}px`;
    el.innerHTML = `<span class="dot"></span><span><b>${AF.text(step.name)}</b> <small></small></span>${tools[step.tool] ? AF.icon(tools[step.tool], "kind") : ""}${step.once ? '<span class="once">once</span>' : ""}<span class="sr"></span>`;
    el.lastChild.parentNode.children[1].style.minWidth = 0;
    el.onclick = () => pick(step.id);
    el.onkeydown = event => {
      const near = { ArrowRight: step.after[0], ArrowLeft: step.before[0], ArrowDown: beside(step, 1), ArrowUp: beside(step, -1) }[event.key];
      if (near) { event.preventDefault(); near.el.focus({ preventScroll: true }); reveal(near); }
    };
    cards.append(el);
  }
  else cy.on("tap", "node", event => pick(steps[event.target.data("index")].id));
  const beside = (step, by) => { const level = steps.filter(s => s.level === step.level).sort((a, b) => cy.getElementById(a.key).position().y - cy.getElementById(b.key).position().y); return level[level.indexOf(step) + by]; };

  const view = () => {
    if (big) return;
    const zoom = cy.zoom(), pan = cy.pan(), far = zoom < FAR;
    cards.style.transform = `translate(${pan.x}px,${pan.y}px) scale(${zoom})`;
    cards.hidden = far; cy.nodes().toggleClass("far", far);
  };
  cy.on("viewport", view);
  const zoom = by => cy.zoom({ level: cy.zoom() * by, renderedPosition: { x: box.clientWidth / 2, y: box.clientHeight / 2 } });
  /* The wheel scrolls the page; with Ctrl, or a pinch, it zooms. */
  box.addEventListener("wheel", event => { if (event.ctrlKey || event.metaKey) { event.preventDefault(); cy.zoom({ level: cy.zoom() * Math.exp(-event.deltaY / 300), renderedPosition: { x: event.offsetX, y: event.offsetY } }); } }, { passive: false });
  function fit() { cy.resize(); cy.fit(undefined, big ? 16 : 26); if (cy.zoom() > 1) { cy.zoom(1); cy.center(); } view(); }
  function centre(step) { cy.center(cy.getElementById(step.key)); view(); }
  function reveal(step) {
    const p = cy.getElementById(step.key).renderedPosition(), pad = 60;
    if (p.x < pad || p.y < pad || p.x > box.clientWidth - pad || p.y > box.clientHeight - pad) centre(step);
  }
  /* Starts with everything, unless that is too small to read: then at what the reader came for. */
  function start(id) { fit(); const step = byId.get(id); if (!big && cy.zoom() < 0.6) { cy.zoom(0.8); step ? centre(step) : centre(order[0]); } }
  let width = box.clientWidth;
  new ResizeObserver(() => { if (Math.abs(box.clientWidth - width) > 4) { width = box.clientWidth; fit(); } }).observe(box);
  addEventListener("themechange", () => requestAnimationFrame(() => cy.style(style())));
  matchMedia("(prefers-color-scheme:dark)").addEventListener("change", () => cy.style(style()));

  const seen = new Map();
  /* Takes `{id: {status, attempt, choice, look, sub, word}}` and touches only what differs. */
  function update(states) {
    cy.batch(() => {
      const changed = new Set();
      for (const step of steps) {
        const now = states.get(step.id);
        if (!now) continue;
        const mark = `${now.status}|${now.attempt}|${now.choice}`;
        if (seen.get(step.id) !== mark) { seen.set(step.id, mark); changed.add(step); cy.getElementById(step.key).data("look", now.look); }
        if (step.el && step.el.dataset.mark !== mark + now.sub) {
          step.el.dataset.mark = mark + now.sub; step.el.dataset.st = now.look;
          $(".dot", step.el).innerHTML = AF.icon(now.icon, now.look === "running" ? "spin" : "");
          $("small", step.el).textContent = now.sub;
          $(".sr", step.el).textContent = `, ${now.word}`;
        }
      }
      for (const pair of pairs.values()) {
        if (!changed.has(pair.from)) continue;
        const { status, choice } = states.get(pair.from.id);
        const chosen = !pair.branches.length || (choice || []).some(index => pair.branches.includes(index));
        const kind = status === "completed" ? (chosen ? "taken" : "dead") : status === "failed" ? "bad" : ["skipped", "cancelled"].includes(status) ? "dead" : "todo";
        cy.getElementById(pair.key).data("kind", kind);
      }
    });
  }
  let chosen = null;
  function choose(id) {
    const step = byId.get(id);
    if (chosen) { chosen.el?.setAttribute("aria-pressed", "false"); cy.getElementById(chosen.key).removeClass("chosen").connectedEdges().removeClass("near"); }
    chosen = step;
    if (!step) return;
    step.el?.setAttribute("aria-pressed", "true"); cy.getElementById(step.key).addClass("chosen"); if (big) cy.getElementById(step.key).connectedEdges().addClass("near");
    reveal(step);
  }
  return { steps, order, byId, update, choose, start, fit, zoom, big, cy };
};

/* Recovery points on the page of one execution: the list, and a step that says what would happen. */
"use strict";
AF.points = (root, { base, api, trouble, done }) => {
  const { $ } = AF;
  let html = "";
  const load = AF.coalesce(async () => {
    if ($(".sure", root)) return; // somebody reads what they are about to do
    const fresh = await AF.fragment(`${base}/points`);
    if (fresh === html || $(".sure", root)) return;
    const focus = root.contains(document.activeElement) ? document.activeElement.dataset : {};
    root.innerHTML = html = fresh;
    AF.times(root);
    if (focus.point) $(`[data-point="${focus.point}"][data-way="${focus.way}"]`, root)?.focus();
  }, 2000);
  const close = () => { const open = $(".sure", root), back = open?.previousElementSibling; open?.remove(); return back; };
  async function ask(button) {
    close();
    button.disabled = true;
    try {
      const words = await AF.fragment(`${base}/points/${button.dataset.point}?do=${button.dataset.way}`);
      button.closest("li").insertAdjacentHTML("beforeend", words);
      $(".sure", root).focus();
    } finally { button.disabled = false; }
  }
  async function carryOut(button) {
    const { sure, point, plan } = button.dataset;
    button.disabled = true;
    try {
      if (sure === "fork") {
        const { executionId } = await AF.post(`${api}/fork`, { recoveryPointId: Number(point) });
        location.href = `/executions/${executionId}/`;
        return;
      }
      await AF.post(`${api}/recovery-points/${point}/restore`, { planId: plan });
      close(); done(); load();
    } finally { button.disabled = false; }
  }
  async function mark(button) {
    button.disabled = true;
    try { await AF.post(`${api}/recovery-points`, {}); load(); } finally { button.disabled = false; }
  }
  root.addEventListener("click", async event => {
    const button = event.target.closest("button");
    if (!button) return;
    trouble("");
    try {
      if ("mark" in button.dataset) await mark(button);
      else if (button.dataset.sure) await carryOut(button);
      else if (button.dataset.way) await ask(button);
      else if ("keep" in button.dataset) { $("button", close())?.focus(); load(); }
    } catch (problem) { trouble(AF.why(problem)); }
  });
  root.addEventListener("keydown", event => { if (event.key === "Escape" && $(".sure", root)) { $("button", close())?.focus(); load(); } });
  load();
  return load;
};

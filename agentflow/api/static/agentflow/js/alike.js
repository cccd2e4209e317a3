/* Questions of the same step side by side: those chosen are decided one by one, each with its own record. */
"use strict";
(() => {
  const { $, $$ } = AF, approve = $("#approve"), reject = $("#reject"), open = () => $$("tbody tr:not(.gone)");
  const chosen = () => open().filter(row => $("input", row).checked);
  let busy = false, armed = null;
  function label() {
    const count = chosen().length;
    $("span", approve).textContent = count ? `Approve ${count}` : "Approve";
    reject.textContent = count ? `Reject ${count}` : "Reject";
    approve.disabled = reject.disabled = busy || !count;
    $("#all").checked = count > 0 && count === all().length; $("#all").indeterminate = count > 0 && count !== all().length;
    armed = null;
  }
  /* Where a sample answers for the rest, all means those that are inspected. */
  const sampled = "sample" in $("#alike").dataset, all = () => open().filter(row => !sampled || "inspected" in row.dataset);
  $("#all").onchange = event => { all().forEach(row => ($("input", row).checked = event.target.checked)); label(); };
  $("#alike").addEventListener("change", event => event.target.name === "one" && label());
  $("#alike").addEventListener("submit", event => event.preventDefault());
  async function decide(approved, button) {
    if (armed !== button) { label(); armed = button; (button.querySelector("span") || button).textContent = `Confirm: ${approved ? "approve" : "reject"} ${chosen().length}`; setTimeout(() => armed === button && !busy && label(), 4000); return; }
    busy = true; label();
    const comments = $("#comment").value, rows = chosen();
    let done = 0, failed = 0;
    for (const row of rows) {
      const said = $(".said", row), body = { approved, contentHash: row.dataset.hash };
      if (comments) body.comments = comments;
      said.textContent = "Saving";
      try {
        await AF.post(`/api/v1/approvals/${row.dataset.id}/respond`, body);
        said.textContent = approved ? "Approved" : "Rejected"; row.classList.add("gone"); done++;
      } catch (problem) {
        said.textContent = (problem.issues || []).map(issue => issue.message).join(" ") || AF.why(problem); failed++;
        if (["already_decided", "approval_expired", "approval_cancelled"].includes(problem.code)) row.classList.add("gone");
      }
      $("input", row).checked = false; $("input", row).disabled = row.classList.contains("gone");
    }
    const left = open();
    if (sampled && left.length && !all().length) {
      const now = await AF.get(`/api/v1/approvals/${left[0].dataset.id}`).catch(() => null);
      const said = now?.releasedBySample ? "Released by sample" : now?.sample?.state === "failed" ? "Waits for a person" : "";
      left.forEach(row => { $(".said", row).textContent = said; if (now?.releasedBySample) { row.classList.add("gone"); $("input", row).disabled = true; } });
      $("#sample").hidden = said !== "";
    }
    busy = false; label();
    $("#say").textContent = `${done} ${approved ? "approved" : "rejected"}${failed ? `, ${failed} not: see the last column` : ""}`;
  }
  approve.onclick = () => decide(true, approve);
  reject.onclick = () => decide(false, reject);
  label();
})();

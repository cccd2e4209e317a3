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
    $("#all").checked = count > 0 && count === open().length; $("#all").indeterminate = count > 0 && count < open().length;
    armed = null;
  }
  $("#all").onchange = event => { open().forEach(row => ($("input", row).checked = event.target.checked)); label(); };
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
    busy = false; label();
    $("#say").textContent = `${done} ${approved ? "approved" : "rejected"}${failed ? `, ${failed} not: see the last column` : ""}`;
  }
  approve.onclick = () => decide(true, approve);
  reject.onclick = () => decide(false, reject);
  label();
})();

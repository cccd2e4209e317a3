/* Starting a template from the list: simulated for authors, for real for operators. */
"use strict";
(() => {
  const { $, $$ } = AF, dialog = $("#start"), input = $("#start-input"), trouble = $("#start-trouble"), failures = $("#start-failures");
  let chosen = null;
  const tell = text => { trouble.hidden = !text; $("div", trouble).textContent = text; };
  $$("[data-start]").forEach(button => { button.onclick = () => {
    chosen = JSON.parse(document.getElementById(button.dataset.start).textContent);
    $("#start-title").textContent = `Start ${chosen.name}`;
    input.value = JSON.stringify(chosen.input, null, 2);
    $("#simulate").hidden = $("#start-note").hidden = $("#start-faults").hidden = !chosen.maySimulate;
    failures.value = ""; $("#real").hidden = !chosen.mayStart;
    tell(""); dialog.showModal(); input.focus();
  }; });
  async function start(more, button) {
    let given;
    try { given = JSON.parse(input.value || "{}"); } catch (error) { tell(`The input is not JSON: ${error.message}`); return input.focus(); }
    button.disabled = true; tell("");
    try {
      const { executionId } = await AF.post("/api/v1/executions", { templateId: chosen.templateId, workspaceId: chosen.workspaceId, input: given, ...more });
      location.href = `/executions/${executionId}/`;
    } catch (problem) {
      tell((problem.issues || []).map(issue => [issue.pointer?.replace(/^\/input\/?/, ""), issue.message].filter(Boolean).join(": ")).join(" ") || AF.why(problem));
      button.disabled = false;
    }
  }
  $("#simulate").onclick = event => {
    const simulation = { scale: 0.01 };
    try { if (failures.value.trim()) simulation.failures = JSON.parse(failures.value); } catch (error) { tell(`What goes wrong is not JSON: ${error.message}`); return failures.focus(); }
    return start({ simulation }, event.currentTarget);
  };
  $("#real").onclick = event => start({}, event.currentTarget);
})();

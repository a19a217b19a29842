// Gradio's place for sound takes no files that are called video, as recorders of phones call sound.
(() => {
  const place = (event) => event.target.closest?.("#recording")?.querySelector("input[type=file]");
  const other = (file) => file.type.startsWith("video/") || !file.type;
  document.addEventListener("click", (event) => {
    if (event.target == place(event)) event.target.accept += ",video/*";
  }, true);
  document.addEventListener("change", (event) => {
    const input = place(event);
    if (event.target != input || ![...input.files].some(other)) return;
    const given = new DataTransfer();
    for (const file of input.files) {
      const type = "audio/" + (file.type.split("/")[1] || "unknown");
      given.items.add(other(file) ? new File([file], file.name, { type }) : file);
    }
    input.files = given.files;
  }, true);
  document.addEventListener("drop", (event) => {
    const input = place(event);
    if (!input || ![...event.dataTransfer.files].some(other)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }, true);
})();
// Gradio opens a page's connection once: where it is lost, what was given would be forgotten soon.
(() => {
  const ask = window.fetch;
  let held = false;
  async function hold(address) {
    for (;;) {
      await new Promise((done) => setTimeout(done, 10000));
      try {
        const answer = await ask(address);
        if (answer.status == 410) return forgotten();
        answer.body.cancel();
      } catch {}
    }
  }
  function forgotten() {
    const said = document.createElement("div");
    said.className = "note forgotten";
    said.setAttribute("role", "alert");
    said.textContent = "The server has forgotten this page, or was started anew: reload it.";
    document.querySelector(".gradio-container").prepend(said);
  }
  window.fetch = (url, options) => {
    const address = String(url?.url ?? url);
    const number = /queue\/data\?session_hash=(\w+)/.exec(address)?.[1];
    if (number && !held) {
      held = true;
      hold(address.replace(/queue\/data.*/, `heartbeat/${number}?again`));
    }
    return ask(url, options);
  };
})();

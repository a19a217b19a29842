// A segment that is clicked in the timeline or in the table plays; what is labelled is kept.
const player = () => document.querySelector("#sound audio");
const buttons = () => [...element.querySelectorAll("button")];
element.addEventListener("click", (event) => {
  let button = event.target.closest("button");
  const timeline = event.target.closest(".timeline");
  if (timeline) {
    const { left, width } = event.target.getBoundingClientRect();
    const { from, to, seconds } = timeline.dataset;
    const moment = (((event.clientX - left) / width - from) / (to - from)) * seconds;
    const away = ({ dataset: { start, end } }) => Math.max(start - moment, moment - end);
    button = buttons().sort((one, other) => away(one) - away(other))[0];
    const rows = button?.closest(".rows");
    rows?.scrollTo({ top: button.closest("tr").offsetTop - rows.clientHeight / 2 });
  }
  if (!button) return;
  buttons().forEach((one) => one.classList.toggle("chosen", one == button));
  if (player().src.includes(`;segment=${button.name};`)) {
    player().currentTime = 0;
    return player().play();
  }
  player().load();  // browsers of phones let play later what was loaded at a touch
  trigger("select");
});
element.addEventListener("change", ({ target }) => {
  if (target.selectedOptions?.[0].hasAttribute("data-other")) {
    const other = Object.assign(document.createElement("input"), { name: target.name });
    other.setAttribute("aria-label", target.getAttribute("aria-label"));
    other.maxLength = 80;
    target.replaceWith(other);
    other.focus();
    return;
  }
  target.dataset.said = target.value;
  target.dataset.touched = "";
  trigger("input");
});
watch("value", () => {
  buttons().forEach((button) => button.classList.remove("chosen"));
  for (const select of element.querySelectorAll("select")) {
    select.value = select.dataset.said;
    delete select.dataset.touched;
  }
});

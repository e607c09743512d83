// Filters the answers: only where the runs differ (at first), one benchmark. Without JavaScript all are shown.
"use strict";

const [bar, box, menu, count, none] = ["bar", "differ", "benchmark", "count", "none"].map((id) => document.getElementById(id));

function filter() {
  let shown = 0;
  for (const item of document.querySelectorAll("[data-item]")) {
    item.hidden = (box?.checked && item.dataset.differs === "0") || (!!menu?.value && item.dataset.benchmark !== menu.value);
    if (!item.hidden) shown += 1;
  }
  for (const table of document.querySelectorAll(".asked")) table.parentElement.hidden = !table.querySelector("[data-item]:not([hidden])");
  for (const image of document.querySelectorAll(".image")) image.hidden = !image.querySelector("[data-item]:not([hidden])");
  count.textContent = shown.toLocaleString("en");
  none.hidden = shown > 0;
}

if (bar) {
  bar.hidden = false;
  box?.addEventListener("change", filter);
  menu?.addEventListener("change", filter);
  filter();
}

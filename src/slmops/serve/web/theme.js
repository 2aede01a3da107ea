// Before anything is drawn, so that a chosen theme does not flash. A classic script: modules run later.
"use strict";
{
  let chosen = null;
  try { chosen = localStorage.getItem("slmops.theme"); } catch { /* storage is off: as the system has it */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}

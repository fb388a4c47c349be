// Runs before the page is drawn, so that a chosen theme does not flash. Kept apart because the policy allows no inline script.
const saved = localStorage.getItem("trainbus-theme");
if (saved === "light" || saved === "dark") document.documentElement.dataset.theme = saved;

// Before the first paint. A file of its own, because the policy allows no script in the page.
// A chosen theme must not flash.
const theme = localStorage.getItem("trainbus-theme");
if (theme) document.documentElement.dataset.theme = theme;

// What the page asks first is asked while the rest of it is still on its way.
const run = new URLSearchParams(location.hash.slice(1)).get("run");
const path = `/api/state?${new URLSearchParams(run ? { lists: "no", run } : { lists: "no" })}`;
window.early = { path, answer: fetch(path, { headers: { Accept: "application/json" } }) };
window.early.answer.catch(() => {});

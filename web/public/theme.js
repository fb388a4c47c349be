// Before the first paint, so that a chosen theme does not flash. A file of its own, because the policy allows no script in the page.
const theme = localStorage.getItem("trainbus-theme");
if (theme) document.documentElement.dataset.theme = theme;

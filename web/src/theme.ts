// Light, dark, or as the system. `look` changes when what is drawn must be drawn anew.

import { Observable } from "./observable";

export type Theme = "" | "light" | "dark";

const system = matchMedia("(prefers-color-scheme: dark)");

export const theme = new Observable<Theme>((document.documentElement.dataset.theme as Theme | undefined) ?? "");
export const look = new Observable(described());

function described(): string {
  return theme.value || (system.matches ? "dark" : "light");
}

export function nextTheme(): void {
  const names: Theme[] = ["", "light", "dark"];
  theme.value = names[(names.indexOf(theme.value) + 1) % names.length];
}

theme.watch(() => {
  if (theme.value) document.documentElement.dataset.theme = theme.value;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("trainbus-theme", theme.value);
  look.value = described();
});
system.addEventListener("change", () => (look.value = described()));

// Browser notifications of critical alerts, when the visitor wants them and another window is in front.

import { arrivals } from "./model";
import { Setting } from "./observable";

export const notifying = new Setting("trainbus-notify", false);

export async function switchNotifications(): Promise<void> {
  if (notifying.value) notifying.value = false;
  else if ("Notification" in window) notifying.value = (await Notification.requestPermission()) === "granted";
}

const opened = Date.now();

arrivals.watch(() => {
  const event = arrivals.value;
  // What was there before the page opened is no news.
  if (!event || event.kind !== "alert" || event.time / 1e6 < opened || !notifying.value || !document.hidden) return;
  if (event.severity !== "critical" || event.state !== "raised") return;
  new Notification(`${event.run || "trainbus"}: ${event.message}`, { tag: String(event.id), icon: "/static/icon.svg" });
});

// Numbers, sizes and times as people read them.

// Making a formatter costs far more than using it, and a page formats hundreds of numbers a second.
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const significant = Array.from({ length: 22 }, () => null as Intl.NumberFormat | null);

function rounded(value: number, digits: number): string {
  significant[digits] ??= new Intl.NumberFormat("en-US", { maximumSignificantDigits: digits });
  return significant[digits].format(value);
}

export function number(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return whole.format(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace("e+", "e");
  return rounded(value, digits);
}

export function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e9) return `${number(value / 1e9, 3)}G`;
  if (size >= 1e6) return `${number(value / 1e6, 3)}M`;
  if (size >= 1e4) return `${number(value / 1e3, 3)}k`;
  return number(value, 3);
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let [size, unit] = [value, 0];
  while (Math.abs(size) >= 1024 && unit < units.length - 1) [size, unit] = [size / 1024, unit + 1];
  return `${unit === 0 ? size : size.toFixed(size < 10 ? 1 : 0)} ${units[unit]}`;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(Math.round(seconds % 60)).padStart(2, "0")} s`.replace(" 60 s", " 59 s");
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

export function clock(nanoseconds: number): string {
  if (!nanoseconds) return "–";
  const date = new Date(nanoseconds / 1e6);
  const time = date.toLocaleTimeString("en-GB");
  return Date.now() - date.getTime() < 86_400_000 ? time : `${date.toLocaleDateString("en-CA")} ${time.slice(0, 5)}`;
}

export function percent(share: number | null | undefined): string {
  return share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`;
}

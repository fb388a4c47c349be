// What the API answers. Fields that the page does not use are left out.

export interface Health {
  level: "ok" | "warning" | "critical" | "ended" | "unknown";
  reason: string;
}

export interface Phase {
  name: string;
  state: string;
  progress: number | null;
  detail: string;
}

export interface RunSummary {
  run: string;
  name: string;
  state: string;
  reason: string;
  health: Health;
  host: string;
  started: number;
  updated: number;
  step: number | null;
  total_steps: number | null;
  epoch: number | null;
  examples: number | null;
  tokens: number | null;
  phase: Phase | null;
  steps_per_second: number | null;
  eta: number | null;
  eta_low: number | null;
  eta_high: number | null;
  events: number;
  missing: number;
  series: string[];
  spark: number[];
}

export interface Accuracy {
  last20: number | null;
  last50: number | null;
  overall: number | null;
  trend: number | null;
  scored: number;
}

export interface Forecast {
  files: number;
  bytes: number;
  bytes_per_second: number;
  finished: number;
  done: number;
  earliest: number;
  latest: number;
}

export interface StepTimes {
  counted: number;
  edges: number[];
  counts: number[];
  p50: number | null;
  p95: number | null;
  p99: number | null;
  longest: number | null;
}

export interface RunDetail extends RunSummary {
  config: Record<string, unknown>;
  metrics: Record<string, number | null>;
  broken_metrics: string[];
  best: { step: number; loss: number } | null;
  accuracy: Accuracy;
  queue: Forecast | null;
  versions: Record<string, number>;
}

export interface Alert {
  id: string;
  rule: string;
  severity: "info" | "warning" | "critical";
  state: "raised" | "updated" | "cleared";
  step: number | null;
  message: string;
  evidence: Record<string, unknown>;
  advice: string;
  plugin: string;
  time: number;
  offset: number;
}

export interface Checkpoint {
  id: string;
  step: number;
  path: string;
  host: string;
  state: string;
  bytes: number | null;
  metrics: Record<string, number | null>;
  reason: string;
  time: number;
}

export interface CheckpointRow {
  id: string;
  host: string;
  step: number;
  path: string;
  state: "writing" | "complete" | "kept" | "goes" | "thins" | "trashed" | "gone";
  reasons: string[];
  time: number;
  bytes: number | null;
  metrics: Record<string, number | null>;
  protected: boolean;
  pinned: string;
  leases: string[];
  thinned: boolean;
  restorable: boolean;
  until: number;
  managed: boolean;
  dry_run: boolean;
}

export interface DiskRow {
  host: string;
  path: string;
  time: number;
  total: number;
  free: number;
  checkpoints: number;
  trash: number;
  floor: number;
  full_in: number | null;
}

export interface Checkpoints {
  version: number;
  checkpoints: CheckpointRow[];
  disks: DiskRow[];
}

export interface Evaluation {
  step: number;
  dataset: string;
  metrics: Record<string, number | null>;
  examples: number | null;
  duration: number | null;
  checkpoint: string | null;
  time: number;
  offset: number;
}

export interface Sample {
  step: number;
  prompt: string;
  expected: string | null;
  answer: string | null;
  correct: boolean | null;
  loss: number | null;
  example: string;
  dataset: string;
  offset: number;
  confidence?: number | null;
  reasons?: string[];
}

export interface Order {
  command: string;
  verb: string;
  plugin: string;
  arguments: Record<string, unknown>;
  requested_by: string;
  state: "sent" | "accepted" | "done" | "refused";
  reason: string;
  asked: string;
  time: number;
  answered?: number;
}

export interface Job {
  id: string;
  file: string;
  state: string;
  priority: string;
  bytes: number | null;
  examples: number | null;
  reason: string;
  time: number;
  step: number | null;
  // When it will be done, as far as that can be told.
  done: number | null;
}

export interface Memory {
  total: number;
  used: number;
  available?: number | null;
}

export interface Pressure {
  some: number | null;
  full: number | null;
}

export interface Gpu {
  index: number;
  name: string;
  memory_total: number | null;
  memory_used: number | null;
  utilization: number | null;
  temperature: number | null;
  power: number | null;
  power_limit: number | null;
}

export interface System {
  host: string;
  time: number;
  memory: Memory | null;
  swap: Memory | null;
  pressure: Pressure | null;
  cpu_percent: number | null;
  processes: { pid: number; name?: string; role?: string; run?: string; rss?: number; processes?: number }[];
  disks: { path: string; total?: number; free?: number }[];
  gpus: Gpu[];
  risk: string;
  reason: string;
  unknown: Record<string, string>;
  oom_kills: number | null;
}

export interface PluginState {
  name: string;
  state: string;
  version: string;
  host: string;
  restarts: number;
  lag: number | null;
  dead_letters: number;
  error: string;
  time: number;
}

export interface DeclaredPanel {
  key: string;
  plugin: string;
  newest: number;
  id: string;
  title: string;
  kind: "chart" | "table" | "text" | "gauge";
  events: string;
  fields: string[];
  x: string;
}

export interface Uploads {
  largest: number;
  endings: string[];
}

export interface State {
  offset: number;
  time: number;
  loading: boolean;
  problem: string;
  role: "viewer" | "operator";
  uploads: Uploads | null;
  runs: RunSummary[];
  run: RunDetail | null;
  plugins: PluginState[];
  systems: System[];
  alerts: Alert[];
  panels: DeclaredPanel[];
  not_finite?: Record<string, string>;
}

export interface Gap {
  first: number;
  last: number;
  count: number;
  kind: string;
}

export interface Series {
  metric: string;
  steps: number[];
  values: number[];
  gaps: Gap[];
  total: number;
  seen: number;
}

export interface BusEvent {
  kind: string;
  run: string;
  source: string;
  offset: number;
  time: number;
  not_finite?: Record<string, string>;
  [field: string]: unknown;
}

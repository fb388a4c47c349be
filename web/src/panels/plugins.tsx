// Plugins: how each stands, and for an operator what it printed last, restart, remove, add.

import { useEffect, useRef, useState } from "preact/hooks";
import { CommandDialog } from "../commands";
import { state, useResource } from "../model";
import { clock, number } from "../format";
import { ApiError, get, post } from "../net";
import { useValue } from "../observable";
import { Nothing, Panel, Pill, TONES, Table, Waiting } from "../panel";
import type { PluginState } from "../types";

const LOG_PAUSE = 2000;

type Verb = "add" | "remove" | "restart";

// What was asked of a plugin last, and what came of it.
interface Told {
  plugin: string;
  text: string;
  bad?: boolean;
}

async function ask(plugin: string, verb: Verb, save: boolean): Promise<Told> {
  try {
    const answer = await post<{ state: string }>(`/api/plugins/${encodeURIComponent(plugin)}`, verb === "restart" ? { verb } : { verb, save });
    return { plugin, text: `${plugin}: ${verb}, ${answer.state === "asked" ? "on its way" : `now ${answer.state}`}`, bad: answer.state === "failed" };
  } catch (error) {
    return { plugin, text: `${plugin}: ${error instanceof Error ? error.message : String(error)}`, bad: true };
  }
}

function Log({ plugin, close }: { plugin: string; close: () => void }) {
  const [lines, setLines] = useState<string[] | null>(null);
  const [problem, setProblem] = useState("");
  const [filter, setFilter] = useState("");
  const box = useRef<HTMLPreElement>(null);
  useEffect(() => {
    let current = true;
    let timer: ReturnType<typeof setTimeout>;
    const look = async () => {
      try {
        const answer = document.hidden ? null : await get<{ lines: string[] }>(`/api/plugins/${encodeURIComponent(plugin)}/log`, [["lines", 500]]);
        if (current && answer) setLines(answer.lines);
        if (current) setProblem("");
      } catch (error) {
        if (current) setProblem(error instanceof ApiError ? error.message : String(error));
      }
      if (current) timer = setTimeout(look, LOG_PAUSE);
    };
    look();
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [plugin]);
  const wanted = filter.toLowerCase().trim();
  const shown = (lines ?? []).filter((line) => line.toLowerCase().includes(wanted));
  const end = useRef(true);
  // The end stays in sight, unless somebody has scrolled away from it.
  useEffect(() => {
    if (box.current && end.current) box.current.scrollTop = box.current.scrollHeight;
  });
  const scrolled = () => {
    if (box.current) end.current = box.current.scrollHeight - box.current.scrollTop - box.current.clientHeight < 20;
  };
  return (
    <div class="log" id="plugin-log">
      <div class="head">
        <h3>Log of {plugin}</h3>
        {problem ? <span class="bad" role="alert">{problem}</span> : null}
        <div class="spacer" />
        <label class="control">
          <span class="hidden">Search the log</span>
          <input id="log-filter" type="search" placeholder="Search" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
        </label>
        <button type="button" class="quiet small" onClick={close}>
          Close the log
        </button>
      </div>
      <pre ref={box} class="scroll mono" tabIndex={0} role="log" aria-live="off" aria-label={`Log of ${plugin}`} onScroll={scrolled}>
        {lines === null ? (problem ? "" : "…") : shown.length ? shown.join("\n") : wanted ? "No line matches." : "It has printed nothing."}
      </pre>
    </div>
  );
}

function Adding({ plugins, told, act }: { plugins: PluginState[]; told: Told | null; act: (plugin: string, verb: Verb) => void }) {
  const known = plugins.map((plugin) => `${plugin.name} ${plugin.state}`).join();
  const resource = useResource<{ installed: { name: string; version: string }[] }>("/api/plugins", [], known || "none");
  const [chosen, setChosen] = useState("");
  if (!resource.data) return <Waiting resource={resource} empty={false} none="" />;
  const used = new Set(plugins.filter((plugin) => plugin.state !== "stopped").map((plugin) => plugin.name));
  const free = resource.data.installed.filter((one) => !used.has(one.name));
  const wanted = free.some((one) => one.name === chosen) ? chosen : (free[0]?.name ?? "");
  return (
    <div class="adding">
      {free.length ? (
        <>
          <label class="control">
            Installed, not in use
            <select id="plugin-add" value={wanted} onChange={(event) => setChosen(event.currentTarget.value)}>
              {free.map((one) => (
                <option key={one.name} value={one.name}>
                  {one.name} {one.version}
                </option>
              ))}
            </select>
          </label>
          <button type="button" class="quiet small" data-plugin-verb="add" onClick={() => act(wanted, "add")}>
            Add …
          </button>
        </>
      ) : (
        <span class="meta">Every installed plugin is in use.</span>
      )}
      {told ? (
        <span class={told.bad ? "bad" : "meta"} role="status" id="plugin-told">
          {told.text}
        </span>
      ) : null}
    </div>
  );
}

const WORDS: Record<Verb, [title: string, text: string]> = {
  add: ["Add this plugin?", "It is started at once, with its settings from the configuration file; it goes on where it was when it was removed."],
  remove: ["Remove this plugin?", "It is stopped in order. Its settings, state and place in the journal stay."],
  restart: ["Restart this plugin?", "It is stopped in order and started anew, also when it was parked as failed."],
};

function Ask({ plugin, verb, close, done }: { plugin: string; verb: Verb; close: () => void; done: (told: Told) => void }) {
  const [save, setSave] = useState(true);
  const [title, text] = WORDS[verb];
  const own = plugin === "web" && verb !== "add" ? (verb === "remove" ? " This is the dashboard: the page ends with it." : " This is the dashboard: the page comes back by itself.") : "";
  return (
    <CommandDialog
      title={title}
      subject={plugin}
      text={text + own}
      button={verb[0].toUpperCase() + verb.slice(1)}
      danger={verb === "remove"}
      unreasoned
      send={async () => {
        const told = await ask(plugin, verb, save);
        if (!told.bad) done(told);
        return told.bad ? told.text : "";
      }}
      close={close}
    >
      {verb === "restart" ? null : (
        <label class="check">
          <input name="save" type="checkbox" checked={save} onChange={(event) => setSave(event.currentTarget.checked)} /> Also in the configuration file, so that it lasts
        </label>
      )}
    </CommandDialog>
  );
}

export function PluginsPanel() {
  const plugins = useValue(state, (value) => value?.plugins) ?? [];
  const operator = useValue(state, (value) => value?.role) === "operator";
  const [log, setLog] = useState("");
  const [asked, setAsked] = useState<{ plugin: string; verb: Verb } | null>(null);
  const [told, setTold] = useState<Told | null>(null);
  const bad = plugins.filter((plugin) => plugin.state === "failed" || plugin.state === "stuck").length;
  const act = (plugin: string, verb: Verb) => setAsked({ plugin, verb });
  return (
    <Panel id="plugins" title="Plugins" span="wide" count={plugins.length ? (bad ? `${bad} of ${plugins.length} in trouble` : `${plugins.length}, all well`) : ""}>
      <div id="plugins">
        {plugins.length ? (
          <Table
            label="Plugins"
            columns={[["Plugin"], ["State"], ["Lag", "num"], ["Restarts", "num"], ["Dead letters", "num"], ["Error", "grow"], ...(operator ? [["Actions"] as [string]] : [])]}
            rows={plugins.map((plugin) => ({
              key: plugin.name,
              faint: plugin.state === "stopped",
              cells: [
                <span title={[plugin.version, plugin.host, `since ${clock(plugin.time)}`].filter(Boolean).join(" · ")}>{plugin.name}</span>,
                <Pill text={plugin.state} tone={TONES[plugin.state]} />,
                number(plugin.lag),
                number(plugin.restarts),
                number(plugin.dead_letters),
                <span class={plugin.error ? "bad" : ""}>{plugin.error || "–"}</span>,
                ...(operator
                  ? [
                      plugin.state === "stopped" ? null : (
                        <span class="deeds">
                          <button type="button" class="quiet small" aria-expanded={log === plugin.name} aria-label={`Log of ${plugin.name}`} onClick={() => setLog(log === plugin.name ? "" : plugin.name)}>
                            Log
                          </button>
                          <button type="button" class="quiet small" data-plugin-verb="restart" aria-label={`Restart ${plugin.name}`} onClick={() => act(plugin.name, "restart")}>
                            Restart
                          </button>
                          <button type="button" class="quiet small" data-plugin-verb="remove" aria-label={`Remove ${plugin.name}`} onClick={() => act(plugin.name, "remove")}>
                            Remove
                          </button>
                        </span>
                      ),
                    ]
                  : []),
              ],
            }))}
          />
        ) : (
          <Nothing>No plugin has reported yet.</Nothing>
        )}
        {log ? <Log plugin={log} key={log} close={() => setLog("")} /> : null}
        {operator ? <Adding plugins={plugins} told={told} act={act} /> : null}
        {asked ? <Ask plugin={asked.plugin} verb={asked.verb} close={() => setAsked(null)} done={setTold} /> : null}
      </div>
    </Panel>
  );
}

// The OpenAPI description, to read.

import { useResource } from "./model";
import { Waiting } from "./panel";

interface Operation {
  summary: string;
  parameters: { name: string; in: string; description?: string }[];
  responses: Record<string, { content?: Record<string, unknown> }>;
}

interface Description {
  info: { title: string; version: string; description: string };
  paths: Record<string, Record<string, Operation>>;
}

export function ApiPage() {
  const resource = useResource<Description>("/api/openapi.json", [], 0);
  const found = resource.data;
  return (
    <div class="grid">
      <section class="card full api" aria-labelledby="api-title">
        <h1 id="api-title">API</h1>
        <Waiting resource={resource} empty={false} none="" />
        {found ? (
          <>
            <p>{found.info.description}</p>
            <p>
              As a document: <a href="/api/openapi.json">/api/openapi.json</a>
            </p>
            {Object.entries(found.paths).flatMap(([path, methods]) =>
              Object.entries(methods).map(([method, operation]) => (
                <article key={method + path}>
                  <h2>
                    <span class={`pill ${method === "post" ? "warning" : "info"}`}>{method.toUpperCase()}</span> <code>{path}</code>
                  </h2>
                  <p>{operation.summary}</p>
                  {operation.parameters.length ? (
                    <dl>
                      {operation.parameters.map((parameter) => [<dt key={parameter.name}>{parameter.name}</dt>, <dd key={`${parameter.name}=`}>{parameter.description ?? `in the ${parameter.in}`}</dd>])}
                    </dl>
                  ) : null}
                </article>
              )),
            )}
          </>
        ) : null}
      </section>
    </div>
  );
}

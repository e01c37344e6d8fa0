"""The page at `/docs`: all addresses with their schemas and a form to try them, built in the browser.

The page is a single file that loads nothing from other hosts and reads `/openapi.json`. Its security policy (`HEADERS`)
lets the browser run only this script and connect only to this server. Texts of the document are inserted as text and
never as HTML.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --get: #2467b3; --post: #1f7a4d; --put: #9a6400; }
@media (prefers-color-scheme: dark) { :root { --get: #7db8f5; --post: #5fd39a; --put: #e8b54a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; } code, pre, textarea, input, .path { font: 13px/1.45 ui-monospace, monospace; }
header { display: flex; flex-wrap: wrap; gap: .5rem 2rem; align-items: end; justify-content: space-between; }
label { display: block; font-size: .85rem; margin: .5rem 0 .15rem; }
input, textarea, select { width: 100%; padding: .35rem .5rem; border: 1px solid var(--line); border-radius: 4px;
  background: transparent; color: inherit; }
header input { width: 22rem; max-width: 100%; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0; }
summary { display: flex; gap: .75rem; align-items: baseline; padding: .45rem .7rem; cursor: pointer; flex-wrap: wrap; }
summary .about { margin-left: auto; opacity: .8; font-size: .9rem; }
.inside { padding: .2rem .9rem .9rem; border-top: 1px solid var(--line); }
.method { font-weight: 700; font-size: .75rem; width: 3.2rem; } .role { font-size: .75rem; opacity: .7; }
.GET { color: var(--get); } .POST { color: var(--post); } .PUT { color: var(--put); }
pre { background: var(--soft); border-radius: 4px; padding: .6rem .7rem; overflow: auto; max-height: 26rem;
  margin: .4rem 0; }
button { margin-top: .6rem; padding: .35rem 1rem; border-radius: 4px; cursor: pointer;
  border: 1px solid var(--line); background: var(--soft); color: inherit; font: inherit; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 1.2rem; }
.wrong { color: var(--bad, #b3261e); font-weight: 600; } .right { color: var(--post); font-weight: 600; }
"""
_SCRIPT = """
"use strict";
const $ = (tag, given = {}, ...inside) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name, value);
  }
  made.append(...inside);
  return made;
};
const key = document.getElementById("key"), list = document.getElementById("list");
const headers = (more = {}) => key.value ? {...more, authorization: "Bearer " + key.value.trim()} : more;
let schemas = {};
const resolved = (schema) => schema && schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema || {};

function example(given, depth = 0) {
  const schema = resolved(given);
  if (depth > 6) return null;
  if ("default" in schema) return schema.default;
  if ("const" in schema) return schema.const;
  if (schema.enum) return schema.enum[0];
  const first = (schema.anyOf || [{}])[0];
  if (schema.anyOf && !schema.type) return example(first, depth + 1);
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  if (type === "object") {
    const needed = new Set([...(schema.required || []), ...(first.required || [])]);
    return Object.fromEntries(Object.entries(schema.properties || {}).filter(([name]) => needed.has(name))
      .map(([name, one]) => [name, example(one, depth + 1)]));
  }
  if (type === "array") return schema.items ? [example(schema.items, depth + 1)] : [];
  if (type === "string") return schema.format === "date-time" ? new Date().toISOString() : "text";
  if (type === "integer" || type === "number") return 1;
  if (type === "boolean") return true;
  return null;
}

function shown(given, depth = 0, seen = []) {
  const named = given && given.$ref ? given.$ref.split("/").pop() : null;
  if (named && seen.includes(named)) return named;
  const schema = resolved(given), next = named ? [...seen, named] : seen, pad = "  ".repeat(depth);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.anyOf && !schema.type) return [...new Set(schema.anyOf.map((one) => shown(one, depth, next)))].join(" | ");
  const types = [].concat(schema.type || "anything");
  return types.map((type) => {
    if (type === "array") return "[" + (schema.items ? shown(schema.items, depth, next) : "anything") + ", ...]";
    if (type !== "object") return schema.format && type === "string" ? type + " (" + schema.format + ")" : type;
    const needed = new Set(schema.required || []), properties = Object.entries(schema.properties || {});
    if (!properties.length) return schema.additionalProperties && schema.additionalProperties.type
      ? "{name: " + shown(schema.additionalProperties, depth, next) + "}" : "object";
    return "{\\n" + properties.map(([name, one]) => pad + "  " + name + (needed.has(name) ? "" : "?") + ": " +
      shown(one, depth + 1, next)).join(",\\n") + "\\n" + pad + "}";
  }).join(" | ");
}

function form(path, method, operation) {
  const fields = (operation.parameters || []).map((one) => {
    const {const: only, enum: among} = resolved(one.schema), about = one.description || "";
    const input = $("input", {placeholder: only === undefined ? about : only + ": " + about});
    if (one.in === "path" && among) input.value = among[0];
    return {one, input};
  });
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  const body = content && $("textarea", {spellcheck: "false", "aria-label": "Body"});
  if (body) {
    body.textContent = JSON.stringify(example(content.schema), null, 2);
    body.rows = Math.min(24, body.value.split("\\n").length + 1);
  }
  const status = $("p"), answer = $("pre");
  answer.hidden = true;
  const send = async () => {
    let address = path;
    const query = new URLSearchParams(), more = body ? {"content-type": "application/json"} : {};
    for (const {one, input} of fields) {
      if (one.in === "path") address = address.replace("{" + one.name + "}", encodeURIComponent(input.value));
      else if (input.value && one.in === "header") more[one.name] = input.value;
      else if (input.value) query.set(one.name, input.value);
    }
    const question = query.size ? "?" + query : "";
    const began = performance.now();
    try {
      const response = await fetch(address + question, {method, cache: "no-store", credentials: "omit",
        headers: headers(more), body: body ? body.value : undefined});
      const text = await response.text(), took = (performance.now() - began).toFixed(1);
      status.textContent = response.status + " in " + took + " ms";
      status.className = response.ok ? "right" : "wrong";
      try { answer.textContent = JSON.stringify(JSON.parse(text), null, 2); } catch { answer.textContent = text; }
      answer.hidden = false;
    } catch (error) {
      status.textContent = "No answer: " + error.message;
      status.className = "wrong";
    }
  };
  return $("div", {}, ...fields.flatMap(({one, input}) => [$("label", {text: one.name + " (" + one.in + ")"}), input]),
    ...(body ? [$("label", {text: "Body"}), body] : []), $("button", {text: "Send", onclick: send}), status, answer);
}

function entry(path, method, operation) {
  const role = (operation.security || []).flatMap((one) => one.bearer || [])[0];
  const made = $("details", {id: operation.operationId}, $("summary", {},
    $("span", {class: "method " + method, text: method}), $("span", {class: "path", text: path}),
    ...(role ? [$("span", {class: "role", text: role})] : []), $("span", {class: "about", text: operation.summary})));
  made.addEventListener("toggle", () => {
    if (!made.open || made.children.length > 1) return;
    const inside = $("div", {class: "inside"}), two = $("div", {class: "two"});
    const column = (title, content) => Object.entries(content || {}).forEach(([kind, one]) => two.append($("div", {},
      $("label", {text: title + ", " + kind}), $("pre", {text: shown(one.schema)}))));
    column("Takes", operation.requestBody && operation.requestBody.content);
    column("Gives", operation.responses["200"].content);
    inside.append(form(path, method, operation), two);
    made.append(inside);
  });
  return made;
}

async function load() {
  const response = await fetch("/openapi.json", {headers: headers(), cache: "no-store", credentials: "omit"});
  const read = await response.json();
  list.replaceChildren();
  if (!response.ok) {
    list.append($("p", {class: "wrong", text: read.detail}));
    return;
  }
  schemas = read.components.schemas;
  document.title = read.info.title;
  document.getElementById("title").textContent = read.info.title;
  const groups = new Map();
  for (const [path, operations] of Object.entries(read.paths))
    for (const [method, operation] of Object.entries(operations)) {
      const tag = operation.tags[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(entry(path, method.toUpperCase(), operation));
    }
  for (const [tag, entries] of groups) list.append($("h2", {text: tag}), ...entries);
  const wanted = location.hash && document.getElementById(location.hash.slice(1));
  if (wanted) { wanted.open = true; wanted.scrollIntoView(); }
}
key.addEventListener("change", load);
load().catch((error) => list.replaceChildren($("p", {class: "wrong", text: "No answer: " + error.message})));
"""
_PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>trimtab</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head>
<body><header><div><h1 id="title">trimtab</h1>
<p>Addresses of this service. <a href="/openapi.json">OpenAPI</a></p></div>
<div><label for="key">API key, if this service needs one</label>
<input id="key" type="password" autocomplete="off" placeholder="trimtab_..."></div></header>
<main id="list"><p>Reading /openapi.json ...</p></main><script>{_SCRIPT}</script></body></html>
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (
        b"content-security-policy",
        (
            f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ).encode(),
    ),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


@cache
def docs_page() -> bytes:
    """Return the HTML page, which is the same for every service."""
    return _PAGE.encode()

// The HTTP API of memoserve serve.

/** What went wrong, in the server's words; `status` 0: it didn't answer. */
export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The address of a resource; parameters that are empty or null are left out. */
export function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== '') query.set(name, value);
  }
  const text = query.toString();
  return `api/${path}${text ? `?${text}` : ''}`;
}

async function ask(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: 'same-origin', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure('The server does not answer. Is memoserve serve still running there?');
  }
  if (response.ok) return response;
  if (response.status === 401) {
    location.assign(`login${location.hash}`);
    throw new Failure('This store needs a token; you are being sent to the page that asks for it.', 401);
  }
  let message = `The server answered ${response.status} ${response.statusText}.`;
  try {
    message = (await response.json()).error ?? message;
  } catch {
    // Not JSON: the status line has to do.
  }
  throw new Failure(message, response.status);
}

/** GET api/`path` as JSON. Throws Failure. */
export const get = async (path, parameters, signal) => (await ask(address(path, parameters), { signal })).json();

/** GET api/`path` as text. Throws Failure. */
export const getText = async (path, parameters, signal) => (await ask(address(path, parameters), { signal })).text();

const posting = (body, signal) => ({
  method: 'POST',
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify(body),
  signal,
});

/** POST JSON to api/`path`; JSON comes back. Throws Failure. */
export const post = async (path, body, signal) => (await ask(`api/${path}`, posting(body, signal))).json();

/** The same for an answer that is a file. */
export const postForFile = async (path, body, signal) => (await ask(`api/${path}`, posting(body, signal))).blob();

/** {columns, rows} as objects; lists of objects stay. */
export function records(answer) {
  if (Array.isArray(answer)) return answer;
  const names = answer.columns.map((column) => column.name ?? column);
  return answer.rows.map((row) => (Array.isArray(row) ? Object.fromEntries(names.map((name, i) => [name, row[i]])) : row));
}

const kept = new Map();

/** GET that is asked once and kept until `forget`: what rarely changes. */
export function keep(path, parameters) {
  const url = address(path, parameters);
  if (!kept.has(url)) {
    const answer = get(path, parameters);
    kept.set(url, answer);
    answer.catch(() => kept.delete(url));
  }
  return kept.get(url);
}

/** Ask again next time: a run has changed the store. */
export const forget = () => kept.clear();

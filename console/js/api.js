// The server's side of the console: a stream of events that comes back by itself, and SQL.
const RETRY_FIRST_MS = 500;
const RETRY_LAST_MS = 8000;
/** The server sends a status each second; after this silence the connection counts as lost. */
const SILENCE_MS = 6000;

export class LoggedOut extends Error {}

async function request(path, options = {}) {
  const response = await fetch(path, { credentials: 'same-origin', cache: 'no-store', ...options });
  if (response.status === 401) throw new LoggedOut('log in again');
  return response;
}

/** Runs SQL and answers `{columns, rows, truncated}`; an error's message is the server's own line, with its hint. */
export async function sql(text, { limit = 100 } = {}) {
  const response = await request('/api/v1/sql', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ sql: text, limit }),
  });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    const told = [body.error?.message ?? `the server answered ${response.status}`, body.error?.hint];
    throw new Error(told.filter(Boolean).join('; '));
  }
  return body;
}

/**
 * Events of the platform and of one watched table. `on.status`, `on.rows`, `on.trouble(message)`, `on.connection(state)` with the states
 * `live`, `lost`, `mute` (it answers, but its events do not come), `loggedOut`.
 */
export class Events {
  #on; #table = null; #source = null; #retry = RETRY_FIRST_MS; #timer = null; #silence = null;

  constructor(on) {
    this.#on = on;
  }

  watch(table) {
    if (table === this.#table && this.#source) return;
    this.#table = table;
    this.#open();
  }

  #open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const query = this.#table ? `?table=${encodeURIComponent(this.#table)}` : '';
    const source = new EventSource(`/api/v1/events${query}`);
    this.#source = source;
    this.#heard();
    const listen = (name, handle) => source.addEventListener(name, (event) => {
      if (source !== this.#source) return;
      this.#heard();
      this.#retry = RETRY_FIRST_MS;
      this.#on.connection('live');
      handle(JSON.parse(event.data));
    });
    listen('status', (data) => this.#on.status(data));
    // A stream's first rows are all that can be shown now, also those that an earlier stream brought.
    let anew = true;
    listen('rows', (data) => { this.#on.rows({ ...data, anew }); anew = false; });
    listen('trouble', (data) => this.#on.trouble(data));
    source.onerror = () => { if (source === this.#source) this.#lost(); };
  }

  #heard() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lost(), SILENCE_MS);
  }

  async #lost() {
    clearTimeout(this.#silence);
    this.#source?.close();
    this.#source = null;
    let state = 'mute';
    try {
      await request('/api/v1/status', { signal: AbortSignal.timeout(SILENCE_MS) });
    } catch (error) {
      if (error instanceof LoggedOut) { this.#on.connection('loggedOut'); return; }
      state = 'lost';
    }
    // Another table may have been picked meanwhile, which opens a stream of its own.
    if (this.#source) return;
    this.#on.connection(state);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), this.#retry);
    this.#retry = Math.min(this.#retry * 2, RETRY_LAST_MS);
  }
}

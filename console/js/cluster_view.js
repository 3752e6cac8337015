// Executors, topics, tables and feeds: short lists, redrawn only when something in them changed.
import { byId, command, el, emptyState, setText } from './dom.js';
import { THIN, bytes, count, plural, timestamp } from './format.js';

/** The first digits tell generated ids apart; a name that somebody gave stays whole. */
const shortId = (id) => (/^[0-9a-f-]{32,}$/.test(id) ? id.slice(0, 8) : id);

const shown = new Map();

function once(id, data, build) {
  const key = JSON.stringify(data);
  if (shown.get(id) === key) return;
  shown.set(id, key);
  byId(id).replaceChildren(...build());
}

function list(heads, rows, caption) {
  return el('div', { class: 'scroll' }, el('table', { class: 'plain' }, el('caption', { class: 'hidden', text: caption }),
    el('thead', {}, el('tr', {}, ...heads.map(([text, kind]) => el('th', { scope: 'col', class: kind, text })))),
    el('tbody', {}, ...rows)));
}

export function showExecutors(executors) {
  once('executors', executors, () => executors.length === 0
    ? [emptyState('No executors', 'Jobs wait until one registers. On a cluster, start one:', command('polybolos executor'))]
    : [list([['Executor'], ['State'], ['CPU', 'numeric'], ['Memory', 'numeric'], ['Partitions', 'numeric']], executors.map((one) => el('tr', {},
      el('th', { scope: 'row' }, el('code', { text: shortId(one.id), title: one.id }), el('small', { text: one.address })),
      el('td', {}, el('span', { class: 'dot', data: { state: one.state } }), one.state),
      el('td', { class: 'numeric', text: one.cpu_percent == null ? '–' : `${count(Math.round(one.cpu_percent))}${THIN}%` }),
      el('td', { class: 'numeric', text: bytes(one.memory_bytes) }),
      el('td', { class: 'numeric', text: count(one.partitions), title: plural(one.task_slots, 'task slot', 'task slots') }))), 'Executors')]);
}

export function showObjects(topics, tables) {
  once('objects', [topics, tables], () => topics.length + tables.length === 0
    ? [emptyState('Nothing declared', 'Topics and tables of the running pipelines stand here. Try the demo:', command('polybolos up'))]
    : [list([['Name'], ['Kind'], ['Details', 'numeric']], [
      ...topics.map((one) => el('tr', {}, el('th', { scope: 'row' }, el('code', { text: one.name })), el('td', { text: 'topic' }),
        el('td', { class: 'numeric', text: `${plural(one.partitions, 'partition', 'partitions')}${one.records == null ? '' : ` · ${plural(one.records, 'record', 'records')}`}` }))),
      ...tables.map((one) => el('tr', {}, el('th', { scope: 'row' }, el('code', { text: one.name })), el('td', { text: `${one.connector} table` }),
        el('td', { class: 'numeric', text: one.written_by ? `written by ${one.written_by}` : plural(one.columns, 'column', 'columns') })))], 'Topics and tables')]);
}

/** Why a feed brings nothing now, as far as that is known. */
function feedTrouble({ state, reported_ms, last_error, last_error_ms }) {
  const lines = state === 'silent' || state === 'stopped' ? [`Last heard of ${timestamp(reported_ms)}`] : [];
  if (last_error && ['failing', 'waiting', 'silent'].includes(state)) lines.push(`${last_error} (${timestamp(last_error_ms)})`);
  return lines.map((text) => el('small', { dir: 'auto', text }));
}

export function showFeeds(feeds) {
  once('feeds', feeds, () => feeds.length === 0
    ? [emptyState('No feeds', 'A feed polls an API into a topic. Describe one in the ingest.toml of a pipeline folder, and run it; on a cluster, an ingestor does:',
      command('polybolos up --pipelines FOLDER'), command('polybolos ingest --config FILE'))]
    : [list([['Feed'], ['State'], ['Records', 'numeric']], feeds.map((one) => el('tr', {},
      el('th', { scope: 'row' }, el('code', { text: one.name }), el('small', { text: `${one.url} → ${one.topic}` })),
      el('td', { title: `ingestor ${shortId(one.ingestor)}${one.host ? ` on ${one.host}` : ''}` },
        el('span', { class: 'dot', data: { state: one.state } }), one.state, ...feedTrouble(one)),
      el('td', { class: 'numeric', title: `since ${timestamp(one.started_ms)}` }, count(one.records),
        one.last_record_ms === null ? null : el('small', { text: timestamp(one.last_record_ms) })))), 'Feeds')]);
}

/** Shows what is reached, and answers in words what is not. */
export function showHealth(status) {
  const away = [];
  for (const name of ['kafka', 'cassandra']) {
    const chip = byId(`chip-${name}`);
    const health = status[name] ?? { state: 'unknown', message: '' };
    chip.dataset.state = health.state;
    chip.title = health.message;
    const title = name[0].toUpperCase() + name.slice(1);
    const words = health.state === 'ok' ? title : `${title} ${health.state}`;
    setText(chip.lastChild, words);
    if (health.state === 'away') away.push(`${words}: ${health.message}`);
  }
  return away.join('. ');
}

// How a column of any table is shown: by its name and type. People get their name and a picture, ids are short, times are local.
import { el } from './dom.js';
import { avatar } from './avatar.js';
import { NONE, date, exact, number, timestamp } from './format.js';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-/i;
const isPicture = (column) => /^(picture|avatar|photo|thumbnail|image)(_url)?$/i.test(column.name);
const isTime = (column) => /timestamp|date/i.test(column.type);
const isNumber = (column) => /^(u?int|float|decimal)/i.test(column.type);
/** Numbers that name something: separators would be in the way of reading and copying them. */
const isNaming = (column) => /(^|_)(id|key|code|zip|year|port|partition|offset)$/i.test(column.name);
const LONGEST_TEXT = 300;

function timeOf(value) {
  const text = String(value);
  const ms = Date.parse(/[zZ]|[+-]\d\d:?\d\d$/.test(text) || !text.includes('T') ? text : `${text}Z`);
  return Number.isNaN(ms) ? null : ms;
}

/** Bytes travel as `0x…`: those that are text can be read. */
function textOfBytes(hex) {
  const bytes = Uint8Array.from(hex.slice(2).match(/../g) ?? [], (pair) => parseInt(pair, 16));
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return /[\0-\x08\x0e-\x1f\x7f]/.test(text) ? hex : text;
  } catch {
    return hex;
  }
}

function numberText(column, value) {
  if (isNaming(column)) return String(value);
  if (typeof value === 'number') return number(value);
  return /^-?\d+$/.test(value) ? exact(BigInt(value)) : String(value);
}

function valueCell(column, value) {
  if (value === null || value === undefined) return el('span', { class: 'null', title: 'NULL', text: NONE });
  if (typeof value === 'object') value = JSON.stringify(value);
  if (isTime(column)) {
    const ms = timeOf(value);
    if (ms !== null) return el('time', { title: String(value), text: /date32|date64|^date$/i.test(column.type) ? date(ms) : timestamp(ms) });
  }
  if (isNumber(column)) return el('span', { title: String(value), text: numberText(column, value) });
  const text = column.type === 'Binary' ? textOfBytes(value) : String(value);
  if (UUID.test(text)) return el('code', { title: text, text: text.slice(0, 8) });
  return el('span', { dir: 'auto', title: text, text: text.length > LONGEST_TEXT ? `${text.slice(0, LONGEST_TEXT)}…` : text });
}

function personView(columns) {
  const at = (name) => columns.findIndex((column) => column.name === name);
  const [first, last, email, username] = ['first_name', 'last_name', 'email', 'username'].map(at);
  if (first < 0 || last < 0) return null;
  const second = email >= 0 ? email : username;
  return {
    used: new Set([first, last, second, ...columns.keys()].filter((i) => i >= 0 && (i === first || i === last || i === second || isPicture(columns[i])))),
    cell(row) {
      const name = [row[first], row[last]].filter(Boolean).join(' ');
      return el('div', { class: 'person' }, avatar(name || '?', row[0]),
        el('div', { class: 'person-text' }, el('bdi', { class: 'person-name', text: name || NONE }),
          second >= 0 ? el('bdi', { class: 'person-second', text: row[second] ?? '' }) : null));
    },
  };
}

const WIDTHS = [[/^(id|key|uuid)$|_id$/i, 'w-id'], [/address|message|error|raw|value$|notes?$|description|comment|body|url$/i, 'w-wide'], [/^(age|partition|gender|nationality|post_code)$/i, 'w-small']];

/** Chooses the visible columns of a table: `[{label, class, cell(row)}]`. */
export function layout(columns) {
  const person = personView(columns);
  const shown = person ? [{ label: 'Name', class: 'w-person', cell: person.cell }] : [];
  columns.forEach((column, i) => {
    if (person?.used.has(i)) return;
    const width = isTime(column) ? 'w-time' : WIDTHS.find(([pattern]) => pattern.test(column.name))?.[1] ?? (isNumber(column) ? 'w-number' : 'w-text');
    shown.push({ label: column.name.replaceAll('_', ' '), title: `${column.name}, ${column.type}`, class: `${width}${isNumber(column) ? ' numeric' : ''}`, cell: (row) => valueCell(column, row[i]) });
  });
  if (person) {
    const id = shown.findIndex((column) => column.class.startsWith('w-id'));
    if (id > 0) shown.push(...shown.splice(id, 1));
  }
  return shown;
}

export function table(shown, caption) {
  const body = el('tbody');
  const node = el('table', {}, el('caption', { class: 'hidden', text: caption }),
    el('colgroup', {}, ...shown.map((column) => el('col', { class: column.class }))),
    el('thead', {}, el('tr', {}, ...shown.map((column) => el('th', { scope: 'col', class: column.class, title: column.title }, el('span', { dir: 'auto', text: column.label }))))), body);
  return { node, body };
}

export function row(shown, values) {
  return el('tr', {}, ...shown.map((column, i) => el(i === 0 ? 'th' : 'td', { scope: i === 0 ? 'row' : null, class: column.class }, column.cell(values))));
}

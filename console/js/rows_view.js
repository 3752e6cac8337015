// The live table: newest first, a bounded number of rows, held still when asked.
import { byId, command, el, emptyState, setText } from './dom.js';
import { layout, row, table } from './cells.js';
import { count, plural } from './format.js';
import { canBeRead, forReading, keepNoRows, keepsRows } from './tables.js';

const KEPT_ROWS = 60;

export class RowsView {
  #box = byId('rows'); #note = byId('rows-note'); #hold = byId('hold'); #picker = byId('table-picker');
  #columns = ''; #shown = []; #body = null; #held = null; #seen = 0; #table = null; #onPick; #listed = null; #all = [];

  constructor(onPick) {
    this.#onPick = onPick;
    this.#hold.addEventListener('click', () => this.#toggleHold());
    this.#picker.addEventListener('change', () => this.#choose(this.#picker.value));
  }

  /** The name of the table that is shown, if there is one. */
  get table() {
    return this.#table?.name ?? null;
  }

  /** Keeps the list of tables, those that can be read first, and picks one when none is picked. */
  tables(all) {
    this.#all = forReading(all);
    const label = (one) => (keepsRows(one) ? one.name : `${one.name} (keeps no rows)`);
    const listed = this.#all.map(label).join('\n');
    const changed = listed !== this.#listed;
    if (changed) {
      this.#listed = listed;
      this.#picker.replaceChildren(...(this.#all.length ? this.#all.map((one) => el('option', { value: one.name, text: label(one) }))
        : [el('option', { text: 'none yet' })]));
      this.#picker.disabled = this.#all.length === 0;
    }
    if (this.#all.length === 0) { if (changed) this.#pick(null); return; }
    const now = this.#all.find((one) => one.name === this.table);
    if (now) {
      if (now.connector !== this.#table.connector) this.#pick(now);
      this.#picker.value = now.name;
      return;
    }
    let remembered = null;
    try { remembered = localStorage.getItem('polybolos.table'); } catch { /* no storage: the first one */ }
    this.#pick(this.#all.find((one) => one.name === remembered && canBeRead(one)) ?? this.#all[0]);
  }

  #choose(name) {
    try { localStorage.setItem('polybolos.table', name); } catch { /* kept for this page only */ }
    this.#pick(this.#all.find((one) => one.name === name));
  }

  #pick(table) {
    this.#table = table;
    if (table) this.#picker.value = table.name;
    this.#seen = 0;
    this.#columns = '';
    if (this.#held) this.#toggleHold();
    const readable = Boolean(table && keepsRows(table));
    this.#hold.disabled = !readable;
    this.#showEmpty();
    // The first answer comes even when there are no rows; only then is it known that there are none.
    if (readable) this.#box.replaceChildren(emptyState('Looking for rows…'));
    this.#onPick(readable ? table.name : null);
  }

  rows(batch) {
    if (batch.table !== this.table) return;
    // Without rows: the table can be read again.
    if (batch.rows.length === 0 && this.#body && !batch.anew) { this.#tell(); return; }
    if (batch.anew) this.#seen = 0;
    this.#seen += batch.rows.length;
    if (this.#held) this.#held = [...(batch.anew ? [] : this.#held), batch].slice(-KEPT_ROWS);
    else this.#insert(batch);
    this.#tell();
  }

  trouble(message) {
    if (!this.#body) this.#box.replaceChildren(emptyState('This table cannot be read now', message));
    setText(this.#note, message);
  }

  #insert(batch) {
    if (batch.rows.length === 0) { this.#showEmpty(); return; }
    const columns = JSON.stringify(batch.columns);
    if (columns !== this.#columns || batch.anew) {
      this.#columns = columns;
      this.#shown = layout(batch.columns);
      const { node, body } = table(this.#shown, `Newest rows of ${this.table}`);
      this.#body = body;
      this.#box.replaceChildren(node);
    }
    const first = this.#body.children.length === 0;
    const fresh = batch.rows.map((values) => {
      const node = row(this.#shown, values);
      if (!first) node.classList.add('fresh');
      return node;
    });
    this.#body.prepend(...fresh);
    while (this.#body.children.length > KEPT_ROWS) this.#body.lastChild.remove();
  }

  #toggleHold() {
    const held = this.#held;
    this.#held = held ? null : [];
    for (const batch of held ?? []) this.#insert(batch);
    this.#hold.setAttribute('aria-pressed', String(!held));
    setText(this.#hold, held ? 'Hold' : 'Go on');
    this.#tell();
  }

  #tell() {
    const waiting = this.#held?.reduce((sum, batch) => sum + batch.rows.length, 0) ?? 0;
    setText(this.#note, this.#held ? `Held: ${plural(waiting, 'newer row waits', 'newer rows wait')}.`
      : `Newest first, ${count(Math.min(this.#seen, KEPT_ROWS))} shown; the console shows a sample of a fast stream.`);
  }

  #showEmpty() {
    this.#body = null;
    setText(this.#note, ' ');
    if (this.#table && !keepsRows(this.#table)) {
      this.#box.replaceChildren(emptyState(keepNoRows([this.#table]), `${this.table} takes what a job writes and keeps none of it, so there is nothing to show here. Pick another table above.`));
      return;
    }
    this.#box.replaceChildren(this.#table
      ? emptyState('No rows yet', `Rows of ${this.table} appear here as a job writes them. Nothing comes? See what limits the job above, and how many records of each topic it has read:`, command('polybolos topic lag'))
      : emptyState('No tables yet', 'A pipeline declares tables and jobs. Start the demo, or create a table from the prompt:', command('polybolos up'), command('polybolos sql')));
  }
}

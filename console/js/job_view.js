// One job: its state in words, figures, three charts, and through where its tables are complete.
import { byId, el, setText } from './dom.js';
import { Chart } from './chart.js';
import { THIN, ago, bytes, count, duration, exact, milliseconds, plural, rate, timestamp } from './format.js';
import { keepNoRows, keepsRows } from './tables.js';

const STATES = { starting: 'Starting', running: 'Running', idle: 'Up to date', waiting: 'Waiting', paused: 'Paused', stopped: 'Stopped', failed: 'Failed' };
const stateOf = (job) => STATES[job.state] ?? job.state;
const behind = (job) => (job.lag_records === 0 ? 'nothing waits' : job.lag_ms == null ? '\u00a0' : `${milliseconds(job.lag_ms)} behind`);
/** Failed jobs that the line above the picker names. */
const NAMED_FAILURES = 3;
/** Partitions whose offsets are told; the title has all. */
const NAMED_PARTITIONS = 6;
const STEPS = ['fetch', 'decode', 'compute', 'write', 'record', 'publish'];

export class JobView {
  #figures = {}; #picker = byId('job-picker'); #chosen = null; #options = new Map(); #order = ''; #failures = byId('failures'); #failed = ''; #charts; #last = [];

  constructor(openLetters) {
    const figure = (key, label, title) => {
      const value = el('dd', { text: '–' });
      const note = el('dd', { class: 'figure-note', text: '\u00a0' });
      this.#figures[key] = { value, note };
      byId('figures').append(el('div', { class: 'card figure', title }, el('dt', { text: label }), value, note));
    };
    figure('rate', 'Rows per second', 'Rows over the last second');
    figure('epoch', 'Epoch time', 'The last epoch, all steps');
    figure('lag', 'Lag', 'Records in the topics that no recorded epoch has read');
    figure('out', 'Rows written', 'Since the job was created');
    figure('letters', 'Dead letters', 'Records that could not be used: kept with their coordinates and error');
    const link = el('button', { type: 'button', class: 'link', text: 'Show them', onclick: () => openLetters(this.#chosen) });
    this.#figures.letters.note.replaceChildren(link);
    this.#figures.letters.link = link;
    this.#picker.addEventListener('change', () => this.#pick(this.#picker.value));
    this.#charts = {
      rate: new Chart(byId('chart-rate'), { label: 'Rows per second', format: rate, words: (value) => `${rate(value)}${THIN}rows/s`, least: 10, series: [{ label: 'Rows', color: 'c-rate', value: (p) => p.rows_per_s }] }),
      epoch: new Chart(byId('chart-epoch'), { label: 'Epoch time', format: milliseconds, stacked: true,
        series: STEPS.map((step) => ({ label: step, color: `c-${step}`, value: (p) => p.epoch_ms?.[step] ?? 0 })) }),
      lag: new Chart(byId('chart-lag'), { label: 'Lag', format: count, words: (value) => plural(value, 'record', 'records'), least: 10, series: [{ label: 'Lag', color: 'c-lag', value: (p) => p.lag_records }] }),
    };
  }

  /** `table` is the one whose rows are shown: until somebody picks a job, the one that writes it is shown. */
  show(status, history, table) {
    this.#last = [status, history, table];
    this.#jobs(status, table);
    this.#tellFailures(status.jobs);
    const job = status.jobs.find((one) => one.name === this.#chosen);
    if (!job) return this.#none();
    const state = byId('job-state');
    state.dataset.state = job.state;
    setText(state, stateOf(job));
    setText(byId('job-name'), job.name);
    // What went wrong stands once, in the red box.
    const limiting = job.state === 'failed' ? 'failed' : job.error && job.limiting === job.error ? 'the error below' : job.limiting;
    setText(byId('job-limiting'), limiting ? `Limited by: ${limiting}` : ' ');
    const error = byId('job-error');
    error.hidden = !job.error;
    setText(error, job.error ?? '');

    const total = STEPS.reduce((sum, step) => sum + (job.epoch_ms?.[step] ?? 0), 0);
    this.#figure('rate', rate(job.rows_per_s), `${bytes(job.bytes_per_s)}/s`);
    this.#figure('epoch', milliseconds(total), `epoch ${count(job.epoch)}${job.unpublished_epochs ? ` · ${count(job.unpublished_epochs)} unpublished` : ''}`);
    this.#figure('lag', count(job.lag_records), behind(job));
    this.#figure('out', count(job.rows_out), `of ${plural(job.records_in, 'record', 'records')} read`);
    setText(this.#figures.letters.value, count(job.dead_letters));
    this.#figures.letters.value.classList.toggle('bad', job.dead_letters > 0);
    this.#figures.letters.link.disabled = job.dead_letters === 0;

    const points = history.of(job.name);
    for (const chart of Object.values(this.#charts)) chart.show(points, status.now_ms);
    this.#through(job, status);
  }

  /** Line by line, what is in the job's tables and what is not. */
  #through(job, status) {
    const filled = status.tables.filter((one) => one.written_by === job.name);
    const nothingKept = filled.length > 0 && !filled.some(keepsRows)
      ? [`This job only fills ${filled.map((one) => one.name).join(', ')}, and ${keepNoRows(filled)}`] : [];
    const all = [];
    const through = (job.complete_through ?? []).map((one) => {
      const offsets = one.offsets.map((o) => `${o.topic}/${o.partition} → ${exact(o.end_offset)}`);
      all.push(`${one.table}: ${offsets.join(', ')}`);
      const more = offsets.length - NAMED_PARTITIONS;
      const told = `${offsets.slice(0, NAMED_PARTITIONS).join(', ')}${more > 0 ? ` and ${plural(more, 'partition', 'partitions')} more` : ''}`;
      const when = one.event_time_ms ? `${timestamp(one.event_time_ms)} (${ago(one.event_time_ms, status.now_ms)}), ` : '';
      return `${one.table} is complete through ${when}offsets ${told}`;
    });
    const missing = [
      job.late_rows > 0 ? `${plural(job.late_rows, 'row', 'rows')} came late, after the windows had closed` : '',
      job.lost_records > 0 ? `${plural(job.lost_records, 'record was', 'records were')} gone before being read` : ''];
    const node = byId('through');
    setText(node, [...nothingKept, ...through, ...missing].filter(Boolean).join('\n'));
    node.title = all.join('\n');
  }

  #figure(key, value, note) {
    setText(this.#figures[key].value, value);
    setText(this.#figures[key].note, note);
    this.#figures[key].note.title = note.trim();
  }

  #pick(name) {
    this.#chosen = name;
    this.show(...this.#last);
  }

  #jobs({ jobs, tables }, table) {
    if (!jobs.some((job) => job.name === this.#chosen)) {
      const writer = tables.find((one) => one.name === table)?.written_by;
      this.#chosen = (jobs.find((job) => job.name === writer) ?? jobs[0])?.name ?? null;
    }
    byId('job-picker-label').hidden = jobs.length < 2;
    const failed = (job) => job.state === 'failed';
    const sorted = [...jobs.filter(failed), ...jobs.filter((job) => !failed(job))];
    const order = sorted.map((job) => job.name).join('\n');
    if (order !== this.#order) {
      this.#order = order;
      this.#options = new Map(sorted.map((job) => [job.name, this.#options.get(job.name) ?? el('option', { value: job.name })]));
      this.#picker.replaceChildren(...this.#options.values());
    }
    for (const job of jobs) setText(this.#options.get(job.name), `${failed(job) ? '⚠ ' : ''}${job.name} – ${stateOf(job)}`);
    if (this.#chosen) this.#picker.value = this.#chosen;
  }

  #tellFailures(jobs) {
    const names = jobs.filter((job) => job.state === 'failed').map((job) => job.name);
    if (names.join('\n') === this.#failed) return;
    this.#failed = names.join('\n');
    this.#failures.hidden = names.length === 0;
    const links = names.slice(0, NAMED_FAILURES).flatMap((name, i) =>
      [i > 0 ? ', ' : '', el('button', { type: 'button', class: 'link', text: name, onclick: () => this.#pick(name) })]);
    const more = names.length - NAMED_FAILURES;
    this.#failures.replaceChildren(el('span', { 'aria-hidden': 'true', text: '⚠ ' }),
      el('span', {}, `${plural(names.length, 'job has', 'jobs have')} failed: `, ...links, more > 0 ? ` and ${count(more)} more` : ''));
  }

  #none() {
    setText(byId('job-name'), 'No jobs yet');
    const state = byId('job-state');
    state.dataset.state = 'unknown';
    setText(state, 'nothing runs');
    const code = (text) => el('code', { text });
    byId('job-limiting').replaceChildren('A job starts with ', code('CREATE JOB name AS INSERT INTO table SELECT …'), ', typed into ', code('polybolos sql'),
      ', or with a pipeline folder: ', code('polybolos up --pipelines jobs/users'));
    byId('job-error').hidden = true;
    for (const chart of Object.values(this.#charts)) chart.show([], Date.now());
    for (const key of ['rate', 'epoch', 'lag', 'out']) this.#figure(key, '–', '\u00a0');
    setText(this.#figures.letters.value, '–');
    this.#figures.letters.link.disabled = true;
    setText(byId('through'), '');
    byId('through').title = '';
  }
}

export const uptime = (seconds) => `up ${duration(seconds)}`;

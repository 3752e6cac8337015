// Dead letters of a job, asked for when somebody opens them.
import { byId, el, emptyState } from './dom.js';
import { layout, row, table } from './cells.js';
import { sql } from './api.js';

const LIMIT = 50;
/** What went wrong and where first; the job is in the heading. */
const COLUMNS = 'error, step, topic, topic_partition, topic_offset, record_time, record_key, raw, raw_bytes, id';

/** The job whose letters were asked for last: an answer that comes late must not be shown as another's. */
let wanted = null;

export async function openLetters(job) {
  const dialog = byId('letters');
  const box = byId('letters-rows');
  wanted = job;
  byId('letters-note').replaceChildren('What job ', el('bdi', { text: job }), ` could not use, ${LIMIT} at most. `, el('code', { text: `polybolos dlq list --job ${job}` }),
    ' lists them all, with ', el('code', { text: '-n' }), ' for how many.');
  box.replaceChildren(emptyState('Asking…'));
  dialog.showModal();
  try {
    const answer = await sql(`SELECT ${COLUMNS} FROM polybolos.dead_letters WHERE job = '${job.replaceAll("'", "''")}' ORDER BY id LIMIT ${LIMIT}`, { limit: LIMIT });
    if (wanted !== job) return;
    if (answer.rows.length === 0) {
      box.replaceChildren(emptyState('No dead letters', 'Every record could be used.'));
      return;
    }
    const shown = layout(answer.columns);
    const { node, body } = table(shown, `Dead letters of ${job}`);
    body.append(...answer.rows.map((values) => row(shown, values)));
    box.replaceChildren(node);
  } catch (error) {
    if (wanted !== job) return;
    box.replaceChildren(emptyState('The dead letters cannot be read now', error.message));
  }
}

export function startLetters() {
  const dialog = byId('letters');
  byId('letters-close').addEventListener('click', () => dialog.close());
  // A click beside the dialog reaches the dialog itself, outside its box.
  dialog.addEventListener('click', (event) => {
    const { left, right, top, bottom } = dialog.getBoundingClientRect();
    const outside = event.clientX < left || event.clientX > right || event.clientY < top || event.clientY > bottom;
    if (event.target === dialog && outside) dialog.close();
  });
}

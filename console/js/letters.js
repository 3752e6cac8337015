// Dead letters of a job, asked for when somebody opens them.
import { byId, emptyState, setText } from './dom.js';
import { layout, row, table } from './cells.js';
import { sql } from './api.js';

const LIMIT = 50;

/** The job whose letters were asked for last: an answer that comes late must not be shown as another's. */
let wanted = null;

export async function openLetters(job) {
  const dialog = byId('letters');
  const box = byId('letters-rows');
  wanted = job;
  setText(byId('letters-note'), `What job ${job} could not use, ${LIMIT} at most. \`polybolos dlq list --job ${job}\` lists them all, with -n for how many.`);
  box.replaceChildren(emptyState('Asking…'));
  dialog.showModal();
  try {
    const answer = await sql(`SELECT * FROM polybolos.dead_letters WHERE job = '${job.replaceAll("'", "''")}' ORDER BY id LIMIT ${LIMIT}`, { limit: LIMIT });
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
  byId('letters-close').addEventListener('click', () => byId('letters').close());
}

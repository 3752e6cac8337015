// Dead letters of a job, asked for when somebody opens them.
import { byId, emptyState, setText } from './dom.js';
import { layout, row, table } from './cells.js';
import { sql } from './api.js';

const LIMIT = 50;

export async function openLetters(job) {
  const dialog = byId('letters');
  const box = byId('letters-rows');
  setText(byId('letters-note'), `What job ${job} could not use. \`polybolos dlq show ${job}\` has all of them.`);
  box.replaceChildren(emptyState('Asking…'));
  dialog.showModal();
  try {
    const answer = await sql(`SELECT * FROM polybolos.dead_letters WHERE job = '${job.replaceAll("'", "''")}' LIMIT ${LIMIT}`, { limit: LIMIT });
    if (answer.rows.length === 0) {
      box.replaceChildren(emptyState('No dead letters', 'Every record could be used.'));
      return;
    }
    const shown = layout(answer.columns);
    const { node, body } = table(shown, `Dead letters of ${job}`);
    body.append(...answer.rows.map((values) => row(shown, values)));
    box.replaceChildren(node);
  } catch (error) {
    box.replaceChildren(emptyState('The dead letters cannot be read now', error.message));
  }
}

export function startLetters() {
  byId('letters-close').addEventListener('click', () => byId('letters').close());
}
